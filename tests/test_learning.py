"""The proof that training learns, one seed, through the real client, rewards, rounds and promotion. Minutes on two cores."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def proof() -> ModuleType:
    path = ROOT / "benchmarks" / "prove_learning.py"
    spec = importlib.util.spec_from_file_location("prove_learning", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prove_learning"] = module
    spec.loader.exec_module(module)
    return module


def test_two_rounds_of_grpo_beat_their_teacher_on_held_out_problems(proof: ModuleType, tmp_path: Path):
    verdict = proof.prove(0, tmp_path / "seed-0", None, proof.STEPS)
    assert verdict.failures == ()
    assert verdict.gain >= 0.08
    assert verdict.low > 0
    assert verdict.after["cost_usd"] <= 0.75 * verdict.before["cost_usd"]
    assert verdict.after["accuracy"] >= verdict.before["accuracy"] - 0.03
    proof.draw(tmp_path, [0], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("mutation", ["wrong-sign", "frozen-moves", "cost-blind"])
def test_a_broken_training_fails_the_check(proof: ModuleType, tmp_path: Path, mutation: str):
    verdict = proof.prove(0, tmp_path / "seed-0", mutation, proof.STEPS)
    assert verdict.failures
    if mutation == "frozen-moves":
        assert "the frozen policy" in verdict.failures[0]
