"""Whether choices of models look at the question: the measures that benchmarks/prove_choices.py and
benchmarks/prove_learning.py assert.

`mutual_information` says how many bits a choice tells of a question's kind. Chance alone gives some, so it is held
against the choices dealt out anew among the questions (`floor`): over all questions for the kind, within each kind for
the difficulty.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.learning_world import KINDS, LAM, Outcomes, best_rule, constants
from r2.answering.scorer import FloatArray, IntArray
from r2.evaluation.intervals import paired_interval

N_PERMUTATIONS = 400
LEAST_BITS = 0.2
"""Of information that a choice must have on the kind, and within a kind on the difficulty, beyond the floor's."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Mean difference of utility over the same questions, with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


@dataclass(frozen=True, slots=True)
class Looks:
    """What a set of choices shows. Bits with the floor that chance reaches; `most_used` by kind; utility, and its gain
    over the best constant and over the best rule by benchmark, both chosen in hindsight."""

    who: str
    kind_bits: float
    kind_floor: float
    level_bits: float
    level_floor: float
    most_used: dict[str, str]
    utility: float
    over_constant: Gain
    over_rule: Gain

    @property
    def failures(self) -> tuple[str, ...]:
        """What of the promise does not hold, in words."""
        checks = {
            f"choices have {self.kind_bits:.2f} bits on the kind, chance reaches {self.kind_floor:.2f}": self.kind_bits
            >= self.kind_floor + LEAST_BITS,
            f"within a kind they have {self.level_bits:.2f} bits on the difficulty, chance reaches "
            f"{self.level_floor:.2f}": self.level_bits >= self.level_floor + LEAST_BITS,
            f"most used: {', '.join(f'{m} for {k}' for k, m in self.most_used.items())}": len(
                set(self.most_used.values())
            )
            == len(KINDS),
            f"over the best constant {self.over_constant}": self.over_constant.low > 0,
            f"over the best rule by benchmark {self.over_rule}": self.over_rule.low > 0,
        }
        return tuple(f"{self.who}: {said}" for said, holds in checks.items() if not holds)


def looks(
    who: str,
    chosen: IntArray,
    utility_Q: FloatArray,
    outcomes: Outcomes,
    further_ways: Mapping[str, FloatArray] | None = None,
    seed: int = 0,
) -> Looks:
    """`chosen`: the number of the model chosen for each question; `utility_Q`: what was got for it. Best constant and
    best rule are those of asking one model the question as it is, and of any `further_ways`, with their utilities."""
    kinds, levels = np.array(outcomes.kinds), np.array(outcomes.levels)
    utility_AQ = np.vstack([outcomes.utility(), *(further_ways or {}).values()])
    constant = utility_AQ[int(constants(utility_AQ).argmax())]
    numbers = best_rule(utility_AQ, outcomes.kinds)
    rule = np.array([utility_AQ[numbers[kind], q] for q, kind in enumerate(outcomes.kinds)])
    everywhere = np.zeros(len(kinds), np.int64)
    return Looks(
        who,
        conditional_information(chosen, kinds, everywhere),
        floor(chosen, kinds, everywhere, seed),
        conditional_information(chosen, levels, kinds),
        floor(chosen, levels, kinds, seed),
        {kind: outcomes.arms[_most_used(chosen[kinds == kind])] for kind in KINDS},
        float(utility_Q.mean()),
        gain(utility_Q, constant),
        gain(utility_Q, rule),
    )


def gain(values: FloatArray, others: FloatArray) -> Gain:
    """Of `values` over `others`, paired by question."""
    interval = paired_interval(values, others)
    assert interval is not None
    return Gain(float((values - others).mean()), interval.low, interval.high)


def mutual_information(one: Sequence[object], other: Sequence[object]) -> float:
    """In bits, of the counts as they are: 0 where neither says anything of the other."""
    n = len(one)
    both, left, right = Counter(zip(one, other, strict=True)), Counter(one), Counter(other)
    return float(sum(c / n * np.log2(c * n / (left[a] * right[b])) for (a, b), c in both.items()))


def conditional_information(chosen: IntArray, labels: np.ndarray, given: np.ndarray) -> float:  # type: ignore[type-arg]
    """Bits that a choice has on the label among the questions with the same `given`, averaged over them."""
    return sum(
        float((given == value).mean())
        * mutual_information(chosen[given == value].tolist(), labels[given == value].tolist())
        for value in np.unique(given)
    )


def floor(chosen: IntArray, labels: np.ndarray, given: np.ndarray, seed: int = 0) -> float:  # type: ignore[type-arg]
    """What 99 of 100 dealings of these choices among the questions with the same `given` stay below."""
    rng = np.random.default_rng(seed)
    found = [conditional_information(dealt(chosen, given, rng), labels, given) for _ in range(N_PERMUTATIONS)]
    return float(np.percentile(found, 99))


def dealt(chosen: IntArray, given: np.ndarray, rng: np.random.Generator) -> IntArray:  # type: ignore[type-arg]
    """The choices in another order, each staying among the questions with the same `given`."""
    found = chosen.copy()
    for value in np.unique(given):
        at = np.flatnonzero(given == value)
        found[at] = found[rng.permutation(at)]
    return found


def _most_used(chosen: IntArray) -> int:
    return int(np.bincount(chosen).argmax())


def table_of(found: Sequence[Looks]) -> str:
    """The measures as a table of text."""
    lines = [
        f"{'choices of':<22}{'bits on kind (chance)':>23}{'on difficulty (chance)':>24}{'utility':>9}"
        f"   {'over the best constant':<26}{'over the best rule':<26}most used"
    ]
    for one in found:
        used = ", ".join(one.most_used[kind] for kind in KINDS)
        lines.append(
            f"{one.who:<22}{one.kind_bits:>15.2f} ({one.kind_floor:.2f}) {one.level_bits:>15.2f} "
            f"({one.level_floor:.2f}) {one.utility:>9.3f}   {one.over_constant!s:<26}{one.over_rule!s:<26}{used}"
        )
    lines.append(f"Utility: 1[right] - {LAM} * cost / cost of the large model. Most used: by kind, {', '.join(KINDS)}.")
    return "\n".join(lines)
