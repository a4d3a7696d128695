"""GRPO on a model small enough for a test: learning goes where the reward points, resumes exactly, and leaves its rows
in the lake."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from r2.answering.protocol import Outcome, Trajectory
from r2.errors import TrainingError
from r2.problem import Problem
from r2.training.base import load_base
from r2.training.curve import MetricsFile
from r2.training.data import ChatMessage
from r2.training.grpo.batch import Draw, Rollout, TrainingPrompt
from r2.training.grpo.reward import ScoredTrajectory, Terms
from r2.training.grpo.settings import GrpoSettings
from r2.training.grpo.stages import check_frozen
from r2.training.grpo.trainer import TrainedRound, train
from r2.training.sampling import LocalPolicy
from r2.training.tiny import make_model, make_tokenizer, tiny_size

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
TEXTS = [
    "plan",
    "Question: walk around left and jump",
    "1. Translate 'walk around left'\n2. Join the result of step 1 (needs: 1)",
    "DIRECT",
    '[{"subtask":1,"model":"A"},{"subtask":2,"model":"B"}]',
    "Models:\nA: small, 0.175 USD; scan_join 99%\n\nSteps:",
]
PROMPTS = [
    TrainingPrompt(i, Problem(f"p{i}", "walk", i), [ChatMessage(role="user", content=text)])
    for i, text in enumerate(["walk", "jump", "left", "plan"])
]


def model_and_tokenizer(seed: int = 0):
    tokenizer = make_tokenizer(TEXTS)
    return make_model(tokenizer, seed, hidden=16, layers=1, heads=2), tokenizer


def settings(steps: int, **fields: object) -> GrpoSettings:
    base = {
        "problems": "scan",
        "steps": steps,
        "group_size": 8,
        "prompts_per_step": 2,
        "learning_rate": 2e-2,
        "save_steps": 4,
        "threads": 1,
    }
    return GrpoSettings.model_validate({**base, **fields})


def wants_marks(step: int, draws: Sequence[Draw]) -> list[ScoredTrajectory]:
    """Right is the share of tokens that are marks: something an untrained model can find."""
    scored = []
    for draw in draws:
        text = draw.sampled.text
        share = sum(text.count(mark) for mark in ".:%'") / max(1, draw.sampled.output_tokens)
        scored.append(ScoredTrajectory(Trajectory(draw.prompt.problem, Outcome(), ()), Terms(share, 0.0, 1.0)))
    return scored


def trained(work_dir: Path, chosen: GrpoSettings, score=wants_marks, kept: list[Rollout] | None = None) -> TrainedRound:
    work_dir.mkdir(exist_ok=True)
    model, tokenizer = model_and_tokenizer()
    keep = (lambda rolled: None) if kept is None else kept.extend
    return train(PROMPTS, model, tokenizer, work_dir, chosen, seed=3, max_completion_tokens=6, score=score, keep=keep)


def right_by_step(work_dir: Path) -> list[float]:
    return [
        point.value for point in MetricsFile(work_dir / "curve.jsonl").points() if point.metric == "rewards/right/mean"
    ]


def test_the_tokenizer_gives_back_every_text_it_knows_and_marks_words_it_does_not():
    tokenizer = make_tokenizer(TEXTS)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert tokenizer.decode(tokenizer("walk sideways", add_special_tokens=False)["input_ids"]) == "walk<unk>"
    said = [{"role": "system", "content": "plan"}, {"role": "user", "content": "DIRECT"}]
    assert (
        tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        == "<system>plan<end><user>DIRECT<end><assistant>"
    )


def test_a_tiny_model_depends_on_its_seed_and_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (LocalPolicy(*model_and_tokenizer(seed)).digest() for seed in (0, 0, 1))
    assert one == same != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_name_of_a_tiny_base_says_its_size():
    assert tiny_size("tiny") == {"hidden": 64, "layers": 2}
    assert tiny_size("tiny:128x4") == {"hidden": 128, "layers": 4}
    assert tiny_size("smollm2") is None
    model, _ = load_base("tiny:32x3", Path("models"), ["walk twice"], seed=1)
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (32, 3)


def test_sampling_leaves_the_trainers_random_state_alone_and_depends_on_its_seed():
    policy = LocalPolicy(*model_and_tokenizer())
    prompts = [(("user", "walk"),), (("user", "jump around left"),)] * 4
    before = torch.random.get_rng_state()
    first = policy.write(prompts, 6, temperature=1.0, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert (
        first == policy.write(prompts, 6, temperature=1.0, seed=1) != policy.write(prompts, 6, temperature=1.0, seed=2)
    )
    greedy = policy.write(prompts, 6)
    assert greedy[:2] * 4 == greedy
    assert all(text.is_cut or text.output_tokens <= 6 for text in first)


def test_learning_goes_where_the_reward_points_and_with_a_wrong_sign_the_other_way(tmp_path: Path):
    trained(tmp_path / "plain", settings(16))
    trained(tmp_path / "wrong", settings(16, grpo={"reward_weights": [-1.0, 0.0, 0.0]}))
    plain, wrong = right_by_step(tmp_path / "plain"), right_by_step(tmp_path / "wrong")
    assert plain[0] == wrong[0]
    assert sum(plain[-4:]) / 4 > plain[0] + 0.2
    assert sum(wrong[-4:]) / 4 < wrong[0]


def test_a_training_killed_between_checkpoints_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path):
    kept: list[Rollout] = []
    whole = trained(tmp_path / "whole", settings(8), kept=kept)
    assert [one.step for one in kept] == [step for step in range(8) for _ in range(16)]
    assert len({(one.draw.prompt.place, one.draw.rollout) for one in kept}) == len(kept)

    class Killed(Exception):
        pass

    def dying(step: int, draws: Sequence[Draw]) -> list[ScoredTrajectory]:
        if step == 6:
            raise Killed
        return wants_marks(step, draws)

    with pytest.raises(Killed):
        trained(tmp_path / "broken", settings(8), dying)
    again = trained(tmp_path / "broken", settings(8))
    assert again.first_step == 4
    assert LocalPolicy(again.model, again.tokenizer).digest() == LocalPolicy(whole.model, whole.tokenizer).digest()
    assert right_by_step(tmp_path / "broken") == right_by_step(tmp_path / "whole")


def test_rollouts_the_pool_failed_for_teach_nothing(tmp_path: Path):
    def outage(step: int, draws: Sequence[Draw]) -> list[ScoredTrajectory]:
        return [ScoredTrajectory(Trajectory(d.prompt.problem, Outcome(), ()), Terms(None, None, None)) for d in draws]

    before = LocalPolicy(*model_and_tokenizer()).digest()
    after = trained(tmp_path / "out", settings(2, entropy_coef=0.0), outage)
    assert LocalPolicy(after.model, after.tokenizer).digest() == before
    assert after.alarms[0].startswith("step 1")


def test_a_frozen_policy_that_moved_ends_the_round():
    policy = LocalPolicy(*model_and_tokenizer())
    before = policy.digest()
    check_frozen(1, {"allocator@v1": (before, policy.digest())})
    with torch.no_grad():
        next(iter(policy.model.parameters())).view(-1)[random.Random(0).randrange(10)] += 1e-3
    with pytest.raises(TrainingError, match="the frozen policy allocator@v1 changed"):
        check_frozen(1, {"allocator@v1": (before, policy.digest())})
