"""Agreement cascade: models are asked in an order until two give the same result, which is the answer; where no two
agree, the last one's result stands (ours).

Two results are the same by the benchmark's own equality (r2/problems/same_result.py). One that fails the check of its
form agrees with nobody, and stands only where there is no other. So a chain of one model is that model, and one of two
pays for both. An evaluation chooses order and length (up to four entries, each in its own prompt mode) on dev problems,
from what every solver answered there (r2/evaluation/cascades.py). Settings: `chain`.
"""

from collections.abc import Generator
from dataclasses import replace
from functools import partial

from r2.answering.allocation import Choice
from r2.answering.confidence import with_logprobs
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, Step, Wave, concluded
from r2.answering.route import solver_call
from r2.call import Completion
from r2.methods.direct_step import asked_step, open_step, result_of
from r2.methods.expected import ExpectedCalls, whole_question
from r2.methods.record import Method
from r2.problem import Problem
from r2.problems.same_result import is_result, same_result

AGREED_SHARE = 0.7
"""Of questions, on which two models that were asked agree; nothing is known before they were."""


def chain_of(router: Router) -> tuple[str, ...]:
    """Who is asked, in order: the settings' chain, else the cheapest, the middle and the strongest solver."""
    roster = router.roster
    return router.settings.chain or tuple(dict.fromkeys((roster.cheapest, roster.middle, roster.strongest)))


def agreement_cascade(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """One call after the other, until two results are the same."""
    models = chain_of(router)
    step = open_step(outcome, Choice(models[0], {}))
    results: list[str] = []
    for place, model in enumerate(models):
        outcome.n_escalations = place
        n_before = models[:place].count(model)
        completion, is_good = yield from ask_next(
            problem, router, outcome, budget, model, n_before, has_result=bool(results)
        )
        if not is_good or step.text is None:
            continue
        if any(same_result(problem, step.text, earlier) for earlier in results):
            break
        results.append(step.text)
    return result_of(step, completion)


def ask_next(
    problem: Problem,
    router: Router,
    outcome: Outcome,
    budget: QuestionBudget,
    model: str,
    n_before: int,
    *,
    has_result: bool,
    is_measured: bool = False,
) -> Generator[Wave, list[Completion], tuple[Completion, bool]]:
    """Asks the next model of a cascade for the outcome's only step; with whether it gave a result that passes the check
    of its form. One that does not never takes the place of a good one (`has_result`). `is_measured`: with
    log-probabilities, where its endpoint has them. `n_before`: how often the model was asked before; its first call is
    the one that the model alone would get, so that an evaluation pays for it once."""
    [step] = outcome.steps
    before = replace(step)
    call = solver_call(problem, router, model, None, {}, "solve")
    call = replace(call, subtask_index=0, sample_index=n_before)
    call = with_logprobs(call, router.roster) if is_measured else call
    completion, check = yield from asked_step(problem, call, outcome, budget)
    is_good = check is None and is_result(problem, step.text)
    if not is_good and has_result:
        _restore(step, before)
    return completion, is_good


def _restore(step: Step, before: Step) -> None:
    step.text, step.value = before.text, before.value
    step.is_cut, step.error_type, step.misfit = before.is_cut, before.error_type, before.misfit


def _expects(router: Router) -> list[ExpectedCalls]:
    shares = [1.0 if place < 2 else (1 - AGREED_SHARE) ** (place - 1) for place in range(len(chain_of(router)))]
    return [whole_question(router, model, share) for model, share in zip(chain_of(router), shares, strict=True)]


METHOD = Method(
    name="agreement_cascade",
    summary="models in turn, until two agree",
    run=partial(concluded, agreement_cascade),
    expects=_expects,
    assumes=f"two models that are asked agree on {AGREED_SHARE:.0%} of the questions",
    routes=True,
    fitted="agreement",
)
