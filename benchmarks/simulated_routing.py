"""Trained r2 against every opponent on the simulated pool, at several prices of a right answer.

Fresh questions, a third each arithmetic, SCAN and word problems. A scorer is trained for each seed on other questions
(benchmarks/simulated_trials.py); each opponent takes the setting of the highest utility on dev questions, at each price
anew (benchmarks/simulated_opponents.py). Utility: v * 1[right] - USD, with v in multiples of the mean cost of a
question on the largest model thinking step by step. Differences have paired bootstrap intervals over the questions.
Models answer in this process: no HTTP, no storage, no latency, no faults.

    python benchmarks/simulated_routing.py DIR [--noise 0.5] [--noise 2] [--seeds 3] [--questions 1500]

What is finished is kept in DIR; the same command goes on. The table is printed at the end, and by --table at once.
"""

import argparse
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from benchmarks.in_process import InProcess
from benchmarks.mixed_questions import questions
from benchmarks.simulated_opponents import (
    MOST_ESCALATIONS,
    SECOND,
    Field,
    Opponent,
    Played,
    opponents,
    played,
    router_of,
)
from benchmarks.simulated_trials import trials_of
from r2.answering.protocol import Router
from r2.answering.scorer import Scorer
from r2.evaluation.intervals import resampled_means
from r2.methods import method_named
from r2.pool.file.config import PoolConfig, load_pool
from r2.problem import Problem
from r2.problems.split import split_of
from r2.training.scorer.fit import fit_scorer

REFS: Final = (20, 50, 100)
"""Prices of a right answer, in costs of a question on the largest model."""
LEAST_WORTH: Final = 50
"""What r2 takes a right answer to be worth at least, in the same measure: its default. A scorer is too sure of the
rarest errors, so that a lower price makes it careless. Chosen on other questions (seeds 101 and 3000), for all seeds
and noises alike; the opponents' settings are chosen for each price and noise."""
N_DEV, N_TRAIN = 600, 900
N_STATES: Final = 6
"""States of each unit that the scorer is fitted on: half the usual, for there are many units."""
HORIZON: Final = 2
"""Attempts that are looked ahead."""
TEST_SHARE: Final = 0.5
DEV_SEED, TEST_SEED = 2000, 4000
ORDERS: Final = 2
N_BOOTSTRAP: Final = 4000


def fresh(n: int, seed: int, side: str) -> list[Problem]:
    """So many questions of one side of the split, a third of each kind."""
    made = questions(dict.fromkeys(("arithmetic", "scan", "word_problem"), n), seed, None)
    found: dict[str, list[Problem]] = {}
    for problem in made:
        if split_of(problem.question, 0, TEST_SHARE) == side:
            found.setdefault(problem.benchmark, []).append(problem)
    return [problem for its in found.values() for problem in its[: n // 3]]


class Kept:
    """Finished parts, one file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, name: str) -> bool:
        return (self.folder / f"{name}.json").exists()

    def put(self, name: str, its: Played, **about: object) -> None:
        found = {"right": its.right.tolist(), "cost_usd": its.cost_usd.tolist(), **about}
        path = self.folder / f"{name}.json"
        path.with_suffix(".part").write_bytes(orjson.dumps(found))
        path.with_suffix(".part").replace(path)

    def get(self, name: str) -> tuple[Played, dict[str, object]]:
        found = orjson.loads((self.folder / f"{name}.json").read_bytes())
        return Played(np.array(found.pop("right")), np.array(found.pop("cost_usd"))), found


def play_opponents(field: Field, test: Sequence[Problem], kept: Kept, ref_usd: float, only: str) -> None:
    """Each opponent on the test questions, at the settings that dev questions choose for each price. `only`: those
    whose name begins so."""
    for row in opponents(field.pool):
        if not row.name.startswith(only):
            continue
        for ref in REFS:
            name = f"{row.name}@{ref}"
            if name in kept:
                continue
            fields = chosen(field, row, ref, ref_usd, kept.folder)
            said = {k: v for k, v in fields.items() if k not in ("examples", "learned", "model")}
            key = f"test {row.name} {said}"
            if key not in field.kept:
                field.kept[key] = field.play(test, row.method, fields)
            kept.put(name, field.kept[key], settings=repr(said))


def chosen(field: Field, row: Opponent, ref: int, ref_usd: float, folder: Path) -> Mapping[str, Any]:
    """The settings that dev questions choose; kept, but for those that are fitted anew in no time."""
    path = folder / f"choice {row.name} {ref}.txt"
    if not row.fitted and path.exists():
        found: Mapping[str, Any] = orjson.loads(path.read_bytes())
        return found
    fields, _ = field.choose(row, ref * ref_usd)
    if not row.fitted:
        path.write_bytes(orjson.dumps(dict(fields)))
    return fields


def trained_router(pool: PoolConfig, scorer: Scorer, value_usd: float) -> Router:
    """r2 by the rule, with this scorer."""
    router = router_of(
        pool,
        "r2",
        routing="rule",
        value_usd=value_usd,
        max_escalations=MOST_ESCALATIONS,
        horizon=HORIZON,
        second_decomposer=SECOND,
    )
    return replace(router, scorer=scorer)


def play_r2(
    pool: PoolConfig, models: InProcess, problems: Sequence[Problem], scorer: Scorer, value_usd: float
) -> Played:
    """r2 on these questions."""
    router, run = trained_router(pool, scorer, value_usd), method_named("r2").run
    return played([models.play(problem, run(problem, router)) for problem in problems])


def play_trained(
    pool: PoolConfig,
    models: InProcess,
    seed: int,
    test: Sequence[Problem],
    kept: Kept,
    ref_usd: float,
    n_train: int = N_TRAIN,
) -> None:
    """r2 with a scorer trained for this seed, at each price, and under shuffled orders of the pool."""
    if all(f"r2-{seed}@{ref}" in kept for ref in REFS) and f"orders-{seed}" in kept:
        return
    path = kept.folder / f"scorer-{seed}.json"
    if not path.exists():
        trials = trials_of(pool, models, fresh(n_train, 1000 + seed, "train"))
        path.write_bytes(fit_scorer(trials, seed=seed, n_states=N_STATES)[0].to_json())
    scorer = Scorer.from_json(path.read_bytes(), str(path))
    at: dict[int, Played] = {}
    for ref in REFS:
        if f"r2-{seed}@{ref}" not in kept:
            worth = max(ref, LEAST_WORTH)
            at[worth] = at.get(worth) or play_r2(pool, models, test, scorer, worth * ref_usd)
            kept.put(f"r2-{seed}@{ref}", at[worth])
    some = test[:: max(1, len(test) // 150)]
    usual = play_r2(pool, models, some, scorer, REFS[1] * ref_usd)
    costs = []
    for order in range(ORDERS):
        names = random.Random(order).sample(list(pool.models), len(pool.models))
        tables = pool.tables.model_copy(update={"models": {name: pool.models[name] for name in names}})
        shuffled = PoolConfig(pool.path, tables, pool.text)
        costs.append(float(play_r2(shuffled, models, some, scorer, REFS[1] * ref_usd).cost_usd.mean()))
    kept.put(f"orders-{seed}", usual, costs=costs)


def told(folder: Path, noises: Sequence[float], n_seeds: int) -> str:
    """The table: r2 of each seed, the opponent that comes nearest, and every one that is not beaten."""
    lines = []
    for noise in noises:
        kept = Kept(folder / f"noise-{noise:g}")
        ref_usd = orjson.loads((kept.folder / "about.json").read_bytes())["ref_usd"]
        names = sorted({path.stem.rpartition("@")[0] for path in kept.folder.glob("*@*.json")} - {""})
        rows = [name for name in names if not name.startswith("r2-")]
        for ref in REFS:
            v_usd = ref * ref_usd
            others = {name: kept.get(f"{name}@{ref}") for name in rows if f"{name}@{ref}" in kept}
            best = max(others, key=lambda name: float(others[name][0].utility(v_usd).mean()))
            its, about = others[best]
            lines.append(
                f"noise {noise:g}, v = {ref} cost_ref; best of {len(others)} opponents: {best} {about['settings']}"
            )
            lines.append("  " + _row(best, its, v_usd))
            for seed in range(n_seeds):
                if f"r2-{seed}@{ref}" not in kept:
                    continue
                mine, _ = kept.get(f"r2-{seed}@{ref}")
                gains = intervals(mine, {name: other for name, (other, _) in others.items()}, v_usd)
                low, high = gains[best]
                row = _row(f"r2, seed {seed}", mine, v_usd)
                lines.append(f"  {row}  against the best [{low:+.4f}, {high:+.4f}]")
                for name, (low, high) in gains.items():
                    if low <= 0:
                        lines.append(f"    NOT beaten: {_row(name, others[name][0], v_usd)} [{low:+.4f}, {high:+.4f}]")
        for seed in range(n_seeds):
            if f"orders-{seed}" in kept:
                usual, orders = kept.get(f"orders-{seed}")
                costs = np.array(orders["costs"]) / usual.cost_usd.mean()
                lines.append(
                    f"  r2, seed {seed}: cost under shuffled orders of the pool, times the usual: {costs.max():.3f}"
                )
    return "\n".join(lines)


def intervals(mine: Played, others: Mapping[str, Played], v_usd: float) -> dict[str, tuple[float, float]]:
    """r2's utility less each other's, per thousand questions: paired bootstrap intervals, 95 %."""
    gains = np.stack([1e3 * (mine.utility(v_usd) - other.utility(v_usd)) for other in others.values()], axis=1)
    low, high = np.percentile(resampled_means(gains, N_BOOTSTRAP), [2.5, 97.5], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(others, low, high, strict=True)}


def _row(name: str, its: Played, v_usd: float) -> str:
    wrong = int((its.right < 0.5).sum())
    usd = 1e3 * its.cost_usd.mean()
    utility = 1e3 * its.utility(v_usd).mean()
    return f"{name:28s} wrong {wrong:3d} of {len(its.right)}  {usd:.4f} USD per 1k  utility {utility:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Trained r2 against every opponent on the simulated pool.")
    parser.add_argument("dir", type=Path)
    parser.add_argument("--noise", type=float, action="append", help="of token probabilities [0.5 and 2]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=1500)
    parser.add_argument("--pool", type=Path, default=Path("pools/simulated.toml"))
    parser.add_argument("--training", type=int, default=N_TRAIN, help="questions that each scorer is trained on")
    parser.add_argument("--only", default="", help="opponents whose name begins so, as start_steps")
    parser.add_argument("--table", action="store_true", help="print the table of what is finished")
    given = parser.parse_args()
    noises = given.noise or [0.5, 2.0]
    if not given.table:
        pool = load_pool(given.pool)
        for noise in noises:
            kept = Kept(given.dir / f"noise-{noise:g}")
            models = InProcess(pool, certainty_noise=noise)
            dev, test = fresh(N_DEV, DEV_SEED, "train"), fresh(given.questions, TEST_SEED, "test")
            thinking = Field(pool, models, dev).play(dev, "cot", {"model": pool.roster().strongest})
            ref_usd = float(thinking.cost_usd.mean())
            (kept.folder / "about.json").write_bytes(orjson.dumps({"ref_usd": ref_usd, "n": len(test)}))
            started = time.process_time()
            for seed in range(given.seeds):
                play_trained(pool, models, seed, test, kept, ref_usd, given.training)
                print(f"noise {noise:g}, seed {seed}: {time.process_time() - started:.0f} s", flush=True)
                if not seed:
                    play_opponents(Field(pool, models, dev), test, kept, ref_usd, given.only)
                    print(f"noise {noise:g}, opponents: {time.process_time() - started:.0f} s", flush=True)
    print(told(given.dir, noises, given.seeds))


if __name__ == "__main__":
    main()
