"""Recording benchmark questions: the same sample every time, parts that are not asked again, a table that adds up."""

import gzip
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.record import recorded_ids, sample
from benchmarks.recorded_comparison import FIGURES, check, compared
from benchmarks.recorded_table import main as table_main
from benchmarks.recorded_table import table_of
from r2.answering.open_unit import open_step, unit_of
from r2.errors import InputFileError
from r2.methods.router import make_router
from r2.plan import Subtask
from r2.pool.file.config import load_pool
from r2.problem import Problem
from r2.settings import AnswerSettings, Reasoning
from tests.support.paths import ROOT

QUESTIONS = [Problem(f"q{i}", f"What is {i} + 2?", i, str(i + 2), "arithmetic") for i in range(40)]


def test_a_sample_is_the_same_whatever_the_order_and_grows_by_adding():
    few, more = sample(QUESTIONS, 5), sample(QUESTIONS, 9)
    assert {p.problem_id for p in few} <= {p.problem_id for p in more}
    assert {p.problem_id for p in sample(QUESTIONS[::-1], 5)} == {p.problem_id for p in few}
    assert [p.input_index for p in more] == sorted(p.input_index for p in more)
    assert sample(QUESTIONS, None) == QUESTIONS


def test_a_recording_goes_on_where_it_stopped_and_becomes_a_table(tmp_path: Path, monkeypatch, capsys):
    rows = [{"question": f"What is {i} + {i + 3}?", "answer": f"#### {2 * i + 3}"} for i in range(8)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = [sys.executable, "benchmarks/record.py", f"gsm8k:{tmp_path / 'gsm8k.jsonl'}", "--sample", "6"]
    command += ["--pool", "pools/simulated.toml", "--entries", "sim-0.6b,sim-8b"]
    command += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    stopped = subprocess.run([*command, "--minutes", "0.000001"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (stopped.returncode, "Run the same command again" in stopped.stdout) == (1, True), stopped.stderr
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(recorded_ids(tmp_path / "out" / "gsm8k.sim-8b.jsonl.gz")) == 6
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (0, "")  # nothing is left to ask
    stronger = tmp_path / "pool.toml"
    text = (ROOT / "pools" / "simulated.toml").read_text("utf-8")
    stronger.write_text(text.replace("simulated = {ability = ", "simulated = {ability = 1", 1), "utf-8")
    other_pool = subprocess.run(
        [*command[:-7], str(stronger), *command[-6:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (other_pool.returncode, other_pool.stderr.count("\n")) == (2, 1), other_pool.stderr
    assert "recorded with another pool" in other_pool.stderr
    table = tmp_path / "table.parquet"
    arguments = [str(table), "--recorded", str(tmp_path / "out"), "--pool", "pools/simulated.toml"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["recorded_table.py", *arguments])
    assert table_main() == 0
    found = pq.read_table(table).to_pylist()
    assert len(found) == 12
    assert {row["model"] for row in found} == {"sim-0.6b", "sim-8b"}
    assert all(row["cost_usd"] > 0 and 0 <= row["confidence"] <= 1 for row in found)
    said = capsys.readouterr()
    assert "12 rows, 2 entries, 1 benchmarks" in said.out
    assert said.err == "not recorded: scan, csqa, musique, strategyqa, math, champ, p3\n"
    monkeypatch.setattr(sys, "argv", ["recorded_table.py", *arguments, "--benchmarks", "gsm8k,p3"])
    assert table_main() == 2
    assert "no recording of p3; there are gsm8k." in capsys.readouterr().err
    part = tmp_path / "out" / "gsm8k.sim-8b.jsonl.gz"
    whole = part.read_bytes()
    kept = [json.loads(line) for line in gzip.decompress(whole).splitlines()]
    n_right = len({line["problem_id"] for line in kept[1:] if line["is_correct"]})
    wrongly = [line | {"is_correct": False} for line in kept]
    part.write_bytes(gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in wrongly)))
    judged = subprocess.run([*command, "--rejudge"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"gsm8k.sim-8b: {n_right} right, 0 before" in judged.stdout, judged.stderr
    assert part.read_bytes() == whole
    first, *lines = gzip.decompress(part.read_bytes()).splitlines()
    changed = [json.dumps(json.loads(line) | {"request_sha": "0" * 64}).encode() for line in lines]
    part.write_bytes(gzip.compress(b"\n".join([first, *changed])))
    other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1), other.stderr
    assert "was asked in another way" in other.stderr


def test_plans_are_recorded_with_every_call_and_are_an_entry_of_the_table(tmp_path: Path):
    rows = [{"question": f"What is ({i} + 4) * 3?", "answer": f"#### {3 * i + 12}"} for i in range(10, 14)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = [sys.executable, "benchmarks/record.py", f"gsm8k:{tmp_path / 'gsm8k.jsonl'}", "--entries", "sim-32b"]
    command += ["--pool", "pools/simulated.toml", "--work", str(tmp_path / "work"), "--out", str(tmp_path)]
    for flags in ([], ["--plans"]):
        done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    part = tmp_path / "gsm8k.sim-32b-plans.jsonl.gz"
    lines = [json.loads(line) for line in gzip.decompress(part.read_bytes()).splitlines()[1:]]
    purposes = [line["purpose"] for line in lines if line["problem_id"] == lines[0]["problem_id"]]
    assert purposes == ["decompose", "solve", "solve"]
    whole = part.read_bytes()
    judged = subprocess.run([*command, "--plans", "--rejudge"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (judged.returncode, part.read_bytes()) == (0, whole), judged.stderr
    found, left_out = table_of(tmp_path, "pools/simulated.toml", wanted=["gsm8k"])
    cost = {row["model"]: sum(r["cost_usd"] for r in found if r["model"] == row["model"]) for row in found}
    assert (set(cost), left_out) == ({"sim-32b", "sim-32b-plans"}, [])
    paid = [attempt[10] for line in lines for attempt in line["completion"]["attempts"]]
    assert cost["sim-32b-plans"] == pytest.approx(sum(paid))
    none = subprocess.run([*command, "--gold-plans"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (none.returncode, none.stderr.count("\n")) == (2, 1), none.stderr
    assert "4 of 4 questions have no gold plan" in none.stderr
    gold = json.loads((tmp_path / "gsm8k.jsonl").read_text("utf-8").splitlines()[0])
    steps = [{"question": "Compute 10 + 4"}, {"question": "Compute #1 * 3"}]
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps(gold | {"decomposition": steps}) + "\n", "utf-8")
    done = subprocess.run([*command, "--gold-plans"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "gsm8k.sim-32b-gold: 1 of 1 questions" in done.stdout, done.stderr
    [_, plan, *_] = gzip.decompress((tmp_path / "gsm8k.sim-32b-gold.jsonl.gz").read_bytes()).splitlines()
    said = json.loads(plan)["completion"]
    assert (said["text"], said["attempts"]) == ("1. Compute 10 + 4\n2. Compute the result of step 1 * 3 (needs: 1)", [])
    other = tmp_path / "pool.toml"  # another decomposer under the name
    text = (ROOT / "pools" / "simulated.toml").read_text("utf-8")
    other.write_text(text.replace('[models."sim-8b"]', '[models."sim-8b"]\nextra_body = {top_k = 1}', 1), "utf-8")
    refused = [str(other) if word == "pools/simulated.toml" else word for word in command]
    done = subprocess.run([*refused, "--plans"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "recorded with another pool, whose sim-8b is another model" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch:x.jsonl"], "no such benchmark"),
        (["gsm8k:missing.jsonl"], "no file missing.jsonl"),
        (["gsm8k:q.jsonl", "--entries", "nobody"], "'nobody' is not in the pool"),
        (["arithmetic", "--held-out", "0.0000001"], "no question is left to record"),
    ],
)
def test_what_cannot_be_recorded_is_said_in_a_line(words: list[str], said: str, tmp_path: Path):
    command = [sys.executable, "benchmarks/record.py", *words, "--pool", "pools/simulated.toml"]
    command += ["--work", str(tmp_path), "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr


def test_a_part_that_is_cut_is_named(tmp_path: Path):
    whole = (ROOT / "benchmarks" / "recorded" / "strategyqa.qwen-0.5b.jsonl.gz").read_bytes()
    part = tmp_path / "strategyqa.qwen-0.5b.jsonl.gz"
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputFileError, match="no whole recording"):
        recorded_ids(part)


def test_what_lacks_a_part_is_left_out_by_name_of_what_is_pooled_and_not_of_its_own_benchmark(tmp_path: Path):
    shipped = ROOT / "benchmarks" / "recorded"
    for name in (
        "champ.qwen-0.5b",
        "champ.qwen-1.5b",
        "strategyqa.qwen-0.5b",
        "champ.questions",
        "strategyqa.questions",
    ):
        shutil.copy(shipped / f"{name}.jsonl.gz", tmp_path)
    rows, left_out = table_of(tmp_path, "pools/local.toml")
    assert {(row["benchmark"], row["model"]) for row in rows} == {("champ", "qwen-0.5b"), ("strategyqa", "qwen-0.5b")}
    assert left_out[0] == "champ: left out, for not being recorded on every benchmark: qwen-1.5b"
    rows, left_out = table_of(tmp_path, "pools/local.toml", wanted=["champ"])
    assert ({row["model"] for row in rows}, left_out) == ({"qwen-0.5b", "qwen-1.5b"}, [])


def test_the_comparison_from_kept_routes_is_the_one_that_was_kept_and_other_rows_are_refused(tmp_path: Path, capsys):
    found = compared(ROOT / "benchmarks" / "recorded", "pools/local.toml", fits=False)
    assert check(found, ROOT / "benchmarks" / "recorded" / FIGURES) == 0
    plans = compared(ROOT / "benchmarks" / "recorded", "pools/specialists.toml", ["scan"], fits=False)
    assert check(plans, ROOT / "benchmarks" / "recorded" / f"scan.{FIGURES}") == 0
    assert "scan-specialist-plans" in plans.models
    assert check(replace(found, n_fitted=found.n_fitted + 1), ROOT / "benchmarks" / "recorded" / FIGURES) == 1
    assert "Figures differ from those in" in capsys.readouterr().err
    for path in (ROOT / "benchmarks" / "recorded").glob("*"):
        if path.is_file() and not path.name.startswith("csqa"):
            shutil.copy(path, tmp_path)
    with pytest.raises(InputFileError, match=r"routes.gz: kept for other methods or other rows .* Fit anew"):
        compared(tmp_path, "pools/local.toml", fits=False)
    with pytest.raises(InputFileError, match=r"no champ-p3.routes.gz and champ-p3.comparison.json are kept there"):
        compared(tmp_path, "pools/local.toml", ["champ", "p3"], fits=False)
    (tmp_path / "routes.gz").unlink()
    with pytest.raises(InputFileError, match=r"no routes.gz and comparison.json are kept there. Fit first: --fit"):
        compared(tmp_path, "pools/local.toml", fits=False)


def test_what_is_asked_is_written_and_replies_made_elsewhere_become_the_recording(tmp_path: Path):
    rows = [{"question": f"What is {i} + {i + 3}?", "answer": f"#### {2 * i + 3}"} for i in range(3)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = [sys.executable, "benchmarks/record.py", f"gsm8k:{tmp_path / 'gsm8k.jsonl'}", "--entries", "qwen-0.5b"]
    command += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]

    def run(*further: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *further], cwd=ROOT, capture_output=True, text=True, check=False)

    asked = tmp_path / "asked.jsonl"
    assert run("--asked", str(asked)).stdout == f"3 requests -> {asked}\n"
    requests = [json.loads(line) for line in asked.read_bytes().splitlines()]
    assert {(one["weights"], one["max_tokens"]) for one in requests} == {("qwen2.5-coder-0.5b-instruct", 24)}
    sums = [sum(map(int, re.findall(r"\d+", one["messages"][-1]["content"]))) for one in requests]
    assert sums == [3, 5, 7]
    made = [
        {**one, "text": str(right), "tokens": [str(right), ""], "logprobs": [-0.1, 0.0], "end": "stop"}
        | {"input_tokens": 30, "cached_tokens": 10}
        for one, right in zip(requests, [3, 5, 8], strict=True)
    ]
    replies = tmp_path / "replies.jsonl"
    replies.write_text("".join(json.dumps(one) + "\n" for one in made[:2]), "utf-8")
    lacking = run("--replies", str(replies))
    assert lacking.returncode == 2
    assert "no reply of qwen-0.5b to 1 of the requests of gsm8k" in lacking.stderr
    shutil.rmtree(tmp_path / "work")
    replies.write_text("".join(json.dumps(one) + "\n" for one in made), "utf-8")
    done = run("--replies", str(replies))
    assert done.returncode == 0, done.stderr
    assert "3 of 3 questions" in done.stdout
    assert ", 2 right, 0 at their token limit" in done.stdout
    rows, _ = table_of(tmp_path / "out", "pools/local.toml")
    price = 1e-6 * ((30 - 10) * 0.2726 + 2 * 0.4464)
    assert [row["cost_usd"] for row in rows] == pytest.approx([price] * 3)
    replies.write_text('{"weights": "x"}\n', "utf-8")
    assert f"{replies}:1: no reply of benchmarks/gguf_replies.py" in run("--replies", str(replies)).stderr


def test_by_default_no_recorded_question_is_split():
    """What docs/results.md says: the rule has the pool's entries answer them whole, so it makes no call of plans."""
    pool = load_pool(ROOT / "pools" / "local.toml")
    reasoning = Reasoning(routing="rule")
    router = make_router(pool, AnswerSettings(input="", pool="pools/local.toml", reasoning=reasoning))
    n = 0
    for path in sorted((ROOT / "benchmarks" / "recorded").glob("*.questions.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            row = json.loads(line)
            problem = Problem(row["id"], row["question"], benchmark=row["benchmark"], context=row.get("context", ""))
            unit = unit_of(problem, router, open_step(Subtask("all"), router), 0.0003, None, is_answer=True)
            assert unit.decompose is None, row["id"]
            n += 1
    assert n == 1292
