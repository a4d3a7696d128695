"""Proof that training learns: tiny policies made in code, taught by a teacher who plays safe, then two alternating
rounds of GRPO.

World: SCAN commands that are joined or repeated, on the three simulated models of pools/learning.toml, through the real
client, `r2.answering.route`, rewards, rounds and promotion. The teacher allocates a tier too dear, noisily, and now and
then answers at once what is cheaper in steps. Held-out utility (1[correct] - lambda * cost / cost_ref, paired per
problem) must rise by 0.08 with its 95 % interval above zero, cost fall by a quarter, accuracy stay within 3 points.
`--mutate` breaks the training in a named way, and the check must then fail.

    python benchmarks/prove_learning.py [--seeds 3] [--mutate wrong-sign|frozen-moves|cost-blind] [--dir DIR]
"""

import argparse
import functools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from r2.answering.allocation import format_allocation
from r2.answering.prompts import DIRECT_STEP, allocate_messages, decompose_messages
from r2.errors import R2Error
from r2.evaluation.intervals import paired_interval
from r2.plan import DIRECT, Plan, Subtask, format_plan, parse_plan
from r2.policies.registry import PolicyCard, Registry
from r2.pool.file.config import PriceTable, load_pool
from r2.problem import Problem
from r2.problems import scan
from r2.problems.split import split_of
from r2.roster import ModelCard
from r2.training.data import ChatRow, chat_row
from r2.training.grpo.rounds import Rounds, read_result
from r2.training.grpo.settings import GrpoSettings, PromptFilter, Role

ROOT = Path(__file__).parent.parent
POOL = ROOT / "pools" / "learning.toml"
LAM = 0.3
TEST_SHARE = 0.25
N_HELD_OUT = 500
SFT_STEPS = 300
STEPS = 45
"""Optimiser steps of SFT, and of each round of GRPO."""
GAIN, COST_FALL, ACCURACY_LOSS, PARSE_GATE = 0.08, 0.25, 0.03, 0.95
MUTATIONS = ("wrong-sign", "frozen-moves", "cost-blind")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Before (SFT) and after (both rounds) on the held-out problems, and what of the promise was kept."""

    seed: int
    before: dict[str, float]
    after: dict[str, float]
    gain: float
    low: float
    high: float
    minutes: float
    failures: tuple[str, ...]


def family(seed: int) -> list[Problem]:
    """SCAN commands that are joined without repeats, or repeated without a joiner: 2,380 of them, in a seeded order."""
    commands = [c for c in scan.commands() if _is_joined(c) != any(word in scan.TIMES for word in c.split())]
    random.Random(f"family:{seed}").shuffle(commands)
    return [Problem(f"scan-{i}", c, i, scan.interpret(c), "scan") for i, c in enumerate(commands)]


def _is_joined(command: str) -> bool:
    return bool({"and", "after"} & set(command.split()))


def teachers_plan(problem: Problem, chance: random.Random) -> Plan:
    """The gold plan, or at a whim (mostly where "after" turns the order round) the whole question at once."""
    whim = 0.35 if "after" in problem.question.split() else 0.2
    return DIRECT if chance.random() < whim else scan.gold_plan(problem.question)[0]


def teachers_letters(plan: Plan, models: Sequence[ModelCard], chance: random.Random) -> list[str]:
    """A tier dearer than needed: the large model for whole questions and turns, the medium one for the rest; one in
    four is drawn at random, which is what leaves GRPO something to explore."""
    letters = {card.tier: letter for letter, card in zip("ABC", models, strict=True)}
    chosen = []
    for subtask in plan.subtasks or (Subtask(DIRECT_STEP),):
        is_hard = plan.is_direct or "around" in subtask.text or "opposite" in subtask.text
        is_blunder = chance.random() < 0.25
        chosen.append(chance.choice("ABC") if is_blunder else letters["large" if is_hard else "medium"])
    return chosen


def teachers_rows(problems: Sequence[Problem], seed: int) -> dict[Role, list[ChatRow]]:
    """What the teacher shows both policies, in the bare mode of the prompts."""
    chance, models = random.Random(f"teacher:{seed}"), load_pool(POOL).roster().solvers
    rows: dict[Role, list[ChatRow]] = {"decomposer": [], "allocator": []}
    for problem in problems:
        plan = teachers_plan(problem, chance)
        rows["decomposer"].append(chat_row(decompose_messages(problem, "bare"), format_plan(plan)))
        letters = teachers_letters(plan, models, chance)
        rows["allocator"].append(chat_row(allocate_messages(problem, plan, models, "bare"), format_allocation(letters)))
    return rows


def supervise(role: Role, seed: int, folder: Path) -> None:
    """SFT of one tiny policy into the registry; a gate on how much of what it samples can be read."""
    from r2.training.base import load_base
    from r2.training.sampling import LocalPolicy
    from r2.training.sft import trainer as sft
    from r2.training.sft.settings import SftSettings

    problems = [p for p in family(seed) if split_of(p.question, 0, TEST_SHARE) == "train"]
    rows = teachers_rows(problems, seed)
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
        # Mixed lengths: in batches of like length, whole questions (two tokens) would outweigh plans (forty) at the
        # first token.
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
    from r2.answering.allocation import parse_allocation

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
    # Scaled by the batch and not by each group: the simulated answers are fixed, so most groups differ in cost alone,
    # and scaled up each by itself
    # they would outvote the few in which a cheap model is wrong.
    fields: dict[str, Any] = {"scale_rewards": "batch"}
    # At learning rate 8e-4 with entropy 0.02 an allocator can run away: its entropy rises to 3 nats and more, and
    # nothing it writes can be read.
    if mutate == "wrong-sign":
        fields["reward_weights"] = [-1.0, LAM, -0.1]
    return GrpoSettings(
        problems=f"file:{folder / 'family.jsonl'}?check=scan",
        decomposer="tiny-decomposer",
        allocator="tiny-allocator",
        pool=str(POOL),
        lake=str(folder / "lake"),
        policies_dir=str(folder / "policies"),
        seed=seed,
        test_share=TEST_SHARE,
        n_held_out=N_HELD_OUT,
        rounds=2,
        steps=steps,
        group_size=16,
        prompts_per_step=8,
        lam=0.0 if mutate == "cost-blind" else LAM,
        utility_lam=LAM,
        entropy_coef=0.003,
        learning_rate=4e-4,
        threads=1,
        save_steps=10,
        # Each round has about 300 held-out problems of its own; where 15 are lost and 5 won they hold 0.077.
        accuracy_margin=0.1,
        # The teacher shows the models in one order, which is all that this proof is about.
        max_shuffled_cost=0,
        filter=PromptFilter(n_problems=192),
        policy_price_usd_per_mtok=price,
        grpo=fields,
    )


def begin(seed: int, folder: Path) -> None:
    """The problems, and the two policies as SFT leaves them."""
    from storage.sources.problem_files import row_of

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "family.jsonl").write_bytes(
        b"".join(orjson.dumps(row_of(p), option=orjson.OPT_APPEND_NEWLINE) for p in family(seed))
    )
    _both_at_once(seed, folder)


def prove(seed: int, folder: Path, mutate: str | None, steps: int) -> Verdict:
    """One seed, from nothing to the verdict."""
    from tasks.training.train_rounds import run_command, run_in_process, train_rounds

    started = time.monotonic()
    begin(seed, folder)
    say(f"seed {seed}: SFT done after {time.monotonic() - started:.0f} s")
    run_round: Callable[[Path], None] = run_in_process
    if mutate == "frozen-moves":
        run_round = functools.partial(_run_with_moving_partner, run_command)
    settings = settings_of(seed, folder, mutate, steps)
    try:
        rounds = train_rounds(
            settings, run_round, lambda r, d: say(f"seed {seed}, round {r.state.number - 1}: {d.reason}")
        )
    except R2Error as error:
        return Verdict(seed, {}, {}, 0.0, 0.0, 0.0, (time.monotonic() - started) / 60, (_cause(error),))
    return _verdict(seed, rounds, (time.monotonic() - started) / 60)


def _cause(error: R2Error) -> str:
    """The line that says what went wrong, of an error that quotes a round's log."""
    lines = str(error).splitlines()
    return next((line for line in reversed(lines) if line.startswith("error:")), lines[-1])


def _both_at_once(seed: int, folder: Path) -> None:
    """The two policies' SFT, a process and a core each."""
    command = [sys.executable, __file__, "--dir", str(folder), "--seed", str(seed), "--sft"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    logs = {role: (folder / f"sft-{role}.log").open("wb") for role in ("decomposer", "allocator")}
    running = {
        role: subprocess.Popen([*command, role], stdout=log, stderr=log, env=environment) for role, log in logs.items()
    }
    for role, process in running.items():
        if process.wait():
            sys.exit(f"SFT of the {role} failed:\n{(folder / f'sft-{role}.log').read_text()[-2000:]}")
    for log in logs.values():
        log.close()


def _run_with_moving_partner(run_command: Callable[[list[str], Path, int | None], None], spec: Path) -> None:
    run_command([sys.executable, __file__, "--moving-partner", str(spec)], spec.parent / "train.log", 1)


def _moving_partner(spec: Path) -> None:
    """The round with a frozen policy that does not stand still: each time it is asked, its weights drift."""
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


def _verdict(seed: int, rounds: Rounds, minutes: float) -> Verdict:
    """The promoted rounds' gains together. Each round was compared on problems of its own, so that the halves of their
    intervals add up as independent errors do."""
    results = [read_result(rounds.run_dir / f"round-{i:02d}" / "result.json") for i in range(rounds.state.number)]
    promoted = [
        result
        for result, record in zip(results, rounds.state.settled, strict=True)
        if record["decision"]["is_promoted"]
    ]
    a = results[0].before.summary(LAM)
    b, gain, below, above = dict(a), 0.0, 0.0, 0.0
    for result in promoted:
        old, new = np.asarray(result.before.utilities(LAM)), np.asarray(result.after.utilities(LAM))
        interval = paired_interval(new, old)
        assert interval is not None
        mean = float((new - old).mean())
        gain, below, above = gain + mean, below + (mean - interval.low) ** 2, above + (interval.high - mean) ** 2
        then, now = result.before.summary(LAM), result.after.summary(LAM)
        b = {name: value + now[name] - then[name] for name, value in b.items()}
    low, high = gain - below**0.5, gain + above**0.5
    checks = {
        f"utility rose by {gain:.3f}, not by {GAIN}": gain >= GAIN,
        f"the gain's interval reaches down to {low:.3f}": low > 0,
        f"cost fell by {1 - b['cost_usd'] / a['cost_usd']:.0%}, not by {COST_FALL:.0%}": b["cost_usd"]
        <= (1 - COST_FALL) * a["cost_usd"],
        f"accuracy fell by {a['accuracy'] - b['accuracy']:.3f}": a["accuracy"] - b["accuracy"] <= ACCURACY_LOSS,
    }
    return Verdict(seed, a, b, gain, low, high, minutes, tuple(said for said, holds in checks.items() if not holds))


def draw(folder: Path, seeds: Sequence[int], out: Path) -> None:
    """Reward, its terms and entropy over the steps of both rounds, from the lakes, as one picture."""
    import altair as alt

    from storage.sql.query import connect

    points = []
    for seed in seeds:
        lake = folder / f"seed-{seed}" / "lake"
        if not lake.is_dir():
            continue
        query = (
            "select policy, round, step, metric, value from curves where phase = 'grpo' and metric in "
            "('reward', 'rewards/right/mean', 'rewards/cost/mean', 'entropy') order by all"
        )
        with connect(lake) as db:
            found = db.execute(query).fetchall()
        for policy, number, step, metric, value in found:
            label = metric.removeprefix("rewards/").removesuffix("/mean")
            points.append(
                {"round": f"round {number}: {policy}", "step": step, "metric": label, "value": value, "seed": str(seed)}
            )
    if not points:
        return
    lines = (
        alt.Chart(alt.Data(values=points), width=320, height=120)
        .mark_line()
        .encode(
            x=alt.X("step:Q", title="optimiser step"),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            color=alt.Color("seed:N"),
            row=alt.Row("metric:N", title=None, sort=["reward", "right", "cost", "entropy"]),
            column=alt.Column("round:N", title=None),
        )
    )
    lines.resolve_scale(y="independent").save(str(out))


def say(line: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a table of text."""
    lines = [
        "seed  utility SFT -> GRPO (gain, 95 %)              accuracy         cost / cost of large alone   minutes  "
        "verdict"
    ]
    for v in verdicts:
        if not v.before:
            lines.append(f"{v.seed:4d}  stopped: {v.failures[0]}")
            continue
        a, b = v.before, v.after
        lines.append(
            f"{v.seed:4d}  {a['utility']:.3f} -> {b['utility']:.3f} ({v.gain:+.3f}, {v.low:+.3f} to {v.high:+.3f})   "
            f"{a['accuracy']:.3f} -> {b['accuracy']:.3f}   {a['cost_share']:.3f} -> {b['cost_share']:.3f} "
            f"({b['cost_usd'] / a['cost_usd'] - 1:+.0%})   "
            f"{v.minutes:7.1f}  {'holds' if not v.failures else 'FAILS: ' + '; '.join(v.failures)}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Proof that training learns.")
    parser.add_argument("--seeds", type=int, default=int(os.environ.get("SEEDS", "1")), help="how many; $SEEDS")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path("proof"),
        help="registries, lakes and the curve; must not hold an earlier proof",
    )
    parser.add_argument("--mutate", choices=MUTATIONS, help="break the training; the check must fail")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps per round")
    parser.add_argument("--seed", type=int, default=None, help="only this seed")
    parser.add_argument("--sft", choices=("decomposer", "allocator"), help=argparse.SUPPRESS)
    parser.add_argument("--moving-partner", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sft:
        supervise(given.sft, given.seed, given.dir)
        return 0
    if given.moving_partner:
        _moving_partner(given.moving_partner)
        return 0
    folder = given.dir / (given.mutate or "plain")
    seeds = [given.seed] if given.seed is not None else list(range(given.seeds))
    verdicts = [prove(seed, folder / f"seed-{seed}", given.mutate, given.steps) for seed in seeds]
    print(table(verdicts))
    folder.joinpath("verdicts.json").write_text(
        json.dumps([v.__dict__ if hasattr(v, "__dict__") else _fields(v) for v in verdicts], indent=1)
    )
    draw(folder, seeds, folder / "curve.png")
    print(folder / "curve.png")
    return 1 if any(v.failures for v in verdicts) else 0


def _fields(verdict: Verdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in Verdict.__slots__}  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
