"""Work that the commit before the move of the packages began is resumed by the same commands (tests/support/data/)."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli.app import app
from storage.evaluations.store import read_comparison, read_evaluation
from storage.lake.lake import Lake
from storage.runs.journal import Journal
from storage.runs.plan import read_plan, run_dir_of
from storage.sql.query import connect
from tests.support.old_lake import EVALUATION, FINISHED_RUN, GRPO_RUN, LABEL_RUN, SFT_RUN, STOPPED_RUN, unpack
from tests.support.prefect_api import shared_api
from tests.support.prefect_sockets import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS
LAKE = Path("lake")
STOPPED = ["answer", "more.jsonl", "--pool", "pool.toml", "--out", "more.answers.jsonl", "--shard-size", "5"]
EVALUATE = ["evaluate", "--pool", "pool.toml", "--problems", "scan", "--limit", "10", "--seed", "3"]
EVALUATE += ["--dev-share", "0.5", "--b", "0,0.3", "--methods"]
METHODS = "direct:sim-0.6b,cot:sim-4b-cot,query_router,random,r2"


@pytest.fixture(scope="module", autouse=True)
def prefect_api() -> Iterator[None]:
    """One embedded API for the module; the commands find it."""
    with shared_api():
        yield


@pytest.fixture(autouse=True)
def _in_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(unpack(tmp_path / "old"))
    monkeypatch.setenv("R2_STATE_DIR", str(tmp_path / "state"))


def r2(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def asked(sql: str) -> list[tuple[object, ...]]:
    with connect(LAKE) as db:
        return db.execute(sql).fetchall()


def test_a_run_stopped_by_its_cap_goes_on_under_a_higher_one_and_pays_nothing_twice():
    plan = read_plan(run_dir_of(LAKE, STOPPED_RUN))
    kept: set[str] = set()
    for shard in plan.shards:
        with Journal.open(plan.journal_file(shard.index)) as journal:
            kept |= {key for key, _ in journal.records()}
    n_settled = len(asked(f"from calls where run_id = '{STOPPED_RUN}'"))
    [(last_paid_then,)] = asked(f"select max(ended_at) from runs where run_id = '{STOPPED_RUN}'")

    assert r2(*STOPPED, "--max-cost-usd", "0.01").exit_code == 0

    runs = asked("select session, status, n_answered, n_deferred from runs_latest where kind = 'answer' order by all")
    assert runs == [(0, "completed_with_errors", 9, 0), (1, "completed", 15, 0)], "no third run began"
    [(n_calls, n_old, cost_usd)] = asked(
        f"select count(*), count(*) filter (started_at < '{last_paid_then}'), sum(cost_usd) "
        f"from calls where run_id = '{STOPPED_RUN}'"
    )
    assert n_old == n_settled + len(kept), "every answer of then is used"
    [(paid_then,), (paid_now,)] = asked(
        f"select session_cost_usd from runs where run_id = '{STOPPED_RUN}' order by session"
    )
    assert paid_then + paid_now == pytest.approx(cost_usd)
    assert n_calls > n_old
    assert asked("from reconcile_duplicates") == []
    assert Lake(LAKE).verify() == []
    answers = [json.loads(line) for line in Path("more.answers.jsonl").read_text("utf-8").splitlines()]
    assert {row["status"] for row in answers} == {"answered"}


def _rows(answers: bytes) -> list[dict[str, object]]:
    """The rows of an answers file, without the columns that came later; USD to a millionth of a micro-dollar, as they
    are written now."""
    rows = [json.loads(line) for line in answers.splitlines()]
    for row in rows:
        row["cost_usd"] = round(row["cost_usd"], 12)
    return [{name: value for name, value in row.items() if name not in ("finish", "saved_usd")} for row in rows]


def test_a_finished_run_asks_nobody_and_writes_the_same_answers():
    before = Path("answers.jsonl").read_bytes()
    done = r2("answer", "questions.jsonl", "--pool", "pool.toml", "--out", "again.jsonl", "--shard-size", "5")
    assert done.exit_code == 1, "the row that is no JSON"
    assert _rows(Path("again.jsonl").read_bytes()) == _rows(before)
    assert asked(f"select count(*) from runs where run_id = '{FINISHED_RUN}' and session_cost_usd > 0") == [(1,)]


def test_a_finished_evaluation_pays_nothing_and_a_further_method_pays_for_its_own_calls():
    before = read_comparison(LAKE, EVALUATION)
    assert r2(*EVALUATE, METHODS).exit_code == 0
    assert read_comparison(LAKE, EVALUATION) == before
    assert read_evaluation(LAKE, EVALUATION).paid_usd == pytest.approx(0.001427, abs=1e-6), "as then"

    assert r2(*EVALUATE, f"{METHODS},cot:sim-0.6b").exit_code == 0
    more = read_evaluation(LAKE, EVALUATION)
    assert [row.name for row in more.rows][:3] == ["direct sim-0.6b", "cot sim-4b-cot", "cot sim-0.6b"]
    assert more.n_calls_paid == 109 + 10, "one for each problem; all others were answered then"


def test_labels_are_written_anew_without_a_call():
    label = "label --problems file:more.jsonl --limit 4 --pool pool.toml --out again --candidates 3 --test-share 0"
    assert r2(*label.split()).exit_code == 0
    assert asked(f"select count(*) from runs where run_id = '{LABEL_RUN}' and session_cost_usd > 0") == [(1,)]
    for name in ("decomposer", "allocator"):
        now, then = (Path(folder, f"{name}.parquet") for folder in ("again", "labels"))
        assert now.read_bytes() == then.read_bytes()


def test_the_recording_of_a_run_replays_to_the_same_answers():
    done = r2(
        "answer", "questions.jsonl", "--pool", "recording:run.jsonl.gz", "--lake", "replay", "--out", "again.jsonl"
    )
    assert done.exit_code == 1, "the row that is no JSON"
    again = _rows(Path("again.jsonl").read_bytes())
    for row in again:
        row.pop("benchmark", None)  # a column of the user's, which answers had not at that time
    assert again == _rows(Path("answers.jsonl").read_bytes())


def test_the_recording_of_an_evaluation_replays_to_the_same_figures():
    assert r2("evaluate", "--pool", "recording:evaluation.jsonl.gz", "--lake", "replay").exit_code == 0
    [replayed] = [path.name for path in Path("replay/_evaluations").glob("evaluation-*")]
    assert read_comparison(Path("replay"), replayed) == read_comparison(LAKE, EVALUATION)


def test_reports_and_new_scores_are_made_of_it():
    assert r2("report", EVALUATION, "--lake", "lake").exit_code == 0
    assert r2("report", FINISHED_RUN, "--lake", "lake").exit_code == 0
    assert "changed answers or judgements" in r2("rescore", EVALUATION, "--lake", "lake").stdout
    assert r2("policy", "list", "--policies-dir", "policies").exit_code == 0


@pytest.mark.slow
def test_finished_trainings_are_found_and_train_nothing_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # whoever needs Prefect's API fails
    Path("grpo.toml").write_text("prompts_per_step = 2\n[filter]\nn_problems = 4\nn_rollouts = 2\n", "utf-8")
    weights = {path: path.read_bytes() for path in Path("policies").rglob("*") if path.is_file()}
    sft = "sft --policy both --labels labels --base tiny:16x1 --steps 2 --batch-size 2 --n-held-out 0 --threads 1"
    assert r2(*sft.split(), "--out", "policies").exit_code == 0
    grpo = (
        "grpo --config grpo.toml --problems file:more.jsonl --limit 8 --rounds 1 --first decomposer --pool pool.toml "
        "--decomposer decomposer --allocator allocator --steps 1 --group-size 2 --n-held-out 2 --test-share 0.3 "
        "--threads 1 --policies-dir policies --max-cost-usd 1"
    )
    done = r2(*grpo.split())
    assert done.exit_code == 0
    assert f"run {GRPO_RUN}" in done.stdout
    assert {path: path.read_bytes() for path in Path("policies").rglob("*") if path.is_file()} == weights
    assert asked("select distinct run_id from runs where kind = 'sft'") == [(SFT_RUN,)]
