"""The router with policies in its parts: which pool entry or which policy decomposes and allocates, at what price and
in which prompt mode."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from r2.answering.protocol import Router
from r2.answering.wanted import load_wanted
from r2.ledger import Price
from r2.methods.router import checks_in
from r2.policies.registry import Policy, Registry
from r2.pool.file.config import PoolConfig
from r2.roster import ModelCard, Roster
from r2.training.drive_policy import ALLOCATOR_ENTRY, DECOMPOSER_ENTRY
from r2.training.grpo.settings import GrpoSettings, Role

ENTRY: Mapping[Role, str] = {"decomposer": DECOMPOSER_ENTRY, "allocator": ALLOCATOR_ENTRY}
ROLES: tuple[Role, ...] = ("decomposer", "allocator")


@dataclass(frozen=True, slots=True)
class Parts:
    """A router, and the policies among its parts; a part that is a pool entry has none."""

    router: Router
    policies: Mapping[Role, Policy]


def parts_of(versions: Mapping[Role, str], pool: PoolConfig, settings: GrpoSettings) -> Parts:
    """Finds each version: NAME@VERSION in the registry, a bare name in the pool. ConfigError names
    what is not there."""
    registry, roster = Registry(settings.policies_dir), pool.roster()
    policies = {role: registry.load(versions[role]) for role in ROLES if "@" in versions[role]}
    price = policy_price(pool, settings)
    cards = [
        ModelCard(ENTRY[role], "small", price, prompt_mode=policy.card.prompt_mode, is_solver=False)
        for role, policy in policies.items()
    ]
    decomposer, allocator = (ENTRY[role] if role in policies else roster[versions[role]].name for role in ROLES)
    known = Roster([*roster.by_name.values(), *cards])
    check, verify = checks_in(settings.reasoning, roster)
    finalizer = _finalizer(pool, settings)
    system, schema = load_wanted(settings.reasoning)
    router = Router(
        known,
        decomposer,
        allocator,
        finalizer,
        settings.reasoning,
        check=check,
        verify=verify,
        system=system,
        schema=schema,
        composes=settings.reasoning.finalizer != "last_step",
    )
    return Parts(router, policies)


def with_policy(parts: Parts, role: Role, policy: Policy) -> Parts:
    """The same parts with another version of one of them."""
    return replace(parts, policies={**parts.policies, role: policy})


def versions_of(settings: GrpoSettings, pool: PoolConfig) -> dict[Role, str]:
    """The two names of the settings with their versions: what they mean now. A pool entry that serves a policy means
    that policy. ConfigError for a name that neither registry nor pool has."""
    found: dict[Role, str] = {}
    named: dict[Role, str] = {"decomposer": settings.decomposer, "allocator": settings.allocator}
    for role, name in named.items():
        if name in pool.policies:
            found[role] = pool.policies[name].ref
        else:
            found[role] = name if name in pool.models else Registry(settings.policies_dir).load(name).ref
    return found


def untrained_digest(pool: PoolConfig, versions: Mapping[Role, str]) -> str:
    """Identity of the pool without the entries that serve the policies of `versions`: a round that promotes one does
    not make another training of the rest."""
    trained = {version.partition("@")[0] for version in versions.values() if "@" in version}
    served = {name for name, policy in pool.policies.items() if policy.card.name in trained}
    return pool.only([name for name in pool.models if name not in served]).digest


def policy_price(pool: PoolConfig, settings: GrpoSettings) -> Price:
    """What a policy's own tokens cost: as set, else as those of the pool's cheapest solver."""
    table = settings.policy_price_usd_per_mtok
    if table is None:
        return pool.roster().solvers[0].price
    cached = table.input if table.cached_input is None else table.cached_input
    return Price(table.input, cached, table.output, table.date, table.source)


def _finalizer(pool: PoolConfig, settings: GrpoSettings) -> str | None:
    name = settings.reasoning.finalizer or pool.router.finalizer
    return None if name == "last_step" else pool.roster()[name].name
