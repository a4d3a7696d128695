"""What a run would ask for, before anything is paid: calls, tokens, USD and the time the limits allow. Ours.

Each method says what it expects to ask per question (r2/methods/expected.py). The estimate is an order of magnitude for
a first run, and says so; a cap (`--max-cost-usd`) is what is certain.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from r2.answering.expected_cost import THOUGHT_SHARE
from r2.answering.protocol import Router
from r2.answering.wanted import is_whole
from r2.call import Purpose
from r2.ledger import Price, Usage, cost_usd
from r2.methods import method_named
from r2.methods.expected import BYTES_PER_TOKEN, ExpectedCalls, judgements
from r2.problem import Problem

GUESS_MARGIN = 8
"""For escalations, long replies, and reserves that are worst cases."""


@dataclass(frozen=True, slots=True)
class CallEstimate:
    """Expected calls of one purpose to one model, over the whole run."""

    purpose: Purpose
    model: str
    n_calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Rows:
    """So many questions of together so many UTF-8 bytes, contexts included."""

    n: int
    n_bytes: int


NO_ROWS = Rows(0, 0)


def rows_of(problems: Iterable[Problem], router: Router) -> tuple[Rows, Rows]:
    """Rows that are answered by their benchmark's rule, and rows that are answered in full."""
    n, n_bytes = [0, 0], [0, 0]
    for problem in problems:
        side = is_whole(problem, router)
        n[side] += 1
        n_bytes[side] += len((problem.question + problem.context).encode("utf-8", "replace"))
    return Rows(n[0], n_bytes[0]), Rows(n[1], n_bytes[1])


def estimate_calls(
    router: Router, prices: Mapping[str, Price], n_questions: int, question_bytes: int, free: Rows = NO_ROWS
) -> list[CallEstimate]:
    """The calls `n_questions` of together `question_bytes` UTF-8 bytes (contexts included) are expected to need, and
    beside them the rows `free`, which are answered in full.

    What had to be assumed for the method is its record's `assumes`. ConfigError for an unknown method.
    """
    calls = [] if free.n and not n_questions else _estimated(router, prices, Rows(n_questions, question_bytes))
    if free.n:
        calls = _added(calls, _estimated(replace(router, expects_free=True), prices, free))
    return calls


def _estimated(router: Router, prices: Mapping[str, Price], rows: Rows) -> list[CallEstimate]:
    method = method_named(router.settings.method)
    expected = [*method.expects(router)]
    if method.run_kind == "answer" and router.check is not None and router.check.judge is not None:
        expected.append(judgements(router.check))
    return [_priced(part, router, prices, rows.n, rows.n_bytes) for part in expected]


def _added(calls: Sequence[CallEstimate], more: Sequence[CallEstimate]) -> list[CallEstimate]:
    """One line for each purpose and model, in the order of the longer list."""
    total: dict[tuple[Purpose, str], CallEstimate] = {}
    for one in (*more, *calls):
        key = one.purpose, one.model
        known = total.get(key)
        total[key] = (
            one
            if known is None
            else CallEstimate(
                one.purpose,
                one.model,
                known.n_calls + one.n_calls,
                known.input_tokens + one.input_tokens,
                known.output_tokens + one.output_tokens,
                known.cost_usd + one.cost_usd,
            )
        )
    return list(total.values())


def guessed_usd(router: Router, prices: Mapping[str, Price], *, is_free: bool = False) -> float:
    """What one question may need at one time, spent and set aside, before any has been answered: `GUESS_MARGIN` times
    what a question of 600 bytes is expected to cost; `is_free`: one that is answered in full."""
    n_questions = 1000
    rows = Rows(n_questions, 600 * n_questions)
    calls = _estimated(replace(router, expects_free=is_free), prices, rows)
    return GUESS_MARGIN * sum(call.cost_usd for call in calls) / n_questions


def _priced(
    part: ExpectedCalls, router: Router, prices: Mapping[str, Price], n_questions: int, question_bytes: int
) -> CallEstimate:
    """An entry that sends a limit of its own is expected to use all of it: that is what such a limit is set for."""
    n_calls = round(n_questions * part.per_question)
    fixed_bytes = sum(len(text.encode()) for _, text in part.messages)
    input_tokens = round((fixed_bytes * n_calls + question_bytes * part.per_question) / BYTES_PER_TOKEN)
    card = router.roster[part.model]
    expected = part.output_tokens + card.thinking_tokens * THOUGHT_SHARE
    n_output = round((expected if card.sent_output_limit is None else card.sent_output_limit) * n_calls)
    cost = cost_usd(prices[part.model], Usage(input_tokens, 0, n_output, "estimated"))
    return CallEstimate(part.purpose, part.model, n_calls, input_tokens, n_output, cost)


def minutes_by_limits(
    n_calls: int, n_tokens: int, requests_per_minute: float | None, tokens_per_minute: float | None
) -> float:
    """The least time a quota allows for so many calls and tokens; 0 where it sets no limit."""
    by_requests = n_calls / requests_per_minute if requests_per_minute else 0.0
    by_tokens = n_tokens / tokens_per_minute if tokens_per_minute else 0.0
    return max(by_requests, by_tokens)
