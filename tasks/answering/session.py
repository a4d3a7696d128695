"""A run's open resources in this process: endpoints, the pool client, the lake. One per run and process, shared by its shards.

Prefect tasks take paths only (a live client cannot be a task's parameter), so they find the session here by run folder. A task
that runs in a process of its own (a Dask or Ray task runner) opens one for itself.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from r2.call import Call, Completion
from r2.errors import ConfigError
from r2.labelling.label import LEXICAL
from r2.methods import METHODS
from r2.methods.random_model import probabilities
from r2.pool.client.client import PoolClient
from r2.pool.collector import collect_seldom
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.servers.endpoints import open_endpoints
from r2.pool.client.gauges import ModelGauge
from r2.pool.client.ports import CallJournal
from r2.answering.query_router import QueryRouter
from r2.roster import Roster
from r2.settings import AnswerSettings, Labelling, Reasoning
from r2.answering.route import Router
from storage.runs.journal import Journal
from storage.lake.lake import Lake
from storage.runs.plan import RunPlan, ShardPlan, read_plan


@dataclass(slots=True)
class Progress:
    """Counts of a run, over all its sessions; read by whoever shows them."""

    n_requested: int
    n_answered: int = 0
    n_failed: int = 0
    n_deferred: int = 0
    n_correct: int = 0
    n_judged: int = 0
    n_calls_lost: int = 0
    """Calls begun by a session that was killed before their answer was durable: they may have been paid twice."""
    settled_cost_usd: float = 0.0
    unsettled_cost_usd: float = 0.0
    """Paid for problems that are not settled yet; their calls wait in the journals."""
    session_cost_usd: float = 0.0
    session_n_settled: int = 0
    started_at: float = field(default_factory=time.time)
    wall_s: float = 0.0
    """Of the session, once it is closed."""
    stop_reason: str | None = None
    """`budget` or `interrupted` once the run is ending early."""

    @property
    def n_settled(self) -> int:
        return self.n_answered + self.n_failed


class CallClient(Protocol):
    """What a session asks: a `PoolClient`, or what stands before one (`tasks/evaluation/shared_calls.py`)."""

    @property
    def spent_usd(self) -> float:
        """Paid by this process."""

    async def complete(
        self, call: Call, *, problem_id: str, rollout: int = ..., journal: CallJournal = ...
    ) -> Completion:
        """The settled outcome of a call."""

    def gauges(self) -> list[ModelGauge]:
        """Each pool entry now."""

    def stop(self) -> None:
        """No new call is sent from now on."""


@dataclass(slots=True)
class RunSession:
    """What a shard needs to be answered."""

    plan: RunPlan
    pool: PoolConfig
    router: Router
    client: CallClient
    lake: Lake
    slots: asyncio.Semaphore
    progress: Progress

    def open_shards(self) -> Iterator[ShardPlan]:
        """Shards with rows that no session has settled."""
        settled: dict[int, int] = {}
        for name, entry in self.lake.units(self.plan.run_id).items():
            if name[:5].isdigit():
                settled[int(name[:5])] = (
                    settled.get(int(name[:5]), 0) + entry.meta["n_answered"] + entry.meta["n_failed"]
                )
        return (shard for shard in self.plan.shards if settled.get(shard.index, 0) < shard.n_rows)

    def stop(self, reason: str) -> None:
        """Ends the run cleanly: no new problem is taken, no new call is sent, calls in flight finish and are kept."""
        if self.progress.stop_reason is None:
            self.progress.stop_reason = reason
        self.client.stop()


_open_sessions: dict[Path, RunSession] = {}


def make_router(pool: PoolConfig, settings: AnswerSettings) -> Router:
    """The pool's roster with the router parts that settings or the pool file name. ConfigError names what does not fit."""
    roster, chosen = pool.roster(), settings.reasoning
    decomposer = chosen.decomposer or pool.router.decomposer
    allocator = chosen.allocator or pool.router.allocator
    finalizer = chosen.finalizer or pool.router.finalizer
    second = chosen.second_decomposer or pool.router.second_decomposer
    second = None if second == "none" else second
    for name in [
        decomposer,
        allocator,
        *([second] if second is not None else []),
        *([finalizer] if finalizer != "last_step" else []),
        *_models_named(chosen),
        *(_labellers(chosen.labelling) if chosen.labelling else []),
    ]:
        roster[name]
    if chosen.b and chosen.method == "r2" and not roster[allocator].has_logprobs:
        raise ConfigError(
            f"--b {chosen.b}: the cost knob needs the allocator's log-probabilities, and {allocator!r} in {pool.path} has "
            "logprobs = false. Choose another allocator with --allocator, or drop --b."
        )
    if chosen.min_confidence and chosen.method == "r2" and not any(card.has_logprobs for card in roster.solvers):
        raise ConfigError(
            f"--min-confidence {chosen.min_confidence}: no solver of {pool.path} gives log-probabilities (logprobs = true), so nobody would be "
            "asked again. Say so for the endpoints that have them, or drop --min-confidence."
        )
    if chosen.min_confidence and chosen.method == "r2" and not chosen.max_escalations:
        raise ConfigError(
            f"--min-confidence {chosen.min_confidence} with --max-escalations 0: nobody would be asked again. Allow some, or drop "
            "--min-confidence."
        )
    if chosen.method == "random":
        probabilities(chosen, roster)
    learned = _load_query_router(chosen, roster) if chosen.method == "query_router" else None
    return Router(
        roster, decomposer, allocator, None if finalizer == "last_step" else finalizer, chosen, learned, second
    )


def _models_named(chosen: Reasoning) -> list[str]:
    named = [chosen.model, chosen.small_model, chosen.large_model, *(chosen.chain or ()), *(chosen.mix or ())]
    return [name for name in named if name is not None]


def _load_query_router(chosen: Reasoning, roster: Roster) -> QueryRouter:
    """The fitted router that the settings name. ConfigError if there is none, or if it was fitted for models the pool does not have."""
    if chosen.query_router is None:
        raise ConfigError("--method query_router needs a fitted router: name its JSON file with --query-router.")
    try:
        text = Path(chosen.query_router).read_bytes()
    except OSError as error:
        raise ConfigError(f"--query-router {chosen.query_router}: cannot be read: {error}") from error
    learned = QueryRouter.from_json(text, f"--query-router {chosen.query_router}")
    if missing := [name for name in learned.models if name not in roster.by_name]:
        raise ConfigError(
            f"--query-router {chosen.query_router}: was fitted for {missing[0]!r}, which the pool does not have. "
            f"Pool: {', '.join(roster.by_name)}. Fit it on this pool's answers, or add the model."
        )
    return learned


def _labellers(chosen: Labelling) -> list[str]:
    named = [chosen.teacher, chosen.m_eval, chosen.judge if chosen.judge != LEXICAL else None]
    return [name for name in named if name is not None]


def state_dir() -> Path:
    """Where limits and budgets are shared by the processes of this host: $R2_STATE_DIR, else ~/.local/state/r2."""
    return Path(os.environ.get("R2_STATE_DIR") or Path.home() / ".local" / "state" / "r2")


def progress_so_far(plan: RunPlan) -> Progress:
    """What earlier sessions of the run settled, from the notes in the lake's manifest: no table is read."""
    progress = Progress(plan.n_requested)
    for entry in Lake(plan.settings.lake).units(plan.run_id).values():
        progress.n_answered += entry.meta.get("n_answered", 0)
        progress.n_failed += entry.meta.get("n_failed", 0)
        progress.n_correct += entry.meta.get("n_correct", 0)
        progress.n_judged += entry.meta.get("n_judged", 0)
        progress.n_calls_lost += entry.meta.get("n_calls_lost", 0)
        progress.settled_cost_usd += entry.meta.get("cost_usd", 0.0)
    return progress


@asynccontextmanager
async def open_session(plan: RunPlan) -> AsyncIterator[RunSession]:
    """Opens endpoints and client for a run. ConfigError or EndpointError before the first paid call."""
    collect_seldom()
    settings = plan.settings
    pool = load_pool(settings.pool)
    pool.check_keys()
    router = make_router(pool, settings)
    METHODS[settings.reasoning.method]
    lake = Lake(Path(settings.lake))
    progress = progress_so_far(plan)
    progress.unsettled_cost_usd = sum(_journaled_usd(plan, lake))
    already_spent_usd = progress.settled_cost_usd + progress.unsettled_cost_usd
    async with AsyncExitStack() as stack:
        addresses = await stack.enter_async_context(
            open_endpoints(pool, models_dir=Path(settings.models_dir), log_dir=plan.run_dir / "logs")
        )
        client = await stack.enter_async_context(
            PoolClient(
                pool, addresses, state_dir=state_dir(), run_account=f"run:{plan.run_id}", max_cost_usd=settings.max_cost_usd,
                already_spent_usd=already_spent_usd,
            )
        )  # fmt: skip
        session = RunSession(plan, pool, router, client, lake, asyncio.Semaphore(settings.max_in_flight), progress)
        _open_sessions[plan.run_dir] = session
        stack.callback(_open_sessions.pop, plan.run_dir)
        yield session
        progress.wall_s = time.time() - progress.started_at
        progress.session_cost_usd = client.spent_usd
        progress.unsettled_cost_usd = already_spent_usd + client.spent_usd - progress.settled_cost_usd


def _journaled_usd(plan: RunPlan, lake: Lake) -> Iterator[float]:
    """What earlier sessions paid for problems they did not settle. A journal left beside a finished shard is removed."""
    units = lake.units(plan.run_id)
    for shard in plan.shards:
        path = plan.journal_file(shard.index)
        if not path.exists():
            continue
        entries = [entry for name, entry in units.items() if name.startswith(f"{shard.index:05d}-")]
        if sum(entry.meta["n_answered"] + entry.meta["n_failed"] for entry in entries) == shard.n_rows:
            path.unlink()
            continue
        with Journal.open(path) as journal:
            yield sum(Completion.from_bytes(record).cost_usd for _, record in journal.records())


@asynccontextmanager
async def session_of(run_dir: Path) -> AsyncIterator[RunSession]:
    """The session this process has open for a run; one of its own where it has none."""
    if (session := _open_sessions.get(run_dir)) is not None:
        yield session
    else:
        async with open_session(read_plan(run_dir)) as session:
            yield session
