"""The reward of a GRPO step: all its rollouts at once, beside one rollout after the other.

    python benchmarks/bench_grpo.py

A step of 4 problems with 4 sampled plans each is executed by the simulated pool with its latencies, through the client
that training uses. What a trainer whose reward is a plain function would wait for is the same rollouts in order; both
start with an empty journal. The policy's own sampling and update are the same in both and are left out. Needs no torch.
"""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.figures import ROOT, Part
from benchmarks.run_part import run_part
from r2.methods.router import make_router
from r2.plan import format_plan
from r2.pool.file.config import load_pool
from r2.problems import arithmetic
from r2.problems.benchmark import gold_plan_of
from r2.settings import AnswerSettings, Reasoning
from r2.training.grpo.rollouts import RolloutRequest, open_rollouts
from r2.training.sampled import SampledText
from storage.runs.journal import Journal

PROBLEMS, GROUP = 4, 4


def requests_of(first_seed: int) -> list[RolloutRequest]:
    """Every problem GROUP times, with its gold plan and a seed of the pool's answers for each."""
    problems = arithmetic.generate(PROBLEMS, seed=3, min_operations=3)
    requests = []
    for problem in problems:
        plan = gold_plan_of(problem)
        assert plan is not None, problem.question
        text = SampledText(format_plan(plan), 200, 60)
        requests += [RolloutRequest(problem, {"decompose": text}, first_seed + i) for i in range(GROUP)]
    return requests


def seconds(all_at_once: bool, first_seed: int, folder: Path) -> float:
    """On the clock, from the first call to the last reward."""
    settings = AnswerSettings(
        input="none", pool=str(ROOT / "pools" / "simulated.toml"), reasoning=Reasoning(temperature=0.7)
    )
    pool = load_pool(settings.pool)
    requests = requests_of(first_seed)
    with (
        Journal.open(folder / "calls.journal") as journal,
        open_rollouts(
            pool,
            make_router(pool, settings),
            journal,
            reviewer=None,
            max_in_flight=64,
            state_dir=folder,
            run_account="bench",
            max_cost_usd=None,
            already_spent_usd=0.0,
            models_dir=folder,
            log_dir=folder,
        ) as rollouts,
    ):
        began = time.perf_counter()
        for some in [requests] if all_at_once else [[one] for one in requests]:
            assert all(scored.terms.right is not None for scored in rollouts.score(some, "decomposer"))
        return time.perf_counter() - began


def measure(part: Part, options: argparse.Namespace) -> None:
    """Both ways in turns; the seeds of a round are its own."""
    what = f"reward of a step, {PROBLEMS} problems x {GROUP} plans"
    ways = {"r2 grpo": True, "one rollout after the other": False}
    taken: dict[str, list[float]] = {who: [] for who in ways}
    for number in range(options.rounds):
        for who, all_at_once in ways.items():
            with tempfile.TemporaryDirectory(prefix="bench-grpo-") as folder:
                taken[who].append(seconds(all_at_once, 1000 * number, Path(folder)))
    for who, values in taken.items():
        part.add(what, who, "s", values)
    part.add_ratio(what, "one rollout after the other", "r2 grpo")


def main() -> None:
    parser = argparse.ArgumentParser(description="The reward of a GRPO step at once and in order.")
    parser.add_argument("--rounds", type=int, default=5)
    run_part("grpo", "python benchmarks/bench_grpo.py", measure, parser.parse_args())


if __name__ == "__main__":
    main()
