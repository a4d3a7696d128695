"""`r2 sft` from its flags to the registry and the lake."""

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.sft import _print_result
from r2.errors import InputFileError
from r2.policies.registry import Policy, PolicyCard, Registry
from r2.problems.split import split_of
from r2.training.curve import MetricValue
from storage.sql.query import connect
from tasks.training.sft_process import PolicyResult
from tasks.training.sft_run import SftResult
from tasks.training.trained_policy import TrainedPolicy, curve_rows, kept_back
from tests.support.paths import ROOT
from tests.support.prefect_sockets import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS
POOL = ROOT / "pools" / "learning.toml"
SPECIALIST = [
    "sft",
    "--policy",
    "specialist",
    "--problems",
    "arithmetic",
    "--base",
    "tiny",
    "--steps",
    "12",
    "--batch-size",
    "4",
]


def test_a_dry_run_says_rows_steps_and_minutes_and_trains_nothing(tmp_path: Path):
    out = CliRunner().invoke(
        app, [*SPECIALIST, "--dry-run", "--policies-dir", str(tmp_path / "policies"), "--lake", str(tmp_path / "lake")]
    )
    assert out.exit_code == 0
    assert "arithmetic-specialist" in out.stdout
    assert "48" in out.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_grpo_counts_its_problems_and_names_a_file_that_is_not_there(tmp_path: Path):
    questions = tmp_path / "questions.jsonl"
    sides = {"What is 1 + 1?": "train", "What is 4 + 4?": "train", "What is 2 + 1?": "test"}
    assert {question: split_of(question, 0, 0.5) for question in sides} == sides
    questions.write_bytes(b"".join(orjson.dumps({"question": q, "answer": "1"}) + b"\n" for q in sides))
    asked = [
        "grpo",
        "--dry-run",
        "--pool",
        str(POOL),
        "--test-share",
        "0.5",
        "--lake",
        str(tmp_path / "lake"),
        "--problems",
    ]
    out = CliRunner().invoke(app, [*asked, f"file:{questions}"], catch_exceptions=False)
    assert f"3 problems of file:{questions}: 2 to train on, 1 held out" in out.stdout
    missing = CliRunner().invoke(app, [*asked, "file:nowhere.jsonl"])
    assert isinstance(missing.exception, InputFileError)
    assert "nowhere.jsonl: cannot be read" in str(missing.exception)


def test_held_out_metrics_are_points_at_the_last_step():
    result = PolicyResult({"right": 0.5}, n_rows=4, n_held_out=2, paid_usd=0.0, wall_s=1.0, first_step=0)
    rows = curve_rows(
        "run", "scan-specialist", [MetricValue(1, "loss", 4.0, 100.0), MetricValue(2, "loss", 3.0, 101.0)], result, 2
    )
    assert [(r.phase, r.policy, r.round, r.step, r.metric, r.value, r.logged_at) for r in rows] == [
        ("sft", "scan-specialist", 0, 1, "loss", 4.0, 100.0),
        ("sft", "scan-specialist", 0, 2, "loss", 3.0, 101.0),
        ("held_out", "scan-specialist", 0, 2, "right", 0.5, 101.0),
    ]


@pytest.mark.slow
def test_a_run_is_in_the_registry_and_in_the_lake_and_a_second_time_changes_neither(tmp_path: Path):
    policies, lake = tmp_path / "policies", tmp_path / "lake"
    command = [*SPECIALIST, "--policies-dir", str(policies), "--lake", str(lake), "--n-held-out", "8", "--threads", "1"]
    for env in ({}, {"PREFECT_API_URL": "http://127.0.0.1:9/api"}):  # the second time nobody needs Prefect's API
        out = CliRunner().invoke(app, command, env=env, catch_exceptions=False)
        assert out.exit_code == 0
        assert "arithmetic-specialist@v1" in out.stdout
    registry = Registry(policies)
    assert registry.versions("arithmetic-specialist") == ["v1"]
    assert registry.current("arithmetic-specialist") == "v1"
    card = registry.load("arithmetic-specialist").card
    assert (card.kind, card.base, card.prompt_mode) == ("specialist", "tiny", "bare")
    assert card.metrics["n_rows"] == 48
    assert list(card.data_sha256) == ["arithmetic"]
    with connect(lake) as db:
        steps = db.execute("select step from curves where metric = 'loss' order by step").fetchall()
        runs = db.execute("select kind, status, session, n_requested, n_answered from runs order by session").fetchall()
        held_out = db.execute("select count(*) from curves where phase = 'held_out' and metric = 'right'").fetchall()
    assert steps == [(step,) for step in range(1, 13)]
    assert runs == [("sft", "completed", 0, 48, 48)]
    assert held_out == [(1,)]
    going_on = CliRunner().invoke(app, [*command, "--start", "arithmetic-specialist"], catch_exceptions=False)
    assert going_on.exit_code == 0
    later = registry.load("arithmetic-specialist@v2").card
    assert later.parent == "arithmetic-specialist@v1"
    assert later.metrics["last_loss"] < card.metrics["last_loss"]
    assert registry.current("arithmetic-specialist") == "v1"


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"valid_plan": 0.49}, "49% of its plans for held-out problems are valid, under 50%"),
        ({"valid_plan": 0.5}, ""),
        ({"valid_allocation": 0.1}, "10% of its allocations"),
        ({"valid_allocation": 0.9, "shuffled_cost": 6.2}, "in random orders its choices cost 6.20 times as much"),
        ({"valid_allocation": 0.9, "shuffled_cost": 1.1}, ""),
        ({}, ""),
    ],
)
def test_a_policy_that_cannot_be_read_or_goes_by_the_order_of_the_models_is_not_promoted_unasked(
    metrics: dict[str, float], reason: str, tmp_path: Path
):
    card = PolicyCard(name="router", kind="decomposer", base="tiny", metrics=metrics)
    said = kept_back(Policy(tmp_path, card))
    assert reason in said and bool(said) is bool(reason)


def test_a_policy_that_plans_poorly_is_said_not_to_be_promoted_and_how_to_ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    card = PolicyCard(name="decomposer", kind="decomposer", base="tiny", version="v1", metrics={"valid_plan": 0.25})
    result = PolicyResult(dict(card.metrics), n_rows=4, n_held_out=4, paid_usd=0.0, wall_s=1.0, first_step=0)
    trained = TrainedPolicy(Policy(tmp_path, card), result, is_promoted=False)
    assert _print_result(SftResult("sft-1", [trained], 1.0), "own") == 0
    said = capsys.readouterr().err
    assert "decomposer@v1 is not promoted unasked: 25% of its plans for held-out problems are valid, under 50%." in said
    assert "r2 policy promote decomposer v1 --reason TEXT --policies-dir own\n" in said
