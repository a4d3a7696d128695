import asyncio
from pathlib import Path

import pytest

from r2.answering.prompts import solve_messages
from r2.errors import ConfigError
from r2.pool.calibrate import (
    Calibration,
    SkillQuestion,
    calibrate_pool,
    price_of_calibration,
    skill_questions,
    speeds,
    write_profiles,
)
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.simulated.mind import Job, read_job
from r2.problems import scan
from r2.problems.kind import kind_of
from tests.support.paths import ROOT


def test_speeds_tell_prompt_and_reply_apart():
    # 100 prompt tokens a second, 10 generated ones a second: t = in / 100 + out / 10
    observed = [(100, 10, 2.0), (200, 10, 3.0), (100, 50, 6.0)]
    assert speeds(observed) == pytest.approx((100.0, 10.0))


def test_speeds_that_cannot_be_told_apart_are_the_overall_rate():
    assert speeds([(10, 10, 2.0), (20, 20, 4.0)]) == (10.0, 10.0)


def test_a_core_hours_price_is_spread_over_its_tokens():
    # 0.036 USD an hour is 1e-5 a second: 1 USD per million tokens at 10 a second, 0.1 at 100
    assert Calibration("m", 1, {}, 1.0, 100.0, 10.0, 0.0).core_hour_price(0.036) == pytest.approx((0.1, 1.0))


def test_skill_questions_are_the_same_for_the_same_seed():
    skills = skill_questions(5, seed=1)
    assert skills == skill_questions(5, seed=1)
    assert {name: len(questions) for name, questions in skills.items()} == {
        "add": 5,
        "multiply": 5,
        "expression": 5,
        "word_problem": 5,
        "equation": 5,
        "scan_phrase": 5,
        "scan_join": 5,
        "scan_command": 5,
    }
    assert list(skill_questions(2, seed=1, only=["scan_join"])) == ["scan_join"]
    with pytest.raises(ConfigError, match=r"'scan' cannot be measured. Known: add, .*scan_command"):
        skill_questions(2, seed=1, only=["scan"])


def test_scan_skills_are_steps_of_gold_plans_as_the_solver_asks_them():
    skills = skill_questions(20, seed=0)
    for question in skills["scan_phrase"]:
        assert question.task is not None
        assert question.task.startswith("Translate '")
        assert question.problem.target == scan.interpret(question.task[11:-1])
        assert not question.results
    for question in skills["scan_join"]:
        assert question.task is not None
        assert question.task.startswith(("Repeat ", "Join "))
        assert (
            "".join(question.results.values()).replace(" ", "") in (question.problem.target or "").replace(" ", "") * 2
        )
    for question in skills["scan_command"]:
        assert question.task is None
        assert question.problem.target == scan.interpret(question.problem.question)
    jobs = {name: {_job(question).skill for question in skills[name]} for name in skills if name.startswith("scan")}
    assert jobs == {name: {name} for name in jobs}, "named as the simulated models name them"


def test_whole_questions_are_asked_under_the_kind_that_the_rule_reads_off_them():
    skills = skill_questions(30, seed=0)
    for name in ("add", "multiply", "expression", "word_problem", "equation", "scan_command"):
        assert {kind_of(question.problem.question) for question in skills[name]} == {name}


def _job(question: SkillQuestion) -> Job:
    messages = solve_messages(question.problem, question.task, question.results, "direct", scan.WORDING)
    job = read_job(messages[-1][1])
    assert job is not None
    assert job.right == question.problem.target
    return job


def test_a_simulated_pool_is_calibrated_and_its_file_keeps_its_comments(tmp_path: Path):
    path = tmp_path / "pool.toml"
    path.write_text((ROOT / "pools/simulated.toml").read_text("utf-8"), "utf-8")
    pool = load_pool(path)
    said: list[str] = []
    but_one = [skill for skill in skill_questions(1, 0) if skill != "expression"]
    measured = asyncio.run(calibrate_pool(pool, tmp_path, tmp_path, 6, 0, but_one, said.append))
    assert len(said) == len(pool.models) * len(measured[0].right_by_skill)
    n_calls, about_usd, most_usd = price_of_calibration(pool, 6, 0, but_one)
    paid_usd = sum(m.cost_usd for m in measured)
    assert n_calls == len(pool.models) * len(but_one) * 6
    assert about_usd / 5 < paid_usd < 2 * about_usd, "steps of SCAN are shorter than is expected"
    assert paid_usd < most_usd
    assert said[0].startswith("sim-0.6b, add: ")
    right = {m.model: m.right_by_skill["multiply"] for m in measured}
    assert right["sim-400b"] == 6
    assert (right["sim-0.6b"] or 0) < 6
    write_profiles(pool, measured, 6, core_hour_usd=0.05)
    again = load_pool(path)
    assert again.models["sim-400b"].profile["multiply"] == 1.0
    assert again.models["sim-400b"].profile["scan_phrase"] == 1.0
    assert again.models["sim-400b"].profile["expression"] == 0.96, "not measured: as it was"
    rows = again.models["sim-400b"].profile_rows
    assert rows == dict.fromkeys(again.models["sim-400b"].profile, 6) | {"expression": 500}
    assert again.price("sim-400b") == pool.price("sim-400b"), "prices of models that are not local are the user's"
    assert path.read_text("utf-8").startswith("#")


def test_an_outage_is_no_wrong_answer_and_the_profile_stays(tmp_path: Path):
    pool, said = _pool_of_nobody(tmp_path), []
    measured = asyncio.run(calibrate_pool(pool, tmp_path, tmp_path, 1, 0, ["add"], said.append))
    assert measured[0].right_by_skill == {"add": None}
    assert "127.0.0.1:9" in (measured[0].why_unmeasured or "")
    assert said[0].startswith("a, add: not measured, 1 of 1 calls had no answer")
    write_profiles(pool, measured, 1, core_hour_usd=0.05)
    again = load_pool(pool.path).models["a"]
    assert (again.profile, again.profile_rows) == ({"add": 0.9}, None)


def _pool_of_nobody(tmp_path: Path) -> PoolConfig:
    path = tmp_path / "pool.toml"
    path.write_text(
        '[router]\ndecomposer = "a"\nallocator = "a"\n[models.a]\nendpoint = "http://127.0.0.1:9/v1"\ntier = '
        '"small"\ndeadline_s = 3\nprofile = {add = 0.9}\n'
        'price_usd_per_mtok = {input = 1.0, output = 1.0, date = "2026-11-24", source = "made up"}\n',
        "utf-8",
    )
    return load_pool(path)
