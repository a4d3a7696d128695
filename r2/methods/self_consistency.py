"""Self-consistency: one model answers several times, and the most frequent result is the answer.

Published (Wang et al., arXiv:2203.11171): 40 sampled chains of thought, a majority over their answers. Ours:
`n_samples` samples at `sample_temperature`, asked in the entry's own prompt mode (name one that thinks step by step for
the published form); results are the same where the benchmark's own equality says so. Of equally frequent results the
one that came first. Settings: `model`, `n_samples`, `sample_temperature`.
"""

from collections import Counter
from dataclasses import replace
from functools import partial

from r2.answering.allocation import Choice
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, Step, ask, concluded
from r2.answering.route import accept, solver_call
from r2.answering.wanted import schema_of
from r2.methods.cot import one_model
from r2.methods.direct_step import open_step, result_of
from r2.methods.expected import ExpectedCalls, whole_question
from r2.methods.record import Method
from r2.problem import Problem
from r2.problems.same_result import groups_of


def self_consistency(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """One wave of samples. Those that failed, or whose form does not pass its check, have no vote; where no sample has
    one, the last text there is stands."""
    model, settings = one_model(router), router.settings
    step = open_step(outcome, Choice(model, {}))
    asked = replace(
        solver_call(problem, router, model, None, {}, "solve"),
        temperature=settings.sample_temperature,
        seed=1 + settings.seed,
        subtask_index=0,
    )
    wave = [replace(asked, sample_index=n) for n in range(settings.n_samples)]
    answered = yield from ask(wave, budget, may_escalate=True)
    schema = schema_of(problem, router)
    votes: list[Step] = []
    for call, completion in answered:
        one = Step(step.subtask, step.choice, completion.model or call.model)
        check = accept(problem, one, completion, schema=schema)
        if check is None:
            votes.append(one)
        else:
            outcome.failed_checks.append(check)
        _take(step, one)
    if votes:
        numbers = groups_of(problem, [one.text for one in votes])
        counts = Counter(number for number in numbers if number >= 0)
        best = counts.most_common(1)[0][0] if counts else numbers[0]
        _take(step, votes[numbers.index(best)])
    step.n_asks = len(answered)
    return result_of(step, answered[-1][1])


def _take(step: Step, one: Step) -> None:
    """Makes a sample's result the step's; an error only where there is no result yet."""
    if one.text is None and step.text is not None:
        return
    step.model, step.text, step.value = one.model, one.text, one.value
    step.is_cut, step.error_type, step.misfit = one.is_cut, one.error_type, one.misfit


def _expects(router: Router) -> list[ExpectedCalls]:
    return [whole_question(router, one_model(router), router.settings.n_samples)]


METHOD = Method(
    name="self_consistency",
    summary="the majority of one model's samples",
    run=partial(concluded, self_consistency),
    expects=_expects,
    takes_model="strongest",
    takes_samples=True,
)
