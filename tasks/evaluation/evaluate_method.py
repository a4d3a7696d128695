"""One run of an evaluation: a method at one operating point over the dev or the test problems. The unit of Prefect's
retries.

The runs of an evaluation share endpoints, client and answered calls, opened once by `open_evaluation`; each is
otherwise an ordinary run with its own plan, shards and rows, so that what was answered stays answered.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from prefect import task
from prefect.cache_policies import NO_CACHE

from r2.answering.admission import Admission
from r2.errors import LakeError
from r2.evaluation.settings import EvaluateSettings
from r2.methods.router import make_router
from r2.pool.collector import collect_seldom
from r2.pool.file.config import PoolConfig
from r2.pool.opening import open_client
from r2.settings import Reasoning
from storage.evaluations.store import CALLS, FOLDER, evaluation_dir, evaluations_of
from storage.lake.address import lake_folder
from storage.lake.lake import Lake
from storage.lake.view import is_seen
from storage.runs.journal import Journal
from storage.runs.lineage import paid_runs
from storage.runs.plan import RunPlan, plan_run, read_plan
from storage.runs.sessions import has_session, is_closed
from tasks.answering.answer_rows import answer_rows
from tasks.answering.finish_run import record_session
from tasks.answering.paid_before import open_paid_before
from tasks.answering.plan_file import planned_entries, who_answers_digest
from tasks.answering.progress import Progress, progress_so_far
from tasks.answering.session import RunSession
from tasks.blocking import Checks, opened, to_end
from tasks.evaluation.shared_calls import Kin, SharedCalls, paid
from tasks.retry import may_help


@dataclass(slots=True)
class OpenEvaluation:
    """What the runs of an evaluation share while it runs. Models are started when the first call has to be made."""

    evaluation_id: str
    settings: EvaluateSettings
    pool: PoolConfig
    lake: Lake
    journal: Journal
    slots: asyncio.Semaphore
    paid_before_usd: float
    n_paid_before: int
    resources: AsyncExitStack
    checks: Checks
    warnings: list[str]
    """What was found amiss before the first call, for people."""
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: SharedCalls | None = None
    admission: Admission | None = None
    open_runs: dict[str, RunSession] = field(default_factory=dict)
    stop_reason: str | None = None
    """`budget` or `interrupted` once it is ending early."""
    starter: asyncio.Task[object] | None = None
    """The task that is starting the models."""

    @property
    def paid_usd(self) -> float:
        """Over all sessions."""
        return self.paid_before_usd + (self.calls.spent_usd if self.calls is not None else 0.0)

    @property
    def n_paid(self) -> int:
        """Calls that were sent, over all sessions."""
        return self.n_paid_before + (self.calls.n_sent if self.calls is not None else 0)

    async def ready(self) -> SharedCalls | None:
        """Endpoints and client, opened at the first need; None if the evaluation was stopped by then. ConfigError or
        EndpointError before the first paid call."""
        async with self.opening:
            if self.stop_reason is not None:
                return None  # no call would be made
            if self.calls is None:
                self.starter = starter = asyncio.current_task()
                try:
                    self.calls = await self._opened()
                except asyncio.CancelledError:
                    if self.stop_reason is None or starter is None or starter.uncancel():
                        raise
                finally:
                    self.starter = None
            return self.calls

    async def _opened(self) -> SharedCalls:
        settings, root = self.settings, self.lake.root
        client = await self.resources.enter_async_context(
            open_client(
                self.pool,
                models_dir=Path(settings.models_dir),
                log_dir=evaluation_dir(root, self.evaluation_id) / "logs",
                run_account=f"evaluation:{root.resolve()}:{self.evaluation_id}",
                max_cost_usd=settings.max_cost_usd,
                already_spent_usd=self.paid_before_usd,
            )
        )
        runs = paid_runs(root, "", "", "", reuse=True) if settings.reuse else []
        before = await to_end(open_paid_before, root, self.pool, runs)
        if before is not None:
            before.not_sent = client.not_sent
        kin = None if settings.reuse else kin_of(root, settings)
        return SharedCalls(client, self.pool, self.journal, self.evaluation_id, before, kin)

    def stop(self, reason: str) -> None:
        """Ends every run cleanly: calls in flight finish and are kept, nothing new is sent."""
        if self.stop_reason is None:
            self.stop_reason = reason
        for session in self.open_runs.values():
            session.stop(reason)

    def give_up(self) -> None:
        """After `stop`: calls in flight, and models that are being started, are not waited for."""
        if self.calls is not None:
            self.calls.give_up()
        elif self.starter is not None:
            self.starter.cancel()


_open_evaluations: dict[Path, OpenEvaluation] = {}


@asynccontextmanager
async def open_evaluation(
    evaluation_id: str, settings: EvaluateSettings, pool: PoolConfig
) -> AsyncIterator[OpenEvaluation]:
    """While open, `evaluate_method` finds it by its lake. RunLockedError while another process
    evaluates in this lake."""
    collect_seldom()
    root = lake_folder(settings.lake)
    async with AsyncExitStack() as stack:
        journal = await stack.enter_async_context(opened(Journal.open, root / FOLDER / CALLS))
        before_usd, n_before = await to_end(paid, journal, evaluation_id)
        evaluation = OpenEvaluation(
            evaluation_id,
            settings,
            pool,
            Lake(root),
            journal,
            asyncio.Semaphore(settings.max_in_flight),
            before_usd,
            n_before,
            stack,
            stack.enter_context(closing(Checks())),
            [journal.loss()] if journal.n_missing_at_open else [],
        )
        _open_evaluations[root] = evaluation
        stack.callback(_open_evaluations.pop, root)
        yield evaluation


def kin_of(root: Path, settings: EvaluateSettings) -> Kin:
    """For an evaluation without `reuse`: those of the same sources of problems, whatever else they changed."""
    sources = sorted(settings.problems)
    name = hashlib.sha256(orjson.dumps(sources)).hexdigest()[:16]
    return Kin(name, frozenset(evaluations_of(root, sources)))


def plan_evaluated(settings: EvaluateSettings, pool: PoolConfig, input_path: Path, reasoning: Reasoning) -> RunPlan:
    """The plan of one run, made or read back."""
    answering = settings.answering(str(input_path), reasoning)
    return plan_run(answering, who_answers_digest(answering, pool.digest), pool.text, planned_entries(pool))


def is_settled(plan: RunPlan) -> bool:
    """True where earlier sessions answered everything and closed the run: such a run needs no task."""
    if progress_so_far(plan).n_settled < plan.n_requested:
        return False
    lake = Lake(plan.run_dir.parent.parent)
    return has_session(lake, plan.run_id) and is_seen(lake.manifest, plan.run_id)


@task(
    name="evaluate-method",
    task_run_name="{label}",
    retries=2,
    retry_delay_seconds=[30, 300],
    retry_condition_fn=may_help,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def evaluate_method(run_dir: str, label: str) -> bool:
    """Answers what is left of a run; True once every problem is settled. `label` names it in Prefect's UI."""
    evaluation = _open_evaluations.get(Path(run_dir).parent.parent)
    if evaluation is None:
        raise LakeError(
            f"{run_dir}: no evaluation is open in this process; `r2 evaluate` opens it, its tasks run beside it."
        )
    plan = read_plan(Path(run_dir))
    return await answer_run(evaluation, plan)


async def answer_run(evaluation: OpenEvaluation, plan: RunPlan) -> bool:
    """The same without Prefect."""
    with evaluation.lake.run_lock(plan.run_id):
        progress = progress_so_far(plan)
        if progress.n_settled == plan.n_requested:  # the process that answered the last of it was killed by then
            await to_end(_close_again, plan, progress)
            return True
        calls = await evaluation.ready()
        if calls is None:
            return False  # no call would be made
        progress.started_at = time.time()
        router = make_router(evaluation.pool, plan.settings)
        slots, checks = evaluation.slots, evaluation.checks
        admission = evaluation.admission = evaluation.admission or Admission(calls.unspent_usd)
        session = RunSession(plan, evaluation.pool, router, calls, evaluation.lake, slots, progress, checks, admission)
        evaluation.open_runs[plan.run_id] = session
        try:
            for shard in session.open_shards():
                await answer_rows(session, shard.index)
                if progress.stop_reason is not None:
                    break
        finally:
            del evaluation.open_runs[plan.run_id]
        progress.n_deferred = plan.n_requested - progress.n_settled
        if progress.stop_reason is not None:
            evaluation.stop(progress.stop_reason)
        await to_end(close_run, plan, progress)
        return progress.n_deferred == 0


def close_run(plan: RunPlan, progress: Progress) -> None:
    """The session's row, and one file per table where the run is complete. Its cost is what its calls cost, whoever
    paid first."""
    record_session(
        plan,
        progress,
        kind="evaluate",
        n_answered=progress.n_answered,
        n_failed=progress.n_failed,
        cost_usd=progress.settled_cost_usd,
    )
    if progress.n_deferred == 0:
        Lake(plan.run_dir.parent.parent).compact(plan.run_id)  # last, so that the session's row is in view too


def _close_again(plan: RunPlan, progress: Progress) -> None:
    """`close_run` of a run that was answered whole: what of it was done is not done twice."""
    root = plan.run_dir.parent.parent
    if is_closed(root, plan.run_id):
        Lake(root).compact(plan.run_id)
    else:
        close_run(plan, progress)
