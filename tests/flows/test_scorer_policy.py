"""`r2 sft --policy scorer`: from recorded answers to the registry."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from r2.answering.scorer import Scorer
from r2.errors import ConfigError
from r2.policies.registry import Registry
from r2.pool.file.config import load_pool
from storage.sql.query import connect
from tests.support.prefect_sockets import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS


def recorded(path: Path, n: int = 60) -> Path:
    """Half of the questions are simple, and half knotty, where only the dear model is right."""
    draw = random.Random(0)
    lines = ["id,benchmark,question,answer,model,correct,cost,model_answer"]
    for number in range(n):
        word, p_cheap = ("simple", 0.95) if number % 2 else ("knotty", 0.2)
        question = f"a {word} question about {draw.choice('abc')}{number}"
        for model, p, cost in (("cheap", p_cheap, 0.001), ("dear", 0.95, 0.02)):
            is_right = draw.random() < p
            result = 7 if is_right else draw.randrange(20, 24)
            lines.append(f"q{number},made,{question},7,{model},{int(is_right)},{cost},{result}")
    path.write_text("\n".join(lines) + "\n")
    return path


POOL = """
[router]
decomposer = "cheap"
allocator = "cheap"
"""
ENTRY = """
[models.{name}]
endpoint = "simulated:{name}"
tier = "{tier}"
price_usd_per_mtok = {{input = {price}, output = {price}, date = "2026-11-24", source = "made up"}}
simulated = {{ability = 9.0, ttft_s = 0.0, tokens_per_s = 1e9}}
"""


def sft(folder: Path, *words: str) -> list[str]:
    return ["sft", "--policy", "scorer", "--lake", str(folder / "lake"), "--policies-dir", str(folder / "own"), *words]


def test_a_dry_run_counts_and_trains_nothing(tmp_path: Path):
    table = recorded(tmp_path / "table.csv")
    out = CliRunner().invoke(app, sft(tmp_path, "--outcomes", str(table), "--dry-run"), catch_exceptions=False)
    assert "scorer: 120 answers of 2 arms, each with a check" in out.stdout
    assert list(tmp_path.iterdir()) == [table]


def test_a_scorer_of_recorded_answers_is_in_the_registry_once(tmp_path: Path):
    command = sft(tmp_path, "--outcomes", str(recorded(tmp_path / "table.csv")))
    for env in ({}, {"PREFECT_API_URL": "http://127.0.0.1:9/api"}):  # the second time nobody needs Prefect's API
        out = CliRunner().invoke(app, command, env=env, catch_exceptions=False)
        assert out.exit_code == 0, out.output
        assert "scorer@v1" in out.stdout
    registry = Registry(tmp_path / "own")
    assert registry.versions("scorer") == ["v1"]
    policy = registry.load("scorer")
    card = policy.card
    assert (card.kind, card.base, list(card.files_sha256)) == ("scorer", "numpy", ["scorer.json"])
    assert card.metrics["n_trials"] == 120
    assert {"ece", "ece_uncalibrated", "loss", "auroc_made"} <= set(card.metrics)
    assert card.cost_usd == pytest.approx(card.metrics["core_seconds"] * 0.05 / 3600)
    assert list(card.data_sha256) == [str(tmp_path / "table.csv")]
    scorer = Scorer.from_json((policy.path / "scorer.json").read_bytes())
    assert set(scorer.arms) == {"cheap", "dear"}
    with connect(tmp_path / "lake") as db:
        runs = db.execute("select kind, status, n_requested, cost_usd from runs").fetchall()
    assert runs == [("sft", "completed", 120, 0.0)]
    shown = CliRunner().invoke(app, ["policy", "show", "scorer", "--policies-dir", str(tmp_path / "own")])
    assert "numpy" in shown.stdout and "auroc_made" in shown.stdout
    pool = tmp_path / "pool.toml"
    pool.write_text(
        '[router]\ndecomposer = "one"\nallocator = "one"\n'
        '[models.one]\ntier = "small"\nendpoint = "policy:scorer"\nprompt_mode = "bare"\n'
        'price_usd_per_mtok = {input = 1, output = 1, date = "2026-11-24", source = "made up"}\n'
    )
    with pytest.raises(ConfigError, match="scorer@v1 is a scorer, which says who is asked"):
        load_pool(pool, tmp_path / "own")


def grpo(folder: Path, *words: str):
    command = ["grpo", "--policy", "scorer", "--lake", str(folder / "lake"), "--policies-dir", str(folder / "own")]
    return CliRunner().invoke(app, [*command, *words])


def test_tuned_choices_are_a_version_that_the_gate_decides_about(tmp_path: Path):
    table = str(recorded(tmp_path / "table.csv", 90))
    assert CliRunner().invoke(app, sft(tmp_path, "--outcomes", table)).exit_code == 0
    other = str(recorded(tmp_path / "other.csv", 20))
    counted = grpo(tmp_path, "--outcomes", table, other, "--dry-run")  # several files after one flag
    assert "2 arms" in counted.stdout and Registry(tmp_path / "own").versions("scorer") == ["v1"]
    for _ in range(2):  # the second time it is there
        out = grpo(tmp_path, "--outcomes", table, "--steps", "20")
        assert out.exit_code == 0, out.output
        assert "scorer@v2, from scorer@v1" in out.stdout
    registry = Registry(tmp_path / "own")
    assert registry.versions("scorer") == ["v1", "v2"]
    start, new = registry.load("scorer@v1"), registry.load("scorer@v2")
    before, after = (Scorer.from_json((one.path / "scorer.json").read_bytes()) for one in (start, new))
    assert replace(after, choice=()).to_json() == before.to_json()
    assert len(after.choice) == 6
    assert new.card.parent == "scorer@v1"
    assert new.card.cost_usd == pytest.approx(new.card.metrics["core_seconds"] * 0.05 / 3600)
    decision = new.card.config["decision"]
    assert decision["n_problems"] == new.card.metrics["n_held_out"] >= 20
    assert (registry.current("scorer") == "v2") == decision["is_promoted"]
    assert decision["reason"] in " ".join(out.stdout.split("\n"))
    with connect(tmp_path / "lake") as db:
        points = db.execute("select count(*) from training_curve where phase = 'grpo'").fetchone()
        runs = db.execute("select kind, status, n_requested, n_answered, cost_usd from runs where kind = 'grpo'")
        assert runs.fetchall() == [("grpo", "completed", 90, 90, 0.0)]
    assert points is not None and points[0] > 2
    report = CliRunner().invoke(app, ["report", "--lake", str(tmp_path / "lake")])
    assert report.exit_code == 0, report.output


def test_what_has_no_meaning_for_a_scorer_is_refused(tmp_path: Path):
    table = str(recorded(tmp_path / "table.csv"))
    for words, said in (
        (["--outcomes", table, "--rounds", "2"], "--rounds: has no meaning for a scorer"),
        (["--outcomes", table], "'scorer': not in"),
        ([], "needs --outcomes"),
    ):
        assert said in str(grpo(tmp_path, *words).exception)
    other = CliRunner().invoke(app, ["grpo", "--outcomes", table])
    assert "a router learns from --problems" in str(other.exception)


def test_too_few_questions_are_refused_with_the_number_needed(tmp_path: Path):
    few = recorded(tmp_path / "few.csv", 12)
    out = CliRunner().invoke(app, sft(tmp_path, "--outcomes", str(few), "--dry-run"))
    assert isinstance(out.exception, ConfigError)
    assert "12 questions with an outcome; a scorer needs 20 at least" in str(out.exception)


def test_the_rule_answers_with_a_scorer_and_another_scorer_is_another_run(tmp_path: Path):
    trained = CliRunner().invoke(app, sft(tmp_path, "--outcomes", str(recorded(tmp_path / "table.csv"))))
    assert trained.exit_code == 0, trained.output
    file = tmp_path / "own" / "scorer" / "v1" / "scorer.json"
    pool = tmp_path / "pool.toml"
    entries = [ENTRY.format(name=n, tier=t, price=p) for n, t, p in (("cheap", "small", 1), ("dear", "large", 20))]
    pool.write_text(POOL + "".join(entries))
    questions = tmp_path / "q.jsonl"
    rows = [{"id": str(n), "question": f"What is {n} + 3?", "answer": str(n + 3)} for n in range(3)]
    questions.write_text("".join(json.dumps(row | {"benchmark": "arithmetic"}) + "\n" for row in rows))
    command = ["answer", str(questions), "--pool", str(pool), "--lake", str(tmp_path / "lake")]
    for scorer in (str(file), "scorer@v1"):  # the same scorer, named in two ways, is the same run
        out = CliRunner().invoke(
            app, [*command, "--scorer", scorer], env={"R2_POLICIES_DIR": str(tmp_path / "own")}, catch_exceptions=False
        )
        assert out.exit_code == 0, out.output
    with connect(tmp_path / "lake") as db:
        runs = db.execute("select run_id, session from runs where kind = 'answer' order by session").fetchall()
        right = db.execute("select is_correct, decisions is not null from trajectories").fetchall()
    assert len({run_id for run_id, _ in runs}) == 1
    assert right == [(True, True)] * 3
    refused = CliRunner().invoke(app, [*command, "--scorer", str(file), "--routing", "allocator"])
    assert "only the rule reads it" in str(refused.exception)
