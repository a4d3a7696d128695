"""One model for each benchmark: the rule that knows where a question comes from and nothing else (ours).

A router that looks at questions has to beat it: on a pool of specialists it is hard to beat. An evaluation chooses each
benchmark's model on dev problems, from what every solver answered there. Questions of other benchmarks go to the model
that is named for "", else to the strongest. Settings: `by_benchmark`.
"""

from dataclasses import replace
from functools import partial

from r2.answering.allocation import Choice
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, concluded
from r2.answering.route import solver_call
from r2.errors import ConfigError
from r2.methods.direct_step import answer_once
from r2.methods.expected import ExpectedCalls, whole_question
from r2.methods.record import Method
from r2.problem import Problem


def model_by_benchmark(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """One call."""
    named = router.settings.by_benchmark or {}
    model = named.get(problem.benchmark) or named.get("") or router.roster.strongest
    call = replace(solver_call(problem, router, model, None, {}, "solve"), subtask_index=0)
    return (yield from answer_once(problem, call, Choice(model, {}), outcome, budget))


def _expects(router: Router) -> list[ExpectedCalls]:
    models = list((router.settings.by_benchmark or {"": router.roster.middle}).values())
    return [whole_question(router, model, models.count(model) / len(models)) for model in dict.fromkeys(models)]


def _check(router: Router, pool: str) -> None:
    if not router.settings.by_benchmark:
        raise ConfigError(
            "--method rule needs a model for each benchmark: reasoning.by_benchmark in the settings file, as "
            '{arithmetic = "NAME", "" = "NAME of all others"}. An evaluation (r2 evaluate --methods rule) chooses them.'
        )


METHOD = Method(
    name="rule",
    summary="the best model of each benchmark",
    run=partial(concluded, model_by_benchmark),
    expects=_expects,
    assumes="every benchmark has as many questions as the others",
    routes=True,
    fitted="benchmark",
    check=_check,
)
