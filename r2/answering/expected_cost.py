"""What a call is expected to cost before it is made: its prompt is known, its reply is assumed. Pure.

Stated assumptions stand in for what only the models know. They serve a dry run (r2/methods/expected.py), and sequential
routing, which weighs costs against each other.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from r2.answering.prompts import QUESTION_MARK, turns_of
from r2.answering.protocol import Router
from r2.answering.question_shape import thoughts_of
from r2.answering.route import solver_call
from r2.answering.wanted import is_whole
from r2.call import Message
from r2.ledger import CORE_HOUR_USD, Usage, cost_usd, likely_prompt_tokens
from r2.problem import Problem
from r2.problems.benchmark import benchmark_of
from r2.roster import ModelCard, PromptMode

PLAN_TOKENS: Final = 45
RESULT_TOKENS: Final[Mapping[PromptMode, int]] = {"direct": 12, "cot": 150, "bare": 12, "program": 24}
"""By prompt mode; of a chain of thought where the steps are not known."""
SHARE_OF_LIMIT: Final = 0.5
"""How much of its benchmark's limit a result has at least: a list of actions is longer than a number."""
FREE_TOKENS: Final[Mapping[PromptMode, int]] = {"direct": 300, "cot": 500, "bare": 300, "program": 60}
"""Of an answer that is wanted in full, by prompt mode."""
FREE_STEP_TOKENS: Final = 150
"""Of a step's result towards one."""
THOUGHT_SHARE: Final = 0.25
"""Of what an entry adds to a call's limit for thinking: how much is expected to be thought."""


PROGRAM_S: Final = 0.05
"""Seconds of a core that running a program is expected to take."""


def call_usd(card: ModelCard, messages: Sequence[Message], n_tokens: float) -> float:
    """USD of one call whose reply has so many tokens, thoughts aside. An entry that sends a limit of its own is
    expected to use all of it: that is what such a limit is set for. Where prompt tokens cost nothing once they were
    read, as with the embedded server, instructions and examples were: they are the same for every question."""
    expected = n_tokens + card.thinking_tokens * THOUGHT_SHARE
    n_output = round(expected if card.sent_output_limit is None else card.sent_output_limit)
    running_usd = PROGRAM_S * CORE_HOUR_USD / 3600 if card.prompt_mode == "program" else 0.0
    n_read = 0
    if not card.price.cached_input:
        shown = (*turns_of(card.examples), *turns_of(card.examples, QUESTION_MARK))
        n_read = likely_prompt_tokens([each for each in messages if each[0] == "system" or each in shown])
    return running_usd + cost_usd(card.price, Usage(likely_prompt_tokens(messages), n_read, n_output, "estimated"))


def reply_tokens(problem: Problem, router: Router, mode: PromptMode, *, is_answer: bool) -> int:
    """How long the reply to a question, or to one step, is expected to be."""
    if not is_whole(problem, router):
        return result_tokens(problem, mode, is_answer=is_answer)
    return min(FREE_TOKENS[mode] if is_answer else FREE_STEP_TOKENS, router.settings.max_answer_tokens)


def result_tokens(problem: Problem, mode: PromptMode, *, is_answer: bool) -> int:
    """The same of a reply that ends in a result, and is no answer in full."""
    n_tokens: float = RESULT_TOKENS[mode]
    if mode == "cot" and is_answer and (n_thoughts := thoughts_of(problem)) is not None:
        n_tokens = n_thoughts + RESULT_TOKENS["direct"]
    return max(round(n_tokens), round(SHARE_OF_LIMIT * benchmark_of(problem).answer_tokens))


def cost_ref_usd(problem: Problem, router: Router) -> float:
    """What the question costs of the largest model, thinking step by step: the measure of what a right answer is
    worth."""
    card = router.roster[router.roster.step_by_step(router.roster.strongest)]
    call = solver_call(problem, router, card.name, None, {}, "solve", mode="cot")
    return call_usd(card, call.messages, reply_tokens(problem, router, "cot", is_answer=True))
