"""One GRPO round with TRL's GRPOTrainer: one policy learns from the rewards of its rollouts, everything else stands
still.

Who calls it (tasks/training/grpo_process.py) brings the prompts, the scoring of rollouts and a place for them; here is
only the training. Left to TRL: advantages, losses, clipping, KL. Ours: the terms as separately logged reward functions
over one execution of each rollout, metrics of collapse with alarms, and a hook before each checkpoint, so that rollouts
are stored before the checkpoint after which they would not be made again.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from r2.training import device, ranks
from r2.training.curve import MetricsFile
from r2.training.grpo.batch import Draw, Rollout, ScoreBatch, TrainingPrompt, alarms_of, batch_metrics
from r2.training.grpo.reward import ScoredTrajectory
from r2.training.grpo.settings import TERMS, GrpoSettings
from r2.training.sampled import SampledText
from r2.training.sft.trainer import newest_checkpoint


@dataclass(slots=True)
class RoundMemory:
    """Rollouts since the last checkpoint, and the metrics of each step."""

    rolled: list[Rollout] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TrainedRound:
    """A finished round of training. `first_step` is the checkpoint it was resumed from, 0 for none. `weights` are the
    model's where several processes share it, None where this one has all of them."""

    model: Any
    tokenizer: Any
    first_step: int
    wall_s: float
    alarms: tuple[str, ...]
    weights: Mapping[str, Any] | None = None


def train(
    prompts: Sequence[TrainingPrompt],
    model: Any,
    tokenizer: Any,
    work_dir: Path,
    settings: GrpoSettings,
    *,
    seed: int,
    max_completion_tokens: int,
    score: ScoreBatch,
    keep: Callable[[Sequence[Rollout]], None],
    seen: Callable[[TrainingPrompt, int], TrainingPrompt] = lambda prompt, visit: prompt,
) -> TrainedRound:
    """Trains `settings.steps` steps, from the newest checkpoint in `work_dir` if there is one.

    `seen` says how a prompt looks at its n-th visit (0-based): an allocator's has another order of models each time.

    `keep` gets the rollouts since the checkpoint before, just before the next one is written: those of all ranks, on
    every rank. Metrics go to `work_dir/curve.jsonl`.
    """
    from datasets.arrow_dataset import Dataset
    from trl.trainer.grpo_trainer import GRPOTrainer

    started = time.monotonic()
    device.use_threads(settings.threads)
    tokenizer.padding_side = "left"
    curve, memory = MetricsFile(work_dir / "curve.jsonl"), RoundMemory()
    checkpoint = newest_checkpoint(work_dir)
    first_step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    if ranks.is_writer():
        curve.cut(first_step)
    asked = [(seen(prompt, visit), visit) for prompt, visit in in_order(prompts, settings, seed)]
    rewards = _Rewards({(p.place, visit): p for p, visit in asked}, tokenizer, settings, score, memory)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=cast(Any, rewards.functions()),
        args=_config(work_dir, settings, seed, max_completion_tokens),
        train_dataset=Dataset.from_list(
            [{"prompt": p.messages, "place": p.place, "visit": visit} for p, visit in asked]
        ),
        processing_class=tokenizer,
        callbacks=[_keeper(curve, memory, settings, keep)],
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    accelerator: Any = trainer.accelerator
    return TrainedRound(
        accelerator.unwrap_model(trainer.model),
        tokenizer,
        first_step,
        time.monotonic() - started,
        tuple(memory.alarms),
        accelerator.get_state_dict(trainer.model) if ranks.n_processes() > 1 else None,
    )


def in_order(prompts: Sequence[TrainingPrompt], settings: GrpoSettings, seed: int) -> list[tuple[TrainingPrompt, int]]:
    """The prompts of every step, one after the other, each with how often it came before. Every pass over the prompts
    has a new seeded order.

    Laid out beforehand, because TRL's own shuffling does not survive a resume past its first epoch: the order after it
    would be another.
    """
    n_wanted = settings.steps * settings.prompts_per_step * ranks.n_processes()
    order: list[tuple[TrainingPrompt, int]] = []
    visit = 0
    while len(order) < n_wanted:
        order += [
            (prompt, visit) for prompt in random.Random(f"order:{seed}:{visit}").sample(list(prompts), len(prompts))
        ]
        visit += 1
    return order[:n_wanted]


def _config(work_dir: Path, settings: GrpoSettings, seed: int, max_completion_tokens: int) -> Any:
    from trl.trainer.grpo_config import GRPOConfig

    weights = settings.weights
    fields: dict[str, Any] = {
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.prompts_per_step * settings.group_size,
        "gradient_accumulation_steps": 1,
        "num_generations": settings.group_size,
        "max_completion_length": max_completion_tokens,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant",
        "beta": settings.beta,
        "epsilon": settings.clip,
        "loss_type": settings.loss_type,
        "entropy_coef": settings.entropy_coef,
        "temperature": settings.temperature,
        "reward_weights": [weights[term] for term in TERMS],
        "logging_steps": 1,
        "logging_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_strategy": "steps",
        "save_total_limit": 2,
        "report_to": "none",
        "seed": seed,
        "shuffle_dataset": False,
        "disable_tqdm": True,
        "log_completions": False,
        **device.trainer_fields(),
    }
    return GRPOConfig(output_dir=str(work_dir), **{**fields, **settings.grpo})


class _Rewards:
    """TRL asks each reward function for the whole batch; the rollouts are executed for the first and remembered for the
    others."""

    def __init__(
        self,
        asked: Mapping[tuple[int, int], TrainingPrompt],
        tokenizer: Any,
        settings: GrpoSettings,
        score: ScoreBatch,
        memory: RoundMemory,
    ) -> None:
        self._asked, self._tokenizer, self._settings, self._score, self._memory = (
            asked,
            tokenizer,
            settings,
            score,
            memory,
        )
        self._prompt_tokens: dict[tuple[int, int], int] = {}
        self._last: tuple[int, list[ScoredTrajectory]] = (-1, [])

    def functions(self) -> list[Callable[..., list[float | None]]]:
        """One function per term, named after it."""

        def of(term: str) -> Callable[..., list[float | None]]:
            def reward(**batch: Any) -> list[float | None]:
                return [scored.terms.value(term) for scored in self._scored(batch)]

            reward.__name__ = term
            return reward

        return [of(term) for term in TERMS]

    def _scored(self, batch: Mapping[str, Any]) -> list[ScoredTrajectory]:
        step = batch["trainer_state"].global_step
        if self._last[0] != step:
            draws = self._draws(step, batch)
            scored = list(self._score(step, draws))
            self._last = (step, scored)
            self._memory.rolled += [Rollout(step, draw, one) for draw, one in zip(draws, scored, strict=True)]
            for name, value in batch_metrics(scored, self._settings.group_size, self._settings.weights).items():
                batch["log_metric"](name, value)
        return self._last[1]

    def _draws(self, step: int, batch: Mapping[str, Any]) -> list[Draw]:
        """The batch holds the rollouts of one problem side by side; `visit` counts the problem's earlier groups in this
        round."""
        seen: Counter[tuple[int, int]] = Counter()
        draws = []
        columns = (batch["place"], batch["visit"], batch["completions"], batch["completion_ids"])
        for place, visit, completion, ids in zip(*columns, strict=True):
            prompt = self._asked[place, visit]
            rollout = visit * self._settings.group_size + seen[place, visit]
            seen[place, visit] += 1
            tokens = list(ids)
            is_cut = self._tokenizer.eos_token_id not in tokens
            sampled = SampledText(completion[0]["content"], self._n_prompt_tokens(prompt, visit), len(tokens), is_cut)
            draws.append(Draw(prompt, rollout, sampled))
        return draws

    def _n_prompt_tokens(self, prompt: TrainingPrompt, visit: int) -> int:
        key = (prompt.place, visit)
        if key not in self._prompt_tokens:
            ids = self._tokenizer.apply_chat_template(
                prompt.messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
            self._prompt_tokens[key] = len(ids)
        return self._prompt_tokens[key]


def _keeper(
    curve: MetricsFile, memory: RoundMemory, settings: GrpoSettings, keep: Callable[[Sequence[Rollout]], None]
) -> Any:
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):
        """Metrics of each step to the curve; rollouts handed over before the next checkpoint is written."""

        def __init__(self) -> None:
            self.at = time.monotonic()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.at = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % args.save_steps == 0 or state.global_step >= state.max_steps:
                keep(ranks.gathered(memory.rolled))
                memory.rolled = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            metrics = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
            if "pool/outage_share" not in metrics or not ranks.is_writer():
                return  # the summary at the end
            metrics["step_s"] = time.monotonic() - self.at
            curve.add(state.global_step, metrics)
            memory.alarms += [f"step {state.global_step}: {alarm}" for alarm in alarms_of(metrics)]

    return Keeper()
