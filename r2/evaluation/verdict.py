"""The report's first sentence: whether the router earns its keep, losses first."""

from dataclasses import dataclass

from r2.errors import ConfigError
from r2.evaluation.comparison import Comparison, MethodSummary
from r2.evaluation.intervals import Interval
from r2.methods import family_of


def verdict(comparison: Comparison) -> str:
    """One sentence about the subject: first where it loses to a simpler method (as accurate and cheaper), then where a
    cheaper simpler one is not shown to be less accurate, else what it saves and at what accuracy.

    A method is simpler if its kind (`method`) is not the subject's. ConfigError if the comparison judges nobody.
    """
    if comparison.subject is None:
        raise ConfigError("the comparison has no subject; name the router to be judged in compare(subject=...)")
    mine = comparison[comparison.subject]
    n = f"{comparison.n_problems:,} problems"
    simpler = [comparison[label] for label in mine.beaten_by if comparison[label].method != mine.method]
    if simpler:
        best = simpler[0]
        others = f" (and {len(simpler) - 1} more)" if len(simpler) > 1 else ""
        return (
            f"{mine.label} loses to {best.label}{others}, which is simpler: "
            f"{best.accuracy.value:.1%} right at {best.usd_per_1k.value:.4g} USD per 1,000 problems against "
            f"{mine.accuracy.value:.1%} at {mine.usd_per_1k.value:.4g} ({n})."
        )
    if rival := _near_rival(comparison, mine):
        versus = rival.versus_subject
        assert versus is not None
        return (
            f"{mine.label} is not shown to be more accurate than {rival.label}, which is simpler and "
            f"{1 - rival.usd_per_1k.value / mine.usd_per_1k.value:.1%} cheaper: accuracy "
            f"{100 * versus.accuracy_gain.value:+.1f} points "
            f"({_points(versus.accuracy_gain.interval)}), n = {n}."
        )
    if comparison.best_constant is None or mine.accuracy_difference is None:
        return (
            f"{mine.label} answers {mine.accuracy.value:.1%} of {n} right at {mine.usd_per_1k.value:.4g} USD per "
            "1,000; no constant model was compared."
        )
    difference = mine.accuracy_difference
    points = f"{100 * difference.value:+.1f} points ({_points(difference.interval)})"
    claim = {
        "no worse": f"at no loss of accuracy beyond {100 * comparison.margin:g} points",
        "worse": "and loses accuracy",
        "not shown": f"but whether accuracy holds within {100 * comparison.margin:g} points is not shown",
    }[mine.accuracy_verdict or "not shown"]
    if mine.cheaper_by is None:
        saving = f"{mine.label} has nothing to save against {comparison.best_constant}, which costs nothing,"
    elif mine.cheaper_by.value < 0:
        saving = (
            f"{mine.label} costs {1 - mine.cheaper_by.value:.2f} times what {comparison.best_constant}, the "
            "best constant model, costs"
        )
    else:
        interval = mine.cheaper_by.interval
        spread = f" (95 % interval {interval.low:.1%} to {interval.high:.1%})" if interval else ""
        saving = (
            f"{mine.label} saves {mine.cheaper_by.value:.1%}{spread} of the cost of {comparison.best_constant}, "
            "the best constant model,"
        )
    return f"{saving} {claim}: accuracy {points}, n = {n}."


@dataclass(frozen=True, slots=True)
class RuleAhead:
    """A simpler method that wins over the judged router. `at_accuracy`: it is at least as accurate and at most as dear,
    and better in one of the two; `at_utility`: accuracy - weight * cost is higher. `said`: in words."""

    label: str
    at_accuracy: bool
    at_utility: bool
    said: str


def rules_ahead(comparison: Comparison, cost_weight: float) -> tuple[RuleAhead, ...]:
    """The simpler methods that win over the subject at its accuracy or by utility, the highest utility first; () where
    nobody is judged. Chance and hindsight are no methods.

    utility = accuracy - cost_weight * cost / cost of the dearest constant, as operating points are chosen by.
    """
    if comparison.subject is None:
        return ()
    mine = comparison[comparison.subject]
    dearest = max((m.usd_per_1k.value for m in comparison.methods if m.is_constant), default=0.0)

    def utility(method: MethodSummary) -> float:
        return method.accuracy.value - (cost_weight * method.usd_per_1k.value / dearest if dearest else 0.0)

    found = []
    for one in sorted(comparison.methods, key=lambda m: -utility(m)):
        if one.method == mine.method or (family_of(one.method) in ("ours", "bound") and not one.is_constant):
            continue
        at_accuracy, at_utility = one.label in mine.beaten_by, utility(one) > utility(mine) + 1e-12
        if at_accuracy or at_utility:
            found.append(RuleAhead(one.label, at_accuracy, at_utility, _ahead(one, mine, at_accuracy, at_utility)))
    return tuple(found)


def _ahead(one: MethodSummary, mine: MethodSummary, at_accuracy: bool, at_utility: bool) -> str:
    where = [*(["at no less accuracy"] if at_accuracy else []), *(["by utility"] if at_utility else [])]
    versus = one.versus_subject
    interval = None if versus is None else versus.accuracy_gain.interval
    spread = "" if interval is None else f"; {mine.label} minus it: {_points(interval)}"
    return (
        f"{one.label} wins over {mine.label} {' and '.join(where)}: {one.accuracy.value:.1%} right at "
        f"{one.usd_per_1k.value:.4g} USD per 1,000 against {mine.accuracy.value:.1%} at "
        f"{mine.usd_per_1k.value:.4g}{spread}."
    )


def _near_rival(comparison: Comparison, mine: MethodSummary) -> MethodSummary | None:
    """Of the simpler and cheaper methods whose accuracy the subject's is not shown to pass, the most accurate."""
    rivals = [
        one
        for one in comparison.methods
        if one.method != mine.method
        and one.usd_per_1k.value < mine.usd_per_1k.value
        and one.versus_subject is not None
        and (one.versus_subject.accuracy_gain.interval is None or one.versus_subject.accuracy_gain.interval.low <= 0)
    ]
    return max(rivals, key=lambda one: (one.accuracy.value, -one.usd_per_1k.value), default=None)


def _points(interval: Interval | None) -> str:
    return (
        "no interval" if interval is None else f"95 % interval {100 * interval.low:+.1f} to {100 * interval.high:+.1f}"
    )
