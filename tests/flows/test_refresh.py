"""The nightly loop on simulated models: what it promotes and what it keeps, what it pays, and how it goes on."""

import asyncio
import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from benchmarks.prove_refresh import CHANGED, ENTRIES, EXPECTED, WORSE, nights, pool_text
from flows import refresh_router as flow_file
from flows.cli.app import app
from flows.refresh_router import refresh_router
from r2.answering.scorer import ArmProfile, KindProfile, Scorer
from r2.policies.registry import Registry
from r2.pool.file.config import load_pool
from r2.training.refresh.settings import RefreshSettings
from r2.training.refresh.todays_prices import priced_today
from storage.evaluations.verify import verify_lake
from storage.forgetting.forget import forget
from storage.runs.feedback import bring_in
from storage.runs.fresh_questions import fresh_questions
from storage.runs.refresh_rounds import keys_used, rounds_of
from storage.sql.query import connect
from tasks.answering.answer_rows import answer_rows
from tasks.answering.finish_run import finish_run
from tasks.training import refresh_round
from tasks.training.refresh_round import RoundResult, affordable, sides
from tests.support.prefect_api import shared_api
from tests.support.prefect_sockets import LEAVES_SOCKETS
from tests.support.shards import planned, session_for

pytestmark = LEAVES_SOCKETS
N = 200
"""Questions of a night."""


@pytest.fixture(scope="module", autouse=True)
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["R2_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))
    with shared_api():
        yield


@pytest.fixture(scope="module")
def three_nights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, RoundResult]]:
    folder = tmp_path_factory.mktemp("nights")
    return folder, dict(nights(folder, N))


def settings_of(folder: Path, **changes: Any) -> RefreshSettings:
    places = {"pool": str(folder / "pool.toml"), "lake": str(folder / "lake"), "policies_dir": str(folder / "policies")}
    return RefreshSettings.model_validate({**places, "n_questions": N, "least": 40, **changes})


def asked(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with connect(folder / "lake") as db:
        return db.execute(query).fetchall()


@pytest.mark.parametrize("night", EXPECTED)
def test_it_promotes_what_wins_keeps_the_old_one_where_nothing_changed_and_else_does_nothing(
    three_nights: tuple[Path, dict[str, RoundResult]], night: str
):
    result = three_nights[1][night]
    assert EXPECTED[night](result), result.reason


def test_the_reason_is_on_the_card_in_the_history_and_in_the_round(
    three_nights: tuple[Path, dict[str, RoundResult]],
):
    folder, results = three_nights
    registry = Registry(folder / "policies")
    worse, kept = results[f"{WORSE} got worse and dearer"], results["an unchanged pool"]
    assert [registry.current("scorer"), *registry.versions("scorer")] == ["v2", "v1", "v2", "v3"]
    cards = {ref: registry.load(ref).card for ref in (worse.policy, kept.policy)}
    assert cards[worse.policy].config["decision"]["reason"] == worse.reason
    assert cards[worse.policy].parent == "scorer@v1"
    assert kept.reason.startswith("kept: ") and cards[kept.policy].config["decision"]["reason"] == kept.reason
    assert [entry["reason"] for entry in registry.history("scorer")] == [
        "first version: there is none to compare with",
        worse.reason,
    ]
    over = [one.read("decision") or {} for one in rounds_of(folder / "lake", "scorer")]
    assert [decision["version"] for decision in over] == ["v1", "v2", "v3"]


def test_questions_are_fresh_each_round_and_those_held_out_are_not_trained_on(
    three_nights: tuple[Path, dict[str, RoundResult]], monkeypatch: pytest.MonkeyPatch
):
    folder, _ = three_nights
    rounds = rounds_of(folder / "lake", "scorer")
    keys = [set(one.questions()) for one in rounds]
    assert all(not a & b for i, a in enumerate(keys) for b in keys[:i])
    learned, held_out = sides(rounds[1], settings_of(folder))
    assert set(learned).isdisjoint(held_out) and {*learned, *held_out} == keys[1]
    seen: list[str] = []
    real = refresh_round.trials_of_pool

    def noted(found: Any, pool: Any) -> Any:
        seen.extend(trial.problem.question for trial in found)
        return real(found, pool)

    monkeypatch.setattr(refresh_round, "trials_of_pool", noted)
    (rounds[1].folder / "trained.json").unlink()
    refresh_round.trained(rounds[1], settings_of(folder))
    questions = rounds[1].questions()
    assert seen and set(seen).isdisjoint(questions[key] for key in held_out)


def test_no_call_is_paid_twice_neither_the_traffic_s_nor_its_own(three_nights: tuple[Path, dict[str, RoundResult]]):
    folder, results = three_nights
    paid = "select request_model, request_sha from calls where cost_usd > 0"
    assert asked(folder, f"select * from ({paid}) group by all having count(*) > 1") == []
    labels = "select sum(cost_usd) from calls join runs_latest using (run_id) where contains(input_path, '_refresh/')"
    [(usd,)] = asked(folder, labels.replace("sum(cost_usd)", "sum(calls.cost_usd)"))
    assert usd == pytest.approx(sum(result.label_usd for result in results.values()))
    [(n_reused,)] = asked(folder, "select count(*) from calls where reused_from is not null")
    assert n_reused >= 2 * N, "the entry that the traffic asked is not asked again"
    assert verify_lake(folder / "lake") == []


def test_a_question_that_the_loop_took_is_forgotten_in_its_rounds_and_labels_too(
    three_nights: tuple[Path, dict[str, RoundResult]], tmp_path: Path
):
    lake = tmp_path / "lake"
    shutil.copytree(three_nights[0] / "lake", lake)
    question = json.loads((lake / "_refresh/scorer/0002/questions.jsonl").read_bytes().splitlines()[0])
    words = question["question"].encode()
    done = forget(lake, [question["problem_id"]])
    assert (done.still, done.others) == ([], [])
    assert {place.split("/_refresh/")[1] for _, place, _ in done.found if "/_refresh/" in place} >= {
        "scorer/0002/questions.jsonl"
    }
    assert all(words not in path.read_bytes() for path in (lake / "_refresh").rglob("*.jsonl"))
    assert verify_lake(lake) == []


def traffic(folder: Path, n: int = 60, seed: int = 7) -> None:
    """Answered questions of a new lake, at once and without a flow."""
    from flows.answer_questions import answer_questions
    from r2.problems import arithmetic
    from r2.settings import AnswerSettings
    from storage.sources.problem_files import row_of

    folder.mkdir(exist_ok=True)
    (folder / "pool.toml").write_text(pool_text(ENTRIES), "utf-8")
    rows = [row_of(problem) for problem in arithmetic.generate(n, seed)]
    (folder / "q.jsonl").write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
    asking = {"input": str(folder / "q.jsonl"), "pool": str(folder / "pool.toml"), "lake": str(folder / "lake")}
    asyncio.run(answer_questions(AnswerSettings.model_validate({**asking, "reasoning": {"method": "random"}})))


def test_it_goes_on_stage_by_stage_and_each_says_so_as_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    traffic(tmp_path)
    said: list[str] = []
    monkeypatch.setattr(flow_file, "emit_event", lambda event, **_: said.append(event))
    settings = settings_of(tmp_path)
    due: list[Any] = []
    monkeypatch.setattr(flow_file, "train_grpo", due.append)
    for stage in ("label", "train", "evaluate"):
        result = asyncio.run(refresh_router(settings, stage))  # type: ignore[arg-type]
        assert result.decision is None and result.reason == f"round 1: done as far as {stage}"
        assert Registry(tmp_path / "policies").names() == []
    [(n_calls,)] = asked(tmp_path, "select count(*) from calls")
    last = settings.model_copy(update={"grpo_every": 1, "grpo": {"rounds": 1}, "max_cost_usd": 1.0})
    result = asyncio.run(refresh_router(last))
    assert (result.policy, result.is_promoted) == ("scorer@v1", True)
    assert asked(tmp_path, "select count(*) from calls") == [(n_calls,)], "nothing is asked again"
    assert said == ["r2.refresh.labelled", "r2.refresh.trained", "r2.refresh.evaluated", "r2.refresh.settled"]
    [grpo] = due
    assert grpo.rounds == 1 and grpo.max_cost_usd == pytest.approx(1.0 - result.label_usd)
    learned = (tmp_path / "lake/_refresh/scorer/0001/learned.jsonl").read_bytes().splitlines()
    assert grpo.problems.endswith("learned.jsonl") and len(learned) == len(
        sides(rounds_of(tmp_path / "lake", "scorer")[0], last)[0]
    )
    shown = CliRunner().invoke(
        app, ["refresh", "--pool", str(tmp_path / "pool.toml"), "--lake", str(tmp_path / "lake"), "--dry-run"]
    )
    assert shown.stdout == "0 new questions; a round begins with 80\n"


def test_a_lake_that_is_not_there_is_a_mistake_and_is_not_made(tmp_path: Path):
    for more in ([], ["--dry-run"]):
        done = CliRunner().invoke(app, ["refresh", "--pool", "none.toml", "--lake", str(tmp_path / "lkae"), *more])
        assert "lkae: no lake there, and so no traffic to learn from" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_money_that_is_spent_ends_the_asking_and_what_was_not_asked_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    traffic(tmp_path)
    pool = load_pool(tmp_path / "pool.toml")
    assert affordable(settings_of(tmp_path, max_cost_usd=1e-6), pool) == 0
    result = asyncio.run(refresh_router(settings_of(tmp_path, max_cost_usd=1e-6)))
    assert result.decision is None and "Raise max_cost_usd" in result.reason
    monkeypatch.setattr(refresh_round, "affordable", lambda settings, pool: N)
    result = asyncio.run(refresh_router(settings_of(tmp_path, max_cost_usd=1e-3)))
    assert result.label_usd <= 1e-3
    assert re.fullmatch(
        r"kept: only 1?\d held-out questions with an answer of every entry; 20 are needed", result.reason
    )
    used, unlabelled = keys_used(tmp_path / "lake", "scorer"), (result.decision or {})["unlabelled"]
    assert unlabelled and len(used) + len(unlabelled) == 60 and used.isdisjoint(unlabelled)
    waiting = {one.key for one in fresh_questions(tmp_path / "lake", used).questions}
    assert waiting == set(unlabelled), "what not every entry was asked waits for a later round"


def test_what_people_called_right_is_the_right_answer(tmp_path: Path):
    """Rows without an answer of their own: right, wrong, and one that nobody judged; and a row whose check says the
    opposite."""
    rows: list[dict[str, Any]] = [
        {"id": f"q{n}", "question": f"What is {n} + 1?", "benchmark": "arithmetic"} for n in range(3)
    ]
    rows.append({"id": "q3", "question": "What is 3 + 1?", "answer": "4", "benchmark": "arithmetic"})
    plan = planned(tmp_path, rows)

    async def answered() -> None:
        session = session_for(plan, lambda call: "Answer: 4")
        with contextlib.closing(session.checks):
            await answer_rows(session, 0)
        finish_run(plan.run_dir, session.progress, str(tmp_path / "a.jsonl"))

    asyncio.run(answered())
    verdicts = tmp_path / "verdicts.jsonl"
    said = [{"id": "q0", "right": True}, {"id": "q1", "right": False}, {"id": "q3", "right": False}]
    verdicts.write_text("".join(json.dumps(row) + "\n" for row in said), "utf-8")
    bring_in(tmp_path / "lake", verdicts, plan.run_id)
    found = fresh_questions(tmp_path / "lake", set())
    assert [(one.problem.problem_id, one.problem.target) for one in found.questions] == [("q0", "4")]
    assert found.left_out == {
        "judged wrong, and nobody has said what is right": 1,
        "people say the opposite of the check": 1,
    }
    assert fresh_questions(tmp_path / "lake", {found.questions[0].key}).questions == ()


def test_an_old_version_is_told_today_s_prices(tmp_path: Path):
    """sim-14b cost 0.15 and 0.4, blended 0.2125; today 0.27 and 0.72, 1.8 times as much."""
    (tmp_path / "pool.toml").write_text(pool_text(CHANGED), "utf-8")
    cards = load_pool(tmp_path / "pool.toml").roster().solvers
    profile = ArmProfile({"": KindProfile(10, 0.9, 0.001)}, price_usd_per_mtok=(0.15, 0.4))
    unknown = ArmProfile({"": KindProfile(10, 0.9, 0.001)})
    scorer = Scorer({}, {WORSE: profile, "gone": profile, "sim-4b": unknown}, (), None)  # type: ignore[arg-type]
    told = priced_today(scorer, cards).arms
    assert told[WORSE].at("").cost_usd == pytest.approx(0.0018)
    assert told["gone"].at("").cost_usd == told["sim-4b"].at("").cost_usd == 0.001


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValidationError, match=r"grpo\.pool: the round decides it"):
        RefreshSettings(grpo_every=2, grpo={"pool": "other.toml"})
    with pytest.raises(ValidationError, match="never due"):
        RefreshSettings(grpo={"rounds": 1})
    assert [number for number in range(1, 7) if RefreshSettings(grpo_every=3).is_due(number)] == [3, 6]
    assert not RefreshSettings().is_due(1)
