"""Start at one model and climb: the question goes to it as a whole; where the cheap check fails, or the model is not
sure of its answer, the next stronger entry is asked.

The one-line rule that a router has to beat (ours). The checks are those that every routed step has (form, and with
`min_confidence` the model's token probabilities), the next stronger entry is the roster's next, and at most
`max_escalations` times. No allocator, no decomposer. Settings: `model`, `min_confidence`, `max_escalations`.
"""

from functools import partial

from r2.answering.allocation import Choice
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, concluded
from r2.answering.route import execute_steps
from r2.errors import ConfigError
from r2.methods.cot import one_model
from r2.methods.direct_step import open_step
from r2.methods.expected import UNSURE_SHARE, ExpectedCalls, whole_question
from r2.methods.record import Method
from r2.plan import DIRECT
from r2.problem import Problem


def start_at(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """One call, and one more for each escalation."""
    open_step(outcome, Choice(one_model(router), {}))
    most = router.settings.max_escalations
    yield from execute_steps(problem, DIRECT, router, outcome, budget, max_escalations=most)
    return outcome.steps[0].text or ""


def _expects(router: Router) -> list[ExpectedCalls]:
    model: str | None = one_model(router)
    n_unsure = router.settings.max_escalations if router.settings.min_confidence else 0
    parts = []
    for place in range(1 + n_unsure):
        if model is not None:
            parts.append(whole_question(router, model, UNSURE_SHARE**place))
            model = router.roster.stronger(model)
    return parts


def check_confidence(router: Router, pool: str) -> None:
    """ConfigError for a confidence that nobody can show."""
    chosen = router.settings
    if chosen.min_confidence and not any(card.has_logprobs for card in router.roster.solvers):
        raise ConfigError(
            f"--min-confidence {chosen.min_confidence}: no solver of {pool} gives log-probabilities (logprobs = true), "
            "so nobody would be asked again. Say so for the endpoints that have them, or drop --min-confidence."
        )


METHOD = Method(
    name="start",
    summary="one model, and the next stronger where it is unsure",
    run=partial(concluded, start_at),
    expects=_expects,
    assumes=f"with --min-confidence {UNSURE_SHARE:.0%} of a model's answers are not sure",
    routes=True,
    escalates=True,
    knob="min_confidence",
    values=(0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99),
    takes_model="all",
    check=check_confidence,
)
