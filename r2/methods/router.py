"""The router of a run: the pool's roster with the entries that settings or the pool file name for its parts."""

from pathlib import Path

from r2.answering.protocol import Router
from r2.answering.query_router import QueryRouter
from r2.answering.wanted import load_wanted
from r2.errors import ConfigError
from r2.labelling.label import LEXICAL
from r2.methods import method_named
from r2.methods.record import Method
from r2.policies.registry import Registry
from r2.pool.batch.choosing import batch_choices
from r2.pool.file.config import PoolConfig, endpoint_kind
from r2.pool.file.scorer_file import FittingScorer, fitting_scorer
from r2.pool.file.tables import ModelTable
from r2.pool.simulated.faults import charged_share
from r2.problems.own_check import OwnCheck, own_checks
from r2.problems.sandbox import check_sandbox
from r2.roster import Roster
from r2.settings import AnswerSettings, Labelling, Reasoning


def make_router(pool: PoolConfig, settings: AnswerSettings) -> Router:
    """The pool's roster with the router parts that settings or the pool file name. ConfigError names what does not fit,
    a method that nobody has included."""
    roster, chosen = pool.roster(), settings.reasoning
    method = method_named(chosen.method)
    roster, cannot_run = _that_can_be_run(roster, pool, method)
    decomposer = chosen.decomposer or pool.router.decomposer
    allocator = chosen.allocator or pool.router.allocator
    finalizer = chosen.finalizer or pool.router.finalizer
    second = chosen.second_decomposer or pool.router.second_decomposer
    second = None if second == "none" else second
    for name in [
        decomposer,
        allocator,
        *([second] if second is not None else []),
        *([finalizer] if finalizer != "last_step" else []),
        *_models_named(chosen),
        *(_labellers(chosen.labelling) if chosen.labelling else []),
    ]:
        roster.require(name)
    learned = _load_query_router(chosen, roster) if method.uses_query_router else None
    check, verify = checks_in(chosen, roster)
    fitting = (
        FittingScorer(None)
        if chosen.scorer is None
        else fitting_scorer(chosen.scorer, roster.solvers, Registry(pool.policies_dir))
    )
    router = Router(
        roster,
        decomposer,
        allocator,
        None if finalizer == "last_step" else finalizer,
        chosen,
        learned,
        second,
        check,
        verify,
        *load_wanted(chosen),
        composes=chosen.finalizer != "last_step",
        lost_share={
            name: charged_share(pool.tables.simulated_faults, table.timeout_s)
            for name, table in pool.models.items()
            if pool.tables.simulated_faults and endpoint_kind(table.endpoint) == "simulated"
        },
        wait_usd=_waits(pool, settings),
        scorer=fitting.scorer,
        cannot_run=cannot_run,
        scorer_misfit=f"--scorer {chosen.scorer}: {fitting.why}. The untrained rule routes." if fitting.why else "",
    )
    method.check(router, str(pool.path))
    return router


def _waits(pool: PoolConfig, settings: AnswerSettings) -> dict[str, float]:
    """Entry that goes by batch -> what waiting for a job of it is worth."""
    chosen = settings.reasoning
    usd = chosen.wait_usd_per_hour * chosen.job_hours
    if not usd:
        return {}
    entries, _ = batch_choices(pool, settings.lane, settings.deadline_s)
    return dict.fromkeys(entries, usd)


def _that_can_be_run(roster: Roster, pool: PoolConfig, method: Method) -> tuple[Roster, str]:
    """The roster without the entries that write programs where this machine has no sandbox to run them in, and a
    sentence about that; "" where nothing is left out. ConfigError where the method needs one, or nobody is left."""
    here = _computed_here(pool)
    writing = [name for name, table in here.items() if table.prompt_mode == "program"]
    if not here or not (method.writes_programs or writing):
        return roster, ""
    try:
        check_sandbox()
    except ConfigError as error:
        left = [card for card in roster.by_name.values() if card.name not in writing]
        if method.writes_programs or not any(card.is_solver for card in left):
            raise
        return Roster(left), f"{', '.join(writing)}: not asked. {error}"
    return roster, ""


def _computed_here(pool: PoolConfig) -> dict[str, ModelTable]:
    """Entries whose programs are run on this machine: not those of a recording, which has what they came to."""
    return {name: table for name, table in pool.models.items() if endpoint_kind(table.endpoint) != "recording"}


def checks_in(chosen: Reasoning, roster: Roster) -> tuple[OwnCheck | None, OwnCheck | None]:
    """The user's own (check, verify), loaded. ConfigError for one that cannot be used, or whose judge the pool does not
    have."""
    check, verify = own_checks(chosen)
    for one in (check, verify):
        if one is not None and one.judge is not None:
            roster.require(one.judge)
    return check, verify


def _models_named(chosen: Reasoning) -> list[str]:
    named = [chosen.model, chosen.small_model, chosen.large_model, *(chosen.chain or ()), *(chosen.mix or ())]
    named += [*(chosen.by_benchmark or {}).values()]
    return [name for name in named if name is not None]


def _load_query_router(chosen: Reasoning, roster: Roster) -> QueryRouter:
    """The fitted router that the settings name. ConfigError if there is none, or if it was fitted for models the pool
    does not have."""
    if chosen.query_router is None:
        raise ConfigError(f"--method {chosen.method} needs a fitted router: name its JSON file with --query-router.")
    try:
        text = Path(chosen.query_router).read_bytes()
    except OSError as error:
        raise ConfigError(f"--query-router {chosen.query_router}: cannot be read: {error}") from error
    learned = QueryRouter.from_json(text, f"--query-router {chosen.query_router}")
    if missing := [name for name in learned.models if name not in roster.by_name]:
        raise ConfigError(
            f"--query-router {chosen.query_router}: was fitted for {missing[0]!r}, which the pool does not have. "
            f"Pool: {', '.join(roster.by_name)}. Fit it on this pool's answers, or add the model."
        )
    return learned


def _labellers(chosen: Labelling) -> list[str]:
    named = [chosen.teacher, chosen.m_eval, chosen.judge if chosen.judge != LEXICAL else None]
    return [name for name in named if name is not None]
