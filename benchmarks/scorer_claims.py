"""What a scorer claims of the simulated models' errors, against what they are: where a router that trusts it is weak.

A scorer is trained on the questions, steps and plans of one seed, as in simulated_routing.py, and shown random sets of
attempts of other seeds' questions. They are put into ranges by P(wrong) of their best-supported result, as the scorer
claims it; the table says for each range how many there are, how many errors are claimed, and how many there were. A
claim of one error in ten thousand is worth something only where so many such states were seen. Models answer in this
process.

    python benchmarks/scorer_claims.py [--noise 0.5] [--train 3] [--held 5 --held 6]
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.in_process import InProcess
from benchmarks.simulated_routing import N_STATES, N_TRAIN, fresh
from benchmarks.simulated_trials import trials_of
from r2.answering.scorer import FloatArray
from r2.pool.file.config import load_pool
from r2.training.scorer.fit import claims, fit_scorer
from r2.training.scorer.trials import Trials

EDGES: Final = (0.0, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1.0)


def told(claimed: FloatArray, is_wrong: Sequence[bool], edges: Sequence[float] = EDGES) -> str:
    """The table."""
    wrong = np.asarray(is_wrong)
    lines = [f"{'P(wrong), as claimed':24s} {'states':>8s} {'claimed':>10s} {'seen':>6s}"]
    for least, most in itertools.pairwise(edges):
        at = (claimed >= least) & (claimed < most) if most < 1 else claimed >= least
        span = f"{least:g} to {most:g}"
        lines.append(f"{span:24s} {at.sum():8d} {claimed[at].sum():10.2f} {int(wrong[at].sum()):6d}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a scorer claims of errors, against what they are.")
    parser.add_argument("--noise", type=float, default=0.5, help="of token probabilities")
    parser.add_argument("--train", type=int, default=3, help="seed of the questions that the scorer is trained on")
    parser.add_argument("--held", type=int, action="append", help="seeds of the others [5 and 6]")
    parser.add_argument("--pool", type=Path, default=Path("pools/simulated.toml"))
    parser.add_argument("--questions", type=int, default=N_TRAIN, help="of each seed")
    given = parser.parse_args()
    pool = load_pool(given.pool)
    models = InProcess(pool, certainty_noise=given.noise)

    def trials(seed: int) -> Trials:
        return trials_of(pool, models, fresh(given.questions, 1000 + seed, "train"))

    scorer, _ = fit_scorer(trials(given.train), seed=given.train, n_states=N_STATES)
    parts = [claims(scorer, trials(seed), n_states=N_STATES) for seed in given.held or (5, 6)]
    print(told(np.concatenate([one[0] for one in parts]), np.concatenate([one[1] for one in parts]).tolist()))


if __name__ == "__main__":
    main()
