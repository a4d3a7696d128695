"""Failed problems of a run that are asked again (`--retry-failed`): no longer settled, and nothing of them forgotten.

They leave the lake at one instant (`Lake.leave_out`), so that it never has a problem twice; from then on the run has
them to answer, as any other problem that was deferred. Their calls so far are kept in `<run>/reopened.jsonl`, one
problem a line, until they are settled again: then these calls are the first of the problem's rows, for they were paid
for it.
"""

import base64
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from r2.atomic import replacing
from r2.errors import LakeError
from r2.records.tables import CallRow, RunRow
from storage.lake.lake import Lake
from storage.lake.schema import TABLES
from storage.runs.plan import RunPlan

_COUNTED = ("n_answered", "n_failed", "n_correct", "n_judged", "n_calls_lost", "cost_usd")
"""What the note of a unit counts."""


@dataclass(frozen=True, slots=True)
class Reopened:
    """A problem that is asked again. `cost_usd` is what its earlier tries cost; their calls stay on disk until they are
    wanted."""

    problem_id: str
    shard: int
    cost_usd: float
    path: Path
    offset: int

    def calls(self) -> list[CallRow]:
        """Those of the earlier tries, as they were stored."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            stored = _parsed(self.path, file.readline())["calls"]
        names = TABLES["calls"].schema.names
        return [
            CallRow(**{name: call.get(name) for name in names} | {"raw_body": base64.b64decode(call["raw_body"])})
            for call in stored
        ]


def reopen_failed(plan: RunPlan, lake: Lake, session: Callable[[int], RunRow]) -> int:
    """Takes the failed problems of a run out of the lake and returns how many. Rows of the input that are no questions
    stay failed. `session` makes the row of `runs` that comes with it, given their number.

    For whoever holds the run's lock. A kill leaves the run as it was, or with all of them open.
    """
    columns = ["problem_id", "status", "is_correct", "cost_usd"]
    failed = {row["problem_id"]: row for row in _rows(lake, plan, "trajectories", columns) if row["status"] == "failed"}
    shard_of: dict[str, int] = {}
    for shard in plan.shards if failed else ():
        for problem, bad in plan.rows(shard.index):
            if bad is None and problem.problem_id in failed:
                shard_of[problem.problem_id] = shard.index
    if not shard_of:
        return 0
    lines = [_line_of(one) for one in reopened(plan, lake).values()]
    with replacing(_path(plan)) as file:
        file.writelines(lines)
        file.writelines(_lines(shard_of, _rows(lake, plan, "calls", TABLES["calls"].schema.names)))
    lake.store.share(_path(plan))
    counted: dict[str, dict[str, float]] = {}
    for problem_id, index in shard_of.items():
        row, note = failed[problem_id], counted.setdefault(f"{index:05d}-", dict.fromkeys(_COUNTED, 0))
        note["n_failed"] -= 1
        note["n_judged"] -= row["is_correct"] is not None
        note["cost_usd"] -= row["cost_usd"]
    counted["session-"] = {}
    if not lake.leave_out(plan.run_id, shard_of, counted, {"runs": [session(len(shard_of))]}):
        raise LakeError(f"run {plan.run_id} was compacted meanwhile; nothing was changed. Run the same command again.")
    return len(shard_of)


def reopened(plan: RunPlan, lake: Lake) -> Mapping[str, Reopened]:
    """The run's problems that were taken out and are not settled again, by problem_id."""
    path, found, offset = _path(plan), [], 0
    lake.store.receive(path)
    if not path.exists():
        return {}
    with path.open("rb") as file:
        for line in file:
            stored = _parsed(path, line)
            found.append(Reopened(stored["problem_id"], stored["shard"], stored["cost_usd"], path, offset))
            offset += len(line)
    settled = {index: lake.settled_ids(plan.run_id, f"{index:05d}-") for index in {one.shard for one in found}}
    return {one.problem_id: one for one in found if one.problem_id not in settled[one.shard]}


def _path(plan: RunPlan) -> Path:
    return plan.run_dir / "reopened.jsonl"


def _rows(lake: Lake, plan: RunPlan, table: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in lake.iter_rows(table, plan.run_id, columns):
        yield from batch.to_pylist()


def _line_of(one: Reopened) -> bytes:
    with one.path.open("rb") as file:
        file.seek(one.offset)
        return file.readline()


def _lines(shard_of: Mapping[str, int], calls: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """A line for each of the problems; `calls` are the run's, those of a problem together."""
    left = dict(shard_of)
    for problem_id, mine in itertools.groupby(calls, key=operator.itemgetter("problem_id")):
        if problem_id in left:
            rows = [CallRow(**row | {"started_at": row["started_at"].timestamp()}) for row in mine]
            yield _line(problem_id, left.pop(problem_id), rows)
    for problem_id, shard in left.items():
        yield _line(problem_id, shard, [])


def _line(problem_id: str, shard: int, calls: list[CallRow]) -> bytes:
    stored = [asdict(call) | {"raw_body": base64.b64encode(call.raw_body).decode()} for call in calls]
    cost_usd = sum(call.cost_usd for call in calls)
    fields = {"problem_id": problem_id, "shard": shard, "cost_usd": cost_usd, "calls": stored}
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def _parsed(path: Path, line: bytes) -> dict[str, Any]:
    try:
        stored: dict[str, Any] = orjson.loads(line)
        return {name: stored[name] for name in ("problem_id", "shard", "cost_usd", "calls")}
    except (ValueError, KeyError, TypeError) as error:
        raise LakeError(
            f"{path}: damaged ({error!r}). It holds what was paid for questions that are asked again. Restore it from "
            "a backup, or remove it to forget what they cost before."
        ) from error
