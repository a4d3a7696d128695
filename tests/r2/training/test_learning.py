"""The proof that training teaches policies to choose by the question, one seed, through the real client, rewards,
rounds and promotion. Minutes on two cores; its parts are in test_learning_plans.py."""

import functools
import shutil
import sys
import time
from pathlib import Path

import pytest

from benchmarks import learning_training as training
from benchmarks.prove_learning import draw, judged, prove, told
from r2.lifeline import spawn
from r2.training.grpo.rounds import Rounds, read_result
from storage.lake.lake import Lake
from storage.runs.journal import Journal
from tasks.training.train_rounds import open_rounds, run_in_process, train_rounds


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sound training of seed 0."""
    folder = tmp_path_factory.mktemp("proof") / "seed-0"
    verdict = prove(0, folder)
    assert verdict.failures == (), told([verdict])
    return folder


@pytest.mark.slow
def test_two_rounds_of_grpo_learn_to_choose_model_and_plan_by_the_question(proved: Path):
    verdict = judged(0, _rounds_in(proved))
    assert verdict.failures == ()
    assert verdict.looks is not None
    assert verdict.looks.over_rule.low > 0
    assert "holds" in told([verdict])
    draw(proved.parent, [0], proved / "curve.png")
    assert (proved / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("mutation", ["shuffled-choices", "other-question"])
def test_choices_that_belong_to_other_questions_fail_the_check(proved: Path, mutation: str):
    verdict = judged(0, _rounds_in(proved), mutation)
    said = "\n".join(verdict.failures)
    assert "bits on the difficulty" in said
    assert "over the best rule" in said
    assert ("bits on the kind" in said) == (mutation == "shuffled-choices")
    assert "FAILS" in told([verdict])


@pytest.mark.slow
@pytest.mark.parametrize("mutation", training.MUTATIONS)
def test_a_broken_training_fails_the_check(tmp_path: Path, mutation: str):
    verdict = prove(0, tmp_path / "seed-0", mutation)
    said = "\n".join(verdict.failures)
    if mutation == "frozen-moves":
        assert "the frozen policy" in said
        return
    assert "over the best rule" in said
    if mutation == "wrong-sign":
        assert "the allocator's round: not promoted" in said, "what learns the wrong way is never promoted"


def _rounds_in(folder: Path) -> Rounds:
    return open_rounds(training.settings_of(0, folder, None, training.STEPS))


@pytest.mark.slow
def test_a_round_killed_in_mid_training_goes_on_at_its_checkpoint_and_ends_like_an_unbroken_one(tmp_path: Path):
    """The same weights, so the same held-out answers: the noise is none. No pool call is paid for twice."""
    start = tmp_path / "start"
    training.begin(0, start)
    ends = []
    for name, run_round in (("whole", run_in_process), ("killed", functools.partial(_killed_once, tmp_path))):
        folder = tmp_path / name
        shutil.copytree(start, folder)
        chosen = training.settings_of(0, folder, None, 16).model_copy(
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
