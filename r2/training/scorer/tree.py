"""The states that a few further attempts can lead to, as arrays: what looking ahead on recorded answers walks over.

Which states there are depends on the attempts so far alone (who said the same as whom), and not on the question. So a
tree is made once for each such pattern, and many questions are worked out on it together (r2/training/scorer/plan.py).
Arms are places in the list of arms that are looked ahead with. States that differ in the order of their attempts alone
are one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from r2.answering.scorer import IntArray

MAX_ASKED = 4
"""Arms asked about one question, at most."""
NOTHING = -1
"""Result of an attempt that gave none; level of an attempt whose confidence is not known."""

Start = tuple[tuple[int, int], ...]
"""Attempts that were made: (arm, number of its result or `NOTHING`), numbers as they first appear."""
_Foreseen = tuple[tuple[int, int, int], ...]
"""Attempts that may come: (arm, number of its result, level of its confidence), by arm."""


@dataclass(frozen=True, slots=True)
class Edges:
    """What asking an arm in a state can lead to. Those of one state and arm lie together: `starts` are the places where
    a new pair begins, `pair_state` and `pair_arm` say which. `child` is a state of the next depth."""

    state: IntArray
    arm: IntArray
    result: IntArray
    level: IntArray
    child: IntArray
    starts: IntArray
    pair_state: IntArray
    pair_arm: IntArray


@dataclass(frozen=True, slots=True)
class Depth:
    """States after so many further attempts. Matrices are states x `MAX_ASKED`, the attempts that were made first;
    places that are not filled have arm -1. `n_results`: distinct results of each state."""

    arms: IntArray
    results: IntArray
    levels: IntArray
    n_results: IntArray
    edges: Edges


@lru_cache(maxsize=4096)
def tree_of(start: Start, n_levels: tuple[int, ...], may_fail: tuple[bool, ...], horizon: int) -> tuple[Depth, ...]:
    """Every state that at most `horizon` further attempts lead to, by depth; the first depth is `start` itself.

    By arm, `n_levels` is how many levels its confidence has (0: it has none), `may_fail` whether it may give no result.
    """
    depths = []
    states: list[_Foreseen] = [()]
    for depth in range(horizon + 1):
        following: dict[_Foreseen, int] = {}
        edges = [
            (number, arm, result, level, following.setdefault(child, len(following)))
            for number, state in enumerate(states)
            for arm, result, level, child in _outcomes(start, state, n_levels, may_fail, is_last=depth == horizon)
        ]
        depths.append(_depth(start, states, edges))
        states = list(following)
    return tuple(depths)


def numbered(results: Iterable[int]) -> list[int]:
    """The same results with their numbers as they first appear; `NOTHING` stays."""
    known: dict[int, int] = {}
    return [NOTHING if one == NOTHING else known.setdefault(one, len(known)) for one in results]


def _outcomes(
    start: Start, state: _Foreseen, n_levels: tuple[int, ...], may_fail: tuple[bool, ...], *, is_last: bool
) -> list[tuple[int, int, int, _Foreseen]]:
    if is_last or len(start) + len(state) >= MAX_ASKED:
        return []
    asked = {arm for arm, _ in start} | {arm for arm, _, _ in state}
    n_results = max([result for _, result in start] + [result for _, result, _ in state], default=NOTHING) + 1
    found = []
    for arm in range(len(n_levels)):
        if arm in asked:
            continue
        said = [(result, level) for result in range(n_results + 1) for level in _levels(n_levels[arm])]
        for result, level in said + [(NOTHING, NOTHING)] * may_fail[arm]:
            found.append((arm, result, level, _canonical(start, (*state, (arm, result, level)))))
    return found


def _levels(n: int) -> range:
    return range(n) if n else range(NOTHING, 0)


def _canonical(start: Start, state: _Foreseen) -> _Foreseen:
    by_arm = sorted(state)
    numbers = numbered([result for _, result in start] + [result for _, result, _ in by_arm])[len(start) :]
    return tuple((arm, number, level) for (arm, _, level), number in zip(by_arm, numbers, strict=True))


def _depth(start: Start, states: list[_Foreseen], edges: list[tuple[int, int, int, int, int]]) -> Depth:
    shape = (len(states), MAX_ASKED)
    arms, results, levels = (np.full(shape, NOTHING, np.int64) for _ in range(3))
    for row, state in enumerate(states):
        for column, (arm, result) in enumerate(start):
            arms[row, column], results[row, column] = arm, result
        for column, (arm, result, level) in enumerate(state, start=len(start)):
            arms[row, column], results[row, column], levels[row, column] = arm, result, level
    state_E, arm_E, result_E, level_E, child_E = np.array(edges, np.int64).reshape(len(edges), 5).T
    is_new = np.ones(len(edges), np.bool_)
    is_new[1:] = (np.diff(state_E) != 0) | (np.diff(arm_E) != 0)
    starts = np.flatnonzero(is_new)
    made = Edges(state_E, arm_E, result_E, level_E, child_E, starts, state_E[starts], arm_E[starts])
    return Depth(arms, results, levels, results.max(axis=1, initial=NOTHING) + 1, made)
