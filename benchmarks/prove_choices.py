"""Proof that a scorer learns what only a look at the question can tell.

World (benchmarks/learning_world.py): three kinds of question, three difficulties, five simulated models; neither a
constant nor a rule by benchmark comes near the optimum. A scorer is fitted on trials (r2/training/scorer/fit.py) and
chooses by the rule (r2/answering/lookahead.py) for questions that it has not seen. Asserted
(benchmarks/learning_checks.py): its choices tell the kind, and within a kind the difficulty; each kind has another most
used model; its utility is above the best constant's and the best rule's. `--mutate` gives the choices to other
questions, or shows the scorer another question of the same kind, and the check must then fail.

    python benchmarks/prove_choices.py [--seeds 3] [--mutate shuffled-choices|other-question]
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.learning_checks import Looks, dealt, looks, table_of
from benchmarks.learning_world import LAM, Outcomes, optimum, questions, table
from r2.answering.attempts import Attempt, Attempts
from r2.answering.lookahead import decide
from r2.answering.scored import ScoredBeliefs
from r2.problem import Problem
from r2.problems.split import split_of
from r2.training.scorer.fit import fit_scorer
from r2.training.scorer.trials import Trials

TEST_SHARE = 0.3
N_PER_KIND = 500
N_TRIALS, N_CHOICES = 700, 300
"""Questions that the scorer is fitted on, and chooses for."""
MUTATIONS = ("shuffled-choices", "other-question")
OPTIMUM = "the optimum"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One seed: what the scorer's choices show, and for comparison the best ones."""

    seed: int
    scorer: Looks
    optimum: Looks
    minutes: float

    @property
    def failures(self) -> tuple[str, ...]:
        """What of the promise does not hold, in words."""
        return self.scorer.failures


def prove(seed: int, mutate: str | None = None, n_trials: int = N_TRIALS, n_choices: int = N_CHOICES) -> Verdict:
    """Every model tried on questions of the training side, a scorer fitted to that, and its choices on the other
    side."""
    started = time.monotonic()
    problems = questions(N_PER_KIND, seed)
    tried = table([p for p in problems if _side(p) == "train"][:n_trials])
    asked = table([p for p in problems if _side(p) == "test"][:n_choices])
    unknown = np.full(tried.right_AQ.shape, np.nan)
    # Lengths are left out: a simulated reply's length is a function of how hard its question is.
    trials = Trials(
        tried.arms,
        tried.problems,
        tuple(tried.kinds),
        tried.right_AQ,
        tried.cost_usd_AQ,
        unknown,
        unknown,
        tried.results_AQ,
    )
    scorer, _ = fit_scorer(trials, seed=seed)
    v_usd = float(tried.cost_ref_usd.mean()) / LAM
    chance = np.random.default_rng(seed)
    kinds, places = np.array(asked.kinds), np.arange(len(asked.problems))
    # Another question of the same kind: what is shown tells the kind, and nothing of the difficulty.
    shown = dealt(places, kinds, chance) if mutate == "other-question" else places
    chosen, utility = np.zeros(len(places), np.int64), np.zeros(len(places))
    for q in places.tolist():
        seen = asked.problems[int(shown[q])]
        beliefs = ScoredBeliefs(scorer, seen, seen.benchmark, scorer.arms)
        chosen[q], utility[q] = _played(beliefs, v_usd, asked, q)
    if mutate == "shuffled-choices":
        chosen = dealt(chosen, np.zeros_like(chosen), chance)
        utility = asked.utility()[chosen, places]
    best = optimum(asked)
    return Verdict(
        seed,
        looks("the scorer", chosen, utility, asked),
        looks(OPTIMUM, best, asked.utility()[best, places], asked),
        (time.monotonic() - started) / 60,
    )


def _played(beliefs: ScoredBeliefs, v_usd: float, asked: Outcomes, q: int) -> tuple[int, float]:
    """A question played by the rule: the model asked first, and the utility."""
    attempts: Attempts = ()
    numbers: dict[int, int] = {}
    spent_usd = 0.0
    while (decision := decide(beliefs, attempts, v_usd)).action == "ask":
        assert decision.arm is not None
        arm = asked.arms.index(decision.arm)
        code = int(asked.results_AQ[arm, q])
        result = None if code < 0 else numbers.setdefault(code, len(numbers))
        attempts = (*attempts, Attempt(decision.arm, result))
        spent_usd += float(asked.cost_usd_AQ[arm, q])
    accepted = next((one.arm for one in attempts if one.result == decision.result), attempts[-1].arm)
    is_right = float(asked.right_AQ[asked.arms.index(accepted), q])
    return asked.arms.index(attempts[0].arm), is_right - LAM * spent_usd / float(asked.cost_ref_usd[q])


def _side(problem: Problem) -> str:
    return split_of(problem.question, 0, TEST_SHARE)


def told(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as text."""
    lines = []
    for v in verdicts:
        lines.append(f"seed {v.seed}, {v.minutes:.1f} minutes: {'FAILS' if v.failures else 'holds'}")
        lines += [f"  {said}" for said in v.failures]
        lines += ["  " + line for line in table_of((v.scorer, v.optimum)).splitlines()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Proof that a scorer learns to choose by the question.")
    parser.add_argument("--seeds", type=int, default=int(os.environ.get("SEEDS", "1")), help="how many; $SEEDS")
    parser.add_argument("--seed", type=int, default=None, help="only this seed")
    parser.add_argument("--mutate", choices=MUTATIONS, help="break the choices; the check must fail")
    given = parser.parse_args()
    seeds = [given.seed] if given.seed is not None else list(range(given.seeds))
    verdicts = [prove(seed, given.mutate) for seed in seeds]
    print(told(verdicts))
    return 1 if any(v.failures for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
