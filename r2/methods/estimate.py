"""What a run would ask for, before anything is paid: calls, tokens, USD and the time the limits allow. Ours.

Each method says what it expects to ask per question (r2/methods/expected.py). The estimate is an order of magnitude for
a first run, and says so; a cap (`--max-cost-usd`) is what is certain.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from r2.answering.expected_cost import THOUGHT_SHARE
from r2.answering.protocol import Router
from r2.answering.question_shape import ASSUMED, TEMPLATE_TOKENS, Sample, Shape, shape_of, tokens_in
from r2.answering.wanted import is_whole
from r2.call import Purpose
from r2.ledger import Price, Usage, cost_usd
from r2.methods import method_named
from r2.methods.expected import ExpectedCalls, judgements
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
    """So many questions of together so many UTF-8 bytes, contexts included, and what they look like. `is_free`: they
    are answered in full, and not by a benchmark's rule."""

    n: int
    n_bytes: int
    shape: Shape = ASSUMED
    is_free: bool = False

    def times(self, factor: float) -> "Rows":
        """As many of the same."""
        return replace(self, n=round(self.n * factor), n_bytes=round(self.n_bytes * factor))


def rows_of(problems: Iterable[Problem], router: Router) -> list[Rows]:
    """The questions by benchmark: those of one look alike."""
    n, n_bytes = Counter[tuple[bool, str]](), Counter[tuple[bool, str]]()
    samples: dict[tuple[bool, str], Sample] = {}
    for problem in problems:
        key = is_whole(problem, router), problem.benchmark
        n[key] += 1
        n_bytes[key] += len((problem.question + problem.context).encode("utf-8", "replace"))
        samples.setdefault(key, Sample()).show(problem)
    return [Rows(n[key], n_bytes[key], shape_of(samples[key].problems), key[0]) for key in sorted(samples)]


def estimate_calls(router: Router, prices: Mapping[str, Price], rows: Iterable[Rows]) -> list[CallEstimate]:
    """The calls that these rows are expected to need, one line for each purpose and model.

    What had to be assumed for the method is its record's `assumes`. ConfigError for an unknown method.
    """
    total: dict[tuple[Purpose, str], CallEstimate] = {}
    for part in rows:
        for call in _estimated(router, prices, part):
            key = call.purpose, call.model
            total[key] = call if key not in total else _sum(total[key], call)
    return list(total.values())


def _estimated(router: Router, prices: Mapping[str, Price], rows: Rows) -> list[CallEstimate]:
    method = method_named(router.settings.method)
    router = replace(router, shape=rows.shape, expects_free=rows.is_free)
    expected = [*method.expects(router)]
    answering = [part for part in expected if part.purpose in ("solve", "final")]
    if method.run_kind == "answer" and answering and router.shape.n_answers > 1:  # by whoever gave the first
        expected.append(replace(answering[-1], per_question=router.shape.n_answers - 1))
    if method.run_kind == "answer" and router.check is not None and router.check.judge is not None:
        expected.append(judgements(router.check))
    return [_priced(part, router, prices, rows) for part in expected]


def _sum(one: CallEstimate, other: CallEstimate) -> CallEstimate:
    return replace(
        one,
        n_calls=one.n_calls + other.n_calls,
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cost_usd=one.cost_usd + other.cost_usd,
    )


def guessed_usd(router: Router, prices: Mapping[str, Price], *, is_free: bool = False) -> float:
    """What one question may need at one time, spent and set aside, before any has been answered: `GUESS_MARGIN` times
    what a question of 600 bytes is expected to cost; `is_free`: one that is answered in full."""
    n_questions = 1000
    calls = _estimated(router, prices, Rows(n_questions, 600 * n_questions, is_free=is_free))
    return GUESS_MARGIN * sum(call.cost_usd for call in calls) / n_questions


def _priced(part: ExpectedCalls, router: Router, prices: Mapping[str, Price], rows: Rows) -> CallEstimate:
    """An entry that sends a limit of its own is expected to use all of it: that is what such a limit is set for. Of an
    entry that states how many attempts are lost, these are added at the most they may cost."""
    n_calls = rows.n * part.per_question
    question_bytes = rows.n_bytes / rows.n if rows.n and part.has_question else 0
    n_prompt = sum(tokens_in(text) + TEMPLATE_TOKENS for _, text in part.messages)
    n_prompt += question_bytes * rows.shape.tokens_per_byte
    card = router.roster[part.model]
    expected = part.output_tokens + card.thinking_tokens * THOUGHT_SHARE
    n_output = expected if card.sent_output_limit is None else card.sent_output_limit
    n_lost = router.lost_share.get(part.model, 0.0)
    most = card.worst_case(part.messages, round(part.limit or n_output))
    n_input = n_prompt + n_lost * (most.input_tokens + question_bytes)
    n_output += n_lost * most.output_tokens
    usage = Usage(round(n_calls * n_input), 0, round(n_calls * n_output), "estimated")
    cost = cost_usd(prices[part.model], usage)
    return CallEstimate(part.purpose, part.model, round(n_calls), usage.input_tokens, usage.output_tokens, cost)


def minutes_by_limits(
    n_calls: int, n_tokens: int, requests_per_minute: float | None, tokens_per_minute: float | None
) -> float:
    """The least time a quota allows for so many calls and tokens; 0 where it sets no limit."""
    by_requests = n_calls / requests_per_minute if requests_per_minute else 0.0
    by_tokens = n_tokens / tokens_per_minute if tokens_per_minute else 0.0
    return max(by_requests, by_tokens)
