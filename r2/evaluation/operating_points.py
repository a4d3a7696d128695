"""The rows of an evaluation's table, their knobs, and the rule by which dev problems set them. Pure.

A `Variant` is a method with everything but its operating point; `choose_point` takes the points that were tried on dev
problems and the constants on the same problems. Constants (one model for everything) are the line any router has to
beat.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from r2.errors import ConfigError
from r2.evaluation.settings import UNTRAINED, EvaluateSettings, parse_router
from r2.methods import ALL, DIRECT, ORACLE, confidence_cascade, cot, method_named, methods, program, random_model, route
from r2.methods.record import Method
from r2.roster import ModelCard, PromptMode, Roster
from r2.settings import Reasoning


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of the table before its operating point is known. `values` is what `knob` is tried at; () where there is
    nothing to choose."""

    name: str
    kind: str
    """What it is compared as: a method's name, or `direct`."""
    reasoning: Reasoning
    knob: str = ""
    values: tuple[float, ...] = ()

    def at(self, value: float | None, **fields: object) -> Reasoning:
        """How it answers at an operating point; None where it has no knob."""
        chosen = fields if value is None or not self.knob else {self.knob: value, **fields}
        return Reasoning.model_validate(self.reasoning.model_dump() | chosen)

    @property
    def method(self) -> Method:
        """Who answers: for `direct` the random model, with one to draw from."""
        return method_named(self.reasoning.method)


_MODES: dict[str, PromptMode] = {cot.METHOD.name: "cot", program.METHOD.name: "program"}
"""Constants that ask in a mode of their own, whatever the entry's."""
_OWN_NAMES = {mode: name for name, mode in _MODES.items()}
_EVERY_MODEL = ("decompose_one",)
"""Methods that `all` asks for with every solver, where their name alone stands for the strongest."""


def rows_asked(settings: EvaluateSettings) -> tuple[str, ...]:
    """`methods`, with `all` written out: every method there is, `start` and `decompose_one` for every solver, the
    judged ones last."""
    if ALL not in settings.methods:
        return settings.methods
    found = [DIRECT, *(name for name, method in methods().items() if _is_constant(name))]
    others = [m for m in methods().values() if m.run_kind == "answer" and m.name not in found]
    others.sort(key=lambda method: method.family == "ours")
    found += [f"{m.name}:{ALL}" if m.name in _EVERY_MODEL else m.name for m in others]
    named = [text for text in settings.methods if text != ALL]
    return tuple(dict.fromkeys([*found[:-1], *named, *found[-1:]]))


def constants_of(settings: EvaluateSettings, roster: Roster) -> list[Variant]:
    """The constants: `direct NAME` asks an entry in its own prompt mode, `cot NAME` lets it think step by step,
    `program NAME` lets it write a program; other methods with a row per model likewise.

    `cot`, `direct`, `cot:NAME` and `direct:NAME` of `methods` say which; without any constant among them it is all of
    `direct` and `cot`. A model that was fine-tuned to be asked without instructions has only `direct`. Entries of the
    same weights share a `cot` and a `program`, which are asked of the entry whose prompt mode it is, at that entry's
    price.
    """
    wanted = [text for text in rows_asked(settings) if _is_constant(text)] or [DIRECT, cot.METHOD.name]
    found: dict[str, Variant] = {}
    for text in wanted:
        method, _, name = text.partition(":")
        for card in [roster[name]] if name else roster.solvers:
            variant = own_mode(settings, card) if method == DIRECT else _always(settings, method, card, roster)
            is_spare = card.prompt_mode == "cot" if method == DIRECT else _is_told_by_another(method, card, roster)
            if name or not is_spare:
                found[variant.name] = variant
    return list(found.values())


def own_mode(settings: EvaluateSettings, card: ModelCard) -> Variant:
    """One call to an entry as its prompt mode says, which is how routers ask it for a whole question: a draw from one
    model."""
    if (name := _OWN_NAMES.get(card.prompt_mode)) is not None:
        return Variant(f"{name} {card.name}", name, _with(settings, method=name, model=card.name))
    reasoning = _with(settings, method=random_model.METHOD.name, mix={card.name: 1.0})
    return Variant(f"{DIRECT} {card.name}", DIRECT, reasoning)


def is_chosen_without_runs(variant: Variant) -> bool:
    """Its settings follow from what every solver answered to the dev problems."""
    return variant.method.uses_query_router or bool(variant.method.fitted)


def dev_runs(settings: EvaluateSettings, roster: Roster, variants: Sequence[Variant]) -> list[Variant]:
    """What is asked on dev problems for the rows whose settings follow from it: each solver in its own prompt mode, and
    for confidence cascades once more with log-probabilities."""
    cards = roster.solvers if any(map(is_chosen_without_runs, variants)) else ()
    is_measured = any(variant.method.fitted == "confidence" for variant in variants)
    return [
        *(own_mode(settings, card) for card in cards),
        *(measured(settings, card) for card in cards if is_measured),
    ]


def measured(settings: EvaluateSettings, card: ModelCard) -> Variant:
    """As `own_mode`, with log-probabilities where the endpoint has them: a confidence cascade of one model."""
    name = confidence_cascade.METHOD.name
    return Variant(f"{name} of {card.name} alone", name, _with(settings, method=name, chain=(card.name,)))


def _is_constant(text: str) -> bool:
    """True for `direct`, and for a method with a row per model; with or without `:MODEL`."""
    name = text.partition(":")[0]
    return name == DIRECT or (name in methods() and methods()[name].per_model)


def _always(settings: EvaluateSettings, method: str, card: ModelCard, roster: Roster) -> Variant:
    """The method with one model for everything; a chain of thought, or a program, by the entry whose price was measured
    on them."""
    asked = roster[roster.asked_in(_MODES[method], card.name)] if method in _MODES else card
    model = card.name if asked.price == card.price else asked.name  # at one price it is the run it always was
    return Variant(f"{method} {card.name}", method, _with(settings, method=method, model=model))


def _is_told_by_another(method: str, card: ModelCard, roster: Roster) -> bool:
    """True for a chain of thought, or a program, that makes no sense, or that another solver has as its prompt mode."""
    if method not in _MODES:
        return False
    asked = roster[roster.asked_in(_MODES[method], card.name)]
    return card.prompt_mode == "bare" or (asked.name != card.name and asked.is_solver)


def variants_of(settings: EvaluateSettings, roster: Roster, decomposer: str, allocator: str) -> list[Variant]:
    """The other rows, in the order asked for; `decomposer` and `allocator` are the pool file's. ConfigError for an
    unknown method or entry."""
    found: list[Variant] = []
    for text in dict.fromkeys(rows_asked(settings)):
        if _is_constant(text) or text == ORACLE:  # the oracle, in hindsight from the constants, is in every comparison
            continue
        name, _, argument = text.partition(":")
        if name not in methods() or methods()[name].run_kind != "answer":
            raise ConfigError(f"--methods {text}: no such method. Known: {', '.join(_row_names())}.")
        method = methods()[name]
        if method.takes_router:
            _refuse_argument(method, text, argument)
            found += _routed(settings, method, roster, [(name, decomposer, allocator)])
            continue
        values = _tried(settings, method, roster, allocator)
        for label, fields in _of_models(method, text, argument, roster):
            found.append(Variant(label, name, _with(settings, method=name, **fields), method.knob, values))
    found += _by_scorer(settings, decomposer)
    names = [variant.name for variant in found]
    if repeated := [name for name in names if names.count(name) > 1]:
        flag = "--scorer" if repeated[0].startswith(("scorer ", "untrained ")) else f"--router {repeated[0]}=..."
        raise ConfigError(f"{flag}: the name {repeated[0]!r} is taken. Every row of the table needs its own.")
    return found


def _routed(
    settings: EvaluateSettings, method: Method, roster: Roster, pool_file: list[tuple[str, str, str]]
) -> list[Variant]:
    """A row for every `--router`; without one, a row with the `pool_file`'s. Only r2's rows go without the method's
    name."""
    found = []
    for router, decomposer, allocator in [parse_router(text) for text in settings.routers] or pool_file:
        roster.require(decomposer)
        name = router if method is route.METHOD or not settings.routers else f"{method.name} {router}"
        reasoning = _with(settings, method=method.name, decomposer=decomposer, allocator=allocator)
        values = _tried(settings, method, roster, allocator)
        found.append(Variant(name, method.name, reasoning, method.knob, values))
    return found


def _by_scorer(settings: EvaluateSettings, decomposer: str) -> list[Variant]:
    """A row of the rule for every `--scorer`; its b needs nobody's log-probabilities."""
    found = []
    for scorer in settings.scorers:
        is_trained = scorer != UNTRAINED
        named = f"scorer {Path(scorer).stem}" if is_trained else "untrained rule"
        reasoning = _with(
            settings,
            method=route.METHOD.name,
            decomposer=decomposer,
            routing="rule",
            scorer=scorer if is_trained else None,
        )
        found.append(Variant(named, route.METHOD.name, reasoning, route.METHOD.knob, settings.b))
    return found


def _of_models(method: Method, text: str, argument: str, roster: Roster) -> list[tuple[str, dict[str, object]]]:
    """(row's name, settings) for each row that `text` asks for. A method without a model has one, and a method for the
    strongest model keeps its name."""
    if method.fitted == "benchmark" and argument == "benchmark":
        argument = ""
    if not method.takes_model:
        _refuse_argument(method, text, argument)
        return [(method.name, {})]
    if not argument and method.takes_model == "strongest":
        return [(method.name, {})]
    model, comma, n_samples = argument.partition(",")
    extra: dict[str, object] = {}
    if comma:
        if not method.takes_samples or not n_samples.strip().isdigit() or int(n_samples) < 1:
            raise ConfigError(f"--methods {text}: expected {method.name}:MODEL{',K' * method.takes_samples}.")
        extra = {"n_samples": int(n_samples)}
    cards = roster.solvers if model in ("", ALL) else (roster[model],)
    k = f" k={extra['n_samples']}" if extra else ""
    return [(f"{method.name} {card.name}{k}", {"model": card.name, **extra}) for card in cards]


def _refuse_argument(method: Method, text: str, argument: str) -> None:
    if argument:
        raise ConfigError(f"--methods {text}: {method.name} takes no model. Ask for {method.name}.")


def _row_names() -> list[str]:
    """What `--methods` takes."""
    constants = [DIRECT, *(name for name in methods() if _is_constant(name))]
    others = [m.name for m in methods().values() if m.run_kind == "answer" and m.name not in constants]
    with_model = [*constants, *(m.name for m in methods().values() if m.takes_model)]
    return [*constants, *others, ORACLE, ALL, *(f"{name}:MODEL" for name in with_model)]


def _tried(settings: EvaluateSettings, method: Method, roster: Roster, allocator: str) -> tuple[float, ...]:
    """Values of the method's knob. The cost knob has no effect where the allocator gives no log-probabilities, nor
    the confidence that is asked for where no solver does."""
    if method.knob == "min_confidence" and not any(card.has_logprobs for card in roster.solvers):
        return (0.0,)
    if method.knob != route.METHOD.knob:
        return method.values
    return settings.b if roster[allocator].has_logprobs else (0.0,)


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
