"""The rows of an evaluation's table, their knobs, and the rule by which dev problems set them. Pure.

A `Variant` is a method with everything but its operating point; `choose_point` takes the points that were tried on dev
problems and the constants on the same problems. Constants (one model for everything) are the line any router has to
beat.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from r2.errors import ConfigError
from r2.evaluation.settings import EvaluateSettings, parse_router
from r2.roster import ModelCard, Roster
from r2.settings import Reasoning

KNOBS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "datashunt": ("threshold", (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)),
    "automix": ("threshold", (0.0, 0.25, 0.5, 0.75, 1.0)),
    "dot": ("threshold", (0.0, 0.5, 0.8, 0.95, 1.0)),
    "query_router": ("threshold", (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)),
}
"""Method -> the field of `Reasoning` that sets its operating point, and the values tried on dev problems (r2's:
`EvaluateSettings.b`)."""
METHODS_BY_NAME = (
    "cot",
    "direct",
    "tot",
    "decompose_one",
    "datashunt",
    "automix",
    "dot",
    "query_router",
    "random",
    "oracle",
    "r2",
)


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of the table before its operating point is known. `values` is what `knob` is tried at; () where there is
    nothing to choose."""

    name: str
    kind: str
    """cot, direct, tot, ..., r2: what it is compared as."""
    reasoning: Reasoning
    knob: str = ""
    values: tuple[float, ...] = ()

    def at(self, value: float | None, **fields: object) -> Reasoning:
        """How it answers at an operating point; None where it has no knob."""
        chosen = fields if value is None or not self.knob else {self.knob: value, **fields}
        return Reasoning.model_validate(self.reasoning.model_dump() | chosen)


def constants_of(settings: EvaluateSettings, roster: Roster, weights: Mapping[str, str]) -> list[Variant]:
    """The constants: `direct NAME` asks an entry in its own prompt mode, `cot NAME` lets it think step by step.

    `cot`, `direct`, `cot:NAME` and `direct:NAME` of `methods` say which; without any of them it is all. A model that
    was fine-tuned to be asked without instructions has no `cot`; two entries of the same `weights` (entry -> what
    answers) and price share one.
    """
    wanted = [m for m in settings.methods if m.partition(":")[0] in ("cot", "direct")] or ["direct", "cot"]
    found: dict[str, Variant] = {}
    for text in wanted:
        method, _, name = text.partition(":")
        for card in [roster[name]] if name else roster.solvers:
            variant = own_mode(settings, card) if method == "direct" else _cot(settings, card)
            is_spare = (method == "direct" and card.prompt_mode == "cot") or _is_told_by_another(
                method, card, roster, weights
            )
            if name or not is_spare:
                found[variant.name] = variant
    return list(found.values())


def own_mode(settings: EvaluateSettings, card: ModelCard) -> Variant:
    """One call to an entry as its prompt mode says, which is how routers ask it for a whole question: a draw from one
    model."""
    if card.prompt_mode == "cot":
        return _cot(settings, card)
    return Variant(f"direct {card.name}", "direct", _with(settings, method="random", mix={card.name: 1.0}))


def _cot(settings: EvaluateSettings, card: ModelCard) -> Variant:
    return Variant(f"cot {card.name}", "cot", _with(settings, method="cot", model=card.name))


def _is_told_by_another(method: str, card: ModelCard, roster: Roster, weights: Mapping[str, str]) -> bool:
    """True for a chain of thought that an entry of its own, with the same weights and price, has as its prompt mode."""
    if method != "cot" or card.prompt_mode == "cot":
        return False
    twins = [c for c in roster.solvers if c.prompt_mode == "cot" and weights[c.name] == weights[card.name]]
    return card.prompt_mode == "bare" or any(twin.price == card.price for twin in twins)


def variants_of(settings: EvaluateSettings, roster: Roster, decomposer: str, allocator: str) -> list[Variant]:
    """The other rows, in the order asked for; `decomposer` and `allocator` are the pool file's. ConfigError for an
    unknown method or entry."""
    found: list[Variant] = []
    for method in dict.fromkeys(settings.methods):
        if method.partition(":")[0] in ("cot", "direct"):
            continue
        if method not in METHODS_BY_NAME:
            raise ConfigError(
                f"--methods {method}: no such method. Known: {', '.join(METHODS_BY_NAME)}, cot:MODEL, direct:MODEL."
            )
        if method == "r2":
            routers = [parse_router(text) for text in settings.routers] or [("r2", decomposer, allocator)]
            for name, its_decomposer, its_allocator in routers:
                roster.require(its_decomposer)
                values = settings.b if roster[its_allocator].has_logprobs else (0.0,)
                reasoning = _with(settings, method="r2", decomposer=its_decomposer, allocator=its_allocator)
                found.append(Variant(name, "r2", reasoning, "b", values))
        elif method == "oracle":
            continue  # in hindsight, from the constants: every comparison has it
        else:
            knob, values = KNOBS.get(method, ("", ()))
            found.append(Variant(method, method, _with(settings, method=method), knob, values))
    names = [variant.name for variant in found]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"--router {repeated[0]}=...: the name is taken. Every row of the table needs its own.")
    return found


def _with(settings: EvaluateSettings, **fields: object) -> Reasoning:
    return Reasoning.model_validate(settings.reasoning.model_dump() | fields)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """How a method did on the dev problems at one value of its knob. `cost_usd` is per problem."""

    value: float
    accuracy: float
    cost_usd: float


@dataclass(frozen=True, slots=True)
class ChosenPoint:
    """The operating point that dev problems chose, and all that were tried."""

    value: float
    rule: Literal["cheapest as good as the best constant", "highest utility"]
    points: tuple[OperatingPoint, ...]


def choose_point(
    points: Sequence[OperatingPoint], constants: Sequence[OperatingPoint], *, margin: float, cost_weight: float
) -> ChosenPoint:
    """The cheapest point whose accuracy is at most `margin` below the best constant's; else the one of the highest
    utility (ours).

    utility = accuracy - cost_weight * cost / cost of the dearest constant. Ties take the more accurate, then the
    earlier point. `constants` are the constants on the same dev problems. Raises ValueError without points or without
    constants.
    """
    best = max(point.accuracy for point in constants)
    dearest = max(point.cost_usd for point in constants) or 1.0
    good = [point for point in points if point.accuracy >= best - margin - 1e-12]
    if good:
        chosen = min(good, key=lambda point: (point.cost_usd, -point.accuracy))
        return ChosenPoint(chosen.value, "cheapest as good as the best constant", tuple(points))
    chosen = max(points, key=lambda point: (point.accuracy - cost_weight * point.cost_usd / dearest, point.accuracy))
    return ChosenPoint(chosen.value, "highest utility", tuple(points))
