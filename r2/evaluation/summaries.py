"""The figures of one method within a comparison, and the curves of the set: what `compare` in r2/evaluation/compare.py
is made of. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from r2.evaluation.comparison import AccuracyVerdict, CostSaved, Curve, Estimate, MethodSummary, Versus
from r2.evaluation.curves import (
    Point,
    aiq,
    area_under_curve,
    average_pgr,
    best_mixture,
    cost_to_reach,
    frontier,
    performance_gap_recovered,
)
from r2.evaluation.intervals import percentile_interval
from r2.evaluation.outcomes import FloatArray, MethodOutcomes


@dataclass(slots=True)
class Setting:
    """What the summaries share: resampled means (resamples x methods), the reference methods, the oracle."""

    outcomes: Sequence[MethodOutcomes]
    is_constant: tuple[bool, ...]
    subject: str | None
    accuracies_BM: FloatArray
    costs_BM: FloatArray
    points: list[Point]
    oracle: MethodOutcomes | None
    tau: float
    margin: float
    cost_weight: float

    @property
    def constants(self) -> list[int]:
        return [i for i, is_constant in enumerate(self.is_constant) if is_constant]

    @property
    def best(self) -> int | None:
        """Most accurate constant, the cheaper of equals."""
        points = self.points
        return min(self.constants, key=lambda i: (-points[i][1], points[i][0]), default=None)

    @property
    def weak(self) -> int | None:
        """Cheapest constant, the more accurate of equals."""
        points = self.points
        return min(self.constants, key=lambda i: (points[i][0], -points[i][1]), default=None)

    @property
    def cheap(self) -> int | None:
        """Cheapest constant that is at most `margin` less accurate than the best one, the more accurate of equals."""
        if self.best is None:
            return None
        points, least = self.points, self.points[self.best][1] - self.margin - 1e-12
        good = [i for i in self.constants if points[i][1] >= least]
        return min(good, key=lambda i: (points[i][0], -points[i][1]))

    def summary(self, i: int) -> MethodSummary:
        one, points = self.outcomes[i], self.points
        best, weak = self.best, self.weak
        cost, accuracy = points[i]
        total = float(one.cost_usd.sum())
        n_right = float(one.is_correct.sum())
        shares = _shares(one.model_calls)
        entropy = _entropy_bits(shares)
        difference = self._difference(i, best) if best is not None else None
        random_mix, random = self._random(i)
        subject = next((j for j, other in enumerate(self.outcomes) if other.label == self.subject), None)
        return MethodSummary(
            label=one.label,
            method=one.method,
            sweep=one.sweep,
            is_constant=self.is_constant[i],
            n_seeds=one.n_seeds,
            accuracy=Estimate(accuracy, percentile_interval(self.accuracies_BM[:, i])),
            accuracy_by_difficulty=_by_difficulty(one),
            usd_per_1k=Estimate(1000 * cost, percentile_interval(1000 * self.costs_BM[:, i])),
            usd_per_solved=total / n_right if n_right else None,
            calls_per_problem=float(one.n_calls.mean()),
            tokens_per_problem=float(one.n_tokens.mean()),
            latency_p50_s=float(np.percentile(one.latency_s, 50)),
            latency_p95_s=float(np.percentile(one.latency_s, 95)),
            router_share=float(one.router_cost_usd.sum()) / total if total else None,
            model_shares=shares,
            model_shares_by_difficulty={d: _shares(calls) for d, calls in one.model_calls_by_difficulty.items()},
            top_model=next(iter(shares), None),
            top_model_share=next(iter(shares.values()), None),
            model_entropy_bits=entropy,
            effective_models=None if entropy is None else 2**entropy,
            accuracy_difference=difference,
            accuracy_verdict=None if difference is None else _accuracy_verdict(difference, self.margin),
            cheaper_by=None if best is None else self._saved(i, best),
            cost_saved=None if best is None else self._cost_saved(i, best),
            performance_gap_recovered=None
            if best is None or weak is None
            else performance_gap_recovered(accuracy, points[weak][1], points[best][1]),
            random_mix=random_mix,
            random_accuracy=None if random is None else accuracy - random.value,
            gain_over_random=random,
            headroom_captured=None if random is None else self._headroom(i, random_mix),
            is_on_frontier=frontier(points)[i],
            beaten_by=self._beaten_by(i),
            versus_subject=None if subject is None or subject == i else self._versus(subject, i),
            against_cheap=None if self.cheap is None or self.cheap == i else self._versus(i, self.cheap),
        )

    def curves(self) -> list[Curve]:
        groups: dict[str, list[int]] = {"constants": self.constants} if self.constants else {}
        for i, one in enumerate(self.outcomes):
            if not self.is_constant[i]:
                groups.setdefault(one.sweep or one.label, []).append(i)
        groups["all"] = list(range(len(self.outcomes)))
        points, best, weak = self.points, self.best, self.weak
        low, high = min(cost for cost, _ in points), max(cost for cost, _ in points)
        curves = []
        for name, members in groups.items():
            reached = [points[i] for i in members]
            apgr = None if best is None or weak is None else average_pgr(reached, points[weak], points[best])
            labels = tuple(self.outcomes[i].label for i in members)
            joined = [points[i] for i in {*members, *self.constants}]
            curves.append(
                Curve(
                    name,
                    labels,
                    aiq(reached, low, high),
                    aiq(joined, low, high),
                    area_under_curve(reached, low, high),
                    apgr,
                )
            )
        return curves

    def _difference(self, i: int, other: int) -> Estimate:
        resampled = self.accuracies_BM[:, i] - self.accuracies_BM[:, other]
        points = self.points
        return Estimate(points[i][1] - points[other][1], percentile_interval(resampled))

    def _saved(self, i: int, other: int) -> Estimate | None:
        """1 - cost / the other's cost; None where that is zero."""
        points = self.points
        if not points[other][0]:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            resampled = 1 - self.costs_BM[:, i] / self.costs_BM[:, other]
        return Estimate(1 - points[i][0] / points[other][0], percentile_interval(resampled))

    def _cost_saved(self, i: int, best: int) -> CostSaved | None:
        sweep = self.outcomes[i].sweep
        members = [j for j, other in enumerate(self.outcomes) if j == i or (sweep and other.sweep == sweep)]
        points = self.points
        at = cost_to_reach([points[j] for j in members], self.tau * points[best][1])
        if at is None or (saved := self._saved(members[at], best)) is None:
            return None
        chosen = members[at]
        reached = self.accuracies_BM[:, chosen] >= self.tau * self.accuracies_BM[:, best] - 1e-12
        label, reference = self.outcomes[chosen].label, self.outcomes[best].label
        return CostSaved(self.tau, reference, label, saved.value, saved.interval, float(reached.mean()))

    def _random(self, i: int) -> tuple[dict[str, float], Estimate | None]:
        """The mixture of constants at the method's cost, and what the method gains over it."""
        constants, points = self.constants, self.points
        if not constants:
            return {}, None
        shares = np.array(best_mixture([points[j] for j in constants], points[i][0]))
        gain = points[i][1] - float(shares @ [points[j][1] for j in constants])
        resampled = self.accuracies_BM[:, i] - self.accuracies_BM[:, constants] @ shares
        mix = {self.outcomes[j].label: float(share) for j, share in zip(constants, shares, strict=True) if share}
        return mix, Estimate(gain, percentile_interval(resampled))

    def _headroom(self, i: int, random_mix: Mapping[str, float]) -> float | None:
        oracle = self.oracle
        if oracle is None:
            return None
        points = {one.label: point for one, point in zip(self.outcomes, self.points, strict=True)}
        mine, best = self._utility(self.points[i]), self._utility((oracle.mean_cost_usd, oracle.accuracy))
        random = sum(share * self._utility(points[label]) for label, share in random_mix.items())
        return (mine - random) / (best - random) if best - random > 1e-12 else None

    def _utility(self, point: Point) -> float:
        return point[1] - self.cost_weight * point[0]

    def _beaten_by(self, i: int) -> tuple[str, ...]:
        points = self.points
        cost, accuracy = points[i]
        better = [j for j, (c, q) in enumerate(points) if c <= cost and q >= accuracy and (c < cost or q > accuracy)]
        return tuple(self.outcomes[j].label for j in sorted(better, key=lambda j: (points[j][0], -points[j][1])))

    def _versus(self, subject: int, i: int) -> Versus:
        gain = self._difference(subject, i)
        return Versus(gain, self._saved(subject, i), _accuracy_verdict(gain, self.margin))


def _shares(calls: Mapping[str, float]) -> dict[str, float]:
    """Each model's share of the calls, most used first, equals by name; {} where there are none."""
    total = sum(calls.values())
    if not total:
        return {}
    return {model: n / total for model, n in sorted(calls.items(), key=lambda item: (-item[1], item[0])) if n}


def _entropy_bits(shares: Mapping[str, float]) -> float | None:
    """H = -sum p log2 p; 0 for one model, None for none."""
    if not shares:
        return None
    p = np.array(list(shares.values()))
    return max(0.0, float(-(p * np.log2(p)).sum()))


def _by_difficulty(one: MethodOutcomes) -> dict[str, float]:
    labels = np.array(one.difficulty)
    return {d: float(one.is_correct[labels == d].mean()) for d in dict.fromkeys(one.difficulty)}


def _accuracy_verdict(difference: Estimate, margin: float) -> AccuracyVerdict:
    interval = difference.interval
    if interval is None:
        return "not shown"
    if interval.low >= -margin:
        return "no worse"
    return "worse" if interval.high < 0 else "not shown"
