"""A changed pool under a router that stays as it is: accuracy and cost with a model removed, one added by its profile,
and the order shuffled.

The same problems are answered with the pool as the router knows it and with each change; nothing is retrained. Calls
that several pools share are made once. Run: `python benchmarks/bench_pool_change.py --pool pools/simulated.toml
--problems scan --problems arithmetic --limit 100`, with `--decomposer` and `--allocator` for the entries of trained
policies. Prints a Markdown table; differences are paired over problems.
"""

import argparse
import asyncio
import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r2.atomic import write_atomically
from r2.errors import R2Error
from r2.evaluation.compare import compare
from r2.evaluation.intervals import Interval, paired_interval
from r2.evaluation.outcomes import MethodOutcomes
from r2.evaluation.settings import EvaluateSettings
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.file.variants import with_entries, without
from r2.settings import Reasoning
from storage.evaluations.outcomes import outcomes_of
from storage.evaluations.problems import evaluated_problems
from storage.evaluations.store import write_problems
from storage.lake.manifest import make_folder
from storage.sql.query import connect
from tasks.evaluation.evaluate_method import OpenEvaluation, answer_run, open_evaluation, plan_evaluated

AS_TRAINED = "as trained"


@dataclass(frozen=True, slots=True)
class Change:
    """A pool to be asked, and how the allocator is shown it: an empty `order_seeds` is the roster's order."""

    label: str
    pool: PoolConfig
    order_seeds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """What a change came to. Differences are to the pool as trained, over the same problems; `new_share` is of the
    solvers' calls."""

    label: str
    outcomes: MethodOutcomes
    accuracy: Interval | None
    usd_per_1k: Interval | None
    accuracy_change: float
    accuracy_change_interval: Interval | None
    cost_change: float
    top_model: str
    top_share: float
    new_share: float


def changes_of(
    text: str, added: str | None, removed: Sequence[str], n_orders: int, folder: Path
) -> tuple[list[Change], PoolConfig]:
    """(the pools to ask, as trained first; one pool with every entry of them). Their files are kept in `folder`."""
    make_folder(folder)

    def pool(label: str, changed: str) -> PoolConfig:
        path = folder / f"{label.replace(' ', '-').replace('/', '-')}.toml"
        write_atomically(path, changed.encode())
        return load_pool(path)

    trained = pool(AS_TRAINED, text)
    solvers = [card.name for card in trained.roster().solvers]
    changes = [Change(AS_TRAINED, trained)]
    changes += [
        Change(f"without {name}", pool(f"without {name}", without(text, [name]))) for name in removed or solvers
    ]
    everything = trained
    if added is not None:
        everything = pool("with an added model", with_entries(text, added))
        changes.append(Change("with an added model", everything))
    if n_orders:
        changes.append(Change(f"shuffled ({n_orders} orders a problem)", trained, tuple(range(n_orders))))
    return changes, everything


async def measured(
    settings: EvaluateSettings,
    changes: Sequence[Change],
    everything: PoolConfig,
    decomposer: str | None,
    allocator: str | None,
) -> list[Row]:
    """The rows, in the order of the changes. Going on from what an earlier call answered."""
    root = Path(settings.lake)
    found = evaluated_problems(settings)
    problems = sorted([*found.dev, *found.test], key=lambda problem: problem.input_index)
    bench_id = f"pool-change-{hashlib.sha256(f'{found.digest}{everything.digest}'.encode()).hexdigest()[:12]}"
    path = root / "_pool_change" / f"{bench_id}.jsonl"
    make_folder(path.parent)
    write_problems(path, problems)
    runs: dict[str, list[str]] = {}
    async with open_evaluation(bench_id, settings, everything) as opened:
        await opened.ready()  # one client for all: it knows every entry of every pool
        for change in changes:
            opened.pool = change.pool
            of_change = settings.model_copy(update={"pool": str(change.pool.path)})
            for seed in change.order_seeds or (None,):
                fields = {"method": "r2", "decomposer": decomposer, "allocator": allocator, "order_seed": seed}
                reasoning = Reasoning.model_validate(settings.reasoning.model_dump() | fields)
                runs.setdefault(change.label, []).append(
                    await _answered(of_change, opened, path, reasoning, change.label)
                )
    ids = [problem.problem_id for problem in problems]
    with connect(root) as db:
        outcomes = [
            outcomes_of(db, label, "r2", run_ids, ids, dict.fromkeys(ids, "")) for label, run_ids in runs.items()
        ]
    new = set(everything.models) - set(changes[0].pool.models)
    return rows_of([one for one in outcomes if one is not None], new)


async def _answered(
    settings: EvaluateSettings, opened: OpenEvaluation, path: Path, reasoning: Reasoning, label: str
) -> str:
    plan = plan_evaluated(settings, opened.pool, path, reasoning)
    if not await answer_run(opened, plan):
        raise SystemExit(f"{label}: not every problem could be answered; the same command resumes it.")
    print(f"{label}: {plan.n_requested} problems, {opened.paid_usd:.6f} USD paid so far", file=sys.stderr)
    return plan.run_id


def rows_of(outcomes: Sequence[MethodOutcomes], new: set[str]) -> list[Row]:
    """Each against the first."""
    comparison, first = compare(outcomes), outcomes[0]
    rows = []
    for one in outcomes:
        summary = comparison[one.label]
        n_calls = sum(one.model_calls.values()) or 1.0
        top = max(one.model_calls, key=lambda name: one.model_calls[name], default="-")
        rows.append(
            Row(
                one.label,
                one,
                summary.accuracy.interval,
                summary.usd_per_1k.interval,
                one.accuracy - first.accuracy,
                None if one is first else paired_interval(one.is_correct, first.is_correct),
                one.mean_cost_usd / first.mean_cost_usd - 1 if first.mean_cost_usd else 0.0,
                top,
                one.model_calls.get(top, 0.0) / n_calls,
                sum(n for name, n in one.model_calls.items() if name in new) / n_calls,
            )
        )
    return rows


def markdown(rows: Sequence[Row], n_problems: int) -> str:
    """The table, with 95 % intervals in brackets."""
    lines = [
        f"{n_problems} problems; brackets: 95 % intervals, of differences paired over problems.",
        "",
        "| pool | accuracy | against as trained, points | USD per 1k | cost | most used model | calls to the added "
        "model |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        change = (
            ""
            if row.label == AS_TRAINED
            else f"{100 * row.accuracy_change:+.1f} {_spread(row.accuracy_change_interval, 100)}"
        )
        cost = "" if row.label == AS_TRAINED else f"{row.cost_change:+.0%}"
        lines.append(
            f"| {row.label} | {row.outcomes.accuracy:.1%} {_spread(row.accuracy, 100)} | {change} | "
            f"{1000 * row.outcomes.mean_cost_usd:.4g} "
            f"{_spread(row.usd_per_1k, 1)} | {cost} | {row.top_model} {row.top_share:.0%} | {row.new_share:.0%} |"
        )
    return "\n".join(lines)


def _spread(interval: Interval | None, factor: float) -> str:
    return "" if interval is None else f"[{factor * interval.low:.3g}, {factor * interval.high:.3g}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, default=Path("pools/simulated.toml"))
    parser.add_argument("--problems", action="append", required=True, help="as for r2 evaluate; repeatable")
    parser.add_argument("--limit", type=int, default=100, help="problems per source")
    parser.add_argument("--held-out", type=float, help="only the test side of the training split with this test share")
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="of generated problems")
    parser.add_argument("--decomposer", help="pool entry; default: the pool file's")
    parser.add_argument("--allocator", help="pool entry; default: the pool file's")
    parser.add_argument("--min-confidence", type=float, default=0.0, help="as for r2 answer")
    parser.add_argument("--max-escalations", type=int, default=2, help="as for r2 answer")
    parser.add_argument(
        "--remove", action="append", default=[], help="solver to take out; repeatable; default: each one in turn"
    )
    parser.add_argument(
        "--add", type=Path, default=Path(__file__).parent / "added_model.toml", help="file with a [models.NAME] table"
    )
    parser.add_argument("--no-add", action="store_true", help="leave that row out")
    parser.add_argument(
        "--orders", type=int, default=3, help="orders that each problem is asked in; 0: leave that row out"
    )
    parser.add_argument("--lake", default="lake")
    parser.add_argument("--models-dir", default="models")
    parser.add_argument("--data-dir")
    parser.add_argument("--max-cost-usd", type=float)
    given = parser.parse_args(arguments)
    settings = EvaluateSettings(
        problems=tuple(given.problems),
        limit=given.limit,
        held_out=given.held_out,
        split_seed=given.split_seed,
        seed=given.seed,
        pool=str(given.pool),
        lake=given.lake,
        models_dir=given.models_dir,
        data_dir=given.data_dir,
        max_cost_usd=given.max_cost_usd,
        reasoning=Reasoning(min_confidence=given.min_confidence, max_escalations=given.max_escalations),
    )
    try:
        added = None if given.no_add else given.add.read_text("utf-8")
        changes, everything = changes_of(
            given.pool.read_text("utf-8"),
            added,
            given.remove,
            given.orders,
            Path(given.lake) / "_pool_change" / given.pool.stem,
        )
        everything.check_keys()
        rows = asyncio.run(measured(settings, changes, everything, given.decomposer, given.allocator))
    except R2Error as error:
        sys.exit(f"error: {error}")
    print(markdown(rows, rows[0].outcomes.n_problems))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(
        0
    )  # the collector was told to leave what is loaded alone; taking it all down would only complain about that
