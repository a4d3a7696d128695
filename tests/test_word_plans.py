"""The rows that a decomposer of word problems learns from: plans that are read back, and no row that is examined."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.recorded_table import RECORDED
from benchmarks.word_plans import FORMS, N_DEV, label, labelled, stories_of
from r2.plan import parse_plan
from r2.problems.gold import gold_plan
from tests.support.paths import ROOT


def socratic(n: int) -> list[dict[str, object]]:
    return [
        {
            "id": f"q{i}",
            "question": f"Ann has {i} pens and buys {i + 1} more. She loses 2. How many has she?",
            "answer": str(2 * i - 1),
            "decomposition": [
                {"id": 1, "question": "How many pens has Ann?", "answer": f"<<{i}+{i + 1}={2 * i + 1}>>"},
                {"id": 2, "question": "How many are left?", "answer": f"<<{2 * i + 1}-2={2 * i - 1}>>"},
            ],
        }
        for i in range(1, n + 1)
    ]


def made(tmp_path: Path, rows: list[dict[str, object]]) -> subprocess.CompletedProcess[str]:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = [sys.executable, "benchmarks/word_plans.py", str(tmp_path / "rows.jsonl"), str(tmp_path / "words")]
    return subprocess.run([*command, "--stories", "16"], cwd=ROOT, capture_output=True, text=True, check=False)


def test_stories_are_of_every_form_no_two_alike_and_their_plans_are_read_back():
    stories = list(stories_of(80, 3))
    assert len({question for question, _ in stories}) == 80
    assert stories == list(stories_of(80, 3))
    assert stories != list(stories_of(80, 4))
    for number, story in enumerate(stories):
        problem, plan = labelled(story, "x")
        assert len(plan.subtasks) >= 2, FORMS[number % len(FORMS)]
        assert plan.subtasks[-1].needs, "the last step goes on from another"
        row = label(problem, plan)
        assert parse_plan(row["completion"][0]["content"]) == plan  # type: ignore[index]
        assert row["prompt"][-1]["content"].endswith(problem.question)  # type: ignore[index]


def test_what_is_examined_is_not_trained_on(tmp_path: Path):
    with gzip.open(RECORDED / "gsm8k.questions.jsonl.gz") as file:
        recorded = json.loads(next(file))["question"]
    rows = socratic(N_DEV + 6)
    rows[0]["question"] = recorded
    done = made(tmp_path, rows)
    assert done.returncode == 0, done.stderr
    assert f"5 plans of GSM8K and 16 of stories; {N_DEV} dev rows" in done.stdout
    trained = pq.read_table(tmp_path / "words" / "decomposer.parquet").to_pylist()
    dev = [json.loads(line) for line in (tmp_path / "words" / "dev.jsonl").read_text("utf-8").splitlines()]
    assert gold_plan(dev[0]) == gold_plan(next(row for row in rows if row["question"] == dev[0]["question"]))
    asked = {row["prompt"][-1]["content"] for row in trained}
    assert (len(trained), len(dev), {row["split"] for row in trained}) == (21, N_DEV, {"train"})
    assert not any(question.endswith(row["question"]) for question in asked for row in dev)
    assert not any(question.endswith(recorded) for question in asked)
    assert recorded not in {row["question"] for row in dev}


def test_too_few_rows_are_refused_with_what_is_needed(tmp_path: Path):
    done = made(tmp_path, socratic(12))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "12 rows have sub-questions and are not recorded; more than 100 are needed" in done.stderr
    (tmp_path / "rows.jsonl").unlink()
    command = [sys.executable, "benchmarks/word_plans.py", str(tmp_path / "rows.jsonl"), str(tmp_path)]
    gone = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (gone.returncode, "no file" in gone.stderr) == (2, True), gone.stderr
