"""A lake with the words of a person in every place that has any, and a search for them that knows nothing of how they
are taken out."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from r2.call import Call
from storage.evaluations.store import FOLDER, Evaluation, write_evaluation
from storage.lake.lake import Lake
from storage.runs.feedback import bring_in
from storage.runs.journal import Journal
from storage.runs.paid import paid_usd
from storage.runs.plan import RunPlan, read_plan
from storage.sql.query import connect, write_database
from tasks.answering.answer_rows import answer_rows
from tasks.answering.finish_run import finish_run
from tasks.answering.session import RunSession
from tests.support.scripted import completion
from tests.support.shards import planned, session_for

IDS = ("anna-1", "anna-4")
WORDS = b"Blumenkohlstrasse"
"""In every question of hers, and in whatever a model said to one."""
OTHERS = b"Rosenkohlgasse"
N_ROWS = 6
SAMPLES = {"method": "self_consistency", "model": "small", "n_samples": 3}


def reply(call: Call) -> str:
    question = call.messages[-1][1]
    street = (WORDS if WORDS.decode() in question else OTHERS).decode()
    number = int(question.split("What is ")[1].split()[0])
    return f"Near {street} it is so. Answer: {number + 1}"


def rows(start: int = 0) -> list[dict[str, Any]]:
    """Rows 1 and 4 are hers."""
    found = []
    for n in range(N_ROWS):
        is_hers = n in (1, 4)
        street = (WORDS if is_hers else OTHERS).decode()
        text = f'What is {start + n} + 1? I live in "{street}", Köln.'
        found.append({"id": f"anna-{n}" if is_hers else f"q{n}", "question": text, "answer": str(start + n + 1)})
    return found


class FullDisk(Lake):
    """Commits nothing: what was paid is in the journals alone, as after a kill."""

    def commit(self, *args: object, **kwargs: object) -> bool:
        raise OSError(28, "No space left on device")


async def answered(plan: RunPlan, lost: Collection[int] = (), shards: Collection[int] | None = None) -> RunSession:
    """The shards answered; those in `lost` are paid for and not committed."""
    session = session_for(plan, reply)
    lake = session.lake
    with contextlib.closing(session.checks):
        for shard in plan.shards:
            if shards is not None and shard.index not in shards:
                continue
            session.lake = FullDisk(lake.root) if shard.index in lost else lake
            with contextlib.suppress(OSError):
                await answer_rows(session, shard.index)
    session.lake = lake
    progress = session.progress
    progress.session_cost_usd = session.client.spent_usd
    progress.unsettled_cost_usd = progress.lost_cost_usd + sum(map(_paid, map(plan.journal_file, lost)))
    progress.n_deferred = plan.n_requested - progress.n_settled
    return session


def _paid(path: Path) -> float:
    with Journal.open(path) as journal:
        return paid_usd(journal)


def person_lake(folder: Path) -> Path:
    """Run "whole" is answered, compacted and has feedback. Run "half" was stopped: it settled q0 and anna-1, never
    began q2 and q3, and has the calls of anna-4 and q5 in a journal alone. Beside them an evaluation, rows given by a
    program, label sets, a recording."""
    (folder / "whole").mkdir()
    (folder / "half").mkdir()
    lake = folder / "lake"
    settings = {"lake": str(lake), "shard_size": 2, "reasoning": SAMPLES, "max_in_flight": 1}
    whole = planned(folder / "whole", rows(), **settings)
    session = asyncio.run(answered(whole))
    (whole.run_dir / "pool.toml").write_text("", "utf-8")
    finish_run(whole.run_dir, session.progress, str(folder / "answers.csv"))
    verdicts = folder / "verdicts.jsonl"
    verdicts.write_text(json.dumps({"id": "anna-4", "right": True, "note": WORDS.decode()}) + "\n", "utf-8")
    bring_in(lake, verdicts, whole.run_id)
    half = planned(folder / "half", rows(start=50), **settings)
    stopped = asyncio.run(answered(half, lost={2}, shards={0, 2}))
    stopped.progress.stop_reason = "interrupted"
    finish_run(half.run_dir, stopped.progress, str(folder / "half.jsonl"))
    _beside(lake, folder, whole)
    write_database(lake)
    return lake


def _beside(lake: Path, folder: Path, whole: RunPlan) -> None:
    with connect(lake) as db:
        shas = db.execute("select problem_id, request_sha from calls where run_id = ?", [whole.run_id]).fetchall()
    place = lake / FOLDER / "evaluation-0"
    place.mkdir(parents=True)
    lines = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows())
    (place / "test.jsonl").write_bytes(lines)
    bands = {str(row["id"]): "easy" for row in rows()}
    write_evaluation(
        lake,
        Evaluation("evaluation-0", "completed", {}, "", 0, N_ROWS, bands, "given", (), None, "", 0.0, 0.0, 0, 0),
    )
    (lake / "_rows").mkdir()
    (lake / "_rows" / "0123456789abcdef.jsonl").write_bytes(lines)
    said = [[{"role": "user", "content": row["question"]}] for row in rows()]
    (lake / "labels").mkdir()
    sets = pa.table({"prompt": said, "problem_id": [row["id"] for row in rows()], "split": ["train"] * N_ROWS})
    pq.write_table(sets, lake / "labels" / "decomposer.parquet")

    async def shared() -> None:
        with Journal.open(lake / FOLDER / "calls.journal") as journal:
            for n, (problem_id, sha) in enumerate(shas):
                text = (WORDS if problem_id in IDS else OTHERS).decode()
                record = completion(text).to_bytes(sha)
                journal.begin(f"{n:032x}", 0.5, b"evaluation-0".ljust(32))
                await journal.commit(f"{n:032x}", b"evaluation-0".ljust(32) + record)

    asyncio.run(shared())
    with gzip.open(folder / "calls.jsonl.gz", "wb") as file:
        header = {"pool": "", "evaluation": {"problems": {"test": rows(), "bands": {"anna-1": "easy", "q0": "easy"}}}}
        file.write(orjson.dumps(header, option=orjson.OPT_APPEND_NEWLINE))
        for problem_id, sha in shas:
            text = (WORDS if problem_id in IDS else OTHERS).decode()
            stored = {"request_sha": sha, "completion": orjson.loads(completion(text).to_bytes())}
            file.write(orjson.dumps(stored, option=orjson.OPT_APPEND_NEWLINE))


def plan_of(lake: Path, name: str) -> RunPlan:
    """The run whose questions lie in folder `name`."""
    plans = [read_plan(path.parent) for path in (lake / "_runs").glob("*/manifest.json")]
    [plan] = [plan for plan in plans if Path(plan.input_path).parent.name == name]
    return plan


def files_with(root: Path, word: bytes) -> list[str]:
    """Every file under `root` that holds the word: in its bytes as they lie, or as Parquet or gzip gives them."""
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        contents = [path.read_bytes(), path.name.encode()]
        if path.name.endswith(".parquet"):
            contents.append(repr(pq.read_table(path, partitioning=None).to_pylist()).encode())
        if path.suffix == ".gz":
            contents.append(gzip.decompress(path.read_bytes()))
        if path.name == "lake.duckdb":
            with connect(root) as db:
                for (table,) in db.execute("select table_name from information_schema.tables").fetchall():
                    contents.append(repr(db.execute(f'select * from "{table}"').fetchall()).encode())
        if any(word in content for content in contents):
            found.append(str(path.relative_to(root)))
    return found


def accounts(lake: Path) -> dict[str, Any]:
    """What must be as it was: counts, money and tokens of each run, by its rows and by its calls, and the verdicts."""
    with connect(lake) as db:
        return {
            "rows": db.execute(
                "select run_id, status, is_correct, count(*), round(sum(cost_usd), 12), sum(output_tokens) "
                "from trajectories group by all order by all"
            ).fetchall(),
            "calls": db.execute(
                "select run_id, request_model, purpose, round(sum(cost_usd), 12), sum(input_tokens) from calls "
                "group by all order by all"
            ).fetchall(),
            "runs": db.execute(
                "select run_id, session, n_answered, n_failed, cost_usd from runs order by all"
            ).fetchall(),
            "wrong": [
                db.execute(f"from {view}").fetchall()
                for view in ("reconcile_cost", "reconcile_tokens", "reconcile_counts", "reconcile_duplicates")
            ],
        }
