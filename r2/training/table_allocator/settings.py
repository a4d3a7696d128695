"""Every switch of an allocator that learns on tables, and its defaults (ours)."""

from dataclasses import dataclass

TINY = "tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorSettings:
    """`base`: as for `r2 sft` (r2/training/base.py). One question in `DEV` is learned from by nobody and says which
    weights are kept; of the others at most `n_questions` are used.

    SFT takes `sft_steps` steps of `batch_rows` rows, or more until each question was shown in `n_orders` orders of the
    models. A step of GRPO draws `group_size` rollouts of each of `batch_questions` questions, each with an order of its
    own, at the price `value` of a right answer in multiples of `cost_ref`; `kl` weighs how far it leaves the start. Dev
    questions are looked at every `check_every` steps, and GRPO ends when `patience` looks found none better.
    `trained_layers`: only so many of the last ones learn, None: all weights.
    """

    base: str = TINY
    seed: int = 0
    n_questions: int | None = None
    n_orders: int = 8
    sft_steps: int = 80
    batch_rows: int = 32
    sft_rate: float = 3e-3
    steps: int = 40
    batch_questions: int = 8
    group_size: int = 8
    grpo_rate: float = 1e-3
    kl: float = 0.02
    value: float = 50.0
    check_every: int = 10
    patience: int = 4
    trained_layers: int | None = None


def settings_for(base: str, seed: int) -> AllocatorSettings:
    """The defaults of a base. Of a pretrained one few questions, and only its last layers learn: on a core of a server
    CPU a prompt takes SmolLM2-135M two seconds. On a GPU all questions, and all layers."""
    if base.startswith(TINY):
        return AllocatorSettings(base=base, seed=seed)
    import torch

    if torch.cuda.is_available():
        return AllocatorSettings(base=base, seed=seed, sft_rate=1e-4, batch_questions=16, grpo_rate=2e-5)
    return AllocatorSettings(
        base=base,
        seed=seed,
        n_questions=48,
        sft_steps=24,
        batch_rows=16,
        sft_rate=3e-4,
        steps=10,
        batch_questions=4,
        group_size=8,
        grpo_rate=1e-4,
        check_every=5,
        trained_layers=4,
    )
