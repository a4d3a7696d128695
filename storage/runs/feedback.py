"""Bringing feedback into the lake: what people say of a run's answers, in the table `feedback` of that run.

Exactly once, as all that is committed: a file is one unit of the run, known by its content, its name and who is said to
have given it. Given again it adds only verdicts on questions that it could not be matched to before. Rows are never
changed: a person who says otherwise later adds a row, and the newest one counts (`storage/sql/feedback.sql`).
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from r2.errors import ConfigError
from r2.records.tables import FeedbackRow
from storage.lake.lake import Lake
from storage.sources.questions import file_digest
from storage.sources.verdicts import Complaint, Verdict, last_words, person, read_verdicts, word
from storage.sql.query import connect, damage_named

UNIT = "feedback-"


@dataclass(frozen=True, slots=True)
class BroughtIn:
    """What became of the rows of one file. `not_taken` are lost to the run until they are corrected; `notices` are said
    of rows that were taken."""

    run_id: str
    n_rows: int
    n_taken: int
    n_known: int
    """Rows that say what the same person had said before, or in another row of the file."""
    not_taken: tuple[Complaint, ...]
    notices: tuple[Complaint, ...]
    contested: tuple[str, ...]
    """Ids of the run about which persons say otherwise than each other."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the lake has of the questions of a file: whether each was answered, and each person's newest verdict."""

    is_answered: dict[str, bool]
    verdicts: dict[tuple[str, str], bool]


def newest_answered(lake: Path) -> str:
    """The run of `r2 answer` that was worked on last. ConfigError where there is none."""
    with connect(lake, tables=["runs"], views=()) as db, damage_named(lake):
        found = db.execute(
            "select run_id from runs_latest where kind = 'answer' order by ended_at desc, run_id limit 1"
        ).fetchone()
    if found is None:
        raise ConfigError(
            f"{lake} has no run that answered questions and ended. Name the one whose answers are meant with --run."
        )
    return str(found[0])


def run_named(lake: Path, name: str) -> str:
    """The run that `name` stands for, its id or the beginning of one. ConfigError where it is none or several."""
    everything = Lake(lake).manifest.run_ids()
    fitting = [name] if name in everything else [one for one in everything if name and one.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ConfigError(f"{name!r} begins {len(fitting)} runs in {lake}: {', '.join(fitting[:10])}. Give more of it.")
    raise ConfigError(f"{lake} has no run {name!r}. Runs: {', '.join(everything[-10:]) or 'none'}.")


def bring_in(lake: Path, path: Path, run: str | None = None, given_by: str = "") -> BroughtIn:
    """The verdicts of a file, stored with the run: an id or its beginning; None: the newest run of `r2 answer`.

    ConfigError for a run that the lake does not have; InputFileError for a file that cannot be read.
    """
    run_id = newest_answered(lake) if run is None else run_named(lake, run)
    store = Lake(lake)
    read, not_taken = read_verdicts(path, given_by)
    n_rows = len(read) + len(not_taken)
    verdicts, notices, n_repeated = last_words(read)
    digest = hashlib.sha256(f"{file_digest(path)}\n{path.name}\n{given_by}".encode()).hexdigest()[:16]
    unit, is_known_file = f"{UNIT}{digest}", store.manifest.has(run_id, f"{UNIT}{digest}")
    known = _known(lake, run_id, verdicts)
    new: list[Verdict] = []
    n_known = n_repeated
    for one in verdicts:
        earlier = known.verdicts.get((one.problem_id, one.given_by))
        if one.problem_id not in known.is_answered:
            not_taken.append(
                Complaint(
                    one.line,
                    f"id {one.problem_id!r:.80}: run {run_id} has no such question. Name the run that answered it "
                    "with --run",
                )
            )
        elif not known.is_answered[one.problem_id]:
            not_taken.append(
                Complaint(
                    one.line,
                    f"id {one.problem_id!r:.80}: the question failed in run {run_id}: there is no answer to judge. "
                    "r2 answer --retry-failed asks it again",
                )
            )
        elif earlier == one.is_right or (earlier is not None and is_known_file):
            n_known += 1
        else:
            new.append(one)
            if earlier is not None:
                notices.append(
                    Complaint(
                        one.line,
                        f"id {one.problem_id!r:.80}: {word(one.is_right)}, but {person(one.given_by)} said "
                        f"{word(earlier)} before; the newest counts",
                    )
                )
    _commit(store, run_id, unit, is_known_file, _rows(run_id, path, new))
    return BroughtIn(
        run_id,
        n_rows,
        len(new),
        n_known,
        tuple(sorted(not_taken, key=lambda one: one.line)),
        tuple(sorted(notices, key=lambda one: one.line)),
        _contested(lake, run_id),
    )


def _rows(run_id: str, path: Path, new: Sequence[Verdict]) -> list[FeedbackRow]:
    now = time.time()
    return [FeedbackRow(run_id, v.problem_id, 0, v.is_right, v.given_by, path.name, now, v.note) for v in new]


def _commit(store: Lake, run_id: str, unit: str, is_known_file: bool, rows: Sequence[FeedbackRow]) -> None:
    """A file that adds nothing is noted as well: it is old from then on, whatever other files say later."""
    if is_known_file:
        if not rows:
            return
        said = repr([(row.problem_id, row.given_by, row.is_right) for row in rows])
        unit = f"{unit}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
    store.commit(run_id, unit, {"feedback": rows})


def _known(lake: Path, run_id: str, verdicts: Sequence[Verdict]) -> _Known:
    asked = pa.table({"problem_id": pa.array(sorted({one.problem_id for one in verdicts}), pa.string())})
    with connect(lake, runs=[run_id], views=["feedback_verdicts"]) as db, damage_named(lake):
        db.register("asked", asked)
        answered = db.execute(
            "select problem_id, answer is not null from trajectories semi join asked using (problem_id) "
            "where run_id = ? and rollout = 0 and phase is null and method <> 'label'",
            [run_id],
        ).fetchall()
        said = db.execute(
            "select problem_id, given_by, arg_max(is_right, given_at) from feedback semi join asked using (problem_id) "
            "where run_id = ? and rollout = 0 group by all",
            [run_id],
        ).fetchall()
    return _Known(dict(answered), {(problem_id, given_by): is_right for problem_id, given_by, is_right in said})


def _contested(lake: Path, run_id: str) -> tuple[str, ...]:
    with connect(lake, runs=[run_id], views=["feedback_verdicts"]) as db, damage_named(lake):
        found = db.execute(
            "select problem_id from feedback_verdicts where run_id = ? and is_contested order by all", [run_id]
        )
        return tuple(str(row[0]) for row in found.fetchall())
