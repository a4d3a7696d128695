"""`r2 lake verify` names whatever of a lake is not as it was written, and changes nothing."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from r2.errors import LakeError
from storage.evaluations.verify import verify_lake
from storage.lake.lake import Lake
from storage.lake.places import SCHEMA_FILE
from storage.runs.journal import Journal
from storage.runs.journal_mark import mark_of
from storage.runs.plan import RunPlan, read_plan
from storage.sql.query import connect
from tests.storage.test_readers import unchanged
from tests.support.lake_rows import problem
from tests.support.shards import planned

N_CALLS = 6


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    """A lake with rows of one run, and a planned run with two shards, one of them with a journal."""
    plan = planned(tmp_path, [{"id": f"q{i}", "question": f"What is {i} + 1?"} for i in range(4)], shard_size=2)
    Lake(tmp_path / "lake").commit("run-a", "00000-0", problem(0))

    async def session() -> None:
        with Journal.open(plan.journal_file(0)) as journal:
            for i in range(N_CALLS):
                await journal.commit(f"call-{i}", b"answer" * 20)

    asyncio.run(session())
    return plan


def manifest_entry(plan: RunPlan) -> Path:
    return plan.run_dir.parent.parent / "_manifest" / "run-a" / "00000-0.json"


def part(plan: RunPlan) -> Path:
    return Lake(plan.settings.lake).files("calls")[0]


def leads_out(plan: RunPlan) -> Path:
    path = part(plan)
    outside = plan.run_dir.parent.parent.parent / "elsewhere.parquet"
    path.rename(outside)
    path.symlink_to(outside)
    return path


def names_a_part_outside(plan: RunPlan) -> Path:
    path = manifest_entry(plan)
    entry = json.loads(path.read_text("utf-8"))
    entry["parts"]["calls"]["path"] = "../../somebody/calls.parquet"
    path.write_text(json.dumps(entry), "utf-8")
    return path


def copied_entry(plan: RunPlan) -> Path:
    path = manifest_entry(plan).parent.parent / "run-b" / "00000-0.json"
    path.parent.mkdir()
    path.write_bytes(manifest_entry(plan).read_bytes())
    return path


def other_schema(plan: RunPlan) -> Path:
    path = Path(plan.settings.lake) / "calls" / SCHEMA_FILE
    pq.write_table(pa.table({"x": [1]}), path)
    return path


def torn_schema(plan: RunPlan) -> Path:
    path = Path(plan.settings.lake) / "runs" / SCHEMA_FILE
    path.write_bytes(path.read_bytes()[:-4])
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def changed_row(plan: RunPlan) -> Path:
    path = plan.shard_file(1)
    path.write_text(path.read_text("utf-8").replace("What is 3", "What is 4"), "utf-8")
    return path


def unlinked(path: Path) -> Path:
    path.unlink()
    return path


def flipped_journal(plan: RunPlan) -> Path:
    path = plan.journal_file(0)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (leads_out, "a link that leads out of the lake"),
        (names_a_part_outside, "outside the table's folder"),
        (copied_entry, "it is the entry of run run-a"),
        (other_schema, "not the schema of table calls"),
        (torn_schema, "torn or damaged"),
        (lambda plan: cut(plan.shard_file(0)), "not what was planned"),
        (changed_row, "not what was planned"),
        (lambda plan: unlinked(plan.shard_file(1)), "No such file"),
        (lambda plan: cut(plan.run_dir / "manifest.json"), "not a run's manifest"),
        (lambda plan: cut(plan.journal_file(0)), f"of the {N_CALLS} answers that were safely in it are missing"),
        (lambda plan: unlinked(plan.journal_file(0)), f"missing, with {N_CALLS} answers"),
        (flipped_journal, "is damaged"),
    ],
)
def test_verify_names_what_is_wrong_and_changes_nothing(harm: Callable[[RunPlan], Path], said: str, plan: RunPlan):
    lake = Path(plan.settings.lake)
    assert verify_lake(lake) == []
    path = harm(plan)
    with unchanged(lake):
        [line] = verify_lake(lake)
    assert str(path) in line
    assert said in line
    result = CliRunner().invoke(app, ["lake", "verify", "--lake", str(lake)])
    assert result.exit_code == 1
    assert line in result.stdout


def test_parts_outside_the_lake_are_not_read(plan: RunPlan):
    path = leads_out(plan)
    with pytest.raises(LakeError, match="leads out of the lake") as told:
        connect(plan.settings.lake)
    assert str(path) in str(told.value)


def test_a_file_with_a_part_s_name_that_no_run_named_is_said_and_is_not_wrong(plan: RunPlan):
    stranger = part(plan).with_name("part-00009-0-0123abcd.parquet")
    stranger.write_bytes(part(plan).read_bytes())
    result = CliRunner().invoke(app, ["lake", "verify", "--lake", plan.settings.lake])
    assert result.exit_code == 0
    assert f"{stranger}: named by no run" in result.stderr


def test_a_plan_of_an_earlier_version_without_hashes_is_checked_by_its_rows(plan: RunPlan):
    path = plan.run_dir / "manifest.json"
    stored = json.loads(path.read_text("utf-8"))
    for shard in stored["shards"]:
        del shard["sha256"]
    path.write_text(json.dumps(stored), "utf-8")
    older = read_plan(plan.run_dir)
    assert verify_lake(Path(plan.settings.lake)) == []
    cut(older.shard_file(0))
    with pytest.raises(LakeError, match=r"00000.jsonl: (line \d is no row|1 rows, the plan has 2)"):
        older.check_shard(0)


def test_a_run_that_has_its_journal_open_is_not_disturbed(plan: RunPlan):
    with Journal.open(plan.journal_file(0)):
        assert verify_lake(Path(plan.settings.lake)) == []
    mark_of(plan.journal_file(0)).unlink()
    assert verify_lake(Path(plan.settings.lake)) == []
