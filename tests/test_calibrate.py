import asyncio
from pathlib import Path

import pytest

from r2.pool.calibrate import Measured, calibrate_pool, ping_pool, skill_questions, speeds, write_profiles
from r2.pool.config import load_pool

ROOT = Path(__file__).parent.parent


def test_speeds_tell_prompt_and_reply_apart():
    # 100 prompt tokens a second, 10 generated ones a second: t = in / 100 + out / 10
    observed = [(100, 10, 2.0), (200, 10, 3.0), (100, 50, 6.0)]
    assert speeds(observed) == pytest.approx((100.0, 10.0))


def test_speeds_that_cannot_be_told_apart_are_the_overall_rate():
    assert speeds([(10, 10, 2.0), (20, 20, 4.0)]) == (10.0, 10.0)


def test_a_core_hours_price_is_spread_over_its_tokens():
    # 0.036 USD an hour is 1e-5 a second: 1 USD per million tokens at 10 a second, 0.1 at 100
    assert Measured("m", 1, {}, 1.0, 100.0, 10.0, 0.0).core_hour_price(0.036) == pytest.approx((0.1, 1.0))


def test_skill_questions_are_the_same_for_the_same_seed_and_have_one_operation():
    skills = skill_questions(5, seed=1)
    assert skills == skill_questions(5, seed=1)
    assert {name: len(problems) for name, problems in skills.items()} == {
        "add": 5,
        "multiply": 5,
        "word_problem": 5,
        "equation": 5,
    }


def test_a_simulated_pool_is_pinged_and_calibrated_and_its_file_keeps_its_comments(tmp_path: Path):
    path = tmp_path / "pool.toml"
    path.write_text((ROOT / "pools/simulated.toml").read_text("utf-8"), "utf-8")
    pool = load_pool(path)
    pings = asyncio.run(ping_pool(pool, tmp_path, tmp_path))
    assert [ping.model for ping in pings if ping.error is None] == list(pool.models)
    measured = asyncio.run(calibrate_pool(pool, tmp_path, tmp_path, n=6, seed=0))
    right = {m.model: m.right_by_skill["multiply"] for m in measured}
    assert right["sim-400b"] == 6
    assert right["sim-0.6b"] < 6
    write_profiles(pool, measured, 6, core_hour_usd=0.05)
    again = load_pool(path)
    assert again.models["sim-400b"].profile["multiply"] == 1.0
    assert again.price("sim-400b") == pool.price("sim-400b"), "prices of models that are not local are the user's"
    assert path.read_text("utf-8").startswith("#")


def test_an_endpoint_that_is_not_there_is_a_ping_with_an_error(tmp_path: Path):
    path = tmp_path / "pool.toml"
    path.write_text(
        '[router]\ndecomposer = "a"\nallocator = "a"\n[models.a]\nendpoint = "http://127.0.0.1:9/v1"\ntier = "small"\ndeadline_s = 3\n'
        'price_usd_per_mtok = {input = 1.0, output = 1.0, date = "2026-11-24", source = "made up"}\n', "utf-8",
    )  # fmt: skip
    [ping] = asyncio.run(ping_pool(load_pool(path), tmp_path, tmp_path))
    assert ping.error is not None
    assert "127.0.0.1:9" in ping.error
