"""A promised accuracy takes its `b` from a sweep of the same pool and router, and is refused where none shows it."""

from pathlib import Path

import pytest

from r2.errors import ConfigError
from r2.evaluation.sweep import RULE_VALUES, Sweep, SweepMeasurement, SweepSettings, answers_digest, checked, concluded
from r2.pool.file.config import load_pool
from r2.settings import AnswerSettings, Reasoning
from storage.evaluations.promise import promised
from storage.evaluations.sweeps import write_sweep
from tests.support.paths import ROOT

POOL = str(ROOT / "pools/simulated.toml")
N_RIGHT = {0.0: 490, 1.0: 485, 2.0: 450}
"""Of 500."""


def point(b: float, n_right: int | None) -> SweepMeasurement:
    return SweepMeasurement(b, f"run-{b}", 0.9, 0.9, 0.9, 1.0, 1.0, 1.0, 3.0, "small", 0.5, n_right)


def swept(
    lake: Path,
    n_right: dict[float, int | None] | dict[float, int] = N_RIGHT,
    sweep_id: str = "sweep-1",
    n: int = 500,
    b: tuple[float, ...] = (0.0, 1.0, 2.0),
    **fields: object,
) -> Sweep:
    pool = load_pool(POOL)
    given = {"problems": ("scan",), "pool": POOL, "lake": str(lake), "b": b} | fields
    settings = checked(SweepSettings.model_validate(given), pool)
    points = [point(one, count) for one, count in n_right.items()]
    digest = answers_digest(pool, settings.reasoning)
    sweep = concluded(sweep_id, "completed", settings, n, points, None, 0.0, digest)
    (lake / "_sweeps").mkdir(parents=True, exist_ok=True)
    write_sweep(lake, sweep)
    return sweep


def asked(lake: Path, **fields: object) -> AnswerSettings:
    settings = {"input": "questions.jsonl", "pool": POOL, "lake": str(lake), "target_accuracy": 0.95} | fields
    return AnswerSettings.model_validate(settings)


def test_without_a_target_nothing_changes(tmp_path: Path):
    assert promised(asked(tmp_path, target_accuracy=None)) is None


def test_b_is_the_cheapest_value_that_the_rows_show_and_the_run_is_that_of_this_b(tmp_path: Path):
    swept(tmp_path)

    promise = promised(asked(tmp_path))

    assert promise is not None
    chosen = promise.settings.reasoning
    assert chosen.b == 1.0
    by_hand = Reasoning(b=1.0, decomposer=chosen.decomposer, allocator=chosen.allocator)
    as_if = AnswerSettings(input="questions.jsonl", pool=POOL, reasoning=by_hand)
    assert promise.settings.run_id("input", "pool") == as_if.run_id("input", "pool")
    assert "485 of 500 rows; 450 of 500 at 2 do not show it" in promise.said
    again = promised(promise.settings)
    assert again is not None and again.settings == promise.settings


def test_another_target_is_answered_by_the_same_rows(tmp_path: Path):
    sweep = swept(tmp_path)

    promise = promised(asked(tmp_path, target_accuracy=0.85, certified=sweep.sweep_id))

    assert promise is not None and promise.settings.reasoning.b == 2.0


def test_without_a_sweep_the_refusal_says_how_many_rows_it_takes(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no sweep of this router and pool .* at least 59 of them"):
        promised(asked(tmp_path))


def test_too_few_rows_are_refused_with_the_number_that_would_do(tmp_path: Path):
    swept(tmp_path, {0.0: 49, 1.0: 49, 2.0: 49}, n=50)

    with pytest.raises(ConfigError, match=r"49 of 50 rows are right .* it takes \d+ rows, \d+ more"):
        promised(asked(tmp_path))


def test_two_sweeps_that_fit_are_not_chosen_between(tmp_path: Path):
    swept(tmp_path)
    swept(tmp_path, sweep_id="sweep-2")

    with pytest.raises(ConfigError, match="sweep-1, sweep-2"):
        promised(asked(tmp_path))
    promise = promised(asked(tmp_path, certified="sweep-2"))
    assert promise is not None and promise.sweep_id == "sweep-2"


def test_an_accuracy_is_promised_by_the_rule_unless_an_allocator_or_a_way_to_route_is_named(tmp_path: Path):
    pool = load_pool(POOL)

    def of(**fields: object) -> SweepSettings:
        return checked(SweepSettings.model_validate({"problems": ("scan",), "pool": POOL} | fields), pool)

    assert of(target_accuracy=0.9).reasoning.routing == "rule"
    assert of(target_accuracy=0.9).b == RULE_VALUES
    assert of(target_accuracy=0.9).at(1.0).allocator is None
    assert of(target_accuracy=0.9, b=(0.0, 1.0)).b == (0.0, 1.0)
    assert of(target_accuracy=0.9, allocator="sim-4b").reasoning.routing == "allocator"
    assert of(target_accuracy=0.9, reasoning={"routing": "allocator"}).reasoning.routing == "allocator"
    assert of().reasoning.routing == "allocator", "sweeps of before are resumed"
    again = of(target_accuracy=0.9)
    assert checked(again, pool) == again


def test_a_sweep_of_the_rule_answers_by_the_rule_with_what_it_was_measured_at(tmp_path: Path):
    swept(tmp_path, target_accuracy=0.95, reasoning={"routing": "rule", "value_usd": 0.5, "horizon": 2})

    promise = promised(asked(tmp_path))

    assert promise is not None
    chosen = promise.settings.reasoning
    assert (chosen.routing, chosen.value_usd, chosen.horizon, chosen.b) == ("rule", 0.5, 2, 1.0)
    assert chosen.allocator is None
    assert promised(promise.settings) == promise
    with pytest.raises(ConfigError, match=r"other settings \(routing\)"):
        promised(asked(tmp_path, certified="sweep-1", reasoning={"routing": "allocator"}))
    with pytest.raises(ConfigError, match=r"other settings \(value_usd\)"):
        promised(asked(tmp_path, certified="sweep-1", reasoning={"routing": "rule", "value_usd": 1.0}))


def test_a_floor_of_a_pool_with_trained_policies_reminds_of_the_rows_they_were_trained_on():
    def notes(trained: tuple[str, ...], **fields: object) -> tuple[str, ...]:
        settings = SweepSettings.model_validate({"problems": ("scan",), "b": (0.0,)} | fields)
        return concluded("s", "completed", settings, 500, [point(0.0, 490)], None, 0.0, "", trained).notes

    assert "trained policies (allocator)" in notes(("allocator",), target_accuracy=0.9)[0]
    assert notes(("allocator",)) == notes((), target_accuracy=0.9) == ()
    assert notes(("allocator",), target_accuracy=0.9, held_out=0.1) == ()


def test_a_value_that_was_not_measured_ends_the_path(tmp_path: Path):
    swept(tmp_path, {0.0: 490, 2.0: 490})

    promise = promised(asked(tmp_path))

    assert promise is not None and promise.settings.reasoning.b == 0.0

    sweep = swept(tmp_path)
    system = tmp_path / "system.txt"
    system.write_text("Answer as a clerk.")

    for fields, said in (
        ({"reasoning": {"max_escalations": 0}}, "other settings .max_escalations."),
        ({"reasoning": {"allocator": "sim-8b"}}, "with the allocator sim-4b, not sim-8b"),
        ({"reasoning": {"system_file": str(system)}}, "another pool, schema, system text or verifier"),
    ):
        with pytest.raises(ConfigError, match=said):
            promised(asked(tmp_path, certified=sweep.sweep_id, **fields))


def test_a_b_of_ones_own_and_a_method_without_a_knob_are_refused(tmp_path: Path):
    swept(tmp_path)

    with pytest.raises(ConfigError, match=r"--b 0\.5: --target-accuracy chooses b, and chose 1"):
        promised(asked(tmp_path, reasoning={"b": 0.5}))
    with pytest.raises(ConfigError, match="only method r2"):
        promised(asked(tmp_path, reasoning={"method": "cot"}))
    with pytest.raises(ConfigError, match="needs --target-accuracy"):
        promised(asked(tmp_path, target_accuracy=None, certified="sweep-1"))


def test_a_sweep_whose_answers_are_not_simply_right_or_wrong_promises_nothing(tmp_path: Path):
    swept(tmp_path, {0.0: None, 1.0: None, 2.0: None})

    with pytest.raises(ConfigError, match="which answers are simply right or wrong"):
        promised(asked(tmp_path))


def test_a_file_that_is_no_sweep_is_refused_by_its_path(tmp_path: Path):
    swept(tmp_path)
    path = tmp_path / "_sweeps" / "sweep-1.json"
    path.write_text('{"sweep_id": "sweep-1"}')

    with pytest.raises(ConfigError, match=r"sweep-1\.json: not a sweep"):
        promised(asked(tmp_path, certified=str(path)))
