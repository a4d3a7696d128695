"""What `r2 lake export` writes is read by others, and a data set of the hub's layout is read as questions."""

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from r2.errors import ConfigError
from r2.problem import Problem
from r2.settings import AnswerSettings
from storage.lake.lake import Lake
from storage.runs.export import export
from storage.sources.hub import hub_questions, is_of_hub
from storage.sources.questions import read_questions
from tasks.answering.hub_input import input_as_file
from tests.support.lake_rows import worked_lake

RUNS = ["run-a", "run-b", "run-c"]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_table_is_one_file_with_the_rows_of_the_runs_that_are_named(form: str, tmp_path: Path) -> None:
    lake = Lake(worked_lake(tmp_path / "lake"))
    written = export(lake, ["run-b", "run-a"], ["trajectories", "rewards", "calls"], form, tmp_path / "out")
    path = tmp_path / "out" / f"trajectories.{form}"
    rows = (
        pq.read_table(path).to_pylist()
        if form == "parquet"
        else [orjson.loads(line) for line in path.read_bytes().splitlines()]
    )
    assert [(row["run_id"], row["problem_id"]) for row in rows] == [
        ("run-b", "p0"),
        ("run-a", "p0"),
        ("run-a", "p1"),
        ("run-a", "p2"),
    ]
    assert list(written) == ["trajectories", "calls"], "a table without a row is left out"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"calls.{form}", f"trajectories.{form}"]
    assert written["trajectories"] == 4


def test_a_column_keeps_its_type_and_its_meaning(tmp_path: Path) -> None:
    lake = Lake(worked_lake(tmp_path / "lake"))
    export(lake, RUNS, ["calls"], "parquet", tmp_path / "out")
    [stored] = lake.files("calls", "run-b")
    assert pq.read_schema(tmp_path / "out/calls.parquet").equals(pq.read_schema(stored), check_metadata=True)


@pytest.mark.parametrize(
    ("tables", "form", "said"), [(["calls"], "xml", "--format xml"), (["people"], "hf", "--tables people")]
)
def test_what_there_is_not_is_refused(tables: list[str], form: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        export(Lake(worked_lake(tmp_path / "lake")), RUNS, tables, form, tmp_path / "out")


LOAD = """
import sys
from datasets import load_dataset
runs = load_dataset(sys.argv[1], "runs", split="train")
rows = load_dataset(sys.argv[1], split="train")
print(runs.num_rows, rows.num_rows, rows[0]["problem_id"], rows[0]["answer"])
"""


def test_the_hubs_layout_is_loaded_by_its_own_library_and_asked_again(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    lake = Lake(worked_lake(tmp_path / "lake"))
    out = tmp_path / "dataset"
    assert export(lake, RUNS, ["trajectories", "runs"], "hf", out) == {"trajectories": 5, "runs": 4}
    card = (out / "README.md").read_text("utf-8")
    assert card.startswith("---\nconfigs:\n- config_name: trajectories\n") and "| runs | 4 |" in card
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    said = subprocess.run([sys.executable, "-c", LOAD, out], env=offline, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["4", "5", "p0", "9"]

    asks = f"""
from storage.sources.hub import hub_questions
from pathlib import Path
print(hub_questions("hf:{out}?split=train&config=trajectories", Path("{tmp_path}/other")))
"""
    asked = subprocess.run([sys.executable, "-c", asks], env=offline, capture_output=True, text=True, check=True)
    rows = list(
        read_questions(
            Path(asked.stdout.strip()),
            AnswerSettings(input="x").columns.model_copy(update={"id": "problem_id", "question": "input"}),
        )
    )
    assert [row.problem_id for row in rows if isinstance(row, Problem)] == ["p0", "p1", "p2"]
    assert len(rows) == 5, "ids that other runs have too are bad rows"


@pytest.mark.parametrize("text", ["hf:", "hf:gsm8k", "hf:?split=test", "hf:gsm8k?split=test&rows=5"])
def test_a_data_set_that_is_not_named_whole_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected hf:NAME"):
        hub_questions(text, tmp_path)


def test_a_file_stays_a_file(tmp_path: Path) -> None:
    settings = AnswerSettings(input="questions.jsonl", lake=str(tmp_path))
    assert input_as_file(settings) == settings and not is_of_hub("hfile.jsonl")
