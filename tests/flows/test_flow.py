"""The whole flow on simulated models, with a real Prefect API, real Parquet and real DuckDB."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    ArtifactCollectionFilter,
    ArtifactCollectionFilterKey,
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort
from typer.testing import CliRunner

from flows.answer_questions import answer_questions
from flows.cli.app import app
from r2.errors import PoolFileError, RunLockedError
from r2.problems import arithmetic, scan, words
from r2.settings import AnswerSettings
from storage.lake.lake import Lake
from storage.sql.query import connect
from tasks.answering.finish_run import check_accounts
from tasks.answering.finished import RunResult
from tests.support.paths import ROOT
from tests.support.prefect_api import shared_api
from tests.support.prefect_home import new_home
from tests.support.prefect_sockets import LEAVES_SOCKETS

SIMULATED = str(ROOT / "pools/simulated.toml")
# Prefect's own connections to its API are closed by the garbage collector; ours are held to account in test_client.py.
pytestmark = LEAVES_SOCKETS
RECONCILE = ("reconcile_cost", "reconcile_tokens", "reconcile_counts", "reconcile_duplicates")


@pytest.fixture(scope="module", autouse=True)
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One embedded API for the module, in a home of its own, as the command starts it."""
    os.environ["R2_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))
    with shared_api():
        yield


def write_questions(path: Path, n: int) -> None:
    problems = [*arithmetic.generate(n - 2 * (n // 3), 5), *scan.generate(n // 3, 5), *words.generate(n // 3, 5)]
    with path.open("w", encoding="utf-8") as file:
        for p in problems:
            file.write(
                json.dumps(
                    {
                        "id": p.problem_id,
                        "question": p.question,
                        "answer": p.target,
                        "benchmark": p.benchmark,
                        "shade": "kept",
                    }
                )
                + "\n"
            )


def run(tmp_path: Path, **settings: object) -> RunResult:
    chosen = {
        "input": str(tmp_path / "q.jsonl"),
        "pool": SIMULATED,
        "lake": str(tmp_path / "lake"),
        "out": str(tmp_path / "a.jsonl"),
        **settings,
    }
    return asyncio.run(answer_questions(AnswerSettings.model_validate(chosen)))


def query(tmp_path: Path, sql: str) -> list[tuple[object, ...]]:
    with connect(tmp_path / "lake") as db:
        return db.execute(sql).fetchall()


def test_a_file_is_answered_in_order_and_every_total_agrees_with_its_parts(tmp_path: Path):
    write_questions(tmp_path / "q.jsonl", 60)
    result = run(tmp_path, shard_size=25)
    assert (result.summary.n_answered, result.summary.n_failed, result.progress.n_deferred) == (60, 0, 0)
    assert result.summary.accuracy is not None
    assert result.summary.accuracy > 0.9
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()]
    asked = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in asked]
    assert {row["shade"] for row in rows} == {"kept"}
    assert [row["target"] for row in rows] == [row["answer"] for row in asked]
    for view in RECONCILE:
        assert query(tmp_path, f"from {view}") == []
    [(router,)] = query(tmp_path, "select sum(cost_usd) from calls where purpose in ('decompose', 'allocate')")
    assert router == pytest.approx(result.summary.router_cost_usd)
    assert query(tmp_path, "select status, n_requested, n_answered, n_failed, n_deferred from runs") == [
        ("completed", 60, 60, 0, 0)
    ]
    assert len(Lake(tmp_path / "lake").files("calls")) == 1, "compacted when complete"
    assert Lake(tmp_path / "lake").unseen() == [], "and seen by other programs, the session's row too"
    # The simulated pool has ten solvers; the allocator gave each a probability.
    assert query(
        tmp_path,
        "select distinct len(candidates), abs(list_sum([c.propensity for c in candidates]) - 1) < 1e-5 from subtasks",
    ) == [(10, True)]


def test_the_flow_run_says_what_it_runs_and_its_tasks_carry_no_tags_to_ask_the_api_about(tmp_path: Path):
    write_questions(tmp_path / "q.jsonl", 3)
    run(tmp_path)
    with get_client(sync_client=True) as client:
        newest = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[newest.id]))
        deadline = time.monotonic() + 20
        while not (tasks := client.read_task_runs(flow_run_filter=wanted)) and time.monotonic() < deadline:
            time.sleep(0.2)  # task runs reach the API by events
        progress = client.read_latest_artifacts(
            artifact_filter=ArtifactCollectionFilter(
                key=ArtifactCollectionFilterKey(any_=["answer-questions-progress"])
            )
        )
    assert newest.name == "r2 q.jsonl on simulated"
    assert newest.tags == ["input:q.jsonl", "method:r2", "pool:simulated"]
    assert tasks
    assert all(not task.tags for task in tasks)
    assert [(artifact.type, artifact.data) for artifact in progress] == [("progress", 100.0)]


def test_a_cron_schedule_makes_runs_with_the_installed_versions_of_prefect_and_its_database_library():
    """Prefect's scheduler calls the same insert; with a library it does not fit, it fails in a log
    that nobody reads."""
    schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 2 * * *", timezone="UTC"), active=True)
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("answer-questions")
        deployment_id = client.create_deployment(flow_id, "nightly-of-a-test", schedules=[schedule], paused=False)
        client.request(
            "POST", "/deployments/{id}/schedule", path_params={"id": deployment_id}, json={"min_runs": 3}
        ).raise_for_status()
        wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id]))
        runs = client.read_flow_runs(deployment_filter=wanted)
    assert len(runs) >= 3
    assert {(run.expected_start_time.hour, run.expected_start_time.minute) for run in runs} == {(2, 0)}


def test_the_same_command_again_pays_nothing(tmp_path: Path):
    write_questions(tmp_path / "q.jsonl", 12)
    first = run(tmp_path)
    again = run(tmp_path)
    assert again.progress.session_cost_usd == 0.0
    assert again.summary.cost_usd == pytest.approx(first.summary.cost_usd)
    assert query(tmp_path, "select count(*), count(distinct problem_id) from trajectories") == [(12, 12)]
    assert query(tmp_path, "select count(*) from runs") == [(2,)], "a session each"


def test_a_money_budget_stops_the_run_cleanly_and_a_higher_one_goes_on(tmp_path: Path):
    write_questions(tmp_path / "q.jsonl", 90)
    whole = run(tmp_path, lake=str(tmp_path / "whole"))
    capped = run(tmp_path, max_cost_usd=whole.summary.cost_usd / 2, max_in_flight=8)
    assert capped.progress.stop_reason == "budget"
    assert capped.progress.n_deferred > 0
    assert capped.summary.n_answered + capped.summary.n_failed + capped.progress.n_deferred == 90
    paid = capped.summary.cost_usd + capped.progress.unsettled_cost_usd
    assert 0 < paid <= whole.summary.cost_usd / 2
    deferred = [json.loads(line)["status"] for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()].count(
        "deferred"
    )
    assert deferred == capped.progress.n_deferred
    rest = run(tmp_path, max_cost_usd=10.0)
    assert (rest.summary.n_settled, rest.progress.n_deferred) == (90, 0)
    assert rest.summary.cost_usd == pytest.approx(whole.summary.cost_usd), "nothing paid twice"
    assert rest.progress.session_cost_usd == pytest.approx(whole.summary.cost_usd - paid)


def test_a_question_over_its_own_cap_fails_with_that_reason(tmp_path: Path):
    write_questions(tmp_path / "q.jsonl", 3)
    result = run(tmp_path, reasoning={"max_cost_per_question_usd": 1e-9})
    assert result.summary.n_failed == 3
    assert query(tmp_path, "select distinct error_type, n_calls from trajectories") == [("question_budget", 0)]


def test_faults_of_every_kind_leave_the_accounts_whole_and_are_seen_in_the_errors_view(tmp_path: Path):
    write_questions(tmp_path / "q.jsonl", 90)
    text = (
        (ROOT / "pools/faulty.toml")
        .read_text("utf-8")
        .replace("timeout_s = 5", "timeout_s = 2")
        .replace("hang = 0.005", "hang = 0.01")
    )
    pool = tmp_path / "faulty.toml"
    pool.write_text(text, "utf-8")
    result = run(tmp_path, pool=str(pool))
    assert result.summary.n_settled + result.progress.n_deferred == 90
    seen = {error_type for (error_type,) in query(tmp_path, "select error_type from errors where level = 'attempt'")}
    assert {"rate_limited", "server_error", "timeout", "disconnected", "bad_body", "no_usage"} <= seen
    for view in RECONCILE:
        assert query(tmp_path, f"from {view}") == []


def test_a_bad_row_is_a_failed_row_with_its_line_and_the_rest_is_answered(tmp_path: Path):
    (tmp_path / "q.jsonl").write_text(
        '{"id": "a", "question": "What is 3 + 4?", "answer": 7}\n{broken\n{"id": "a", "question": "What is 1 + 1?"}\n',
        "utf-8",
    )
    result = run(tmp_path)
    assert (result.summary.n_answered, result.summary.n_failed) == (1, 2)
    assert query(tmp_path, "select row_number, error_type from bad_rows") == [(2, "bad_json"), (3, "duplicate_id")]


def test_a_batch_file_comes_back_as_batch_output_with_an_error_file(tmp_path: Path):
    line = {
        "custom_id": "r1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "x", "messages": [{"role": "user", "content": "What is 3 + 4?"}]},
    }
    bad = {**line, "custom_id": "r2", "body": {"messages": []}}
    (tmp_path / "q.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(bad) + "\n", "utf-8")
    result = run(tmp_path)
    answered, errors = result.out
    [good] = [json.loads(text) for text in answered.read_text("utf-8").splitlines()]
    assert good["custom_id"] == "r1"
    assert good["response"]["body"]["choices"][0]["message"]["content"] == "7"
    [failed] = [json.loads(text) for text in errors.read_text("utf-8").splitlines()]
    assert failed["error"]["code"] == "missing_question"


def test_two_processes_cannot_work_on_one_run(tmp_path: Path):
    write_questions(tmp_path / "q.jsonl", 3)
    run_id = run(tmp_path).summary.run_id
    code = (
        "from storage.lake.lake import Lake; import time\nwith "
        f"Lake({str(tmp_path / 'lake')!r}).run_lock({run_id!r}):\n print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunLockedError, match=str(holder.pid)):
            run(tmp_path)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_accounts_that_do_not_add_up_are_an_error(tmp_path: Path):
    write_questions(tmp_path / "q.jsonl", 3)
    summary = run(tmp_path).summary
    check_accounts(3, summary, 0)
    with pytest.raises(Exception, match="4 requested, but 3 answered"):
        check_accounts(4, summary, 0)


def test_a_key_never_reaches_logs_journal_lake_errors_or_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    secret = "sk-very-secret-4711"
    monkeypatch.setenv("R2_TEST_SECRET", secret)
    write_questions(tmp_path / "q.jsonl", 6)
    text = (
        (ROOT / "pools/faulty.toml")
        .read_text("utf-8")
        .replace('tier = "small"', 'tier = "small"\napi_key_env = "R2_TEST_SECRET"')
    )
    pool = tmp_path / "pool.toml"
    pool.write_text(text, "utf-8")
    run(tmp_path, pool=str(pool), max_cost_usd=0.0001)
    out, err = capfd.readouterr()
    assert secret not in out + err
    for path in [p for p in tmp_path.rglob("*") if p.is_file()] + [
        p for p in Path(os.environ["PREFECT_HOME"]).rglob("*") if p.is_file()
    ]:
        assert secret.encode() not in path.read_bytes(), path
    monkeypatch.delenv("R2_TEST_SECRET")
    with pytest.raises(PoolFileError, match="R2_TEST_SECRET, which is not set"):
        run(tmp_path, pool=str(pool))


def test_a_dry_run_prints_calls_tokens_and_money_and_leaves_nothing(tmp_path: Path):
    write_questions(tmp_path / "q.jsonl", 30)
    result = CliRunner().invoke(
        app, ["answer", str(tmp_path / "q.jsonl"), "--pool", SIMULATED, "--lake", str(tmp_path / "lake"), "--dry-run"]
    )
    assert result.exit_code == 0
    assert "30 questions" in result.stdout
    assert "solve" in result.stdout
    assert not (tmp_path / "lake").exists()


def test_ctrl_c_stops_cleanly_leaves_no_process_and_the_same_command_goes_on(tmp_path: Path):
    write_questions(tmp_path / "q.jsonl", 240)
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "answer",
        str(tmp_path / "q.jsonl"),
        "--pool",
        SIMULATED,
        "--lake",
        str(tmp_path / "lake"),
        "--shard-size",
        "40",
        "--out",
        str(tmp_path / "a.jsonl"),
    ]
    env = {**os.environ, "PREFECT_HOME": new_home(tmp_path / "prefect")}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    manifest = tmp_path / "lake" / "_manifest"
    deadline = time.monotonic() + 120
    while not list(manifest.rglob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2, "the embedded API and the simulated server"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "The same command resumes it" in err
    assert "deferred" in out
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if child.is_running()]
    finished = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert query(tmp_path, "select count(*), count(distinct problem_id) from trajectories") == [(240, 240)]
    for view in RECONCILE:
        assert query(tmp_path, f"from {view}") == []


def test_a_recorded_run_is_replayed_without_a_model_with_the_same_answers_and_costs(tmp_path: Path):
    write_questions(tmp_path / "q.jsonl", 30)
    first = run(tmp_path)
    recording = tmp_path / "run.jsonl.gz"
    made = CliRunner().invoke(
        app, ["lake", "record", first.summary.run_id, "--lake", str(tmp_path / "lake"), "--out", str(recording)]
    )
    assert made.exit_code == 0
    answers = (tmp_path / "a.jsonl").read_bytes()
    again = run(tmp_path, pool=f"recording:{recording}")
    assert again.summary.run_id != first.summary.run_id
    assert (tmp_path / "a.jsonl").read_bytes() == answers
    assert again.summary.cost_usd == pytest.approx(first.summary.cost_usd, abs=1e-12)
    assert again.summary.calls_by_model == first.summary.calls_by_model
    with connect(tmp_path / "lake") as db:
        replayed = db.execute(
            "select count(*), sum(is_replayed::int) from calls where run_id = ?", [again.summary.run_id]
        ).fetchone()
    assert replayed is not None and replayed[0] == replayed[1] == first.summary.n_calls
