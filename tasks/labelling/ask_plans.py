"""Plans of a decomposer for questions that have gold plans: a journalled pass over the pool, so that the same command
pays once."""

import asyncio
import hashlib
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from r2.answering.drive import drive_all
from r2.answering.expected_cost import PLAN_TOKENS, call_usd
from r2.answering.prompts import decompose_messages
from r2.call import Call
from r2.ledger import worst_cost_usd
from r2.plan import Plan
from r2.pool.file.config import PoolConfig
from r2.pool.opening import open_client
from r2.problem import Problem
from storage.runs.journal import Journal
from storage.runs.paid import paid_usd


def price_of_plans(
    pool: PoolConfig, decomposer: str, asked: Sequence[tuple[Problem, Plan]], plan_tokens: int
) -> tuple[float, float]:
    """What plans for all of these questions will cost about, and at most, in USD; none of them asked before."""
    card = pool.roster()[decomposer]
    calls = [_call(pool, decomposer, problem, plan_tokens) for problem, _ in asked]
    about_usd = sum(call_usd(card, call.messages, min(PLAN_TOKENS, plan_tokens)) for call in calls)
    worst = (card.worst_case(call.messages, call.max_output_tokens, None) for call in calls)
    return about_usd, sum(worst_cost_usd(card.price, each) for each in worst)


def _call(pool: PoolConfig, decomposer: str, problem: Problem, plan_tokens: int) -> Call:
    mode = pool.models[decomposer].prompt_mode
    return Call(decomposer, decompose_messages(problem, mode), "decompose", plan_tokens)


async def ask_plans(
    pool: PoolConfig,
    decomposer: str,
    asked: Sequence[tuple[Problem, Plan]],
    folder: Path,
    models_dir: Path,
    *,
    plan_tokens: int,
    max_cost_usd: float | None,
) -> tuple[list[tuple[Problem, Plan, str]], float, int]:
    """(problem, gold plan, the decomposer's text) in order, what it cost over all sessions, and how many calls gave no
    text. The journal in `folder` is kept: it is what makes the next pass free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(f"{pool.digest}\0{decomposer}".encode()).hexdigest()[:12]
    texts: dict[str, str] = {}
    cost_usd = 0.0
    n_failed = 0
    async with AsyncExitStack() as stack:
        journal = stack.enter_context(Journal.open(folder / f"{key}.journal"))
        if journal.n_missing_at_open:
            sys.stderr.write(f"r2: {journal.loss()}\n")
        already_spent_usd = paid_usd(journal)
        client = await stack.enter_async_context(
            open_client(
                pool,
                models_dir=models_dir,
                log_dir=folder / "logs",
                run_account=f"plans:{key}",
                max_cost_usd=max_cost_usd,
                already_spent_usd=already_spent_usd,
            )
        )

        async def ask(problem: Problem) -> None:
            nonlocal cost_usd, n_failed
            call = _call(pool, decomposer, problem, plan_tokens)
            completion = await client.complete(call, problem_id=problem.problem_id, journal=journal)
            texts[problem.problem_id] = completion.text
            cost_usd += completion.cost_usd
            n_failed += not completion.is_ok

        await drive_all((problem for problem, _ in asked), ask, slots=asyncio.Semaphore(64), max_workers=64)
    return [(problem, gold, texts[problem.problem_id]) for problem, gold in asked], cost_usd, n_failed
