"""Ways to answer a problem: one module each with all that belongs to it, one line each here.

Each is a record (r2/methods/record.py) whose `run(problem, router)` is a generator of waves of calls
(r2/answering/protocol.py). What a method reads of the settings is in its module's docstring.
"""

from collections.abc import Mapping
from functools import cache

from r2.errors import ConfigError
from r2.methods import (
    agreement_cascade,
    automix,
    confidence_cascade,
    cot,
    datashunt,
    decompose_one,
    dot,
    few_shot,
    label,
    program,
    query_router,
    random_model,
    route,
    rule,
    self_consistency,
    start,
    start_steps,
    tot,
)
from r2.methods.record import Family, Method
from r2.plugins import METHODS, plugin_names, with_plugins
from r2.settings import Reasoning

_BUILT_IN = (
    route.METHOD,
    cot.METHOD,
    tot.METHOD,
    decompose_one.METHOD,
    datashunt.METHOD,
    automix.METHOD,
    dot.METHOD,
    query_router.METHOD,
    start.METHOD,
    start_steps.METHOD,
    rule.METHOD,
    agreement_cascade.METHOD,
    confidence_cascade.METHOD,
    self_consistency.METHOD,
    few_shot.METHOD,
    program.METHOD,
    random_model.METHOD,
    label.METHOD,
)
DIRECT, ORACLE, ALL = "direct", "oracle", "all"
"""Rows of an evaluation that are no methods, and so no method's name: one call to a solver as its prompt mode says, and
hindsight over the constants (r2/evaluation/operating_points.py); and the word for all rows there are."""


@cache
def methods() -> Mapping[str, Method]:
    """Every method by name, those of other packages included. ConfigError for a package that cannot be used."""
    return with_plugins(METHODS, Method, _BUILT_IN, reserved=(DIRECT, ORACLE, ALL))


def method_named(name: str) -> Method:
    """ConfigError, with the known names, for one that nobody has."""
    if name not in methods():
        raise ConfigError(
            f"method {name!r}: no such method. Known: {', '.join(methods())}. One of another package is known while "
            "that package is installed."
        )
    return methods()[name]


def refuse_unused(chosen: Reasoning) -> None:
    """ConfigError for a verifier that the method would never ask, and for settings of a rule that does not route."""
    if chosen.routing == "rule" and not method_named(chosen.method).takes_router:
        raise ConfigError(f"--routing rule: method {chosen.method} does not route. Leave one of the two flags out.")
    waits = chosen.wait_usd_per_hour > 0
    if chosen.routing != "rule" and (chosen.value_usd is not None or chosen.horizon != Reasoning().horizon or waits):
        flag = "--value-usd" if chosen.value_usd is not None else "--wait-usd-per-hour" if waits else "--horizon"
        raise ConfigError(
            f"{flag}: only the rule reads it, and here {chosen.method} does not route by one. Leave it out."
        )
    if chosen.scorer is not None and chosen.routing != "rule":
        raise ConfigError(f"--scorer {chosen.scorer}: only the rule reads it. Say --routing rule, or leave it out.")
    if chosen.verify is not None and not method_named(chosen.method).escalates:
        able = ", ".join(method.name for method in methods().values() if method.escalates)
        raise ConfigError(
            f"--verify {chosen.verify}: method {chosen.method} asks no stronger model, so that nothing would be "
            f"verified. Methods that do: {able}. To judge answers, give --check."
        )


def family_of(name: str) -> Family:
    """How a report draws rows of a stored method; one that is no longer known is a baseline."""
    return methods()[name].family if name in methods() else "baseline"


def can_collapse(name: str) -> bool:
    """Whether a stored method chooses among models, so that one model may get everything."""
    return name in methods() and methods()[name].routes


def takes_router(name: str) -> bool:
    """Whether a stored method decomposes and allocates."""
    return name in methods() and methods()[name].takes_router


def described() -> str:
    """The ways to answer with their summaries, for a help text. Those of other packages are only named: nothing of
    them is imported."""
    own = [f"{method.name} ({method.summary})" for method in _BUILT_IN if method.run_kind == "answer"]
    return "; ".join([*own, *plugin_names(METHODS)])
