"""Curves in the accuracy-cost plane: frontier, hull, and the areas that summarise a set of operating points. Pure.

A point is (cost, accuracy); cost in any unit, the same for all. Definitions: RouterBench (arXiv:2403.12031) for the
hull and AIQ, RouteLLM (arXiv:2406.18665) for PGR and APGR. Where a formula is undefined the result is None, never
infinite.
"""

from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]
_ROUNDING = 1e-12
"""Means of the same outcomes in another order may differ so much."""


def frontier(points: Sequence[Point]) -> list[bool]:
    """For each point: no other is at least as accurate and at most as dear, and better in one of the two.

    Points that coincide are both on it.
    """
    return [
        not any(c <= cost and q >= accuracy and (c < cost or q > accuracy) for c, q in points)
        for cost, accuracy in points
    ]


def hull(points: Sequence[Point]) -> list[Point]:
    """Corners of the non-decreasing upper convex hull, cheapest first: what random mixtures of the points can reach.

    From the cheapest point (of equally cheap ones the most accurate) to the most accurate (of those the cheapest);
    dearer points that are no more accurate are not on it.
    """
    corners: list[Point] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if corners and accuracy <= corners[-1][1]:
            continue
        while len(corners) > 1 and _is_below(corners[-2], corners[-1], (cost, accuracy)):
            corners.pop()
        corners.append((cost, accuracy))
    return corners


def _is_below(left: Point, middle: Point, right: Point) -> bool:
    """True where `middle` is on or below the line from `left` to `right`."""
    return (middle[1] - left[1]) * (right[0] - left[0]) <= (right[1] - left[1]) * (middle[0] - left[0])


def best_mixture(points: Sequence[Point], cost: float) -> list[float]:
    """Probabilities, one per point, of the most accurate problem-blind mixture whose expected cost is at most `cost`.

    The hull's point at that cost (RouterBench's Zero router): at most two points are mixed. Below the cheapest point
    nothing can be mixed and the cheapest gets all; above the most accurate, that one does. Raises ValueError without
    points.
    """
    corners = hull(points)
    if not corners:
        raise ValueError("no points to mix")
    shares = [0.0] * len(points)
    right = next((i for i, (c, _) in enumerate(corners) if c >= cost), len(corners))
    if right in (0, len(corners)):
        shares[points.index(corners[min(right, len(corners) - 1)])] = 1.0
        return shares
    low, high = corners[right - 1], corners[right]
    share = (cost - low[0]) / (high[0] - low[0])
    shares[points.index(low)] = 1.0 - share
    shares[points.index(high)] = share
    return shares


def aiq(points: Sequence[Point], c_min: float | None = None, c_max: float | None = None) -> float | None:
    """Average improvement in quality: area under the hull from c_min to c_max, divided by c_max - c_min (RouterBench).

    The bounds default to the points' cheapest and dearest; give common ones to compare sets. Right of its end the hull
    is flat. Left of its beginning it is 0 (ours): for so little money the set answers nothing. So a set is never below
    a part of itself. RouterBench's code divides by c_max; this is the paper's definition. Where c_min == c_max it is
    the height there. None without points.
    """
    corners = hull(points)
    if not corners:
        return None
    low = min(c for c, _ in points) if c_min is None else c_min
    high = max(c for c, _ in points) if c_max is None else c_max
    return _mean_height(corners, low, high)


def area_under_curve(points: Sequence[Point], c_min: float | None = None, c_max: float | None = None) -> float | None:
    """Mean accuracy over cost from c_min to c_max, of the line through the points made non-decreasing by a running
    maximum.

    Unlike AIQ it shows what the operating points themselves reach, without mixing. Of equally dear points the most
    accurate counts. Bounds, ends and None as in `aiq`.
    """
    line = _running_best(points)
    if not line:
        return None
    return _mean_height(line, line[0][0] if c_min is None else c_min, line[-1][0] if c_max is None else c_max)


def performance_gap_recovered(accuracy: float, weak: float, strong: float) -> float | None:
    """PGR = (accuracy - weak) / (strong - weak) (RouteLLM); None where strong is no better than
    weak: there is no gap."""
    return (accuracy - weak) / (strong - weak) if strong > weak else None


def average_pgr(points: Sequence[Point], weak: Point, strong: Point) -> float | None:
    """APGR: mean PGR over the cost from always-weak to always-strong (RouteLLM, whose share of strong calls is here,
    ours, the cost).

    The curve is the running best through weak, the points and strong, since any router can be turned to always one of
    the two. Random mixing of the two gives 0.5. None where strong is not dearer, or not better, than weak.
    """
    if strong[0] <= weak[0] or strong[1] <= weak[1]:
        return None
    inside = [point for point in points if weak[0] <= point[0] <= strong[0]]
    mean = _mean_height(_running_best([weak, *inside, strong]), weak[0], strong[0])
    return performance_gap_recovered(mean, weak[1], strong[1])


def cost_to_reach(points: Sequence[Point], accuracy: float) -> int | None:
    """Index of the cheapest point that is at least so accurate; None if none is."""
    reaching = [(cost, i) for i, (cost, q) in enumerate(points) if q >= accuracy - _ROUNDING]
    return min(reaching)[1] if reaching else None


def _running_best(points: Sequence[Point]) -> list[Point]:
    """One point per cost, cheapest first, each with the best accuracy reached up to that cost."""
    best: dict[float, float] = {}
    so_far = -np.inf
    for cost, accuracy in sorted(points):
        so_far = max(so_far, accuracy)
        best[cost] = float(so_far)
    return list(best.items())


def _mean_height(line: Sequence[Point], low: float, high: float) -> float:
    """Mean over [low, high] of the piecewise linear line, 0 left of it and flat right of it; its height at `low` if low
    == high."""
    costs, heights = np.array([c for c, _ in line]), np.array([q for _, q in line])
    if high <= low:
        return float(np.interp(low, costs, heights, left=0.0))
    start = max(low, float(costs[0]))
    if start >= high:
        return 0.0
    grid = np.array([start, *(c for c in costs if start < c < high), high])
    return float(np.trapezoid(np.interp(grid, costs, heights), grid) / (high - low))
