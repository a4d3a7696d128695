"""Questions of a training set that are also in an evaluation set: the same, or nearly (ours). Pure.

Same: equal after case folding, punctuation and white space. Nearly: the Jaccard index of their word bigrams is at least
a threshold. The near-duplicate join is exact; prefix filtering (Chaudhuri et al. 2006) keeps it from comparing all
pairs.
"""

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NEAR = 0.8
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Leakage:
    """Counts of training questions found in an evaluation set; `n_near` leaves out those that are the same."""

    n_train: int
    n_evaluation: int
    n_same: int
    n_near: int


def normalised(question: str) -> str:
    """Words in lower case, one space apart."""
    return " ".join(_WORD.findall(question.casefold()))


def leakage(train: Sequence[str], evaluation: Iterable[str], near: float = NEAR) -> Leakage:
    """How many of `train` are in `evaluation`."""
    others = list(dict.fromkeys(map(normalised, evaluation)))
    known = set(others)
    mine = [normalised(question) for question in train]
    rest = [question for question in mine if question not in known]
    n_near = sum(_has_near(rest, others, near))
    return Leakage(len(mine), len(others), len(mine) - len(rest), n_near)


def _has_near(questions: Sequence[str], others: Sequence[str], near: float) -> list[bool]:
    """For each question whether one of the others is near it."""
    mine, theirs = [_bigrams(q) for q in questions], [_bigrams(q) for q in others]
    rarity = Counter(gram for grams in (*mine, *theirs) for gram in grams)

    def prefix(grams: frozenset[str]) -> list[str]:
        """The rarest grams, of which two sets that are near must share one."""
        ordered = sorted(grams, key=lambda gram: (rarity[gram], gram))
        return ordered[: len(ordered) - math.ceil(near * len(ordered)) + 1]

    index: dict[str, list[int]] = defaultdict(list)
    for i, grams in enumerate(theirs):
        for gram in prefix(grams):
            index[gram].append(i)
    found = []
    for grams in mine:
        candidates = {i for gram in prefix(grams) for i in index.get(gram, ())}
        found.append(any(_jaccard(grams, theirs[i]) >= near for i in candidates))
    return found


def _bigrams(question: str) -> frozenset[str]:
    tokens = question.split()
    return frozenset(f"{a} {b}" for a, b in itertools.pairwise(tokens)) or frozenset(tokens)


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared) if shared else 0.0
