"""One shard answered and committed: the unit of Prefect's retries. What an earlier session settled or paid is not done
again."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from r2.answering.drive import drive, drive_all
from r2.answering.protocol import Trajectory
from r2.call import Call, Completion
from r2.errors import LakeError, failure
from r2.methods import method_named
from r2.problem import Problem
from r2.records.rows import bad_row, candidate_rows, to_rows
from r2.records.tables import CallRow, CandidateRow, SubtaskRow, TrajectoryRow
from storage.lake.schema import Row
from storage.runs.journal import Journal, keep_only
from tasks.answering.session import RunSession, session_of
from tasks.retry import may_help


@task(
    name="answer-shard",
    task_run_name="shard-{shard}",
    retries=2,
    retry_delay_seconds=[30, 300],
    retry_condition_fn=may_help,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def answer_shard(run_dir: str, shard: int) -> dict[str, int]:
    """Answers what is left of a shard. Returns counts: n_rows, n_settled, n_deferred; n_rows =
    n_settled + n_deferred."""
    async with session_of(Path(run_dir)) as session:
        return await answer_rows(session, shard)


async def answer_rows(session: RunSession, shard: int) -> dict[str, int]:
    """The same without Prefect: used by the task, by tests and by the benchmark of Prefect's share."""
    plan, progress = session.plan, session.progress
    method = plan.settings.reasoning.method
    settled = session.lake.settled_ids(plan.run_id, f"{shard:05d}-")
    trajectories: list[TrajectoryRow] = []
    subtasks: list[SubtaskRow] = []
    calls: list[CallRow] = []
    candidates: list[CandidateRow] = []
    open_problems: list[Problem] = []
    n_rows = 0
    for problem, bad in plan.rows(shard):
        n_rows += 1
        if problem.problem_id in settled:
            continue
        if bad is None:
            open_problems.append(problem)
        else:
            trajectories.append(bad_row(plan.run_id, method, problem, bad.error_type, bad.message, plan.created_at))
            progress.n_failed += 1
    deferred_keys: set[str] = set()
    n_taken = n_deferred = 0

    with Journal.open(plan.journal_file(shard)) as journal:
        progress.n_calls_lost += journal.n_lost_at_open

        async def answer(problem: Problem) -> None:
            nonlocal n_taken, n_deferred
            if progress.stop_reason is not None:
                return
            n_taken += 1
            trajectory, keys = await _answered(session, problem, journal)
            if trajectory.outcome.status == "deferred":
                n_deferred += 1
                deferred_keys.update(keys)
                progress.note_deferred(trajectory.outcome)
                if trajectory.outcome.error_type == "budget_exhausted":
                    session.stop("budget")
                return
            row, its_subtasks, its_calls = to_rows(plan.run_id, method, trajectory, session.router.roster)
            trajectories.append(row)
            subtasks.extend(its_subtasks)
            calls.extend(its_calls)
            candidates.extend(candidate_rows(plan.run_id, trajectory, session.router.roster))
            _count(session, row)

        await drive_all(open_problems, answer, slots=session.slots, max_workers=plan.settings.max_in_flight)
        if trajectories:
            tables: dict[str, Sequence[Row]] = {
                "trajectories": trajectories,
                "subtasks": subtasks,
                "calls": calls,
                "candidates": candidates,
            }
            _commit(session, shard, trajectories, tables, journal.n_lost_at_open)
    n_untaken = len(open_problems) - n_taken
    n_settled = len(settled) + len(trajectories)
    if n_rows != n_settled + n_deferred + n_untaken:
        raise LakeError(
            f"shard {shard} of run {plan.run_id}: {n_rows} rows, but {n_settled} settled and "
            f"{n_deferred + n_untaken} deferred. "
            "This is a bug; the journal is kept, please report it."
        )
    if n_deferred + n_untaken == 0:
        plan.journal_file(shard).unlink()
    else:
        keep_only(plan.journal_file(shard), deferred_keys)
    progress.n_deferred += n_deferred + n_untaken
    return {"n_rows": n_rows, "n_settled": n_settled, "n_deferred": n_deferred + n_untaken}


async def _answered(session: RunSession, problem: Problem, journal: Journal) -> tuple[Trajectory, set[str]]:
    """The problem answered or deferred, and the journal keys of its calls.

    What earlier sessions got as far as is walked from the journal, stored failures included, since a stronger model may
    have answered after them. Where that walk ends with the failures that deferred the problem, those calls, and no
    others, are asked again.
    """
    method = method_named(session.plan.settings.reasoning.method)
    keys: set[str] = set()
    again: set[str] = set()
    asked_again: set[str] = set()

    async def complete(call: Call) -> Completion:
        key = call.journal_key(problem.problem_id)
        keys.add(key)
        return await session.client.complete(
            call, problem_id=problem.problem_id, journal=journal, replay_failures=key not in again
        )

    while True:
        trajectory = await drive(problem, method.run(problem, session.router), complete)
        if trajectory.outcome.status != "deferred":
            return trajectory, keys
        asked_again |= again
        again = {
            key
            for call, completion in trajectory.waves[-1]
            if completion.is_replayed
            and failure(completion.error_type).defers
            and (key := call.journal_key(problem.problem_id)) not in asked_again
        }
        if not again:
            return trajectory, keys


def _commit(
    session: RunSession,
    shard: int,
    trajectories: list[TrajectoryRow],
    tables: Mapping[str, Sequence[Row]],
    n_calls_lost: int,
) -> None:
    """One unit of the lake: all tables of the shard's newly settled problems, or none."""
    run_id = session.plan.run_id
    n_earlier = sum(name.startswith(f"{shard:05d}-") for name in session.lake.units(run_id))
    meta = {
        "n_answered": sum(row.status == "answered" for row in trajectories),
        "n_failed": sum(row.status == "failed" for row in trajectories),
        "n_correct": sum(row.is_correct is True for row in trajectories),
        "n_judged": sum(row.is_correct is not None for row in trajectories),
        "cost_usd": sum(row.cost_usd for row in trajectories),
        "n_calls_lost": n_calls_lost,
    }
    unit = f"{shard:05d}-{n_earlier}"
    if not session.lake.commit(run_id, unit, tables, meta=meta):
        raise LakeError(f"unit {unit} of run {run_id} was committed by somebody else while we held the run's lock")


def _count(session: RunSession, row: TrajectoryRow) -> None:
    progress = session.progress
    progress.session_n_settled += 1
    progress.settled_cost_usd += row.cost_usd
    if row.status == "answered":
        progress.n_answered += 1
    else:
        progress.n_failed += 1
    if row.is_correct is not None:
        progress.n_judged += 1
        progress.n_correct += row.is_correct
