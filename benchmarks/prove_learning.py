"""Proof that training teaches two policies what only a look at the question can tell.

World (benchmarks/learning_world.py, benchmarks/learning_plans.py): three kinds of question, three difficulties, five
simulated models, and plans that are right but dear beside plans that are right and cheap. Tiny policies made in code
are taught by a teacher who plays safe (SFT), then two rounds of GRPO through the real client, `r2.answering.route`,
rewards, rounds and promotion. Asserted, on questions that neither training nor a promotion looked at: each round gains;
the models chosen tell the kind, and within a kind the difficulty, each kind has another most used model, and the form
of a SCAN command's plan tells its difficulty (benchmarks/learning_checks.py); utility is above the start's, the best
constant's and the best rule's, all chosen in hindsight. `--mutate` breaks the training, or the choices, in a named way,
and the check must then fail.

    python benchmarks/prove_learning.py [--seeds 3] [--mutate MUTATION] [--dir DIR]
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks import learning_training as training
from benchmarks.learning_checks import (
    LEAST_BITS,
    Gain,
    Looks,
    conditional_information,
    dealt,
    floor,
    gain,
    looks,
    table_of,
)
from benchmarks.learning_plans import Texts, dearest, played, steps_by_one_model, utility_of
from benchmarks.learning_world import LAM, POOL, Outcomes, questions, table
from r2.answering.allocation import allocation_tokens
from r2.answering.prompts import allocate_messages, decompose_messages
from r2.answering.protocol import Trajectory
from r2.answering.route import shown_models
from r2.errors import PlanParseError, R2Error
from r2.plan import DIRECT, Plan, parse_plan
from r2.pool.file.config import load_pool
from r2.problem import Problem
from r2.training.grpo.partners import Parts, parts_of
from r2.training.grpo.rounds import Rounds, read_result

N_ASKED = 300
"""Questions that the verdict is about."""
GAIN = 0.08
MUTATIONS = (*training.MUTATIONS, "shuffled-choices", "other-question")
"""The last two are of the choices: those of other questions, and those made for another question of the same kind."""
NOTHING = Gain(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One seed. `start` (SFT) and `trained` (both rounds) are means over the questions asked last; `rounds` says by
    role what a promoted round gained on its own held-out questions; `form_bits` what the form of a SCAN command's plan
    tells of its difficulty. Without `looks` the training stopped, and `stopped` says why."""

    seed: int
    minutes: float = 0.0
    stopped: str = ""
    start: Mapping[str, float] = field(default_factory=dict)
    trained: Mapping[str, float] = field(default_factory=dict)
    over_start: Gain = NOTHING
    rounds: Mapping[str, Gain] = field(default_factory=dict)
    looks: Looks | None = None
    form_bits: float = 0.0
    form_floor: float = 0.0

    @property
    def failures(self) -> tuple[str, ...]:
        """What of the promise does not hold, in words."""
        if self.looks is None:
            return (self.stopped,)
        checks = {
            f"over the start {self.over_start}, {GAIN} was asked for": self.over_start.mean >= GAIN
            and self.over_start.low > 0,
            f"the form of a SCAN plan has {self.form_bits:.2f} bits on the difficulty, chance reaches "
            f"{self.form_floor:.2f}": self.form_bits >= self.form_floor + LEAST_BITS,
        }
        for role in training.ROLES:
            found = self.rounds.get(role)
            checks[f"the {role}'s round: {found or 'not promoted'}"] = found is not None and found.low > 0
        return (*(said for said, holds in checks.items() if not holds), *self.looks.failures)


def prove(seed: int, folder: Path, mutate: str | None = None, steps: int = training.STEPS) -> Verdict:
    """One seed, from nothing to the verdict."""
    from tasks.training.train_rounds import run_in_process, train_rounds

    started = time.monotonic()
    training.begin(seed, folder)
    say(f"seed {seed}: SFT done after {time.monotonic() - started:.0f} s")
    run_round = training.run_with_moving_partner if mutate == "frozen-moves" else run_in_process
    settings = training.settings_of(seed, folder, mutate, steps)
    try:
        rounds = train_rounds(
            settings, run_round, lambda r, d: say(f"seed {seed}, round {r.state.number - 1}: {d.reason}")
        )
    except R2Error as error:
        return Verdict(seed, (time.monotonic() - started) / 60, _cause(error))
    verdict = judged(seed, rounds, mutate)
    return replace(verdict, minutes=(time.monotonic() - started) / 60)


def judged(seed: int, rounds: Rounds, mutate: str | None = None) -> Verdict:
    """What the versions that the rounds left show on questions that no round was compared on."""
    settings = rounds.settings
    results = [read_result(rounds.run_dir / f"round-{i:02d}" / "result.json") for i in range(rounds.state.number)]
    used = {name for result in results for name in result.before.problem_ids}
    held_out = [p for p in questions(training.N_PER_KIND, seed) if training.side_of(p) == "test"]
    asked = table([p for p in held_out if p.problem_id not in used][:N_ASKED])
    pool = load_pool(POOL)
    before, after = (parts_of(versions, pool, settings) for versions in (rounds.state.start, rounds.state.current))
    old = played(asked.problems, written(before, asked.problems), before.router)
    texts, kinds = written(after, asked.problems), np.array(asked.kinds)
    if mutate in ("shuffled-choices", "other-question"):
        within = kinds if mutate == "other-question" else np.zeros(len(kinds), np.int64)
        places = dealt(np.arange(len(kinds)), within, np.random.default_rng(seed))
        texts = [texts[place] for place in places]
    new = played(asked.problems, texts, after.router)
    utility = utility_of(new, asked)
    chosen = np.array([dearest(one, asked) for one in new])
    is_scan = kinds == "scan"
    is_split, levels = np.array([len(one.outcome.plan.subtasks) > 2 for one in new])[is_scan], np.array(asked.levels)
    everywhere = np.zeros(len(is_split), np.int64)
    return Verdict(
        seed,
        start=_means(old, asked),
        trained=_means(new, asked),
        over_start=gain(utility, utility_of(old, asked)),
        rounds={
            settings.roles_of(number)[0]: gain(
                np.array(result.after.utilities(LAM)), np.array(result.before.utilities(LAM))
            )
            for number, result in enumerate(results)
            if rounds.state.settled[number]["decision"]["is_promoted"]
        },
        looks=looks("the policies", chosen, utility, asked, steps_by_one_model(asked, after.router)),
        form_bits=conditional_information(is_split, levels[is_scan], everywhere),
        form_floor=floor(is_split, levels[is_scan], everywhere),
    )


def written(parts: Parts, problems: Sequence[Problem]) -> list[Texts]:
    """Both policies' texts for each question, greedy, in answer to what a served router asks."""
    from r2.training.sampling import load_policy

    decomposer, allocator = (parts.policies[role] for role in training.ROLES)
    router = parts.router
    asked = [decompose_messages(problem, decomposer.card.prompt_mode) for problem in problems]
    plans = load_policy(decomposer, Path("models")).write(asked, router.settings.plan_tokens)
    read = [_plan_in(plan.text) for plan in plans]
    asked = [
        allocate_messages(problem, plan, shown_models(problem, router), allocator.card.prompt_mode)
        for problem, plan in zip(problems, read, strict=True)
    ]
    limit = allocation_tokens(max(1, *(len(plan.subtasks) for plan in read)))
    allocations = load_policy(allocator, Path("models")).write(asked, limit)
    return [{"decompose": p, "allocate": a} for p, a in zip(plans, allocations, strict=True)]


def _plan_in(text: str) -> Plan:
    try:
        return parse_plan(text)
    except PlanParseError:
        return DIRECT


def _means(trajectories: Sequence[Trajectory], asked: Outcomes) -> dict[str, float]:
    cost = np.array([one.answering_cost_usd for one in trajectories])
    return {
        "utility": float(utility_of(trajectories, asked).mean()),
        "accuracy": float(np.mean([one.right for one in trajectories])),
        "cost_share": float((cost / asked.cost_ref_usd).mean()),
    }


def _cause(error: R2Error) -> str:
    """The line that says what went wrong, of an error that quotes a round's log."""
    lines = str(error).splitlines()
    return next((line for line in reversed(lines) if line.startswith("error:")), lines[-1])


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


def told(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as text."""
    lines = []
    for v in verdicts:
        lines.append(f"seed {v.seed}, {v.minutes:.1f} minutes: {'FAILS' if v.failures else 'holds'}")
        lines += [f"  {said}" for said in v.failures]
        if v.looks is None:
            continue
        lines.append(
            "  utility {utility:.3f}, accuracy {accuracy:.3f}, cost / cost of the large model {cost_share:.3f} after "
            "SFT;".format(**v.start)
        )
        lines.append(
            "  utility {utility:.3f}, accuracy {accuracy:.3f}, cost / cost of the large model {cost_share:.3f} after "
            "GRPO: ".format(**v.trained)
            + str(v.over_start)
        )
        lines += [f"  the {role}'s round gained {found}" for role, found in v.rounds.items()]
        lines.append(
            f"  the form of a SCAN plan has {v.form_bits:.2f} bits on the difficulty, chance {v.form_floor:.2f}"
        )
        lines += ["  " + line for line in table_of([v.looks]).splitlines()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Proof that training teaches policies to choose by the question.")
    parser.add_argument("--seeds", type=int, default=int(os.environ.get("SEEDS", "1")), help="how many; $SEEDS")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path("proof"),
        help="registries, lakes and the curve; must not hold an earlier proof",
    )
    parser.add_argument("--mutate", choices=MUTATIONS, help="break training or choices; the check must fail")
    parser.add_argument("--steps", type=int, default=training.STEPS, help="optimiser steps per round")
    parser.add_argument("--seed", type=int, default=None, help="only this seed")
    given = parser.parse_args()
    folder = given.dir / (given.mutate or "plain")
    seeds = [given.seed] if given.seed is not None else list(range(given.seeds))
    verdicts = [prove(seed, folder / f"seed-{seed}", given.mutate, given.steps) for seed in seeds]
    print(told(verdicts))
    folder.joinpath("verdicts.json").write_text(json.dumps([asdict(v) for v in verdicts], indent=1))
    draw(folder, seeds, folder / "curve.png")
    print(folder / "curve.png")
    return 1 if any(v.failures for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
