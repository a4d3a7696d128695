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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from r2.errors import ConfigError
from r2.evaluation.outcomes import FloatArray, MethodOutcomes
from r2.evaluation.recorded.cascades import AGREEMENT
from r2.evaluation.recorded.method import TableMethod, TablePolicy, cost_ref_of
from r2.evaluation.recorded.table import IntArray, OutcomeTable, Question
from r2.problems.leakage import normalised

N_FOLDS = 5
LEAST_IN_SCOPE = 20
"""Questions that a benchmark must have to be fitted and cross-fitted: four in each fold."""
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
class Plays:
    """A policy's settings on some rows: `right_SQ`, `cost_SQ` and `calls_SQ` are settings x rows; `asked` holds the
    models asked, by setting and row, in order."""

    right_SQ: FloatArray
    cost_SQ: FloatArray
    calls_SQ: FloatArray
    asked: Sequence[Sequence[tuple[str, ...]]]


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
    keys = [f"{salt}:{normalised(p.question)}".encode("utf-8", "surrogatepass") for p in table.problems]
    return np.array([int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) % n_folds for key in keys], np.int64)


def check_table(table: OutcomeTable) -> None:
    """ConfigError, by name, for what cannot be learned from: answers all right or all wrong, and a benchmark with too
    few questions to be cross-fitted."""
    if not table.n_problems:
        raise ConfigError("--outcomes: no question has an outcome of every model")
    if float(table.is_correct_MP.min()) == float(table.is_correct_MP.max()):
        what = "right" if table.is_correct_MP.max() > 0 else "wrong"
        raise ConfigError(
            f"--outcomes: every model is {what} on all {table.n_problems} questions, so there is nothing to choose by. "
            "Give questions that some model answers right and some model wrong."
        )
    groups = table.benchmarks
    for group in dict.fromkeys(groups):
        if (n := groups.count(group)) < LEAST_IN_SCOPE:
            raise ConfigError(
                f"--outcomes: benchmark {group!r} has {n} questions; at least {LEAST_IN_SCOPE} are needed to fit on "
                "some and play the others. Add questions of it, or leave its rows out."
            )
    folds = folds_of(table)
    for fold in range(N_FOLDS):
        for group in dict.fromkeys(groups):
            if all(its != group for its, at in zip(groups, folds, strict=True) if at != fold):
                raise ConfigError(
                    f"--outcomes: all questions of benchmark {group!r} are the same one, so that nothing of it can be "
                    "fitted where it is played. Give different questions."
                )


def check_test(table: OutcomeTable, test: OutcomeTable) -> None:
    """ConfigError for test rows of a benchmark that `table` has no row of."""
    known = set(table.benchmarks)
    if unknown := [group for group in dict.fromkeys(test.benchmarks) if group not in known]:
        n = test.benchmarks.count(unknown[0])
        raise ConfigError(
            f"--test: {n} questions of benchmark {unknown[0]!r}, and --outcomes has none of it to fit on. Its "
            f"benchmarks: {', '.join(sorted(known))}. Add rows of {unknown[0]!r} to --outcomes, or leave them out."
        )


def without_known(table: OutcomeTable, test: OutcomeTable) -> OutcomeTable:
    """The test rows whose questions, by their words, are not in `table`."""
    known = {normalised(problem.question) for problem in table.problems}
    return test.part(at for at, problem in enumerate(test.problems) if normalised(problem.question) not in known)


def cross_fitted(
    table: OutcomeTable, methods: Sequence[TableMethod], say: Say, n_folds: int = N_FOLDS
) -> list[PlayedScope]:
    """Every row played by methods fitted on the other folds."""
    folds = folds_of(table, n_folds)
    sides = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(n_folds)]
    splits = [(table.part(fit), table.part(play), play) for fit, play in sides if len(play)]
    return _played(table, splits, methods, say)


def on_test_rows(
    table: OutcomeTable, test: OutcomeTable, methods: Sequence[TableMethod], say: Say
) -> list[PlayedScope]:
    """Every row of `test` played once by methods fitted on all of `table`."""
    return _played(test, [(table, test, np.arange(test.n_problems))], methods, say)


def play(policy: TablePolicy, table: OutcomeTable) -> Plays:
    """Every setting of the policy on every row. ValueError where the policy answers with a model it did not ask."""
    n_settings = len(policy.settings)
    shape = (n_settings, table.n_problems)
    right, cost, calls = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    asked: list[list[tuple[str, ...]]] = [[] for _ in range(n_settings)]
    row_of = {model: row for row, model in enumerate(table.models)}
    for at in range(table.n_problems):
        for setting in range(n_settings):
            question = Question(table, at)
            answers = policy.play(question, setting)
            models = tuple(attempt.arm for attempt in question.attempts)
            if answers not in models:
                raise ValueError(f"the answer of {answers!r} was given without asking it; asked were {models}")
            right[setting, at] = table.is_correct_MP[row_of[answers], at]
            cost[setting, at] = question.cost_usd
            calls[setting, at] = len(models)
            asked[setting].append(models)
    return Plays(right, cost, calls, asked)


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


Split = tuple[OutcomeTable, OutcomeTable, IntArray]
"""(rows to fit on, rows to play, their places among all played rows)"""


def _played(
    played: OutcomeTable, splits: Sequence[Split], methods: Sequence[TableMethod], say: Say
) -> list[PlayedScope]:
    scopes = _scopes(played)
    gathered: dict[tuple[str, str, str], _Gathered] = {}
    cost_refs: list[float] = []
    ordered = sorted(methods, key=lambda method: method.name != AGREEMENT)  # others aim at its accuracy
    for number, (fit, test, places) in enumerate(splits, start=1):
        floors, cost_ref = _floors(fit, scopes), cost_ref_of(fit)
        cost_refs.append(cost_ref)
        for method in ordered:
            if method.kind != "constant":
                say(f"fold {number} of {len(splits)}: {method.name}")
            if method.name == AGREEMENT:
                for scope in scopes:
                    floors[scope][AS_CASCADE] = _honest_accuracy(method, fit.part(_in_scope(fit, scope)), cost_ref)
            for scope, policy, chosen_on, its_test, its_places in _fitted(method, fit, test, places, scopes):
                played_test = play(policy, its_test)
                for aim in AIMS:
                    if aim == AS_CASCADE and AS_CASCADE not in floors[scope]:
                        continue
                    if len(policy.settings) == 1:
                        at = 0
                    else:
                        goal = AS_CONSTANT if aim == AS_CASCADE and method.name == AGREEMENT else aim
                        at = choose(chosen_on.right_SQ, chosen_on.cost_SQ, goal, floors[scope], cost_ref)
                    key = (scope, method.name, aim)
                    one = gathered.setdefault(key, _empty(played.n_problems))
                    _add(one, policy, played_test, at, its_places)
    return [_scope(played, scope, methods, gathered, cost_refs) for scope in scopes]


def _scopes(table: OutcomeTable) -> list[str]:
    groups = list(dict.fromkeys(table.benchmarks))
    return [ALL, *groups] if len(groups) > 1 else [ALL]


def _in_scope(table: OutcomeTable, scope: str) -> IntArray:
    groups = np.array(table.benchmarks)
    return np.flatnonzero(np.ones(len(groups), np.bool_) if scope == ALL else groups == scope)


def _floors(fit: OutcomeTable, scopes: Sequence[str]) -> dict[str, dict[str, float]]:
    """By scope, accuracy to reach: so far that of the best constant on the rows fitted on."""
    found = {}
    for scope in scopes:
        rows = fit.part(_in_scope(fit, scope))
        found[scope] = {AS_CONSTANT: float(rows.is_correct_MP.mean(axis=1).max())}
    return found


def _honest_accuracy(method: TableMethod, rows: OutcomeTable, cost_ref: float) -> float:
    """Accuracy of the method, chosen to be as right as the best constant, on rows that it was not searched on: on those
    that it was searched on it looks better than it is."""
    folds = folds_of(rows, _FLOOR_FOLDS, salt="floor")
    total = 0.0
    for fold in np.unique(folds):
        fit, unseen = rows.part(np.flatnonzero(folds != fold)), rows.part(np.flatnonzero(folds == fold))
        policy = method.fit(fit)
        plays = play(policy, fit)
        floor = {AS_CONSTANT: float(fit.is_correct_MP.mean(axis=1).max())}
        at = choose(plays.right_SQ, plays.cost_SQ, AS_CONSTANT, floor, cost_ref)
        total += float(play(policy, unseen).right_SQ[at].sum())
    return total / rows.n_problems


def _fitted(
    method: TableMethod, fit: OutcomeTable, test: OutcomeTable, places: IntArray, scopes: Sequence[str]
) -> list[tuple[str, TablePolicy, Plays, OutcomeTable, IntArray]]:
    """For each scope: (its name, policy, plays that choose the setting, test rows, their places). A method with inner
    folds is fitted once for all scopes, a search once for each."""
    found = []
    if method.inner_folds:
        policy = method.fit(fit)
        unseen = _out_of_fold(method, fit, policy.settings)
        for scope in scopes:
            at = _in_scope(test, scope)
            found.append((scope, policy, _columns(unseen, _in_scope(fit, scope)), test.part(at), places[at]))
        return found
    for scope in scopes:
        at = _in_scope(test, scope)
        rows = fit.part(_in_scope(fit, scope))
        policy = method.fit(rows)
        found.append((scope, policy, play(policy, rows), test.part(at), places[at]))
    return found


def _out_of_fold(method: TableMethod, fit: OutcomeTable, settings: Sequence[str]) -> Plays:
    """Every setting on every row of the training side, by policies that had not seen the row."""
    folds = folds_of(fit, method.inner_folds, salt="inner")
    shape = (len(settings), fit.n_problems)
    right, cost, calls = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for fold in np.unique(folds):
        at = np.flatnonzero(folds == fold)
        policy = method.fit(fit.part(np.flatnonzero(folds != fold)))
        if tuple(policy.settings) != tuple(settings):
            raise ValueError(f"{method.name}: its settings differ between fits, {settings} and {policy.settings}")
        plays = play(policy, fit.part(at))
        right[:, at], cost[:, at], calls[:, at] = plays.right_SQ, plays.cost_SQ, plays.calls_SQ
    return Plays(right, cost, calls, ())


def _columns(plays: Plays, at: IntArray) -> Plays:
    return Plays(plays.right_SQ[:, at], plays.cost_SQ[:, at], plays.calls_SQ[:, at], ())


def _empty(n: int) -> _Gathered:
    return _Gathered([], np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan))


def _add(one: _Gathered, policy: TablePolicy, plays: Plays, setting: int, places: IntArray) -> None:
    one.settings.append(policy.settings[setting])
    one.right[places] = plays.right_SQ[setting]
    one.cost[places] = plays.cost_SQ[setting]
    one.calls[places] = plays.calls_SQ[setting]
    one.asked |= dict(zip(places.tolist(), plays.asked[setting], strict=True))


def _scope(
    played: OutcomeTable,
    scope: str,
    methods: Sequence[TableMethod],
    gathered: dict[tuple[str, str, str], _Gathered],
    cost_refs: Sequence[float],
) -> PlayedScope:
    at = _in_scope(played, scope)
    table = played.part(at)
    rows = []
    for method in methods:
        for aim in AIMS:
            if (one := gathered.get((scope, method.name, aim))) is not None:
                outcomes = _outcomes(table, method, aim, one, at)
                rows.append(PlayedRow(method, aim, tuple(one.settings), outcomes))
    return PlayedScope(scope, table, float(np.mean(cost_refs)), tuple(rows))


def _outcomes(table: OutcomeTable, method: TableMethod, aim: str, one: _Gathered, at: IntArray) -> MethodOutcomes:
    row_of = {model: row for row, model in enumerate(table.models)}
    tokens = np.zeros(len(at))
    models: dict[str, float] = {}
    by_group: dict[str, dict[str, float]] = {}
    groups = table.benchmarks
    for place, its in enumerate(at.tolist()):
        for model in one.asked[its]:
            models[model] = models.get(model, 0.0) + 1.0
            counts = by_group.setdefault(groups[place], {})
            counts[model] = counts.get(model, 0.0) + 1.0
            if table.output_tokens_MP is not None:
                tokens[place] += np.nan_to_num(table.output_tokens_MP[row_of[model], place])
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
