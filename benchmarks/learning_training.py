"""The training that benchmarks/prove_learning.py judges: SFT of two tiny policies on the teacher's rows, and the
settings of two rounds of GRPO, sound ones or ones that are broken on purpose.

    python benchmarks/learning_training.py sft decomposer|allocator SEED FOLDER
    python benchmarks/learning_training.py moving-partner SPEC
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from benchmarks.learning_plans import teachers_rows
from benchmarks.learning_world import LAM, POOL, questions
from r2.answering.allocation import parse_allocation
from r2.errors import R2Error
from r2.plan import parse_plan
from r2.policies.registry import PolicyCard, Registry
from r2.pool.file.config import load_pool
from r2.pool.file.tables import PriceTable
from r2.problem import Problem
from r2.problems.split import split_of
from r2.training.data import ChatRow
from r2.training.grpo.settings import GrpoSettings, PromptFilter, Role

TEST_SHARE = 0.25
N_PER_KIND = 1000
N_HELD_OUT = 200
"""Held-out questions that each round is compared on."""
SFT_STEPS = 300
STEPS = 50
"""Optimiser steps of SFT, and of each round of GRPO."""
PARSE_GATE = 0.9
MUTATIONS = ("wrong-sign", "frozen-moves", "cost-blind")
ROLES: tuple[Role, ...] = ("decomposer", "allocator")


def side_of(problem: Problem) -> str:
    """`train`, or `test`: held out from both kinds of training."""
    return split_of(problem.question, 0, TEST_SHARE)


def begin(seed: int, folder: Path) -> None:
    """The questions, and the two policies as SFT leaves them."""
    from storage.sources.problem_files import row_of

    folder.mkdir(parents=True, exist_ok=True)
    rows = [orjson.dumps(row_of(p), option=orjson.OPT_APPEND_NEWLINE) for p in questions(N_PER_KIND, seed)]
    (folder / "questions.jsonl").write_bytes(b"".join(rows))
    _both_at_once(seed, folder)


def supervise(role: Role, seed: int, folder: Path) -> None:
    """SFT of one tiny policy into the registry; a gate on how much of what it samples can be read."""
    from r2.training.base import load_base
    from r2.training.sampling import LocalPolicy
    from r2.training.sft import trainer as sft
    from r2.training.sft.settings import SftSettings

    rows = teachers_rows([p for p in questions(N_PER_KIND, seed) if side_of(p) == "train"], seed)
    texts = [said["content"] for some in rows.values() for row in some for said in (*row["prompt"], *row["completion"])]
    model, tokenizer = load_base("tiny", Path("models"), texts, seed)
    settings = SftSettings(
        policy=role,
        base="tiny",
        steps=SFT_STEPS,
        batch_size=32,
        seed=seed,
        threads=1,
        save_steps=10**6,
        # Mixed lengths: in batches of like length, whole questions (two tokens) would outweigh small steps (sixty) at
        # the first token.
        trainer={"train_sampling_strategy": "random"},
    )
    started = time.monotonic()
    (folder / f"sft-{role}").mkdir()
    trained = sft.train(rows[role], model, tokenizer, folder / f"sft-{role}", settings)
    sampled = LocalPolicy(trained.model, tokenizer).write(
        [[(said["role"], said["content"]) for said in row["prompt"]] for row in rows[role][:256]],
        120,
        temperature=1.0,
        seed=seed,
    )  # type: ignore[misc]
    readable = (
        sum(_is_read(role, text.text, row) and not text.is_cut for text, row in zip(sampled, rows[role], strict=False))
        / 256
    )
    if readable < PARSE_GATE:
        sys.exit(
            f"SFT of the {role}: {readable:.1%} of its samples can be read, fewer than {PARSE_GATE:.0%}; GRPO would "
            "learn form alone"
        )
    card = PolicyCard(
        name=f"tiny-{role}",
        kind=role,
        base="tiny",
        seed=seed,
        wall_s=time.monotonic() - started,
        metrics={"readable": readable},
    )
    registry = Registry(folder / "policies")
    policy = registry.create(card.name, card, lambda target: sft.save(trained, target))
    registry.promote(card.name, policy.card.version, "SFT on the teacher's labels")


def _is_read(role: Role, text: str, row: ChatRow) -> bool:
    try:
        if role == "decomposer":
            parse_plan(text)
        else:
            n = row["completion"][0]["content"].count("subtask")
            parse_allocation(text, n, load_pool(POOL).roster().solvers)
    except R2Error:
        return False
    return True


def settings_of(seed: int, folder: Path, mutate: str | None, steps: int) -> GrpoSettings:
    """The training, or a broken one. Wrong sign: TRL gets the weights negated. Cost-blind: the reward's lambda is 0,
    the utility's is not."""
    price = PriceTable(input=0.01, output=0.04, date="2026-11-24", source="made up: a tenth of the small model's")
    fields: dict[str, Any] = {
        "min_p": 0.04,
        # The small steps of a hard SCAN command are what few groups can find: each counts the same.
        "decomposer": {"scale_rewards": "group"},
        # The simulated answers are fixed, so that many groups of allocations differ in cost alone: scaled up each by
        # itself they would outvote those in which a cheap model is wrong, or a text cannot be read.
        "allocator": {"scale_rewards": "batch"},
    }
    # At learning rate 8e-4 with entropy 0.02 an allocator can run away: its entropy rises to 3 nats and more, and
    # nothing it writes can be read.
    if mutate == "wrong-sign":
        fields["reward_weights"] = [-1.0, LAM, -0.1]
    return GrpoSettings(
        problems=f"file:{folder / 'questions.jsonl'}",
        decomposer="tiny-decomposer",
        allocator="tiny-allocator",
        pool=str(POOL),
        lake=str(folder / "lake"),
        policies_dir=str(folder / "policies"),
        seed=seed,
        test_share=TEST_SHARE,
        n_held_out=N_HELD_OUT,
        rounds=2,
        first="decomposer",
        steps=steps,
        group_size=16,
        prompts_per_step=8,
        lam=0.0 if mutate == "cost-blind" else LAM,
        utility_lam=LAM,
        # A text that cannot be read must cost more than a wrong answer: it falls back to the middle model.
        well_formed_weight=1.0,
        entropy_coef=0.003,
        learning_rate=6e-4,
        threads=1,
        save_steps=10,
        # The safest choices are right nearly always and the best ones are not: where 12 are lost of a round's 200
        # problems they hold 0.1.
        accuracy_margin=0.15,
        # The teacher shows the models in one order, which is all that this proof is about.
        max_shuffled_cost=0,
        filter=PromptFilter(n_problems=192, n_rollouts=2),
        policy_price_usd_per_mtok=price,
        grpo=fields,
    )


def _both_at_once(seed: int, folder: Path) -> None:
    """The two policies' SFT, a process and a core each."""
    command = [sys.executable, __file__, "sft"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    logs = {role: (folder / f"sft-{role}.log").open("wb") for role in ROLES}
    running = {
        role: subprocess.Popen([*command, role, str(seed), str(folder)], stdout=log, stderr=log, env=environment)
        for role, log in logs.items()
    }
    for role, process in running.items():
        if process.wait():
            sys.exit(f"SFT of the {role} failed:\n{(folder / f'sft-{role}.log').read_text()[-2000:]}")
    for log in logs.values():
        log.close()


def run_with_moving_partner(spec: Path) -> None:
    """Does a round with a frozen policy that does not stand still."""
    from tasks.training.train_rounds import run_command

    run_command([sys.executable, __file__, "moving-partner", str(spec)], spec.parent / "train.log", 1)


def _moving_partner(spec: Path) -> None:
    """The same in this process: each time the frozen policy is asked, its weights drift."""
    import torch

    from r2.training.sampling import LocalPolicy
    from tasks.training.grpo_process import main as do_round

    still = LocalPolicy.write

    def drifting(self: LocalPolicy, *args: Any, **named: Any) -> Any:
        with torch.no_grad():
            for weights in self.model.parameters():
                weights.mul_(1.0 + 1e-4)
        return still(self, *args, **named)

    LocalPolicy.write = drifting  # type: ignore[method-assign]
    try:
        do_round(spec)
    except R2Error as error:
        sys.exit(f"error: {error}")


def main() -> None:
    match sys.argv[1:]:
        case ["sft", ("decomposer" | "allocator") as role, seed, folder]:
            supervise(role, int(seed), Path(folder))
        case ["moving-partner", spec]:
            _moving_partner(Path(spec))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
