"""A person's rows out of one run: its answers file, journals, batch jobs, plan and tables. For whoever holds the run's
lock.

Each step is whole by itself and finds by itself what is left to do, so the order alone matters: what tells whose the
words are, the plan and the tables, goes last.
"""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import orjson

from r2.atomic import replacing, write_atomically
from r2.errors import LakeError
from storage.forgetting.files import strip_journal
from storage.forgetting.theirs import OfRun, Theirs
from storage.lake.lake import Lake
from storage.runs.answers import noted_out, write_answers
from storage.runs.journal import LostCall, note_instead
from storage.runs.plan import RunPlan

_NO_BODY = b"{}"
"""In the place of what was sent to a provider's batch endpoint. Nobody needs it: a job is sent once."""

Found = tuple[str, str, int]
"""What it is, where it is, and how many rows there are."""


def beside_tables(lake: Lake, of_run: OfRun, theirs: Theirs, *, is_dry: bool) -> Iterator[Found]:
    """Calls in journals, lines of batch jobs, calls of questions that were to be asked again."""
    if of_run.plan is None:
        return
    plan, open_shards = of_run.plan, []
    for index, rows in of_run.planned.items():
        settled = lake.settled_ids(of_run.run_id, f"{index:05d}-")
        if is_open := any(problem.problem_id not in settled for problem, _ in rows):
            open_shards.append(index)
        path = plan.journal_file(index)
        if path.exists() and (n := strip_journal(path, theirs, is_dry=is_dry, is_all_unmarked=is_open)):
            yield "calls in a journal", str(path), n
    for path in sorted(plan.jobs_dir.glob("*.lines")) if open_shards else ():
        if n := _strip_job(path, is_dry=is_dry):
            yield "lines of a batch job", str(path), n
    if n := _strip_reopened(plan, of_run, is_dry=is_dry):
        yield "questions to be asked again", str(plan.run_dir / "reopened.jsonl"), n


def in_plan(of_run: OfRun, *, is_dry: bool) -> Iterator[Found]:
    """Rows of the frozen shards."""
    plan = of_run.plan
    for index, rows in of_run.planned.items():
        assert plan is not None, "rows of a plan come with it"
        yield "rows of a plan", str(plan.shard_file(index)), len(rows)
        if not is_dry:
            plan = plan.forget_rows(index, {problem.input_index for problem, _ in rows})


def in_tables(lake: Lake, of_run: OfRun, *, is_dry: bool) -> Iterator[Found]:
    """Rows of the tables, then every file out of use that has some."""
    for table, n in of_run.stored.items():
        yield f"rows of {table}", of_run.run_id, n
    if not is_dry and of_run.stored and not any(lake.forget(of_run.run_id, of_run.ids) for _ in range(3)):
        raise LakeError(f"run {of_run.run_id} was compacted meanwhile, again and again. Run the same command again.")
    for path in of_run.unused:
        yield "a file out of use", str(path), 1
    if not is_dry and (of_run.stored or of_run.unused):
        lake.delete_unused(of_run.run_id)
    folders = (lake.root / "_training" / of_run.run_id, lake.root / "_runs" / of_run.run_id)
    plans_of_training = folders[0].rglob("plans.json")
    drafts = itertools.chain(plans_of_training, *(folder.rglob(".*.tmp") for folder in folders))
    for path in list(drafts):
        yield "a draft", str(path), 1
        if not is_dry:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def in_answers(lake: Lake, of_run: OfRun, *, is_dry: bool) -> tuple[list[Found], list[str]]:
    """The run's answers file written anew, where it is as the run wrote it. Else it is said (second) why it was not
    touched."""
    plan = of_run.plan
    noted = None if plan is None else noted_out(plan)
    if plan is None or noted is None or not of_run.planned or not noted.exists():
        return [], []
    leaving = {shown for rows in of_run.planned.values() for p, bad in rows for shown in (p.problem_id, _given(bad))}
    found: list[Found] = []
    untouched: list[str] = []
    # A run that is killed here leaves words in the draft: it lies where they are sought then.
    place = None if is_dry else plan.run_dir
    with tempfile.TemporaryDirectory(dir=place, prefix=".answers-", suffix=".tmp") as folder:
        (Path(folder) / "with").mkdir()
        (Path(folder) / "without").mkdir()
        more = plan.settings.more_columns
        whole = write_answers(plan, lake, Path(folder) / "with" / noted.name, more)
        rest = write_answers(plan, lake, Path(folder) / "without" / noted.name, more, leaving)
        for before, after in zip(whole, rest, strict=True):
            path = noted.with_name(before.name)
            content = path.read_bytes() if path.exists() else b""
            if content == before.read_bytes() != after.read_bytes():
                found.append(("an answers file", str(path), 1))
                if not is_dry:
                    write_atomically(path, after.read_bytes())
            elif path.exists() and content != after.read_bytes():
                untouched.append(f"{path}: was changed since run {of_run.run_id} wrote it, or is another run's")
    return found, untouched


def _given(bad: object) -> str:
    return str(getattr(bad, "given_id", ""))


def _strip_job(path: Path, *, is_dry: bool) -> int:
    """Of a job that is not settled yet, what was sent: whose line it is, its id does not say."""
    lines = [line.partition(b"\t") for line in path.read_bytes().splitlines()]
    n = sum(body != _NO_BODY for _, _, body in lines)
    if n and not is_dry:
        write_atomically(path, b"".join(b"%b\t%b\n" % (custom_id, _NO_BODY) for custom_id, _, _ in lines))
    return n


def _strip_reopened(plan: RunPlan, of_run: OfRun, *, is_dry: bool) -> int:
    """What their earlier tries cost stays as a note in the shard's journal."""
    path = plan.run_dir / "reopened.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    stored = [orjson.loads(line) for line in lines]
    leaving = [row for row in stored if row["problem_id"] in of_run.ids]
    if leaving and not is_dry:
        for row in leaving:
            key = blake2b(f"reopened {row['problem_id']}".encode(), digest_size=16).hexdigest()
            note = LostCall(key, float(row["cost_usd"]), b"")
            note_instead(plan.journal_file(row["shard"]), lambda _: None, [note])
        with replacing(path) as file:
            file.writelines(
                line for line, row in zip(lines, stored, strict=True) if row["problem_id"] not in of_run.ids
            )
    return len(leaving)
