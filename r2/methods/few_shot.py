"""Few-shot chain of thought: the wording of `cot`, after worked examples (Wei et al., arXiv:2201.11903).

The examples are questions with the reply that a model should give, shown as earlier turns of the conversation; those
of the question's own benchmark go first, and at most `n_examples` are shown. An evaluation takes them from dev problems
with a gold answer: for each benchmark the first that its most accurate chain of thought got right, with that model's
own reply as the worked answer. No test problem is ever an example. Settings: `model`, `examples`, `n_examples`.
"""

from dataclasses import replace
from functools import partial

from r2.answering.allocation import Choice
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, concluded
from r2.answering.route import solver_call
from r2.call import Message
from r2.errors import ConfigError
from r2.methods.cot import one_model
from r2.methods.direct_step import answer_once
from r2.methods.expected import ExpectedCalls, whole_question
from r2.methods.record import Method
from r2.problem import Problem


def few_shot(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """One call. An example that is the question itself is left out."""
    model = one_model(router)
    call = solver_call(problem, router, model, None, {}, "solve", mode="cot")
    call = replace(call, messages=_with_examples(problem, router, call.messages), subtask_index=0)
    return (yield from answer_once(problem, call, Choice(model, {}), outcome, budget))


def _with_examples(problem: Problem, router: Router, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation with the examples between its system text and its question."""
    *before, asked = messages
    given = [one for one in router.settings.examples if one.asked != asked[1]]
    mine = [one for one in given if one.benchmark == problem.benchmark]
    shown = [*mine, *(one for one in given if one not in mine)][: router.settings.n_examples]
    turns: list[Message] = []
    for one in shown:
        turns += [("user", one.asked), ("assistant", one.reply)]
    return (*before, *turns, asked)


def _expects(router: Router) -> list[ExpectedCalls]:
    alone = whole_question(router, one_model(router), mode="cot")
    return [replace(alone, messages=_with_examples(Problem("", ""), router, alone.messages))]


def _check(router: Router, pool: str) -> None:
    if not router.settings.examples:
        raise ConfigError(
            "--method few_shot needs worked examples: [[reasoning.examples]] tables with benchmark, asked and reply in "
            "the settings file. An evaluation (r2 evaluate --methods few_shot) takes them from its dev problems."
        )


METHOD = Method(
    name="few_shot",
    summary="one model, step by step, after worked examples",
    run=partial(concluded, few_shot),
    expects=_expects,
    assumes="no examples in the prompt, where an evaluation has yet to choose them",
    takes_model="strongest",
    fitted="examples",
    check=_check,
)
