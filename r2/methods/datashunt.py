"""DataShunt: the small model answers with its confidence; an unsure answer is replaced by the large model's.

Published (Chen et al., "Data Shunt: Collaboration of Small and Large Models for Lower Costs and Better Performance",
AAAI 2024): the confidence is the small classifier's highest class probability. Ours: an answer has no classes, so it is
a quantile of the answer's token probabilities, or agreement (r2/methods/measured_confidence.py). Left out: the small
model's result as a hint in the large model's prompt and training the small one on the large one's answers; every method
has the same prompts here. Settings: those of r2/methods/shunt.py.
"""

from functools import partial

from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, concluded
from r2.methods.expected import UNSURE_ASSUMED, ExpectedCalls, whole_question
from r2.methods.record import Method
from r2.methods.shunt import execute_shunted, expected_shunted, open_steps, small_model
from r2.plan import DIRECT
from r2.problem import Problem


def datashunt(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """One call, or two (and the samples where the small model's endpoint gives no log-probabilities)."""
    outcome.plan, outcome.steps = DIRECT, open_steps(DIRECT, small_model(router))
    yield from execute_shunted(problem, DIRECT, router, outcome, budget)
    return outcome.steps[0].text or ""


def _expects(router: Router) -> list[ExpectedCalls]:
    return expected_shunted(whole_question, router, 1)


METHOD = Method(
    name="datashunt",
    summary="small model first, the large one where it is unsure",
    run=partial(concluded, datashunt),
    expects=_expects,
    assumes=f"the small model is unsure of {UNSURE_ASSUMED}",
    routes=True,
    knob="threshold",
    values=(0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
    by_default=True,
)
