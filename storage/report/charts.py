"""The charts of a report as Vega-Lite specifications, each with a sentence that describes it and a table of its
numbers.

Colours are names (`@ours`, `@model-3`) that the page replaces by what its style sheet says for light and for dark, so a
method or a model has one colour everywhere. Charts are as wide as their place on the page: a phone gets the same
drawing, narrower.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from r2.methods.record import Family
from storage.report import wording
from storage.report.content import Method, Report, Table, ValueWithInterval

Size = Literal["wide", "small"]
FAMILIES: dict[Family, str] = {
    "ours": "r2",
    "baseline": "other methods",
    "constant": "one model only",
    "bound": "chance and hindsight",
}
N_MODEL_COLOURS = 10
_ROW = 26
"""Pixels of a horizontal bar with its gap."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing: `spec` for Vega-Lite, `description` read out instead of it, `table` with the same numbers."""

    name: str
    title: str
    description: str
    spec: dict[str, Any]
    table: Table
    note: str = ""
    size: Size = "wide"


def charts_of(report: Report) -> dict[str, list[Chart]]:
    """The charts that the report has numbers for, by section of the page."""
    makers: dict[str, Callable[[Report], list[Chart]]] = {
        "plane": plane,
        "saved": saved,
        "shares": shares,
        "money": money,
        "escalations": escalations,
        "latency": latency,
        "curves": curves,
    }
    return {section: make(report) for section, make in makers.items()}


def plane(report: Report) -> list[Chart]:
    """Accuracy against cost, with intervals in both and the frontier. A method that costs nothing has no place on a log
    axis."""
    drawn = [m for m in report.methods if m.accuracy is not None and m.usd_per_1k.value > 0]
    if not drawn:
        return []
    costs = [v for m in drawn for v in _bounds(m.usd_per_1k) if v > 0] + [c for c, _ in report.frontier if c > 0]
    heights = [v for m in drawn if m.accuracy is not None for v in _bounds(m.accuracy)]
    low, high = math.log10(min(costs)), math.log10(max(costs))
    margin = max(0.08 * (high - low), 0.1)
    x = alt.X(
        "cost:Q",
        title="USD per 1,000 problems (logarithmic)",
        scale=alt.Scale(type="log", domain=[10 ** (low - margin), 10 ** (high + margin)], nice=False),
        axis=alt.Axis(values=_log_ticks(low - margin, high + margin), format="~g", labelOverlap="greedy"),
    )
    bottom, top = max(0.0, min(heights) - 0.03), max(heights) + 0.04
    y = alt.Y(
        "accuracy:Q",
        title="accuracy",
        scale=alt.Scale(domain=[bottom, top], nice=False, zero=False),
        axis=alt.Axis(format=".0%", values=_share_ticks(bottom, min(1.0, top))),
    )
    rows = [_plane_row(m, report) for m in sorted(drawn, key=lambda m: _label_rank(m, report))]
    base = alt.Chart(alt.InlineData(values=rows))
    layers = []
    if corners := _sampled(report.frontier):
        layers.append(
            alt.Chart(alt.InlineData(values=[{"cost": c, "accuracy": a} for c, a in corners]))
            .mark_line(color="@frontier", strokeWidth=2, strokeDash=[5, 4], opacity=0.8, tooltip=None)
            .encode(x=x, y=y)
        )
    tip = [
        alt.Tooltip("name:N", title="method"),
        alt.Tooltip("accuracy_text:N", title="accuracy"),
        alt.Tooltip("cost_text:N", title="cost"),
    ]
    colour = _family_colour([m.family for m in drawn])
    layers += [
        base.mark_rule(strokeWidth=1.4, opacity=0.45).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour),
        base.mark_rule(strokeWidth=1.4, opacity=0.45).encode(x=alt.X("cheap:Q"), x2="dear:Q", y=y, color=colour),
        base.mark_point(filled=True, size=95, opacity=1, stroke="@paper", strokeWidth=1)
        .encode(
            x=x,
            y=y,
            color=colour,
            shape=alt.Shape("family:N", legend=None, scale=_family_shapes([m.family for m in drawn])),
            tooltip=tip,
        )
        .properties(name="points"),
        # Once more and last, so that no other point covers the one the report is about.
        base.transform_filter("datum.is_strong")
        .mark_point(filled=True, size=110, opacity=1, stroke="@paper", strokeWidth=1)
        .encode(x=x, y=y, color=colour, tooltip=tip),
    ]
    spec = alt.layer(*layers).properties(width="container", height=400)
    table = Table(
        "Accuracy and cost of each method, with 95 % intervals",
        ("method", "accuracy", "USD per 1,000", "on the frontier", "n"),
        tuple(
            (m.name, wording.share(m.accuracy), wording.usd(m.usd_per_1k), "yes" if m.is_on_frontier else "", str(m.n))
            for m in _by_cost(report.methods)
        ),
    )
    best = max(drawn, key=lambda m: m.accuracy.value if m.accuracy else 0.0)
    description = (
        f"Accuracy against cost of {len(drawn)} methods. {best.name} is the most accurate with "
        f"{wording.share(best.accuracy)}; "
        f"the cheapest is {_by_cost(drawn)[0].name} at {wording.usd(_by_cost(drawn)[0].usd_per_1k)} USD per 1,000 "
        "problems."
    )
    free = [m.name for m in report.methods if m.accuracy is not None and m.usd_per_1k.value <= 0]
    note = (
        (
            "Bars are 95% intervals. The dashed line is the frontier: what the best mixtures of methods reach. Names "
            "that have no room are in the table."
        )
        if corners
        else ""
    )
    if free:
        note += f" Without a price and so not drawn: {', '.join(free)}."
    return [
        Chart(
            "plane",
            "Every method, with 95% intervals",
            description,
            _spec(spec, _legend(m.family for m in drawn)),
            table,
            note.strip(),
        )
    ]


def saved(report: Report) -> list[Chart]:
    """Cost saved against the reference: filled where its accuracy is reached, hollow where only the bill is smaller."""
    found = [(m, m.saved or m.cheaper) for m in report.methods if m.family != "bound" and m.name != report.reference]
    drawn = [
        (m, share) for m, share in sorted(found, key=lambda p: -(p[1].value if p[1] else 0.0)) if share is not None
    ]
    drawn.sort(key=lambda pair: pair[0].saved is None)
    if not drawn:
        return []
    floor = max(-1.0, min(0.0, *(v for _, share in drawn for v in _bounds(share))))
    rows = [
        {
            "name": m.name,
            "family": FAMILIES[m.family],
            "saved": max(share.value, floor),
            "low": max(_bounds(share)[0], floor),
            "high": max(_bounds(share)[1], floor),
            "text": wording.share(share),
            "is_equal": m.saved is not None,
            "gained": wording.points(m.accuracy_gained) if m.accuracy_gained else wording.ABSENT,
        }
        for m, share in drawn
    ]
    y = alt.Y("name:N", sort=[m.name for m, _ in drawn], title=None)
    x = alt.X(
        "saved:Q",
        title="share of the cost saved",
        axis=alt.Axis(format=".0%", tickCount=5, values=[-1, -0.5, 0, 0.25, 0.5, 0.75, 1]),
        scale=alt.Scale(domain=[floor - 0.03, 1.02], nice=False),
    )
    base = alt.Chart(alt.InlineData(values=rows))
    colour = _family_colour([m.family for m, _ in drawn])
    tip = [
        alt.Tooltip("name:N", title="method"),
        alt.Tooltip("text:N", title="saved"),
        alt.Tooltip("gained:N", title="accuracy, points"),
    ]
    spec = alt.layer(
        alt.Chart(alt.InlineData(values=[{"saved": 0}])).mark_rule(color="@muted").encode(x=x),
        base.mark_rule(strokeWidth=2, opacity=0.5).encode(y=y, x=alt.X("low:Q"), x2="high:Q", color=colour),
        base.transform_filter("!datum.is_equal")
        .mark_point(fill="@raised", strokeWidth=2, size=80, opacity=1)
        .encode(y=y, x=x, color=colour, tooltip=tip),
        base.transform_filter("datum.is_equal")
        .mark_point(filled=True, size=100, opacity=1)
        .encode(y=y, x=x, color=colour, tooltip=tip),
    ).properties(width="container", height=_ROW * len(rows) + 10)
    table = Table(
        f"Cost saved against {report.reference}",
        ("method", "cost saved", "accuracy reached", "accuracy gained, points"),
        tuple((str(r["name"]), str(r["text"]), "yes" if r["is_equal"] else "no", str(r["gained"])) for r in rows),
    )
    reached = [row for row in rows if row["is_equal"]]
    description = f"Cost saved against {report.reference}. " + (
        f"Of those that reach its accuracy {reached[0]['name']} saves most, {reached[0]['text']}."
        if reached
        else "Nobody reaches its accuracy."
    )
    note = (
        f"Filled: at least as accurate as {report.reference} on these problems. Hollow: cheaper or dearer, and "
        "less accurate; the table says by how much."
    )
    if any(_bounds(share)[0] < floor for _, share in drawn):
        note += " Cut at −100%; the table has the numbers."
    return [
        Chart(
            "saved",
            f"Against {report.reference}, the best single model",
            description,
            _spec(spec, _legend(m.family for m, _ in drawn), [m.name for m, _ in drawn]),
            table,
            note,
        )
    ]


def shares(report: Report) -> list[Chart]:
    """Which models did the work, by difficulty; one chart per method that has a choice."""
    charts = []
    for number, method in enumerate(dict.fromkeys(s.method for s in report.shares)):
        mine = [s for s in report.shares if s.method == method]
        levels = list(dict.fromkeys(s.difficulty for s in mine))
        totals = {s.difficulty: s.n for s in mine}
        models = [m for m in report.models if any(s.model == m for s in mine)]
        rows = [
            {
                "level": s.difficulty,
                "model": s.model,
                "share": s.share,
                "text": wording.percent(s.share),
                "order": models.index(s.model),
            }
            for s in mine
        ]
        spec = (
            alt.Chart(alt.InlineData(values=rows))
            .mark_bar(stroke="@paper", strokeWidth=1, height=20)
            .encode(
                y=alt.Y("level:N", sort=levels, title=None),
                x=alt.X(
                    "share:Q",
                    stack="zero",
                    title="share of the calls",
                    axis=alt.Axis(format=".0%", tickCount=5),
                    scale=alt.Scale(domain=[0, 1]),
                ),
                color=_model_colour(models, report.models),
                order=alt.Order("order:Q"),
                tooltip=["model:N", "level:N", alt.Tooltip("text:N", title="share")],
            )
            .properties(width="container", height=(_ROW + 6) * len(levels))
        )
        table = Table(
            f"Share of each model by difficulty, {method}",
            ("difficulty", "problems", *models),
            tuple(
                (
                    level,
                    str(totals[level]),
                    *(
                        wording.percent(next((s.share for s in mine if s.difficulty == level and s.model == m), 0.0))
                        for m in models
                    ),
                )
                for level in levels
            ),
        )
        description = (
            f"Stacked bars of {method}: the share of each of {len(models)} models at {len(levels)} levels of "
            "difficulty. "
        ) + " ".join(
            f"{level}: mostly {max((s for s in mine if s.difficulty == level), key=lambda s: s.share).model}."
            for level in levels
        )
        charts.append(Chart(f"shares-{number}", method, description, _spec(spec, models, levels), table))
    return charts


def money(report: Report) -> list[Chart]:
    """Where the money goes: purposes of calls, each split by model, the router's own first and apart."""
    charts = []
    for number, method in enumerate(dict.fromkeys(s.method for s in report.spend)):
        mine = [s for s in report.spend if s.method == method]
        total = sum(s.cost_usd for s in mine)
        per = 1000 / report.n_problems if report.n_problems else 1.0
        ordered = sorted({(not s.is_router, _PURPOSES.get(s.purpose, 9), s.purpose) for s in mine})
        purposes = [f"{purpose} (router)" if not answers else purpose for answers, _, purpose in ordered]
        models = [m for m in report.models if any(s.model == m for s in mine)]
        rows = [
            {
                "purpose": f"{s.purpose} (router)" if s.is_router else s.purpose,
                "model": s.model,
                "usd": s.cost_usd * per,
                "text": f"{wording.number(s.cost_usd * per)} USD per 1,000",
                "order": models.index(s.model),
            }
            for s in mine
        ]
        spec = (
            alt.Chart(alt.InlineData(values=rows))
            .mark_bar(stroke="@paper", strokeWidth=1, height=20)
            .encode(
                y=alt.Y("purpose:N", sort=purposes, title=None),
                x=alt.X("usd:Q", stack="zero", title="USD per 1,000 problems", axis=alt.Axis(format="~g", tickCount=5)),
                color=_model_colour(models, report.models),
                order=alt.Order("order:Q"),
                tooltip=["purpose:N", "model:N", alt.Tooltip("text:N", title="cost")],
            )
            .properties(width="container", height=(_ROW + 6) * len(purposes))
        )
        router_usd = sum(s.cost_usd for s in mine if s.is_router)
        table = Table(
            f"Cost by purpose and model, {method}",
            ("purpose", "model", "calls", "USD", "USD per 1,000", "share"),
            tuple(
                (
                    f"{s.purpose} (router)" if s.is_router else s.purpose,
                    s.model,
                    str(s.n_calls),
                    wording.number(s.cost_usd),
                    wording.number(s.cost_usd * per),
                    wording.percent(s.cost_usd / total) if total else "",
                )
                for s in sorted(mine, key=lambda s: (not s.is_router, _PURPOSES.get(s.purpose, 9), -s.cost_usd))
            ),
        )
        router_share = wording.percent(router_usd / total) if total else "0%"
        description = f"Cost of {method} by purpose and model; the router's own calls are {router_share} of it."
        charts.append(
            Chart(
                f"money-{number}",
                method,
                description,
                _spec(spec, models, purposes),
                table,
                f"The router's own calls take {router_share}.",
            )
        )
    return charts


def escalations(report: Report) -> list[Chart]:
    """Subtasks passed on, from which model to which."""
    charts = []
    for number, method in enumerate(dict.fromkeys(e.method for e in report.escalations)):
        mine = [e for e in report.escalations if e.method == method]
        rows = [
            {"route": f"{e.allocated_model} → {e.model}", "n": n, "kind": kind}
            for e in mine
            for kind, n in (("a check failed", e.n_escalated), ("not available", e.n_fallbacks))
            if n
        ]
        if not rows:
            continue
        routes = list(dict.fromkeys(str(row["route"]) for row in rows))
        spec = (
            alt.Chart(alt.InlineData(values=rows))
            .mark_bar(height=18)
            .encode(
                y=alt.Y("route:N", sort=routes, title=None, axis=alt.Axis(labelLimit=190)),
                x=alt.X("n:Q", stack="zero", title="subtasks", axis=alt.Axis(format="d", tickMinStep=1, tickCount=5)),
                color=alt.Color(
                    "kind:N",
                    title=None,
                    legend=_LEGEND,
                    scale=alt.Scale(domain=["a check failed", "not available"], range=["@ours", "@constant"]),
                ),
                tooltip=["route:N", "kind:N", "n:Q"],
            )
            .properties(width="container", height=_ROW * len(routes))
        )
        table = Table(
            f"Subtasks passed on, {method}",
            ("from", "to", "a check failed", "not available", "USD"),
            tuple(
                (e.allocated_model, e.model, str(e.n_escalated), str(e.n_fallbacks), wording.number(e.cost_usd))
                for e in mine
            ),
        )
        n = sum(e.n_escalated + e.n_fallbacks for e in mine)
        charts.append(
            Chart(
                f"escalations-{number}",
                method,
                f"{n} subtasks of {method} were passed on, most often {routes[0]}.",
                _spec(spec, ["a check failed", "not available"], routes),
                table,
            )
        )
    return charts


def latency(report: Report) -> list[Chart]:
    """Median and 95th percentile, joined by a line."""
    if not report.latencies:
        return []
    family = {m.name: m.family for m in report.methods}
    rows = [
        {
            "name": name,
            "p50": p50,
            "p95": p95,
            "family": FAMILIES[family.get(name, "constant")],
            "text": f"p50 {wording.seconds(p50)}, p95 {wording.seconds(p95)}",
        }
        for name, p50, p95, _ in sorted(report.latencies, key=lambda row: row[1])
    ]
    names = [str(row["name"]) for row in rows]
    spread = [v for _, p50, p95, _ in report.latencies for v in (p50, p95) if v > 0]
    is_log = bool(spread) and max(spread) > 40 * min(spread) and all(p50 > 0 for _, p50, _, _ in report.latencies)
    scale = alt.Scale(type="log", nice=False) if is_log else alt.Scale(zero=True)
    ticks = _log_ticks(math.log10(min(spread)), math.log10(max(spread))) if is_log else None
    axis = alt.Axis(values=ticks, format="~g", labelOverlap="greedy") if ticks else alt.Axis(format="~g", tickCount=5)
    y = alt.Y("name:N", sort=names, title=None)
    x = alt.X("p50:Q", title="seconds" + (" (logarithmic)" if is_log else ""), scale=scale, axis=axis)
    base = alt.Chart(alt.InlineData(values=rows))
    is_by_method = report.latency_by == "method"
    colour: Any = (
        _family_colour([family.get(name, "constant") for name in names]) if is_by_method else alt.value("@constant")
    )
    tip = [alt.Tooltip("name:N", title=report.latency_by), alt.Tooltip("text:N", title="latency")]
    spec = alt.layer(
        base.mark_rule(strokeWidth=2, opacity=0.45).encode(y=y, x=x, x2="p95:Q", color=colour),
        base.mark_point(filled=True, size=80, opacity=1).encode(y=y, x=x, color=colour, tooltip=tip),
        base.mark_tick(thickness=2, size=12, opacity=1).encode(y=y, x=alt.X("p95:Q"), color=colour, tooltip=tip),
    ).properties(width="container", height=_ROW * len(rows) + 10)
    table = Table(
        f"Latency by {report.latency_by}",
        (report.latency_by, "p50", "p95", "n"),
        tuple((n, wording.seconds(p50), wording.seconds(p95), str(count)) for n, p50, p95, count in report.latencies),
    )
    fastest = rows[0]
    description = f"Latency by {report.latency_by}: {fastest['name']} is the fastest, {fastest['text']}."
    return [
        Chart(
            "latency",
            f"Median and 95th percentile by {report.latency_by}",
            description,
            _spec(spec, _legend(family.get(name, "constant") for name in names), names),
            table,
            "Dot: median. Tick: 95th percentile.",
        )
    ]


def curves(report: Report) -> list[Chart]:
    """One small chart per metric of training, a line per policy and phase."""
    charts = []
    grouped = itertools.groupby(sorted(report.curves, key=lambda p: p.metric), key=lambda p: p.metric)
    for number, (metric, found) in enumerate(grouped):
        points = list(found)
        series = list(dict.fromkeys(f"{p.policy} {p.phase}" for p in points))
        rows = [{"series": f"{p.policy} {p.phase}", "at": p.at, "value": p.value} for p in points]
        spec = (
            alt.Chart(alt.InlineData(values=rows))
            .mark_line(point=alt.OverlayMarkDef(size=22) if len(points) < 60 else False, strokeWidth=2)
            .encode(
                x=alt.X("at:Q", title="step", axis=alt.Axis(format="d", tickMinStep=1, tickCount=5)),
                y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(format="~g", tickCount=4)),
                color=alt.Color(
                    "series:N",
                    title=None,
                    legend=_LINES,
                    scale=alt.Scale(domain=series, range=[f"@line-{i % 4}" for i in range(len(series))]),
                ),
                tooltip=["series:N", alt.Tooltip("at:Q", title="step"), alt.Tooltip("value:Q", format=".4~g")],
            )
            .properties(width="container", height=170)
        )
        summary = []
        for one in series:
            mine = [p.value for p in points if f"{p.policy} {p.phase}" == one]
            summary.append(
                (one, str(len(mine)), *(wording.number(v) for v in (mine[0], min(mine), max(mine), mine[-1])))
            )
        table = Table(
            f"{metric} during training", ("policy", "points", "first", "lowest", "highest", "last"), tuple(summary)
        )
        description = f"{metric}: " + "; ".join(f"{row[0]} from {row[2]} to {row[5]}" for row in summary)
        charts.append(Chart(f"curve-{number}", metric, description, _spec(spec, series), table, size="small"))
    return charts


_PURPOSES = {
    name: i
    for i, name in enumerate(
        ("decompose", "allocate", "solve", "program", "review", "verify", "final", "teach", "judge")
    )
}
_LEGEND = alt.Legend(symbolType="circle")
_LINES = alt.Legend(symbolType="stroke")


def _plane_row(method: Method, report: Report) -> dict[str, Any]:
    accuracy = method.accuracy or ValueWithInterval(0.0)
    (low, high), (cheap, dear) = _bounds(accuracy), _bounds(method.usd_per_1k)
    return {
        "name": method.name,
        "family": FAMILIES[method.family],
        "accuracy": accuracy.value,
        "low": low,
        "high": high,
        "cost": method.usd_per_1k.value,
        "cheap": cheap if cheap > 0 else method.usd_per_1k.value,
        "dear": dear,
        "accuracy_text": wording.share(method.accuracy),
        "cost_text": f"{wording.usd(method.usd_per_1k)} USD per 1,000",
        "is_strong": method.name == report.subject,
    }


def _label_rank(method: Method, report: Report) -> tuple[int, float]:
    """Whose name is placed first where there is no room for all."""
    order = (
        method.name == report.subject,
        method.name == report.reference,
        method.family == "ours",
        method.is_on_frontier,
    )
    return (order.index(True) if True in order else len(order), -(method.accuracy.value if method.accuracy else 0.0))


def _by_cost(methods: Sequence[Method]) -> list[Method]:
    return sorted(methods, key=lambda m: m.usd_per_1k.value)


def _bounds(interval: ValueWithInterval | None) -> tuple[float, float]:
    """The interval's bounds, or the value itself where there are none."""
    if interval is None:
        return (0.0, 0.0)
    low = interval.value if interval.low is None else interval.low
    return (low, interval.value if interval.high is None else interval.high)


def _sampled(corners: Sequence[tuple[float, float]], n: int = 16) -> list[tuple[float, float]]:
    """Points along the straight lines between the corners, which are bent on a logarithmic axis. Corners at no cost are
    left out."""
    paid = [(cost, accuracy) for cost, accuracy in corners if cost > 0]
    points = paid[:1]
    for (c0, a0), (c1, a1) in itertools.pairwise(paid):
        for i in range(1, n + 1):
            cost = c0 * (c1 / c0) ** (i / n)
            points.append((cost, a0 + (a1 - a0) * ((cost - c0) / (c1 - c0) if c1 > c0 else 1.0)))
    return points


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten in the range, only the powers where it spans more than three of them."""
    steps = (1,) if high - low > 3 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [float(f"{step}e{power}") for power in powers for step in steps]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def _share_ticks(low: float, high: float) -> list[float]:
    """At most seven round shares in the range; the room above 100% is for names and has no tick."""
    percent = next(step for step in (1, 2, 5, 10, 20, 50) if 100 * (high - low) / step <= 6)
    return [tick / 100 for tick in range(0, 101, percent) if low <= tick / 100 <= high]


def _present(families: Sequence[Family]) -> list[Family]:
    return [family for family in FAMILIES if family in families]


def _family_colour(families: Sequence[Family]) -> alt.Color:
    present = _present(families)
    scale = alt.Scale(domain=[FAMILIES[f] for f in present], range=[f"@{f}" for f in present])
    return alt.Color("family:N", title=None, scale=scale, legend=_LEGEND)


def _legend(families: Iterable[Family]) -> list[str]:
    return [FAMILIES[family] for family in _present(list(families))]


def _family_shapes(families: Sequence[Family]) -> alt.Scale:
    shapes = {"ours": "circle", "baseline": "square", "constant": "diamond", "bound": "triangle-up"}
    present = _present(families)
    return alt.Scale(domain=[FAMILIES[f] for f in present], range=[shapes[f] for f in present])


def _model_colour(models: Sequence[str], everyone: Sequence[str]) -> alt.Color:
    """Colours along one ramp, from the cheapest to the dearest model of the report, spread over it
    where there are few."""
    last = max(1, len(everyone) - 1)
    places = [round(everyone.index(m) * (N_MODEL_COLOURS - 1) / last) for m in models]
    scale = alt.Scale(domain=list(models), range=[f"@model-{place}" for place in places])
    return alt.Color("model:N", title=None, scale=scale, sort=list(models), legend=_LEGEND)


def _spec(chart: Any, legend: Iterable[str] = (), left: Iterable[str] = ()) -> dict[str, Any]:
    """The specification; the longest names in the legend and left of the bars tell the page how many columns the legend
    has room for."""
    spec: dict[str, Any] = chart.to_dict(validate=True)
    spec.pop("config", None)  # altair's own; the page has one for all charts
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["usermeta"] = {"legend": max(map(len, legend), default=0), "left": max(map(len, left), default=5)}
    return spec
