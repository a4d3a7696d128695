"""Every method played on rows that nothing of it was fitted or chosen on: by cross-fitting, or on a test table.

Rows are put into folds by a hash of their question's text, so that equal questions are in one fold. For each fold the
methods are fitted on the other folds, the operating point of each is chosen there too, and the fold's rows are played
once. With a test table all rows are fitted on, and the test rows are played once.

The best agreement cascade is as right on unseen rows as cross-fitting within the rows fitted on says; this is the floor
of "as right as the best agreement cascade".

A *scope* is all rows, or those of one benchmark. Policies are fitted on all rows; the operating point of each scope is
chosen on its own rows, and methods that are a search (`inner_folds` 0) are searched on its own rows.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from r2.evaluation.outcomes import FloatArray, MethodOutcomes
from r2.evaluation.recorded.cascades import AGREEMENT
from r2.evaluation.recorded.method import TableMethod, cost_ref_of
from r2.evaluation.recorded.playing import Done, Each, Job, Plays, one_by_one
from r2.evaluation.recorded.table import IntArray, OutcomeTable
from r2.problems.leakage import normalised

N_FOLDS = 5
AS_CONSTANT, AS_CASCADE = "as right as the best constant", "as right as the best agreement cascade"
UTILITIES = (20.0, 50.0, 100.0)
"""Prices of a right answer at which utility is compared, in multiples of `cost_ref`."""
DEFAULT_VALUE = 50.0
"""v0 of docs/method.md, section 10: the price where nobody names one."""
ALL = "all"
_FLOOR_FOLDS = 3
"""Inner folds in which the agreement cascade's own accuracy is estimated."""

Say = Callable[[str], None]


def aim_of(value: float) -> str:
    """The name of the aim "highest utility at this price"."""
    return f"utility at v = {value:g}"


AIMS = (AS_CONSTANT, AS_CASCADE, *(aim_of(value) for value in UTILITIES))


@dataclass(frozen=True, slots=True)
class PlayedRow:
    """A method at the operating point of one aim, over all rows of a scope. `settings` are the chosen ones, by fold."""

    method: TableMethod
    aim: str
    settings: tuple[str, ...]
    outcomes: MethodOutcomes


@dataclass(frozen=True, slots=True)
class PlayedScope:
    """All methods on the rows of one scope. `table` has these rows; `cost_ref_usd` is that of all rows fitted on, the
    same in every scope, as the mean over folds."""

    name: str
    table: OutcomeTable
    cost_ref_usd: float
    rows: tuple[PlayedRow, ...]


@dataclass(slots=True)
class _Gathered:
    """What folds have given so far, of one scope, method and aim. Arrays are over all rows of the table."""

    settings: list[str]
    right: FloatArray
    cost: FloatArray
    calls: FloatArray
    asked: dict[int, tuple[str, ...]] = field(default_factory=dict)


def folds_of(table: OutcomeTable, n_folds: int = N_FOLDS, salt: str = "fold") -> IntArray:
    """Each row's fold, 0 .. n_folds - 1, by a hash of its question's words."""
    return np.array([_hash_of(salt, problem.question) % n_folds for problem in table.problems], np.int64)


@lru_cache(maxsize=65_536)
def _hash_of(salt: str, question: str) -> int:
    """Kept: every method of every fold asks for its rows' folds."""
    key = f"{salt}:{normalised(question)}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())


def cross_fitted(
    table: OutcomeTable, methods: Sequence[TableMethod], say: Say, each: Each = one_by_one, n_folds: int = N_FOLDS
) -> list[PlayedScope]:
    """Every row played by methods fitted on the other folds. With one fold, one half of the questions is fitted on and
    the other half played."""
    if n_folds == 1:
        half = folds_of(table, 2)
        fit, played = (table.part(np.flatnonzero(half == side)) for side in (1, 0))
        return on_test_rows(fit, played, methods, say, each)
    folds = folds_of(table, n_folds)
    sides = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(n_folds)]
    splits = [_Split(table.part(fit), table.part(play), play) for fit, play in sides if len(play)]
    return _played(table, splits, methods, each, say)


def on_test_rows(
    table: OutcomeTable, test: OutcomeTable, methods: Sequence[TableMethod], say: Say, each: Each = one_by_one
) -> list[PlayedScope]:
    """Every row of `test` played once by methods fitted on all of `table`."""
    return _played(test, [_Split(table, test, np.arange(test.n_problems))], methods, each, say)


def choose(right_SQ: FloatArray, cost_SQ: FloatArray, aim: str, floors: dict[str, float], cost_ref: float) -> int:
    """The setting that these rows choose for the aim.

    For a floor of accuracy: the cheapest that reaches it, the more accurate of equals; where none does, the one of the
    highest utility at `DEFAULT_VALUE`. For a price v: the highest v * accuracy - cost, the cheaper of equals.
    """
    accuracy, cost = right_SQ.mean(axis=1), cost_SQ.mean(axis=1)
    settings = range(len(accuracy))
    if aim in floors:
        good = [i for i in settings if accuracy[i] >= floors[aim] - 1e-12]
        if good:
            return min(good, key=lambda i: (cost[i], -accuracy[i]))
    v_usd = cost_ref * {aim_of(value): value for value in UTILITIES}.get(aim, DEFAULT_VALUE)
    return max(settings, key=lambda i: (v_usd * accuracy[i] - cost[i], -cost[i]))


@dataclass(frozen=True, slots=True)
class _Split:
    """Rows to fit on, rows to play, and the places of these among all that are played."""

    fit: OutcomeTable
    play: OutcomeTable
    places: IntArray


_Key = tuple[int, str, str, str]
"""(number of the split, method, what the job is for, scope or inner fold)"""
_UNSEEN, _PLAYED, _SEARCHED, _FLOOR = "inner fold", "rows", "search in", "floor in"


def _played(
    played: OutcomeTable, splits: Sequence[_Split], methods: Sequence[TableMethod], each: Each, say: Say
) -> list[PlayedScope]:
    scopes = _scopes(played)
    jobs: dict[_Key, Job] = {}
    for number, split in enumerate(splits):
        for method in methods:
            for role, name, job in _jobs(method, split, scopes, f"fold {number + 1} of {len(splits)}: {method.name}"):
                jobs[number, method.name, role, name] = job
    done: dict[_Key, Done] = {}
    apart = [key for key, job in jobs.items() if job.method.kind == "constant"]  # nothing to fit: not worth sending
    shared = [key for key in jobs if jobs[key].method.kind != "constant"]
    done |= dict(zip(apart, one_by_one([jobs[key] for key in apart]), strict=True))
    for key, its in zip(shared, each([jobs[key] for key in shared]), strict=True):
        done[key] = its
        say(f"{jobs[key].label}, {key[2]} {key[3]}".rstrip())
    gathered: dict[tuple[str, str, str], _Gathered] = {}
    for number, split in enumerate(splits):
        _choose_all(number, split, methods, scopes, done, gathered, played.n_problems)
    cost_ref = float(np.mean([cost_ref_of(split.fit) for split in splits]))
    return [_scope(played, scope, methods, gathered, cost_ref) for scope in scopes]


def _jobs(method: TableMethod, split: _Split, scopes: Sequence[str], label: str) -> Iterator[tuple[str, str, Job]]:
    """(what it is for, scope or inner fold, job) of one method on one split."""
    if method.inner_folds:
        for name, fit, unseen in _inner(split.fit, method.inner_folds, "inner"):
            yield _UNSEEN, name, Job(label, method, fit, (unseen,))
        yield _PLAYED, "", Job(label, method, split.fit, (split.play,))
        return
    for scope in scopes:
        rows = split.fit.part(_in_scope(split.fit, scope))
        yield _SEARCHED, scope, Job(label, method, rows, (rows, split.play.part(_in_scope(split.play, scope))))
        if method.name == AGREEMENT:
            for name, fit, unseen in _inner(rows, _FLOOR_FOLDS, "floor"):
                yield _FLOOR, f"{scope} {name}", Job(label, method, fit, (fit, unseen))


def _inner(rows: OutcomeTable, n_folds: int, salt: str) -> Iterator[tuple[str, OutcomeTable, OutcomeTable]]:
    """(the fold's number, rows of the other folds, its own rows)"""
    folds = folds_of(rows, n_folds, salt)
    for fold in np.unique(folds):
        yield str(fold + 1), rows.part(np.flatnonzero(folds != fold)), rows.part(np.flatnonzero(folds == fold))


def _choose_all(
    number: int,
    split: _Split,
    methods: Sequence[TableMethod],
    scopes: Sequence[str],
    done: Mapping[_Key, Done],
    gathered: dict[tuple[str, str, str], _Gathered],
    n_played: int,
) -> None:
    """The operating points of one split, and what was played at them."""
    cost_ref = cost_ref_of(split.fit)
    for scope in scopes:
        at_fit, at_play = _in_scope(split.fit, scope), _in_scope(split.play, scope)
        rows = split.fit.part(at_fit)
        floors = {AS_CONSTANT: float(rows.is_correct_MP.mean(axis=1).max())}
        if any(method.name == AGREEMENT for method in methods):
            floors[AS_CASCADE] = _honest_accuracy(number, scope, rows, done, cost_ref)
        for method in methods:
            if method.inner_folds:
                whole = done[number, method.name, _PLAYED, ""]
                settings, plays = whole.settings, whole.plays[0].of_rows(at_play)
                right, cost = _unseen(number, method, split.fit, settings, done)
                chosen_on = (right[:, at_fit], cost[:, at_fit])
            else:
                its = done[number, method.name, _SEARCHED, scope]
                settings, plays = its.settings, its.plays[1]
                chosen_on = (its.plays[0].right_SQ, its.plays[0].cost_SQ)
            for aim in AIMS:
                if aim == AS_CASCADE and AS_CASCADE not in floors:
                    continue
                goal = AS_CONSTANT if aim == AS_CASCADE and method.name == AGREEMENT else aim
                at = choose(*chosen_on, goal, floors, cost_ref) if len(settings) > 1 else 0
                one = gathered.setdefault((scope, method.name, aim), _empty(n_played))
                _add(one, settings[at], plays, at, split.places[at_play])


def _honest_accuracy(number: int, scope: str, rows: OutcomeTable, done: Mapping[_Key, Done], cost_ref: float) -> float:
    """Accuracy of the agreement cascade, chosen to be as right as the best constant, on rows that it was not searched
    on: on those that it was searched on it looks better than it is."""
    total = 0.0
    for name, fit, _ in _inner(rows, _FLOOR_FOLDS, "floor"):
        searched, unseen = done[number, AGREEMENT, _FLOOR, f"{scope} {name}"].plays
        floor = {AS_CONSTANT: float(fit.is_correct_MP.mean(axis=1).max())}
        at = choose(searched.right_SQ, searched.cost_SQ, AS_CONSTANT, floor, cost_ref)
        total += float(unseen.right_SQ[at].sum())
    return total / rows.n_problems


def _unseen(
    number: int, method: TableMethod, fit: OutcomeTable, settings: tuple[str, ...], done: Mapping[_Key, Done]
) -> tuple[FloatArray, FloatArray]:
    """Right and cost of every setting on every row fitted on, by policies that had not seen the row."""
    folds = folds_of(fit, method.inner_folds, "inner")
    right, cost = (np.zeros((len(settings), fit.n_problems)) for _ in range(2))
    for fold in np.unique(folds):
        its = done[number, method.name, _UNSEEN, str(fold + 1)]
        if its.settings != settings:
            raise ValueError(f"{method.name}: its settings differ between fits, {settings} and {its.settings}")
        at = folds == fold
        right[:, at], cost[:, at] = its.plays[0].right_SQ, its.plays[0].cost_SQ
    return right, cost


def _scopes(table: OutcomeTable) -> list[str]:
    groups = list(dict.fromkeys(table.benchmarks))
    return [ALL, *(group for group in groups if group != ALL)] if len(groups) > 1 else [ALL]


def _in_scope(table: OutcomeTable, scope: str) -> IntArray:
    groups = np.array(table.benchmarks)
    return np.flatnonzero(np.ones(len(groups), np.bool_) if scope == ALL else groups == scope)


def _empty(n: int) -> _Gathered:
    return _Gathered([], np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan))


def _add(one: _Gathered, name: str, plays: Plays, setting: int, places: IntArray) -> None:
    one.settings.append(name)
    one.right[places] = plays.right_SQ[setting]
    one.cost[places] = plays.cost_SQ[setting]
    one.calls[places] = plays.calls_SQ[setting]
    one.asked |= dict(zip(places.tolist(), plays.asked[setting], strict=True))


def _scope(
    played: OutcomeTable,
    scope: str,
    methods: Sequence[TableMethod],
    gathered: dict[tuple[str, str, str], _Gathered],
    cost_ref: float,
) -> PlayedScope:
    at = _in_scope(played, scope)
    table = played.part(at)
    rows = []
    for method in methods:
        for aim in AIMS:
            if (one := gathered.get((scope, method.name, aim))) is not None:
                outcomes = _outcomes(table, method, aim, one, at)
                rows.append(PlayedRow(method, aim, tuple(one.settings), outcomes))
    return PlayedScope(scope, table, cost_ref, tuple(rows))


def _outcomes(table: OutcomeTable, method: TableMethod, aim: str, one: _Gathered, at: IntArray) -> MethodOutcomes:
    row_of = {model: row for row, model in enumerate(table.models)}
    tokens = np.zeros(len(at))
    models: dict[str, float] = {}
    by_group: dict[str, dict[str, float]] = {}
    groups = table.benchmarks
    tokens_MP = None if table.output_tokens_MP is None else np.nan_to_num(table.output_tokens_MP)
    for place, its in enumerate(at.tolist()):
        for model in one.asked[its]:
            models[model] = models.get(model, 0.0) + 1.0
            counts = by_group.setdefault(groups[place], {})
            counts[model] = counts.get(model, 0.0) + 1.0
            if tokens_MP is not None:
                tokens[place] += tokens_MP[row_of[model], place]
    zeros = np.zeros(len(at))
    ids = tuple(problem.problem_id for problem in table.problems)
    return MethodOutcomes(
        f"{method.name}, {aim}",
        method.kind,
        ids,
        groups,
        one.right[at],
        one.cost[at],
        zeros,
        one.calls[at],
        tokens,
        zeros,
        model_calls=models,
        model_calls_by_difficulty=by_group,
    )
