"""The proof that training learns, one seed, through the real client, rewards, rounds and promotion. Minutes on two
cores."""

import functools
import importlib.util
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

from r2.lifeline import spawn
from r2.training.grpo.promotion import HeldOut
from r2.training.grpo.rounds import Result, Rounds, State, read_result, write_json
from r2.training.grpo.settings import GrpoSettings
from storage.lake.lake import Lake
from storage.runs.journal import Journal
from tasks.training.train_rounds import run_in_process, train_rounds
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def proof() -> ModuleType:
    path = ROOT / "benchmarks" / "prove_learning.py"
    spec = importlib.util.spec_from_file_location("prove_learning", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prove_learning"] = module
    spec.loader.exec_module(module)
    return module


def test_the_verdict_adds_up_what_the_promoted_rounds_gained_each_on_its_own_problems(
    proof: ModuleType, tmp_path: Path
):
    """A round that gains 0.15 by cost, one that gains 0.06, and a dear one that was not promoted."""
    ids = tuple(f"p{i}" for i in range(40))

    def held(cost_share: float, number: int) -> HeldOut:
        names = tuple(f"{name}-{number}" for name in ids)
        return HeldOut(names, (1.0,) * 40, (cost_share * 1e-3,) * 40, (cost_share,) * 40, (1.0,) * 40)

    chosen = GrpoSettings(problems="scan", rounds=3)
    rounds = Rounds(tmp_path, chosen, State("grpo-1", {}, {}))
    for number, (before, after, is_promoted) in enumerate([(0.8, 0.3, True), (0.3, 0.9, False), (0.3, 0.1, True)]):
        (tmp_path / f"round-{number:02d}").mkdir()
        result = Result({}, held(before, number), held(after, number))
        write_json(tmp_path / f"round-{number:02d}" / "result.json", asdict(result))
        rounds.state.settled.append({"decision": {"is_promoted": is_promoted}})
    verdict = proof._verdict(0, rounds, 1.0)
    assert verdict.gain == pytest.approx(proof.LAM * (0.5 + 0.2))
    assert verdict.low == pytest.approx(verdict.gain)
    assert verdict.after["cost_share"] == pytest.approx(0.1)
    assert verdict.failures == ()


@pytest.mark.slow
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
    if mutation == "wrong-sign":
        assert verdict.after == verdict.before, "what learns the wrong way is never promoted"


@pytest.mark.slow
def test_a_round_killed_in_mid_training_goes_on_at_its_checkpoint_and_ends_like_an_unbroken_one(
    proof: ModuleType, tmp_path: Path
):
    """The same weights, so the same held-out answers: the noise is none. No pool call is paid for twice."""
    start = tmp_path / "start"
    proof.begin(0, start)
    ends = []
    for name, run_round in (("whole", run_in_process), ("killed", functools.partial(_killed_once, tmp_path))):
        folder = tmp_path / name
        shutil.copytree(start, folder)
        chosen = proof.settings_of(0, folder, None, 16).model_copy(
            update={"rounds": 1, "save_steps": 5, "n_held_out": 100}
        )
        rounds = train_rounds(chosen, run_round)
        ends.append((rounds, _journal(rounds), Lake(folder / "lake")))
    (whole, n_whole, lake), (killed, n_killed, other) = ends
    assert (tmp_path / "was-killed").exists()
    results = [read_result(rounds.run_dir / "round-00" / "result.json") for rounds in (whole, killed)]
    assert results[0].after == results[1].after
    assert n_whole == n_killed
    counts = [
        sum(batch.num_rows for batch in one.iter_rows("rewards", f"{r.state.run_id}-r0-allocator"))
        for one, r in ((lake, whole), (other, killed))
    ]
    assert counts == [16 * 128 * 3] * 2


def _killed_once(tmp_path: Path, spec: Path) -> None:
    """Ends the round's process with -9 after its second checkpoint, then runs it again."""
    process = spawn([sys.executable, "-m", "tasks.training.grpo_process", str(spec)], log=spec.parent / "killed.log")
    while not (spec.parent / "allocator" / "checkpoint-10" / "trainer_state.json").exists():
        assert process.poll() is None, (spec.parent / "killed.log").read_text()[-2000:]
        time.sleep(0.05)
    process.kill()
    process.communicate()  # closes the pipe that is its lifeline, too
    (tmp_path / "was-killed").touch()
    run_in_process(spec)


def _journal(rounds: Rounds) -> int:
    with Journal.open(rounds.run_dir / "calls.journal") as journal:
        return len(journal)
