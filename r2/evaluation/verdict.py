"""The report's first sentence: whether the router earns its keep, losses first."""

from r2.errors import ConfigError
from r2.evaluation.comparison import Comparison, MethodSummary
from r2.evaluation.intervals import Interval


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
