"""Confidence cascade: models are asked in an order until one is sure enough of its result; else the last one's stands
(ours; FrugalGPT, arXiv:2305.05176, without its trained scorer).

How sure: the `confidence_quantile` of the answer's token probabilities. A model whose endpoint gives none is never
sure, and so is useful only as the last. An evaluation chooses order, length (up to four entries) and threshold on dev
problems, from what every solver answered there with its log-probabilities. Settings: `chain`, `threshold`,
`confidence_quantile`.
"""

from functools import partial

from r2.answering.allocation import Choice
from r2.answering.confidence import token_confidence
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, concluded
from r2.methods.agreement_cascade import ask_next, chain_of
from r2.methods.direct_step import open_step, result_of
from r2.methods.expected import UNSURE_SHARE, ExpectedCalls, whole_question
from r2.methods.record import Method
from r2.problem import Problem


def confidence_cascade(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """One call after the other, until an answer is sure enough."""
    models, settings = chain_of(router), router.settings
    step = open_step(outcome, Choice(models[0], {}))
    has_result = False
    for place, model in enumerate(models):
        outcome.n_escalations = place
        completion, is_good = yield from ask_next(
            problem,
            router,
            outcome,
            budget,
            model,
            models[:place].count(model),
            has_result=has_result,
            is_measured=True,
        )
        has_result = has_result or is_good
        confidence = token_confidence(completion, settings.confidence_quantile) if is_good else None
        if confidence is not None and confidence >= settings.threshold:
            break
    return result_of(step, completion)


def _expects(router: Router) -> list[ExpectedCalls]:
    return [whole_question(router, model, UNSURE_SHARE**place) for place, model in enumerate(chain_of(router))]


METHOD = Method(
    name="confidence_cascade",
    summary="models in turn, until one is sure",
    run=partial(concluded, confidence_cascade),
    expects=_expects,
    assumes=f"a model is unsure of {UNSURE_SHARE:.0%} of its answers",
    routes=True,
    fitted="confidence",
)
