"""What a run would ask for, before anything is paid: calls, tokens, USD and the time the limits allow. Ours.

Stated assumptions stand in for what only the models know: subtasks per plan, tokens per reply, which model a subtask goes to. The
estimate is an order of magnitude for a first run, and says so; a cap (`--max-cost-usd`) is what is certain.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from r2.call import Message, Purpose
from r2.ledger import Price, Usage, cost_usd
from r2.plan import Plan, Subtask
from r2.problem import Problem
from r2.prompts import allocate_messages, decompose_messages, judge_messages, solve_messages, teach_messages
from r2.settings import Labelling
from r2.solve import Router

BYTES_PER_TOKEN = 4
SUBTASKS_PER_QUESTION = 2.5
PLAN_TOKENS = 45
ALLOCATION_TOKENS_PER_SUBTASK = 12
DISTINCT_SHARE = 0.5
"""Of a teacher's candidate plans, before anything is known about it."""
ALLOCATIONS_TRIED = 6
RESULT_TOKENS = {"direct": 12, "cot": 150, "bare": 12}


@dataclass(frozen=True, slots=True)
class CallEstimate:
    """Expected calls of one purpose to one model, over the whole run."""

    purpose: Purpose
    model: str
    n_calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


def estimate_calls(
    router: Router, prices: Mapping[str, Price], n_questions: int, question_bytes: int
) -> list[CallEstimate]:
    """The calls `n_questions` of together `question_bytes` UTF-8 bytes (contexts included) are expected to need.

    For `r2`: one decompose and one allocate call each, and `SUBTASKS_PER_QUESTION` solver calls to the middle solver of the pool.
    """
    settings, roster = router.settings, router.roster
    empty, plan = (
        Problem("", ""),
        Plan((Subtask("Compute 12 * 4"), Subtask("Subtract 9 from the result of step 1", (0,)))),
    )
    middle = roster[roster.middle]

    def expected(
        purpose: Purpose, model: str, per_question: float, messages: tuple[Message, ...], output_tokens: float
    ) -> CallEstimate:
        n_calls = round(n_questions * per_question)
        fixed_bytes = sum(len(text.encode()) for _, text in messages)
        input_tokens = round((fixed_bytes * n_calls + question_bytes * per_question) / BYTES_PER_TOKEN)
        n_output = round(output_tokens * n_calls)
        cost = cost_usd(prices[model], Usage(input_tokens, 0, n_output, "estimated"))
        return CallEstimate(purpose, model, n_calls, input_tokens, n_output, cost)

    if settings.method == "cot":
        model = settings.model or roster.strongest
        return [expected("solve", model, 1, solve_messages(empty, None, {}, "cot"), RESULT_TOKENS["cot"])]
    calls = [
        expected("decompose", router.decomposer, 1, decompose_messages(empty, roster[router.decomposer].prompt_mode), PLAN_TOKENS),
        expected(
            "allocate", router.allocator, 1,
            allocate_messages(empty, plan, roster.solvers, roster[router.allocator].prompt_mode),
            ALLOCATION_TOKENS_PER_SUBTASK * SUBTASKS_PER_QUESTION,
        ),
        expected(
            "solve", middle.name, SUBTASKS_PER_QUESTION,
            solve_messages(empty, plan.subtasks[1].text, {1: "48"}, middle.prompt_mode), RESULT_TOKENS[middle.prompt_mode],
        ),
    ]  # fmt: skip
    if router.finalizer is not None:
        card = roster[router.finalizer]
        messages = solve_messages(empty, "", {1: "48", 2: "39"}, card.prompt_mode)
        calls.append(expected("final", card.name, 1, messages, RESULT_TOKENS[card.prompt_mode]))
    return calls


def estimate_labelling(
    router: Router, prices: Mapping[str, Price], n_problems: int, question_bytes: int
) -> list[CallEstimate]:
    """The calls labelling is expected to need: the teacher's, M_eval's over the distinct plans, the judge's, and the search's on the
    middle solver, one new call per allocation tried."""
    chosen, roster = router.settings.labelling or Labelling(), router.roster
    empty, plan = (
        Problem("", ""),
        Plan((Subtask("Compute 12 * 4"), Subtask("Subtract 9 from the result of step 1", (0,)))),
    )
    m_eval, middle = roster[chosen.m_eval or roster.middle], roster[roster.middle]
    n_plans = max(1.0, chosen.n_candidates * DISTINCT_SHARE)
    parts: list[tuple[Purpose, str, float, tuple[Message, ...], int]] = [
        ("teach", chosen.teacher or roster.strongest, chosen.n_candidates, teach_messages(empty, ""), PLAN_TOKENS)
    ]
    for card, n in ((m_eval, n_plans * SUBTASKS_PER_QUESTION), (middle, ALLOCATIONS_TRIED)):
        messages = solve_messages(empty, plan.subtasks[1].text, {1: "48"}, card.prompt_mode)
        parts.append(("solve", card.name, n, messages, RESULT_TOKENS[card.prompt_mode]))
    if chosen.judge in roster.by_name:
        parts.append(("judge", chosen.judge, n_plans * (SUBTASKS_PER_QUESTION - 1), judge_messages(empty, plan, 1), 4))
    estimates = []
    for purpose, model, per_problem, messages, output_tokens in parts:
        n_calls = round(n_problems * per_problem)
        fixed_bytes = sum(len(text.encode()) for _, text in messages)
        input_tokens = round((fixed_bytes * n_calls + question_bytes * per_problem) / BYTES_PER_TOKEN)
        usage = Usage(input_tokens, 0, n_calls * output_tokens, "estimated")
        cost = cost_usd(prices[model], usage)
        estimates.append(CallEstimate(purpose, model, n_calls, input_tokens, usage.output_tokens, cost))
    return estimates


def minutes_by_limits(
    n_calls: int, n_tokens: int, requests_per_minute: float | None, tokens_per_minute: float | None
) -> float:
    """The least time a quota allows for so many calls and tokens; 0 where it sets no limit."""
    by_requests = n_calls / requests_per_minute if requests_per_minute else 0.0
    by_tokens = n_tokens / tokens_per_minute if tokens_per_minute else 0.0
    return max(by_requests, by_tokens)
