"""The plan of a run: its problems cut into shards and frozen on disk, so that nothing that changes later can change a
resume.

`<lake>/_runs/<run_id>/shards/00042.jsonl` holds one shard's rows (bad ones too), `manifest.json` the counts and the
settings, `pool.toml` the pool file as it was. The manifest is written last: its existence means the plan is complete.
Reading it never looks at the input again.
"""

import hashlib
import random
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import orjson

from r2.atomic import write_atomically
from r2.errors import LakeError
from r2.problem import Asked, Problem
from r2.problems.benchmark import is_free
from r2.settings import AnswerSettings, Columns
from storage.lake.address import lake_folder
from storage.lake.forgotten import FORGOTTEN
from storage.lake.objects import in_parallel
from storage.lake.stores import store_of
from storage.runs.answer_columns import taken_names
from storage.sources.column_names import columns_in
from storage.sources.first_rows import check_some_can_be_asked
from storage.sources.questions import BadRow, InputFormat, detect_format, file_digest, read_questions

_PLAN, _POOL = "manifest.json", "pool.toml"
FORGOTTEN_ROW = "forgotten"
"""`error_type` of a row whose words are forgotten (`RunPlan.forget_rows`)."""
MAX_SHARD_BYTES = 64 * 1024 * 1024
"""A shard ends here too: its rows are held in memory, by whoever plans it and by whoever answers it."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard: rows `first_index` .. in input order."""

    index: int
    n_rows: int
    n_bad: int
    sha256: str = ""
    """Of its file. "": planned by a version that did not note it."""
    n_asking: int = 0
    """Rows that ask for something themselves (`Problem.asked`)."""


@dataclass(frozen=True, slots=True)
class PlannedEntry:
    """A pool entry when the run was planned: by this, later runs know which of its answers they can use again."""

    answering: str
    """`answering_digest` of r2/pool/file/identity.py."""
    price: str
    """Version of its price."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run has to do. `n_requested` counts every row, bad ones included."""

    run_id: str
    run_dir: Path
    settings: AnswerSettings
    input_format: InputFormat
    input_digest: str
    pool_digest: str
    n_requested: int
    n_bad: int
    shards: tuple[ShardPlan, ...]
    created_at: float
    answers_whole: bool = True
    """Rows without a benchmark are answered in full. False: planned by a version that cut their answers short."""
    input_path: str = ""
    """Where the input was, absolute. "": planned by a version that did not note it. The same for `entries`."""
    entries: Mapping[str, PlannedEntry] = field(default_factory=dict)
    taken_names: tuple[str, ...] | None = None
    """Columns of the user's own that are called as some of the answers file. None: not noted."""

    def shard_file(self, index: int) -> Path:
        return self.run_dir / "shards" / f"{index:05d}.jsonl"

    def shard_key(self, shard: ShardPlan) -> str:
        """Where the shard's file is in a bucket: two machines that plan the run at once do not meet."""
        return f"_runs/{self.run_id}/shards/{shard.index:05d}-{shard.sha256[:16]}.jsonl"

    def _receive(self, index: int) -> Path:
        """The shard's file, on this machine."""
        path = self.shard_file(index)
        store_of(self.run_dir.parent.parent).receive_once(path, self.shard_key(self.shards[index]))
        return path

    @property
    def has_asking(self) -> bool:
        """Some row asks for something itself."""
        return any(shard.n_asking for shard in self.shards)

    def journal_file(self, index: int) -> Path:
        return self.run_dir / "journal" / f"{index:05d}.journal"

    @property
    def jobs_dir(self) -> Path:
        """Of its batch jobs."""
        return self.run_dir / "jobs"

    def rows(self, index: int) -> Iterator[tuple[Problem, BadRow | None]]:
        """The shard's rows in input order. A bad row comes with its reason, as a problem with the id `bad-line-<n>`:
        its own (`BadRow.given_id`) may be another row's, too."""
        path = self._receive(index)
        n_rows = 0
        try:
            with path.open("rb") as file:
                for line in file:
                    yield _row_of(line)
                    n_rows += 1
        except FileNotFoundError:
            raise self.damaged(path, "missing") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.damaged(path, f"line {n_rows + 1} is no row of a shard ({error})") from error
        if n_rows != self.shards[index].n_rows:
            raise self.damaged(path, f"{n_rows} rows, the plan has {self.shards[index].n_rows}")

    def has_free_rows(self) -> bool:
        """Some row has no benchmark."""
        return any(bad is None and is_free(problem) for shard in self.shards for problem, bad in self.rows(shard.index))

    def check_shard(self, index: int) -> None:
        """LakeError, with the file's name, unless the shard's file is as it was planned."""
        path, expected = self._receive(index), self.shards[index].sha256
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest() if expected else ""
        except OSError as error:
            raise self.damaged(path, error.strerror or "cannot be read") from None
        if found != expected:
            raise self.damaged(path, "its content is not what was planned")
        if not expected:
            for _ in self.rows(index):
                pass

    def rows_named(self, problem_ids: Collection[str]) -> dict[int, list[tuple[Problem, BadRow | None]]]:
        """Shard -> its rows with these ids, rows that could not be read too, where their id could."""
        marks = [orjson.dumps(problem_id) for problem_id in problem_ids]
        found: dict[int, list[tuple[Problem, BadRow | None]]] = {}
        for shard in self.shards:
            path = self.shard_file(shard.index)
            if not path.exists() or not any(mark in path.read_bytes() for mark in marks):
                continue
            for line in path.read_bytes().splitlines():
                problem, bad = _row_of(line)
                if problem.problem_id in problem_ids or (bad is not None and bad.given_id in problem_ids):
                    found.setdefault(shard.index, []).append((problem, bad))
        return found

    def forget_rows(self, index: int, input_indices: Collection[int]) -> "RunPlan":
        """Puts rows without a word in the place of these: rows that cannot be read, named by their place. The run is
        what it was, with as many rows; where one was not settled yet it is settled as failed. Returns the plan with
        the shard's new digest; written first, so that after a kill the same call ends what it began."""
        lines = []
        for line in self.shard_file(index).read_bytes().splitlines(keepends=True):
            problem, bad = _row_of(line)
            at = problem.input_index
            if at in input_indices:
                number = at + 1 if bad is None else bad.line
                message = f"row {number}: forgotten (r2 lake forget)"
                stub = BadRow(at, number, FORGOTTEN_ROW, message)
                stored = _stored(Problem(f"{FORGOTTEN}{at}", "", at))
                about = {name: getattr(stub, name) for name in ("input_index", "line", "error_type", "message")}
                line = orjson.dumps(stored | {"bad": about}, option=orjson.OPT_APPEND_NEWLINE)
            lines.append(line)
        content = b"".join(lines)
        read = [_row_of(line) for line in lines]
        n_bad = sum(bad is not None for _, bad in read)
        n_asking = sum(problem.asked is not None for problem, _ in read)
        shard = replace(self.shards[index], n_bad=n_bad, n_asking=n_asking, sha256=hashlib.sha256(content).hexdigest())
        shards = tuple(shard if one.index == index else one for one in self.shards)
        plan = replace(self, shards=shards, n_bad=sum(one.n_bad for one in shards))
        write_atomically(self.run_dir / "manifest.json", _manifest(plan))
        write_atomically(self.shard_file(index), content)
        return plan

    def damaged(self, path: Path, what: str) -> LakeError:
        """What to say of a file of the plan."""
        return LakeError(
            f"{path}: {what}: the file was cut, changed or taken away after the run was planned. Restore it from a "
            "backup, or answer the questions into another lake (--lake)."
        )


def _row_of(line: bytes) -> tuple[Problem, BadRow | None]:
    row = orjson.loads(line)
    bad = row.pop("bad", None)
    row["choices"] = tuple(row["choices"])
    row["aliases"] = tuple(row.get("aliases", ()))
    if "asked" in row:
        row["asked"] = _asked_of(row["asked"])
    return Problem(**row), BadRow(**bad) if bad else None


def _asked_of(stored: dict[str, Any]) -> Asked:
    messages = tuple((role, text) for role, text in stored.pop("messages", ()))
    return Asked(messages=messages, stop=tuple(stored.pop("stop", ())), **stored)


def run_dir_of(lake: Path, run_id: str) -> Path:
    return lake / "_runs" / run_id


def planned_runs(lake: Path) -> list[Path]:
    """The folders of the runs that were planned, by name."""
    store, runs = store_of(lake), lake / "_runs"
    if store.is_remote:
        in_parallel(lambda name: store.receive_once(runs / name / _PLAN), store.folders(runs))
    return sorted(path.parent for path in runs.glob(f"*/{_PLAN}"))


def _is_planned(run_dir: Path) -> bool:
    path = run_dir / _PLAN
    if not path.exists():
        store_of(run_dir.parent.parent).receive_once(path)
    return path.exists()


def is_planned(settings: AnswerSettings, pool_digest: str) -> bool:
    """Whether the lake has a run of these settings. InputFileError for an input that cannot be read."""
    lake = lake_folder(settings.lake)
    if not any(name.startswith(f"{settings.reasoning.method}-") for name in store_of(lake).folders(lake / "_runs")):
        return False
    source = Path(settings.input)
    input_digest = file_digest(source)
    ways = (settings, settings.model_copy(update={"columns": columns_in(source, settings.columns)}))
    return any(_is_planned(run_dir_of(lake, way.run_id(input_digest, pool_digest))) for way in ways)


def plan_run(
    settings: AnswerSettings,
    pool_digest: str,
    pool_text: str | None = None,
    entries: Mapping[str, PlannedEntry] | None = None,
) -> RunPlan:
    """The plan of this run: read back if it was made before, else made now by one streaming pass over the input.

    Settings that are not part of the run's identity (budgets, concurrency) are today's; the shards are those of the
    first plan. A run that an earlier version planned, and whose rows without a benchmark it answered by one short line,
    is not continued: its rows get a run of their own, with whole answers. Columns that are called something else than
    our own are found by their other names, unless a run was planned without them. InputFileError for a file of which
    nothing can be asked.
    """
    source, lake = Path(settings.input), lake_folder(settings.lake)
    input_digest = file_digest(source)
    run_id = settings.run_id(input_digest, pool_digest)
    run_dir = run_dir_of(lake, run_id)
    if not _is_planned(run_dir):
        settings = settings.model_copy(update={"columns": columns_in(source, settings.columns)})
        run_id = settings.run_id(input_digest, pool_digest)
        run_dir = run_dir_of(lake, run_id)
    if _is_planned(run_dir):
        plan = read_plan(run_dir, settings)
        if plan.answers_whole or not plan.has_free_rows():
            return plan
        run_id = settings.run_id(input_digest, f"{pool_digest}+whole")
        run_dir = run_dir_of(lake, run_id)
        if _is_planned(run_dir):
            return read_plan(run_dir, settings)
    check_some_can_be_asked(source, settings.columns)
    (run_dir / "shards").mkdir(parents=True, exist_ok=True)
    (run_dir / "journal").mkdir(exist_ok=True)
    shards: list[ShardPlan] = []
    batch: list[bytes] = []
    n_bad = n_bytes = n_asking = 0
    taken: set[str] = set()

    def close_shard() -> None:
        nonlocal n_bad, n_bytes, n_asking
        content = b"".join(batch)
        write_atomically(run_dir / "shards" / f"{len(shards):05d}.jsonl", content)
        shards.append(ShardPlan(len(shards), len(batch), n_bad, hashlib.sha256(content).hexdigest(), n_asking))
        batch.clear()
        n_bad = n_bytes = n_asking = 0

    for row in _selected_rows(settings, source):
        line, is_bad = _shard_line(row)
        batch.append(line)
        n_bytes += len(line)
        n_bad += is_bad
        n_asking += isinstance(row, Problem) and row.asked is not None
        taken |= taken_names(row.extra)
        if len(batch) >= settings.shard_size or n_bytes >= MAX_SHARD_BYTES:
            close_shard()
    if batch:
        close_shard()
    plan = RunPlan(
        run_id,
        run_dir,
        settings,
        detect_format(source),
        input_digest,
        pool_digest,
        sum(s.n_rows for s in shards),
        sum(s.n_bad for s in shards),
        tuple(shards),
        time.time(),
        input_path=str(source.resolve()),
        entries=entries or {},
        taken_names=tuple(sorted(taken)),
    )
    if pool_text is not None:
        write_atomically(run_dir / _POOL, pool_text.encode())
    if not _publish(lake, plan):
        return read_plan(run_dir, settings)
    return plan


def _publish(lake: Path, plan: RunPlan) -> bool:
    """The plan counts from now on. False where another machine made it meanwhile: then its plan counts."""
    path, store = plan.run_dir / _PLAN, store_of(lake)
    if not store.is_remote:
        write_atomically(path, _manifest(plan))
        return True
    store.open()
    in_parallel(lambda shard: store.share(plan.shard_file(shard.index), plan.shard_key(shard)), plan.shards)
    if (plan.run_dir / _POOL).exists():
        store.share(plan.run_dir / _POOL)
    if store.create(path, _manifest(plan)):
        return True
    for shard in plan.shards:
        plan.shard_file(shard.index).unlink()
    return False


def read_plan(run_dir: Path, settings: AnswerSettings | None = None) -> RunPlan:
    """Reads a frozen plan; with `settings`, today's operational switches take the place of the stored ones."""
    path = run_dir / _PLAN
    _is_planned(run_dir)
    try:
        stored: dict[str, Any] = orjson.loads(path.read_bytes())
        columns = Columns.model_validate(stored["settings"].get("columns", {}))
        return RunPlan(
            run_id=stored["run_id"],
            run_dir=run_dir,
            settings=AnswerSettings.model_validate(stored["settings"])
            if settings is None
            else settings.model_copy(update={"columns": columns}),
            input_format=stored["input_format"],
            input_digest=stored["input_digest"],
            pool_digest=stored["pool_digest"],
            n_requested=stored["n_requested"],
            n_bad=stored["n_bad"],
            shards=tuple(ShardPlan(**shard) for shard in stored["shards"]),
            created_at=stored["created_at"],
            answers_whole=stored.get("answers_whole", False),
            input_path=stored.get("input_path", ""),
            entries={name: PlannedEntry(**entry) for name, entry in stored.get("entries", {}).items()},
            taken_names=None if "taken_names" not in stored else tuple(stored["taken_names"]),
        )
    except FileNotFoundError:
        raise LakeError(
            f"{path}: the run's plan is missing: it was moved or deleted. Put it back; else the same command plans the "
            "run anew."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LakeError(f"{path}: not a run's manifest: {error!r}. Remove {run_dir} to plan the run anew.") from error


def _selected_rows(settings: AnswerSettings, source: Path) -> Iterator[Problem | BadRow]:
    """The rows this run covers: `limit` first, then a seeded sample of those."""
    wanted = None
    if settings.sample is not None:
        n_rows = sum(1 for _ in read_questions(source, settings.columns, limit=settings.limit))
        wanted = frozenset(random.Random(settings.reasoning.seed).sample(range(n_rows), min(settings.sample, n_rows)))
    return read_questions(source, settings.columns, settings.default_benchmark, settings.limit, wanted)


def _shard_line(row: Problem | BadRow) -> tuple[bytes, bool]:
    """The row as stored, and whether it is a bad one: one that cannot be written fails alone."""
    if isinstance(row, Problem):
        try:
            return orjson.dumps(_stored(row), default=str, option=orjson.OPT_APPEND_NEWLINE), False
        except (TypeError, ValueError, RecursionError) as error:
            number = row.input_index + 1
            row = BadRow(
                row.input_index,
                number,
                "not_storable",
                f"row {number}: a column cannot be stored: {error}",
                row.problem_id,
                row.question,
            )
    stub = Problem(f"bad-line-{row.line}", row.question, row.input_index, extra=row.extra)
    bad = {name: getattr(row, name) for name in ("input_index", "line", "error_type", "message")}
    if row.given_id:
        bad["given_id"] = row.given_id
    return orjson.dumps(_stored(stub) | {"bad": bad}, default=str, option=orjson.OPT_APPEND_NEWLINE), True


def _stored(problem: Problem) -> dict[str, Any]:
    """What differs from a plain question is written only where there is some: a plain row is what it always was."""
    stored = {field.name: getattr(problem, field.name) for field in fields(problem)}
    del stored["asked"]
    if problem.asked is not None:
        plain = Asked()
        stored["asked"] = {
            field.name: value
            for field in fields(problem.asked)
            if (value := getattr(problem.asked, field.name)) != getattr(plain, field.name)
        }
    return stored


def _manifest(plan: RunPlan) -> bytes:
    stored = {
        "run_id": plan.run_id,
        "settings": plan.settings.model_dump(mode="json"),
        "input_format": plan.input_format,
        "input_digest": plan.input_digest,
        "pool_digest": plan.pool_digest,
        "n_requested": plan.n_requested,
        "n_bad": plan.n_bad,
        "shards": [asdict(shard) for shard in plan.shards],
        "created_at": plan.created_at,
        "answers_whole": plan.answers_whole,
        "input_path": plan.input_path,
        "entries": {name: asdict(entry) for name, entry in plan.entries.items()},
        "taken_names": plan.taken_names,
    }
    return orjson.dumps(stored, option=orjson.OPT_INDENT_2)
