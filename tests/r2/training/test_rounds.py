"""Rounds as a state machine: who learns, when a candidate is promoted, and that a kill between any two steps loses and
repeats nothing."""

from dataclasses import asdict, replace
from pathlib import Path

import orjson
import pytest

from r2.errors import ConfigError
from r2.policies.registry import PolicyCard, Registry
from r2.pool.file.config import PoolConfig, load_pool
from r2.problem import Problem
from r2.training.curve import MetricsFile
from r2.training.grpo.batch import Draw, Rollout, TrainingPrompt
from r2.training.grpo.partners import untrained_digest, versions_of
from r2.training.grpo.promotion import Gate, HeldOut, decide
from r2.training.grpo.rejection import best_rows
from r2.training.grpo.reward import ScoredTrajectory, Terms
from r2.training.grpo.rounds import Result, Rounds, fresh_held_out, read_result, write_json
from r2.training.grpo.settings import GrpoSettings, load_grpo_settings
from r2.training.sampled import SampledText
from tasks.training.train_rounds import progress_of
from tests.support.paths import ROOT

GATE = Gate(lam=0.3, accuracy_margin=0.1)
"""40 problems of which none is lost hold a margin of 0.088."""
BEFORE_THE_GATE = "grpo-191207e8136e"
"""Identity that a training with every default had before there was a gate."""
IDS = tuple(f"p{i}" for i in range(40))


def held_out(right: float, cost_share: float, n_read: int = 40) -> HeldOut:
    """40 problems, the first `right` share of them right, all at one cost; the texts of the first
    `n_read` were read."""
    n_right = round(right * len(IDS))
    read = (1.0,) * n_read + (0.0,) * (40 - n_read)
    return HeldOut(IDS, (1.0,) * n_right + (0.0,) * (40 - n_right), (cost_share * 1e-3,) * 40, (cost_share,) * 40, read)


def settings(tmp_path: Path, **fields: object) -> GrpoSettings:
    return GrpoSettings.model_validate(
        {"problems": "scan", "policies_dir": str(tmp_path / "policies"), "accuracy_margin": 0.1, **fields}
    )


def registry(tmp_path: Path) -> Registry:
    """Two policies at v1, promoted, each with a candidate v2."""
    found = Registry(tmp_path / "policies")
    for kind in ("decomposer", "allocator"):
        for version in ("v1", "v2"):
            card = PolicyCard(name=kind, kind=kind, base="tiny")
            found.create(kind, card, lambda folder, text=version: (folder / "model.safetensors").write_text(text))
        found.promote(kind, "v1", "start")
    return found


START = {"decomposer": "decomposer@v1", "allocator": "allocator@v1"}


def finish(spec: Path, before: HeldOut, after: HeldOut, **candidates: str) -> None:
    write_json(spec.parent / "result.json", asdict(Result(candidates, before, after)))


def test_utility_is_right_minus_lambda_times_the_share_of_cost():
    two = HeldOut(("a", "b"), (1.0, 0.0), (2e-3, 1e-3), (0.5, 0.25), (1.0, 0.0))
    assert two.utilities(0.4) == [pytest.approx(0.8), pytest.approx(-0.1)]
    assert two.summary(0.4) == pytest.approx(
        {"utility": 0.35, "accuracy": 0.5, "cost_usd": 1.5e-3, "cost_share": 0.375, "readable": 0.5}
    )


def test_a_cheaper_version_of_the_same_accuracy_is_promoted():
    decision = decide(held_out(0.9, 0.5), held_out(0.9, 0.1), GATE)
    assert decision.is_promoted
    assert decision.difference == pytest.approx(0.12)
    assert decision.low == pytest.approx(0.12)


def test_a_worse_version_is_refused():
    decision = decide(held_out(0.9, 0.1), held_out(0.5, 0.05), GATE)
    assert not decision.is_promoted
    assert decision.high < 0
    assert decision.reason.startswith("kept")


def test_an_equal_version_and_one_whose_gain_is_doubtful_are_refused():
    assert not decide(held_out(0.9, 0.1), held_out(0.9, 0.1), GATE).is_promoted
    by_luck = HeldOut(IDS, (1.0, 1.0, 1.0) + (0.0,) * 37, (0.0,) * 40, (0.0,) * 40)
    without = HeldOut(IDS, (0.0, 0.0, 0.0, 1.0, 1.0) + (0.0,) * 35, (0.0,) * 40, (0.0,) * 40)
    decision = decide(without, by_luck, GATE)
    assert decision.difference > 0 > decision.low
    assert not decision.is_promoted


def test_a_cheaper_version_whose_texts_cannot_be_read_is_refused_because_the_fallback_earned_it():
    """Utility +0.12 throughout. 40 of 40 read before: 38 are 95 %, five points fewer, which is let pass; 37 are 92.5 %;
    1 is 2.5 %."""
    before = held_out(0.9, 0.5)
    assert decide(before, held_out(0.9, 0.1, n_read=38), GATE).is_promoted
    assert not decide(before, held_out(0.9, 0.1, n_read=37), GATE).is_promoted
    assert decide(before, held_out(0.9, 0.1, n_read=37), replace(GATE, readable_loss=0.1)).is_promoted
    decision = decide(before, held_out(0.9, 0.1, n_read=1), GATE)
    assert not decision.is_promoted
    assert decision.reason.startswith(
        "kept: plan and allocation can be read for only 2 % of the held-out problems, 100 % before; a fallback answered"
    )
    assert (decision.before["readable"], decision.after["readable"]) == (1.0, 0.025)


def test_a_version_that_is_read_as_rarely_as_the_one_before_it_is_compared_by_utility():
    assert decide(held_out(0.9, 0.5, n_read=20), held_out(0.9, 0.1, n_read=20), GATE).is_promoted


def test_how_much_may_be_unreadable_is_a_setting_that_settling_keeps_to(tmp_path: Path):
    for loss, is_promoted in ((0.05, False), (1.0, True)):
        folder = tmp_path / str(loss)
        registry(folder)
        rounds = Rounds.open(folder / "run", settings(folder, rounds=1, readable_loss=loss), "grpo-1", dict(START))
        finish(rounds.next_spec(), held_out(0.9, 0.5), held_out(0.9, 0.1, n_read=30), allocator="allocator@v2")
        assert rounds.settle().is_promoted is is_promoted


def test_a_result_from_before_reading_was_measured_is_still_compared(tmp_path: Path):
    registry(tmp_path)
    rounds = Rounds.open(tmp_path / "run", settings(tmp_path, rounds=1), "grpo-1", dict(START))
    spec = rounds.next_spec()
    old = asdict(Result({"allocator": "allocator@v2"}, held_out(0.9, 0.5), held_out(0.9, 0.1)))
    for side in ("before", "after"):
        del old[side]["is_read"]
    write_json(spec.parent / "result.json", old)
    assert read_result(spec.parent / "result.json").after.readable == 1.0
    assert rounds.settle().is_promoted


def test_a_version_that_can_hardly_be_read_is_not_promoted_however_it_was_before():
    decision = decide(held_out(0.9, 0.5, n_read=19), held_out(0.9, 0.1, n_read=19), GATE)
    assert not decision.is_promoted
    assert "can be read for only 48 %" in decision.reason
    assert decide(
        held_out(0.9, 0.5, n_read=19), held_out(0.9, 0.1, n_read=19), replace(GATE, min_readable=0.4)
    ).is_promoted


def test_what_the_problems_cannot_show_of_accuracy_is_not_promoted_and_the_missing_ones_are_counted():
    """40 problems, none lost: U(0/40) = 1 - 0.025^(1/40) = 0.088."""
    before, after = held_out(0.9, 0.5), held_out(0.9, 0.1)
    refused = decide(before, after, replace(GATE, accuracy_margin=0.05))
    assert not refused.is_promoted
    assert refused.accuracy_margin_held == pytest.approx(1 - 0.025 ** (1 / 40))
    assert refused.n_problems_missing == 72 - 40, "1 - 0.025^(1/72) is the first at most 0.05"
    assert "32 more held-out problems are needed" in refused.reason
    assert "hold a margin of 0.0881 (0 lost and 0 won of 40 problems" in refused.reason
    promoted = decide(before, after, GATE)
    assert promoted.is_promoted
    assert "accuracy no worse by more than 0.0881 (0 lost and 0 won of 40 problems)" in promoted.reason


def test_a_version_that_is_much_cheaper_and_less_accurate_is_not_promoted():
    decision = decide(held_out(0.9, 0.9), held_out(0.8, 0.1), GATE)
    assert decision.difference == pytest.approx(-0.1 + 0.3 * 0.8)
    assert (decision.n_losses, decision.n_wins) == (4, 0)
    assert not decision.is_promoted
    assert "no number of problems would show" in decision.reason
    assert decide(held_out(0.9, 0.9), held_out(0.8, 0.1), replace(GATE, accuracy_margin=1.0)).is_promoted


def test_one_problem_that_was_very_dear_does_not_decide_alone():
    """39 problems at 0.1 cost a little more, one falls from 100 to 0.1. It saves 3 * 0.1 and no more."""
    before = HeldOut(IDS, (1.0,) * 40, (1e-3,) * 40, (100.0,) + (0.1,) * 39)
    after = HeldOut(IDS, (1.0,) * 40, (1e-3,) * 40, (0.1,) + (0.12,) * 39)
    decision = decide(before, after, GATE)
    assert decision.difference == pytest.approx(0.3 * (0.3 - 39 * 0.02) / 40)
    assert decision.n_capped == 1
    assert not decision.is_promoted
    assert "1 savings counted only up to the cap" in decision.reason
    assert decide(before, after, replace(GATE, cost_share_cap=0)).difference > 0.7


def test_what_a_problem_costs_more_counts_whole():
    before = HeldOut(IDS, (1.0,) * 40, (1e-3,) * 40, (0.1,) * 40)
    after = HeldOut(IDS, (1.0,) * 40, (1e-3,) * 40, (100.0,) + (0.0,) * 39)
    assert decide(before, after, GATE).difference == pytest.approx(0.3 * (-99.9 + 39 * 0.1) / 40)


def test_an_allocator_that_goes_by_places_is_not_promoted():
    before, after = held_out(0.9, 0.5), held_out(0.9, 0.1)
    assert decide(before, after, GATE, shuffled=held_out(0.9, 0.11)).is_promoted
    decision = decide(before, after, GATE, shuffled=held_out(0.9, 0.12))
    assert not decision.is_promoted
    assert decision.shuffled_cost_ratio == pytest.approx(1.2)
    assert "in random orders it costs 1.20 times as much, more than 1.1" in decision.reason
    assert decide(before, after, replace(GATE, max_shuffled_cost=0), shuffled=held_out(0.9, 0.5)).is_promoted


def test_settling_asks_for_the_shuffled_cost_that_the_round_measured(tmp_path: Path):
    registry(tmp_path)
    rounds = Rounds.open(tmp_path / "run", settings(tmp_path, rounds=1), "grpo-1", dict(START))
    spec = rounds.next_spec()
    ends = Result({"allocator": "allocator@v2"}, held_out(0.9, 0.5), held_out(0.9, 0.1), shuffled=held_out(0.9, 0.3))
    write_json(spec.parent / "result.json", asdict(ends))
    assert read_result(spec.parent / "result.json").shuffled == held_out(0.9, 0.3)
    decision = rounds.settle()
    assert not decision.is_promoted
    assert decision.shuffled_cost_ratio == pytest.approx(3.0)


def test_every_round_is_compared_on_problems_of_its_own(tmp_path: Path):
    problems = [Problem(f"p{i}", "walk", i) for i in range(10)]

    def ids(number: int, **fields: object) -> list[str]:
        chosen = settings(tmp_path, **{"rounds": 3, **fields})
        return [one.problem_id for one in fresh_held_out(tmp_path, number, problems, chosen)]

    def compared_on(number: int, names: list[str]) -> None:
        folder = tmp_path / f"round-{number:02d}"
        folder.mkdir()
        n = len(names)
        held = HeldOut(tuple(names), (1.0,) * n, (0.0,) * n, (0.0,) * n)
        write_json(folder / "result.json", asdict(Result({}, held, held)))

    first = ids(0)
    assert first == ["p0", "p1", "p2"], "a third of ten"
    assert ids(0, n_held_out=2) == ["p0", "p1"]
    compared_on(0, first)
    second = ids(1)
    assert second == ["p3", "p4", "p5"], "half of the seven that are left"
    compared_on(1, second)
    assert ids(2) == ["p6", "p7", "p8", "p9"]
    compared_on(2, ids(2))
    with pytest.raises(ConfigError, match="round 3: 0 of 10 held-out problems were not used by an earlier round"):
        ids(3, rounds=4)


def test_a_training_from_before_the_gate_keeps_its_identity(tmp_path: Path):
    chosen = GrpoSettings(problems="scan")
    dumped = chosen.model_dump(mode="json")
    later = ("min_readable", "accuracy_margin", "delta", "cost_share_cap", "max_shuffled_cost", "random_order")
    assert chosen.run_id("pool", "problems") == BEFORE_THE_GATE
    for name, other in zip(later, (0.4, 0.1, 0.1, 5.0, 2.0, True), strict=True):
        changed = GrpoSettings.model_validate({**dumped, name: other})
        assert changed.run_id("pool", "problems") != BEFORE_THE_GATE, name


def test_a_comparison_over_other_problems_is_a_bug():
    with pytest.raises(ValueError, match="same problems"):
        decide(held_out(1, 0), HeldOut(("x",), (1.0,), (0.0,), (0.0,)), GATE)


def test_rounds_alternate_from_the_policy_that_is_named_first(tmp_path: Path):
    assert [settings(tmp_path).roles_of(i) for i in range(3)] == [("allocator",), ("decomposer",), ("allocator",)]
    assert settings(tmp_path, first="decomposer").roles_of(0) == ("decomposer",)
    assert settings(tmp_path, mode="joint").roles_of(1) == ("allocator", "decomposer")


def test_a_training_goes_through_its_rounds_and_builds_on_what_was_promoted(tmp_path: Path):
    known, chosen = registry(tmp_path), settings(tmp_path, rounds=2)
    rounds = Rounds.open(tmp_path / "run", chosen, "grpo-1", dict(START))
    spec = rounds.next_spec()
    assert orjson.loads(spec.read_bytes())["roles"] == ["allocator"]
    finish(spec, held_out(0.9, 0.5), held_out(0.9, 0.1), allocator="allocator@v2")
    assert rounds.settle().is_promoted
    assert known.current("allocator") == "v2"
    assert known.history("allocator")[-1]["decision"]["low"] == pytest.approx(0.12)

    second = rounds.next_spec()
    assert orjson.loads(second.read_bytes())["versions"] == {"decomposer": "decomposer@v1", "allocator": "allocator@v2"}
    assert orjson.loads(second.read_bytes())["roles"] == ["decomposer"]
    finish(second, held_out(0.9, 0.1), held_out(0.4, 0.1), decomposer="decomposer@v2")
    assert not rounds.settle().is_promoted
    assert known.current("decomposer") == "v1"
    assert rounds.is_done
    assert rounds.state.current == {"decomposer": "decomposer@v1", "allocator": "allocator@v2"}


def test_killed_anywhere_the_same_call_goes_on(tmp_path: Path):
    known, chosen = registry(tmp_path), settings(tmp_path, rounds=2)

    def again() -> Rounds:
        return Rounds.open(tmp_path / "run", chosen, "grpo-1", dict(START))

    spec = again().next_spec()
    assert again().next_spec() == spec
    finish(spec, held_out(0.9, 0.5), held_out(0.9, 0.1), allocator="allocator@v2")
    known.promote("allocator", "v2", "a kill came after this and before the state was written")
    assert again().settle().is_promoted
    assert again().state.number == 1
    assert len([entry for entry in known.history("allocator") if entry["version"] == "v2"]) == 1


def test_more_rounds_go_on_with_a_finished_training(tmp_path: Path):
    registry(tmp_path)
    rounds = Rounds.open(tmp_path / "run", settings(tmp_path, rounds=1), "grpo-1", dict(START))
    finish(rounds.next_spec(), held_out(0.9, 0.5), held_out(0.9, 0.1), allocator="allocator@v2")
    rounds.settle()
    assert rounds.is_done
    more = Rounds.open(tmp_path / "run", settings(tmp_path, rounds=2), "grpo-1", dict(START))
    assert not more.is_done
    one, two = settings(tmp_path, rounds=1), settings(tmp_path, rounds=2)
    assert one.run_id("pool", "problems") == two.run_id("pool", "problems")
    assert one.run_id("pool", "problems") != settings(tmp_path, lam=0.1).run_id("pool", "problems")


def test_joint_candidates_are_promoted_together(tmp_path: Path):
    known = registry(tmp_path)
    rounds = Rounds.open(tmp_path / "run", settings(tmp_path, rounds=1, mode="joint"), "grpo-1", dict(START))
    both = {"decomposer": "decomposer@v2", "allocator": "allocator@v2"}
    finish(rounds.next_spec(), held_out(0.9, 0.5), held_out(0.9, 0.1), **both)
    rounds.settle()
    assert (known.current("decomposer"), known.current("allocator")) == ("v2", "v2")


def test_sft_only_has_one_round_in_which_nobody_learns(tmp_path: Path):
    rounds = Rounds.open(tmp_path / "run", settings(tmp_path, rounds=0, mode="sft_only"), "grpo-1", dict(START))
    assert orjson.loads(rounds.next_spec().read_bytes())["roles"] == []
    finish(rounds.next_spec(), held_out(0.9, 0.5), held_out(0.9, 0.5))
    assert not rounds.settle().is_promoted
    assert rounds.is_done


def test_a_pool_entry_cannot_learn(tmp_path: Path):
    rounds = Rounds.open(tmp_path / "run", settings(tmp_path), "grpo-1", {**START, "allocator": "sim-4b"})
    with pytest.raises(ConfigError, match="'sim-4b' is a pool entry, which cannot be trained"):
        rounds.next_spec()


def test_another_trainings_folder_and_a_round_without_result_are_refused(tmp_path: Path):
    Rounds.open(tmp_path / "run", settings(tmp_path), "grpo-1", dict(START))
    with pytest.raises(ConfigError, match="is of training grpo-1"):
        Rounds.open(tmp_path / "run", settings(tmp_path), "grpo-2", dict(START))
    with pytest.raises(ConfigError, match="without a result"):
        read_result(tmp_path / "run" / "round-00" / "result.json")


def test_the_best_right_text_of_each_problem_is_what_rejection_sampling_learns():
    prompts = [TrainingPrompt(i, None, []) for i in range(3)]

    def one(place: int, text: str, right: float | None, cost: float | None) -> Rollout:
        sampled = SampledText(text, 1, 1)
        terms = Terms(right, cost, None if right is None else 1.0)
        return Rollout(0, Draw(prompts[place], 0, sampled), ScoredTrajectory(None, terms))

    rolled = [
        one(0, "dear", 1.0, 0.9),
        one(0, "cheap", 1.0, 0.1),
        one(0, "wrong", 0.0, 0.0),
        one(1, "wrong", 0.0, 0.0),
        one(2, "out", None, None),
    ]
    rows = best_rows(rolled, {"right": 1.0, "cost": -0.3, "well_formed": 0.1})
    assert [row["completion"][0]["content"] for row in rows] == ["cheap"]


def test_the_papers_config_is_the_papers():
    paper = load_grpo_settings(ROOT / "configs/ablations/grpo_paper.toml", {})
    assert (paper.lam, paper.group_size, paper.steps, paper.loss_type, paper.filter.by) == (
        0.0,
        4,
        1024,
        "grpo",
        "nothing",
    )
    assert paper.beta > 0 and paper.review is not None
    assert paper.weights == {"right": 1.0, "cost": 0.0, "well_formed": 0.0}


def test_a_mode_without_rounds_refuses_rounds():
    with pytest.raises(ConfigError, match="sft_only has no rounds"):
        load_grpo_settings(None, {"problems": "scan", "mode": "sft_only", "rounds": 2})
    with pytest.raises(ConfigError, match="second_decomposer has no part in training"):
        load_grpo_settings(None, {"problems": "scan", "reasoning": {"second_decomposer": "large"}})


def test_a_pool_entry_that_serves_a_policy_means_that_policy_and_its_promotion_makes_no_other_training(tmp_path: Path):
    """The solver beside it still counts: another pool is another training."""
    policies = registry(tmp_path)
    price = '{input = 1, output = 2, date = "2026-11-24", source = "made up"}'

    def pool(price: str) -> PoolConfig:
        path = tmp_path / "pool.toml"
        path.write_text(
            f"""
[router]
decomposer = "planner"
allocator = "sim"

[models.sim]
endpoint = "simulated:sim"
tier = "small"
price_usd_per_mtok = {price}
simulated = {{ability = 2.0}}

[models.planner]
endpoint = "policy:decomposer"
tier = "small"
prompt_mode = "bare"
solver = false
price_usd_per_mtok = {price}
""",
            "utf-8",
        )
        return load_pool(path, policies.root)

    chosen = settings(tmp_path, decomposer="planner", allocator="sim")
    before = pool(price)
    versions = versions_of(chosen, before)
    assert versions == {"decomposer": "decomposer@v1", "allocator": "sim"}
    policies.promote("decomposer", "v2", "better")
    after = pool(price)
    assert after.digest != before.digest
    assert untrained_digest(after, versions_of(chosen, after)) == untrained_digest(before, versions)
    dearer = pool(price.replace("output = 2", "output = 3"))
    assert untrained_digest(dearer, versions_of(chosen, dearer)) != untrained_digest(before, versions)


def test_a_running_round_says_where_its_policy_is(tmp_path: Path):
    assert progress_of(tmp_path) == {}
    (tmp_path / "round-01" / "allocator").mkdir(parents=True)
    curve = MetricsFile(tmp_path / "round-01" / "allocator" / "curve.jsonl")
    curve.add(1, {"reward": 0.25, "loss": 3.0})
    curve.add(2, {"reward": 0.5, "pool/valid_share": 1.0, "loss": 2.0})
    facts = progress_of(tmp_path / "round-01")
    assert facts["round"] == "round-01"
    assert facts["allocator"] == {"step": 2, "reward": 0.5, "valid": 1.0}


def test_fields_of_trl_can_hold_in_the_rounds_of_one_policy_alone() -> None:
    given = {"min_p": 0.1, "allocator": {"min_p": 0.2, "scale_rewards": "batch"}}
    settings = load_grpo_settings(None, {"problems": "scan", "grpo": given})
    assert settings.of_role("decomposer").grpo == {"min_p": 0.1}
    assert settings.of_role("allocator").grpo == {"min_p": 0.2, "scale_rewards": "batch"}
    with pytest.raises(ConfigError, match=r"grpo\.allocator is the table"):
        load_grpo_settings(None, {"problems": "scan", "grpo": {"allocator": 1}})
