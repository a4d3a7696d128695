"""The figures of a comparison on recorded answers, with paired intervals; what `r2 evaluate --outcomes` prints and
keeps. Pure.

All intervals of a scope use the same resamples of its questions (r2/evaluation/intervals.py). Everything is held
against three references: the most accurate constant, the cheapest constant within the margin of it, and the best
agreement cascade. The first two are picked on the rows shown, which favours them; the cascade was chosen where the
methods were fitted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from pydantic import TypeAdapter

from r2.evaluation.comparison import Estimate
from r2.evaluation.intervals import percentile_interval, resampled_means
from r2.evaluation.outcomes import FloatArray, MethodOutcomes, oracle_of
from r2.evaluation.recorded.cascades import AGREEMENT
from r2.evaluation.recorded.crossfit import AIMS, AS_CASCADE, AS_CONSTANT, UTILITIES, PlayedRow, PlayedScope, aim_of
from r2.evaluation.recorded.fixed import RULE

MARGIN = 0.02
"""Accuracy that the cheapest good constant may lack against the most accurate one; ours."""
FIXED = "always"
"""The aim of a row without a choice: one model."""


@dataclass(frozen=True, slots=True)
class Against:
    """A row minus a reference, question by question: accuracy gained, and the share of the reference's cost saved (None
    where that costs nothing)."""

    accuracy: Estimate
    cost_saved: Estimate | None


@dataclass(frozen=True, slots=True)
class RecordedRow:
    """A method at the operating point of one aim. Costs in USD per 1,000 questions; utility is v * right - cost, in USD
    per 1,000 questions."""

    method: str
    kind: str
    aim: str
    settings: tuple[str, ...]
    """Chosen ones, by fold."""
    accuracy: Estimate
    usd_per_1k: Estimate
    calls_per_question: float
    model_shares: Mapping[str, float]
    """Model -> share of the calls, most used first."""
    against_constant: Against | None
    """The most accurate constant."""
    saved_at_equal_accuracy: Estimate | None
    """Against the most accurate constant; None where the row is less accurate than it."""
    against_cascade: Against | None
    """The best agreement cascade, chosen to be as right as the best constant; None where the table has none."""
    utility: Mapping[str, Estimate]
    """By price v in multiples of `cost_ref`."""
    utility_gain: Mapping[str, Estimate]
    """The same minus that of the agreement cascade chosen for this price; empty where the table has none."""
    against_rule: Against | None = None
    """Of a learned method: the best model of each benchmark, chosen for the same aim; None where the table has none."""


@dataclass(frozen=True, slots=True)
class AgainstStart:
    """A method minus what it was before its own training, question by question, both at the operating point of one aim.
    `seeds`: how many pairs of trainings the figures are the mean of. `utility_gain` by price, as in `RecordedRow`; only
    of the aim's own price."""

    method: str
    start: str
    aim: str
    seeds: int
    accuracy: Estimate
    usd_per_1k: Estimate
    gained: Against
    utility_gain: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class RecordedScope:
    """All questions, or those of one benchmark."""

    name: str
    n_questions: int
    cost_ref_usd: float
    best_constant: str
    cheap_constant: str
    """The cheapest constant whose accuracy is within the margin of the best one's."""
    oracle_accuracy: float
    oracle_usd_per_1k: float
    rows: tuple[RecordedRow, ...]
    starts: tuple[AgainstStart, ...] = ()
    """Of the methods that have a start: each training, and the mean of all seeds where there are several."""

    def row(self, method: str, aim: str) -> RecordedRow:
        """KeyError where there is none."""
        for one in self.rows:
            if (one.method, one.aim) == (method, aim):
                return one
        raise KeyError((method, aim))


@dataclass(frozen=True, slots=True)
class RecordedComparison:
    """A comparison on recorded answers. `n_folds` is 0 where a test table was played. `not_played` says which methods
    are not in the table, and why; `remarks` what of the files is not used."""

    outcomes: tuple[str, ...]
    test: tuple[str, ...]
    n_fitted: int
    n_folds: int
    models: tuple[str, ...]
    margin: float
    n_bootstrap: int
    scopes: tuple[RecordedScope, ...]
    not_played: Mapping[str, str]
    remarks: tuple[str, ...]
    wall_s: float


_JSON = TypeAdapter(RecordedComparison)


def to_json(comparison: RecordedComparison) -> bytes:
    """The comparison as JSON."""
    return _JSON.dump_json(comparison, indent=1)


def from_json(text: bytes | str) -> RecordedComparison:
    """Inverse of `to_json`; pydantic's ValidationError (a ValueError) for another file."""
    return _JSON.validate_json(text)


def compared(scope: PlayedScope, *, margin: float = MARGIN, n_bootstrap: int = 2000, seed: int = 0) -> RecordedScope:
    """The figures of one scope."""
    constants = scope.table.constants()
    by_name = {one.label: one for one in constants}
    best = min(constants, key=lambda one: (-one.accuracy, one.mean_cost_usd))
    cheap = min(
        (one for one in constants if one.accuracy >= best.accuracy - margin - 1e-12),
        key=lambda one: (one.mean_cost_usd, -one.accuracy),
    )
    oracle = oracle_of(constants)
    shown = [row for row in scope.rows if row.method.name not in by_name]
    outcomes = [*constants, *(row.outcomes for row in shown)]
    n = len(outcomes)
    columns = [one.is_correct for one in outcomes] + [one.cost_usd for one in outcomes]
    means = resampled_means(np.stack(columns, axis=1), n_bootstrap, seed)
    drawn = _Drawn(outcomes, means[:, :n], means[:, n:], scope.cost_ref_usd)
    cascades = {row.aim: len(constants) + i for i, row in enumerate(shown) if row.method.name == AGREEMENT}
    best_at = constants.index(best)
    rows = [
        drawn.row(i, one.label, "constant", FIXED, (one.label,), best_at, cascades) for i, one in enumerate(constants)
    ]
    rules = {row.aim: len(constants) + i for i, row in enumerate(shown) if row.method.name == RULE}
    rows += [
        drawn.row(len(constants) + i, row.method.name, row.method.kind, row.aim, row.settings, best_at, cascades, rules)
        for i, row in enumerate(shown)
    ]
    return RecordedScope(
        scope.name,
        scope.table.n_problems,
        scope.cost_ref_usd,
        best.label,
        cheap.label,
        oracle.accuracy,
        1000 * oracle.mean_cost_usd,
        tuple(rows),
        tuple(_against_starts(shown, len(constants), drawn)),
    )


def _against_starts(shown: Sequence[PlayedRow], first: int, drawn: "_Drawn") -> Iterator[AgainstStart]:
    """Of the rows `shown`, which are the outcomes from the place `first` on."""
    places = {(row.method.name, row.aim): first + i for i, row in enumerate(shown)}
    pairs: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for row in shown:
        start = places.get((row.method.start, row.aim))
        if start is not None:
            pair = places[row.method.name, row.aim], start
            yield drawn.against_start(row.method.name, row.method.start, row.aim, [pair])
            families = row.method.family or row.method.name, row.method.start.partition(",")[0]
            pairs.setdefault((*families, row.aim), []).append(pair)
    for (method, start_of, aim), its in pairs.items():
        if len(its) > 1:
            yield drawn.against_start(method, start_of, aim, its)


@dataclass(slots=True)
class _Drawn:
    """Outcomes of all rows, and their means under each resample (resamples x rows)."""

    outcomes: Sequence[MethodOutcomes]
    accuracies: FloatArray
    costs: FloatArray
    cost_ref_usd: float

    def row(
        self,
        i: int,
        method: str,
        kind: str,
        aim: str,
        settings: tuple[str, ...],
        best: int,
        cascades: Mapping[str, int],
        rules: Mapping[str, int] = MappingProxyType({}),
    ) -> RecordedRow:
        one = self.outcomes[i]
        of_constant = self._against(i, best)
        cascade = cascades.get(AS_CONSTANT)
        reaches = one.accuracy >= self.outcomes[best].accuracy - 1e-12
        own = {aim_of(value): value for value in UTILITIES}
        prices = [own[aim]] if aim in own else [] if kind != "constant" or aim != FIXED else list(UTILITIES)
        return RecordedRow(
            method,
            kind,
            aim,
            settings,
            Estimate(one.accuracy, percentile_interval(self.accuracies[:, i])),
            Estimate(1000 * one.mean_cost_usd, percentile_interval(1000 * self.costs[:, i])),
            float(one.n_calls.mean()),
            _shares(one),
            of_constant,
            of_constant.cost_saved if reaches else None,
            None if cascade is None else self._against(i, cascade),
            {f"{value:g}": self._utility(i, value) for value in prices},
            {
                f"{value:g}": self._utility_gain(i, cascades[aim_of(value)], value)
                for value in prices
                if aim_of(value) in cascades
            },
            self._against(i, rules[aim]) if kind == "learned" and aim in rules else None,
        )

    def _against(self, i: int, other: int) -> Against:
        mine, theirs = self.outcomes[i], self.outcomes[other]
        gained = Estimate(
            mine.accuracy - theirs.accuracy, percentile_interval(self.accuracies[:, i] - self.accuracies[:, other])
        )
        if not theirs.mean_cost_usd:
            return Against(gained, None)
        with np.errstate(divide="ignore", invalid="ignore"):
            saved = 1 - self.costs[:, i] / self.costs[:, other]
        return Against(gained, Estimate(1 - mine.mean_cost_usd / theirs.mean_cost_usd, percentile_interval(saved)))

    def against_start(self, method: str, start: str, aim: str, pairs: Sequence[tuple[int, int]]) -> AgainstStart:
        """`pairs`: places of the method and of its start, one for each training; figures are means over them."""
        mine, theirs = [list(its) for its in zip(*pairs, strict=True)]
        right, cost = self.accuracies[:, mine].mean(axis=1), self.costs[:, mine].mean(axis=1)
        right_gain = right - self.accuracies[:, theirs].mean(axis=1)
        old_cost = self.costs[:, theirs].mean(axis=1)
        accuracy, old_accuracy = (float(np.mean([self.outcomes[i].accuracy for i in its])) for its in (mine, theirs))
        usd, old_usd = (float(np.mean([self.outcomes[i].mean_cost_usd for i in its])) for its in (mine, theirs))
        saved = None
        if old_usd:
            with np.errstate(divide="ignore", invalid="ignore"):
                saved = Estimate(1 - usd / old_usd, percentile_interval(1 - cost / old_cost))
        value = {aim_of(value): value for value in UTILITIES}.get(aim)
        gains = {}
        if value is not None:
            v_usd = value * self.cost_ref_usd
            gain = 1000 * (v_usd * (accuracy - old_accuracy) - (usd - old_usd))
            gains[f"{value:g}"] = Estimate(gain, percentile_interval(1000 * (v_usd * right_gain - (cost - old_cost))))
        return AgainstStart(
            method,
            start,
            aim,
            len(pairs),
            Estimate(accuracy, percentile_interval(right)),
            Estimate(1000 * usd, percentile_interval(1000 * cost)),
            Against(Estimate(accuracy - old_accuracy, percentile_interval(right_gain)), saved),
            gains,
        )

    def _utility(self, i: int, value: float) -> Estimate:
        one, v_usd = self.outcomes[i], value * self.cost_ref_usd
        resampled = 1000 * (v_usd * self.accuracies[:, i] - self.costs[:, i])
        return Estimate(1000 * (v_usd * one.accuracy - one.mean_cost_usd), percentile_interval(resampled))

    def _utility_gain(self, i: int, other: int, value: float) -> Estimate:
        v_usd = value * self.cost_ref_usd
        resampled = 1000 * (
            v_usd * (self.accuracies[:, i] - self.accuracies[:, other]) - (self.costs[:, i] - self.costs[:, other])
        )
        gain = self._utility(i, value).value - self._utility(other, value).value
        return Estimate(gain, percentile_interval(resampled))


def _shares(one: MethodOutcomes) -> dict[str, float]:
    total = sum(one.model_calls.values())
    return {
        model: count / total for model, count in sorted(one.model_calls.items(), key=lambda item: (-item[1], item[0]))
    }


def main_rows(scope: RecordedScope) -> list[RecordedRow]:
    """The rows of the first table: constants, then every method as right as each of the two references."""
    return [row for row in scope.rows if row.aim in (FIXED, AS_CONSTANT, AS_CASCADE)]


def where_a_rule_wins(scope: RecordedScope) -> list[str]:
    """Sentences: for each learned method, the simpler rows that are at least as accurate and cost no more."""
    simple = [row for row in main_rows(scope) if row.kind in ("constant", "rule", "cascade")]
    found = []
    for row in main_rows(scope):
        if row.kind in ("constant", "rule", "cascade") or row.aim not in AIMS:
            continue
        better = [
            one
            for one in simple
            if one.accuracy.value >= row.accuracy.value and one.usd_per_1k.value <= row.usd_per_1k.value
        ]
        if better:
            best = min(better, key=lambda one: one.usd_per_1k.value)
            found.append(
                f"{scope.name}: {row.method} ({row.aim}), {row.accuracy.value:.2%} at {row.usd_per_1k.value:.3g}, "
                f"loses to {best.method}, {best.accuracy.value:.2%} at {best.usd_per_1k.value:.3g} USD per 1k."
            )
    return found


def against_the_rule(scope: RecordedScope) -> list[str]:
    """Sentences: each learned method beside the best model of each benchmark, both chosen to be as right as the best
    constant."""
    found = []
    for row in scope.rows:
        if row.against_rule is not None and row.aim == AS_CONSTANT:
            gained, saved = row.against_rule.accuracy, row.against_rule.cost_saved
            cost = "" if saved is None else f", {100 * saved.value:.1f} % {_ends(saved)} of its cost saved"
            found.append(
                f"{scope.name}: {row.method} against {RULE}: {100 * gained.value:+.2f} points {_ends(gained)}{cost}."
            )
    return found


def _ends(estimate: Estimate) -> str:
    """Its interval in per cent."""
    interval = estimate.interval
    return "" if interval is None else f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
