"""The labelling flow and its command on simulated models: real API, real Parquet, real DuckDB."""

import asyncio
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey
from prefect.client.schemas.sorting import LogSort
from typer.testing import CliRunner

from flows.cli.app import app
from flows.label_plans import LabelResult, label_plans
from r2.answering.allocation import parse_allocation
from r2.answering.prompts import decompose_messages
from r2.errors import ConfigError
from r2.plan import format_plan, parse_plan
from r2.pool.file.config import load_pool
from r2.problem import Problem
from r2.problems.split import split_of
from r2.settings import LabelSettings
from storage.sql.query import connect
from tests.support.paths import ROOT
from tests.support.prefect_api import shared_api
from tests.support.prefect_sockets import LEAVES_SOCKETS

SIMULATED = ROOT / "pools/simulated.toml"
pytestmark = LEAVES_SOCKETS


@pytest.fixture(scope="module", autouse=True)
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["R2_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))
    with shared_api():
        yield


def run(tmp_path: Path, **settings: object) -> LabelResult:
    chosen = {
        "problems": "scan",
        "limit": 40,
        "pool": str(SIMULATED),
        "lake": str(tmp_path / "lake"),
        "out": str(tmp_path / "sets"),
        "labelling": {"n_candidates": 3},
        "test_share": 0.25,
        **settings,
    }
    return asyncio.run(label_plans(LabelSettings.model_validate(chosen)))


def rows(tmp_path: Path, sql: str) -> list[tuple[object, ...]]:
    with connect(tmp_path / "lake") as db:
        return db.execute(sql).fetchall()


def sets(folder: Path) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    decomposer, allocator = (
        pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("decomposer", "allocator")
    )
    return decomposer, allocator


def pool_without(tmp_path: Path, *changes: tuple[str, str]) -> str:
    text = SIMULATED.read_text("utf-8")
    for pattern, replacement in changes:
        text, n = re.subn(pattern, replacement, text)
        assert n, pattern
    path = tmp_path / "pool.toml"
    path.write_text(text, "utf-8")
    return str(path)


def test_problems_become_two_sets_that_the_router_itself_could_have_been_asked_for(tmp_path: Path):
    result = run(tmp_path)
    decomposer, allocator = sets(tmp_path / "sets")
    assert len(decomposer) == len(allocator) == result.summary.n_kept == 40
    roster = load_pool(str(SIMULATED)).roster()
    shown = roster.solvers
    for row, choice in zip(decomposer, allocator, strict=True):
        [said] = row["completion"]
        plan = parse_plan(said["content"])
        assert said == {"role": "assistant", "content": format_plan(plan)}
        assert [m["role"] for m in row["prompt"]] == ["system", "user"]
        question = row["prompt"][1]["content"].removeprefix("Question: ")
        assert [(m["role"], m["content"]) for m in row["prompt"]] == list(decompose_messages(Problem("", question)))
        assert row["split"] == split_of(question, 0, 0.25) == choice["split"]
        models = parse_allocation(choice["completion"][0]["content"], max(1, len(plan.subtasks)), shown)
        assert len(models) == max(1, len(plan.subtasks))
    assert {row["split"] for row in decomposer} == {"train", "test"}


def test_every_trial_is_stored_and_every_total_agrees_with_its_parts(tmp_path: Path):
    result = run(tmp_path, labelling={"n_candidates": 3, "judge": "sim-8b"})
    assert rows(tmp_path, "select count(*) from candidates where kind = 'plan'") == [(120,)]
    assert rows(tmp_path, "select count(*) from candidates where is_target group by kind") == [(40,), (40,)]
    assert rows(tmp_path, "select distinct judge from candidates where score is not null") == [("sim-8b",)]
    for view in ("reconcile_cost", "reconcile_tokens", "reconcile_counts", "reconcile_duplicates"):
        assert rows(tmp_path, f"from {view}") == [], view
    assert rows(tmp_path, "select kind, method, n_answered from runs") == [("label", "label", 40)]
    [(auroc, ece)] = rows(tmp_path, "select auroc, ece from difficulty_calibration")
    assert auroc is None or 0 <= auroc <= 1  # type: ignore[operator]
    assert 0 <= ece <= 1  # type: ignore[operator]
    paid = sum(result.summary.cost_by_purpose_usd.values())
    assert paid == pytest.approx(result.summary.cost_usd) == pytest.approx(result.progress.session_cost_usd)
    assert {"teach", "judge", "solve"} == set(result.summary.cost_by_purpose_usd)


def test_the_same_labelling_again_pays_nothing_and_writes_the_same_sets(tmp_path: Path):
    run(tmp_path)
    first = sets(tmp_path / "sets")
    again = run(tmp_path, out=str(tmp_path / "again"))
    assert again.progress.session_cost_usd == 0
    assert sets(tmp_path / "again") == first


def test_a_budget_that_ends_leaves_sets_of_what_is_done_and_a_higher_one_goes_on(tmp_path: Path):
    stopped = run(tmp_path, max_cost_usd=0.05, shard_size=5, max_in_flight=4)
    assert stopped.progress.stop_reason == "budget"
    assert 0 < stopped.progress.n_deferred < 40
    n_rows = len(sets(tmp_path / "sets")[0])
    assert n_rows == stopped.summary.n_kept == 40 - stopped.progress.n_deferred
    done = run(tmp_path, shard_size=5, out=str(tmp_path / "done"))
    assert done.summary.n_kept == 40
    whole = run(tmp_path, lake=str(tmp_path / "lake2"), shard_size=5, out=str(tmp_path / "whole"))
    assert done.summary.cost_usd == pytest.approx(whole.summary.cost_usd)
    assert sets(tmp_path / "done") == sets(tmp_path / "whole")


def test_a_pool_without_logprobs_is_labelled_by_agreement_and_says_so(tmp_path: Path):
    pool = pool_without(tmp_path, (r"logprobs = true", "logprobs = false"))
    result = run(tmp_path, pool=pool, limit=6, labelling={"n_candidates": 2, "n_agreement": 2})
    assert result.summary.n_kept == 6
    assert rows(tmp_path, "select distinct confidence_source from candidates where kind = 'allocation'") == [
        ("agreement",)
    ]


def test_a_teacher_that_writes_rubbish_drops_problems_and_not_the_run(tmp_path: Path):
    pool = pool_without(tmp_path, (r'("simulated:sim-0.6b"(?:.|\n)*?ability = )1.2', r"\g<1>-9.0"))
    result = run(tmp_path, pool=pool, limit=10, labelling={"n_candidates": 2, "teacher": "sim-0.6b"})
    assert result.summary.n_kept + sum(result.summary.dropped.values()) == 10
    assert set(result.summary.dropped) <= {"label_no_plan", "label_no_right_plan"}
    assert result.summary.dropped
    assert rows(tmp_path, "select sum(n_problems) from label_yield") == [(10,)]


def test_bad_rows_of_the_users_own_file_are_dropped_by_line_and_the_rest_labelled(tmp_path: Path):
    lines = [
        '{"id": "a", "question": "What is 2 * 3 + 4?", "answer": "10"}',
        "{broken",
        '{"id": "c", "question": "What is 1 + 1?"}',
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines), "utf-8")
    result = run(tmp_path, problems=f"file:{tmp_path / 'mine.jsonl'}?check=arithmetic", limit=None)
    assert dict(result.summary.dropped) == {"bad_json": 1, "label_no_target": 1}
    assert result.summary.n_kept == 1
    assert rows(tmp_path, "select error_message from trajectories where error_type = 'bad_json'")[0][0].startswith(
        "line 2"
    )  # type: ignore[union-attr]


def test_the_card_says_what_was_labelled_by_whom_at_what_price_and_what_leaks(tmp_path: Path):
    (tmp_path / "held.jsonl").write_text(
        "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in (("jump", "I_JUMP"), ("walk", "I_WALK"))),
        "utf-8",
    )
    run(tmp_path, evaluation=(f"scan:{tmp_path / 'held.jsonl'}",), limit=30)
    card = (tmp_path / "sets" / "README.md").read_text("utf-8")
    for part in (
        "sim-400b, 3 candidates at temperature 0.8",
        "BSD",
        "seed 0, test share 0.25",
        "2026-11-24:2.5/0.625/10",
        "its own test split",
    ):
        assert part in card
    assert re.search(r"held\.jsonl \| 2 \| \d+ \| 0 \| 0 \|", card)


def test_prefect_shows_what_was_kept_and_how_scores_are_spread(tmp_path: Path):
    result = run(tmp_path, limit=8)

    async def told() -> tuple[dict[str, list[dict[str, object]]], list[str]]:
        async with get_client() as client:
            found = await client.read_latest_artifacts(
                artifact_filter=ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(like_="label-plans-%"))
            )
            logs = [log.message for log in await client.read_logs(sort=LogSort.TIMESTAMP_DESC) if log.name == "r2"]
        return {str(a.key): json.loads(str(a.data)) for a in found if a.key != "label-plans-progress"}, logs

    shown, logs = asyncio.run(told())
    n_kept, usd = result.summary.n_kept, result.summary.cost_usd
    numbers = {row["what"]: row["number"] for row in shown["label-plans-summary"]}
    assert (numbers["problems kept"], numbers["problems deferred"]) == (n_kept, 0)
    costs = {row["what"]: row["USD"] for row in shown["label-plans-cost"]}
    assert (costs["paid"], costs["saved by reused calls"]) == (round(usd, 6), 0.0)
    n_dropped = sum(result.summary.dropped.values())
    assert f"{result.summary.run_id}: of 8 problems {n_kept} labelled, {n_dropped} dropped, 0 deferred" in logs
    assert f"{usd:.6f} USD, {usd:.6f} of it in this session; 0.000000 saved by 0 reused calls" in logs
    assert {row["score"] for row in shown["label-plans-scores"]} == {
        "conciseness",
        "practicality",
        "coherence",
        "score",
    }


def test_the_command_prints_what_was_kept_and_where_the_sets_are(tmp_path: Path):
    flags = [
        "--problems",
        "scan",
        "--limit",
        "6",
        "--pool",
        str(SIMULATED),
        "--lake",
        str(tmp_path / "lake"),
        "--out",
        str(tmp_path / "sets"),
    ]
    dry = CliRunner().invoke(app, ["label", *flags, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "teach" in dry.stdout
    assert not list((tmp_path / "lake").glob("_runs/*")), "nothing was started"
    done = CliRunner().invoke(app, ["label", *flags, "--candidates", "2"])
    assert done.exit_code == 0, done.output
    assert "labelled" in done.stdout
    assert str(tmp_path / "sets" / "allocator.parquet") in done.stdout


@pytest.mark.parametrize("flag", ["--teacher", "--m-eval", "--judge"])
def test_a_part_that_is_not_in_the_pool_is_named_before_anything_is_paid(tmp_path: Path, flag: str):
    with pytest.raises(ConfigError, match="'nobody' is not in the pool"):
        CliRunner().invoke(
            app,
            ["label", "--problems", "scan", "--pool", str(SIMULATED), "--lake", str(tmp_path), flag, "nobody"],
            catch_exceptions=False,
        )


def test_plans_are_compared_with_gold_plans_and_paid_for_once(tmp_path: Path):
    flags = ["plans", "--problems", "scan", "--pool", str(SIMULATED), "--limit", "12", "--lake", str(tmp_path / "lake")]
    dry = CliRunner().invoke(app, [*flags, "--dry-run"])
    assert dry.stdout.startswith("12 plans of sim-8b: about 0.000")
    assert not (tmp_path / "lake").exists()
    first = CliRunner().invoke(app, flags)
    assert first.exit_code == 0, first.output
    for line in ("step count error", "coverage of gold steps", "order kept", "coherence score, gold"):
        assert line in first.stdout
    journal = next((tmp_path / "lake" / "_plans").glob("*.journal"))
    size = journal.stat().st_size
    again = CliRunner().invoke(app, flags)
    assert again.stdout == first.stdout
    assert journal.stat().st_size == size, "the second time every plan came from the journal"
