"""One shard answered and committed. What an earlier session settled or paid is not done again. Needs no Prefect:
`answer_shard.py`, beside this file, is its task."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from r2.answering.admission import Begun
from r2.answering.asked import as_asked
from r2.answering.drive import drive, drive_all
from r2.answering.judging import judged
from r2.answering.protocol import Outcome, Trajectory, Wave
from r2.call import Call, Completion
from r2.errors import LakeError, failure
from r2.ledger import worst_cost_usd
from r2.methods import method_named
from r2.problem import Problem
from r2.problems.benchmark import benchmark_of, is_free
from r2.problems.sandbox import CheckStopped
from r2.records.rows import bad_row, candidate_rows, to_rows
from r2.records.tables import CallRow, CandidateRow, SubtaskRow, TrajectoryRow
from r2.telemetry.spans import problem_span, shard_span
from storage.lake.manifest import UnitEntry
from storage.lake.schema import Row
from storage.sources.questions import BadRow
from tasks.answering.journals import ShardJournal
from tasks.answering.progress import Counts
from tasks.answering.session import RunSession
from tasks.answering.simulated import if_known
from tasks.blocking import to_end


async def answer_rows(session: RunSession, shard: int) -> dict[str, int]:
    """Answers what is left of a shard. Returns counts: n_rows, n_settled, n_deferred; n_rows = n_settled +
    n_deferred."""
    try:
        with shard_span(session.plan.run_id, shard):
            while True:
                counts = session.progress.begin(shard)
                if (found := await _answer_rows(session, shard, counts)) is not None:
                    return found
    finally:
        session.progress.end(shard)


@dataclass(slots=True)
class _Unit:
    """The rows of the problems that an attempt settles: what it commits, or nothing of it."""

    trajectories: list[TrajectoryRow] = field(default_factory=list)
    subtasks: list[SubtaskRow] = field(default_factory=list)
    calls: list[CallRow] = field(default_factory=list)
    candidates: list[CandidateRow] = field(default_factory=list)

    def tables(self) -> dict[str, Sequence[Row]]:
        return {
            "trajectories": self.trajectories,
            "subtasks": self.subtasks,
            "calls": self.calls,
            "candidates": self.candidates,
        }


async def _answer_rows(session: RunSession, shard: int, counts: Counts) -> dict[str, int] | None:
    """None where somebody else has committed the same unit meanwhile: theirs counts, ours is dropped, and what is left
    of the shard is looked at anew. What was paid for it is in the journal."""
    plan, progress = session.plan, session.progress
    method = plan.settings.reasoning.method
    units, settled, planned = await to_end(_read, session, shard)
    guess_usd = session.guessed_usd(is_free=any(is_free(problem) for problem, bad in planned if bad is None))
    for name, entry in units.items():  # an attempt before this one may have ended after its commit
        progress.settle(name, Counts.of_note(entry.meta))
    unit = _Unit()
    open_problems: list[Problem] = []
    for problem, bad in planned:
        if problem.problem_id in settled:
            continue
        if bad is None:
            open_problems.append(problem)
        else:
            row = bad_row(plan.run_id, method, problem, bad.error_type, bad.message, plan.created_at)
            unit.trajectories.append(row)
            counts.add(row)
    n_bad_rows = len(unit.trajectories)
    settled_keys: set[str] = set()
    deferred: list[Outcome | None] = []  # None: its check was stopped
    n_taken = 0
    spent_usd: dict[str, float] = {}

    async with session.journals.opened(shard) as journal:
        counts.note_lost(journal.lost_at_open)

        async def answer(problem: Problem) -> None:
            nonlocal n_taken
            if progress.stop_reason is not None:
                return
            keys: set[str] = set()
            outcome: Outcome | None = None
            rows: _Rows | None = None
            begun = await session.admission.begin(method, guess_usd)
            if begun is None:
                session.stop("budget")
                return
            try:
                if progress.stop_reason is not None:
                    return
                n_taken += 1
                with contextlib.suppress(CheckStopped):  # its calls are kept, and the next session checks its answer
                    with problem_span(plan.run_id, problem.problem_id, method) as note:
                        trajectory = await _answered(session, problem, journal, keys, begun)
                        outcome = trajectory.outcome
                        note({"r2.status": outcome.status, "error.type": outcome.error_type})
                    rows = await _rows_of(session, trajectory) if outcome.status != "deferred" else None
            finally:
                session.admission.end(begun, is_whole=rows is not None)
                spent_usd[problem.problem_id] = begun.spent_usd
            if rows is None:
                deferred.append(outcome)
                if outcome is not None and outcome.error_type == "budget_exhausted":
                    session.stop("budget")
                return
            settled_keys.update(keys)
            row, its_subtasks, its_calls, its_candidates = rows
            unit.trajectories.append(row)
            unit.subtasks.extend(its_subtasks)
            unit.calls.extend(its_calls)
            unit.candidates.extend(its_candidates)
            counts.add(row)

        n_workers = max(1, min(session.max_open, len(open_problems)))
        await drive_all(open_problems, answer, slots=session.slots, max_workers=n_workers)
        if unit.trajectories:
            name = f"{shard:05d}-{len(units)}"
            is_complete = not deferred and n_taken == len(open_problems)
            lost = [call for call in journal.lost_at_open if is_complete or call.key in settled_keys]
            n_lost_open = len(journal.lost_at_open) - len(lost)
            counts.note_lost(lost)
            note = counts.note() | await session.journals.may_commit(shard)
            if not await to_end(session.lake.commit, plan.run_id, name, unit.tables(), meta=note):
                if not session.lake.manifest.has(plan.run_id, name):
                    raise LakeError(f"unit {name} of run {plan.run_id} is refused as there already, and is not there")
                theirs = await to_end(session.lake.settled_ids, plan.run_id, f"{shard:05d}-")
                progress.dropped_cost_usd += sum(usd for one, usd in spent_usd.items() if one in theirs)
                return None
            progress.settle(name, counts)
            progress.n_bad_rows += n_bad_rows
        else:
            n_lost_open = counts.n_calls_lost
    n_open = len(deferred) + len(open_problems) - n_taken
    n_settled = len(settled) + len(unit.trajectories)
    if len(planned) != n_settled + n_open:
        raise LakeError(
            f"shard {shard} of run {plan.run_id}: {len(planned)} rows, but {n_settled} settled and {n_open} deferred. "
            "This is a bug; the journal is kept, please report it."
        )
    await session.journals.close(shard, settled_keys if n_open else None)
    progress.n_deferred += n_open
    progress.n_calls_lost += n_lost_open
    for outcome in deferred:
        if outcome is not None:
            progress.note_deferred(outcome)
    return {"n_rows": len(planned), "n_settled": n_settled, "n_deferred": n_open}


def _read(
    session: RunSession, shard: int
) -> tuple[dict[str, UnitEntry], set[str], list[tuple[Problem, BadRow | None]]]:
    """The units that the lake has of the shard, the problems in them, and all rows of the shard."""
    plan, prefix = session.plan, f"{shard:05d}-"
    units = {name: entry for name, entry in session.lake.units(plan.run_id).items() if name.startswith(prefix)}
    return units, session.lake.settled_ids(plan.run_id, prefix), list(plan.rows(shard))


async def _answered(
    session: RunSession, problem: Problem, journal: ShardJournal, keys: set[str], begun: Begun
) -> Trajectory:
    """The problem answered or deferred; `keys` gets the journal keys of its calls, `begun` what they may cost and did.

    What earlier sessions got as far as is walked from the journal, stored failures included, since a stronger model may
    have answered after them. Where that walk ends with the failures that deferred the problem, those calls, and no
    others, are asked again. A way to answer that checks answers on its way (labelling) does it beside the loop where
    the check may take seconds.
    """
    method = method_named(session.plan.settings.reasoning.method)
    is_slow = benchmark_of(problem).is_slow or session.router.blocks
    beside = session.checks.run if is_slow else None
    before = None if problem.problem_id in session.reopened else session.paid_before  # those are to be asked again
    again: set[str] = set()
    asked_again: set[str] = set()

    async def complete(call: Call) -> Completion:
        key = call.journal_key(problem.problem_id)
        keys.add(key)
        if before is not None and journal.find(key) is None and (known := await before.find(call)) is not None:
            await journal.commit(key, known.to_bytes(call.request_sha(), problem.problem_id), known.cost_usd)
            return replace(known, lost_usd=journal.lost_usd(key))
        card = session.router.roster[call.model]
        worst_usd = worst_cost_usd(card.price, card.worst_case(call.messages, call.max_output_tokens, call.json_schema))
        begun.sends(worst_usd)
        completion = await session.client.complete(
            call, problem_id=problem.problem_id, journal=journal, replay_failures=key not in again
        )
        begun.got(worst_usd, 0.0 if completion.is_replayed else completion.cost_usd)
        return completion

    async def complete_all(wave: Wave) -> list[Completion]:
        """A wave of calls at once: batch lanes take it without a task for each."""
        assert session.lanes is not None
        worst_usd = 0.0
        for call in wave:
            keys.add(call.journal_key(problem.problem_id))
            card = session.router.roster[call.model]
            worst = card.worst_case(call.messages, call.max_output_tokens, call.json_schema)
            worst_usd += worst_cost_usd(card.price, worst)
        begun.sends(worst_usd)
        completions = await session.lanes.complete_all(
            wave,
            problem_id=problem.problem_id,
            journal=journal,
            replays_failure=lambda call: call.journal_key(problem.problem_id) not in again,
        )
        begun.got(worst_usd, sum(0.0 if one.is_replayed else one.cost_usd for one in completions))
        return completions

    at_once = complete_all if session.lanes is not None and before is None else None
    while True:
        solving = method.run(problem, session.router)
        if method.run_kind == "answer":
            solving = as_asked(problem, solving, session.router)
            if session.is_simulated:
                solving = if_known(problem, solving)
        solving = judged(problem, solving, session.router.check)
        trajectory = await drive(problem, solving, complete, beside, at_once)
        if trajectory.outcome.status != "deferred":
            return trajectory
        asked_again |= again
        again = {
            key
            for call, completion in trajectory.waves[-1]
            if completion.is_replayed
            and failure(completion.error_type).defers
            and (key := call.journal_key(problem.problem_id)) not in asked_again
        }
        if not again:
            return trajectory


_Rows = tuple[TrajectoryRow, list[SubtaskRow], list[CallRow], list[CandidateRow]]


async def _rows_of(session: RunSession, trajectory: Trajectory) -> _Rows:
    """The rows of a settled trajectory, its answer checked: beside the loop where that may take seconds."""
    plan, roster = session.plan, session.router.roster
    method = plan.settings.reasoning.method

    before = session.reopened.get(trajectory.problem.problem_id)
    earlier = before.calls() if before is not None else ()

    def rows() -> _Rows:
        stored = to_rows(plan.run_id, method, trajectory, roster, earlier=earlier)
        return *stored, candidate_rows(plan.run_id, trajectory, roster)

    return await session.checks.run(rows) if benchmark_of(trajectory.problem).is_slow else rows()
