"""What tells two pool entries apart, for whoever keeps answers: the same entry gives the same request the same answer.

`answering_digest` is what decides an answer; the price is no part of it, for tokens that were paid are priced anew.
`entry_digest` has the price too: answers of evaluations were kept by it before, and are still found by it.
"""

import hashlib
from typing import Final

import orjson

from r2.pool.file.config import PoolConfig, endpoint_kind
from r2.pool.file.tables import drop_later_defaults

_LIMITS_AND_LABELS: Final = frozenset(
    {
        "max_requests_per_minute",
        "max_tokens_per_minute",
        "max_in_flight",
        "timeout_s",
        "deadline_s",
        "quota",
        "api_key_env",
        "tier",
        "profile",
        "profile_rows",
        "solver",
        "hidden_input_tokens",
        "hidden_output_tokens",
        "stream",
        "retires",
        "lane",
        "regions",
        "retention",
    }
)
"""What changes neither an answer nor its cost."""
_COST_AND_ROOM: Final = ("price_usd_per_mtok", "context_tokens", "cache_prefix")
"""What changes the cost of an answer, or who is asked, and not the answer."""


def entry_digest(pool: PoolConfig, name: str) -> str:
    """Identifies what decides an entry's answers and their cost: endpoint, weights of a policy, price and options, not
    limits or profile."""
    return _digest(pool, name)


def answering_digest(pool: PoolConfig, name: str) -> str:
    """Identifies what decides an entry's answers, whatever they cost: endpoint, served model, weights of a policy and
    options."""
    return _digest(pool, name, without=_COST_AND_ROOM)


def answering_digests(pool: PoolConfig) -> dict[str, str]:
    """By entry. Recordings are left out: their answers cost nothing."""
    return {
        name: answering_digest(pool, name)
        for name, table in pool.models.items()
        if endpoint_kind(table.endpoint) != "recording"
    }


def _digest(pool: PoolConfig, name: str, without: tuple[str, ...] = ()) -> str:
    table = pool.models[name].model_dump(mode="json", exclude=set(_LIMITS_AND_LABELS))
    drop_later_defaults(table)
    table = {field: value for field, value in table.items() if field not in without}
    policy = pool.policies.get(name)
    weights = policy.card.weights_sha256 if policy is not None else None
    return hashlib.sha256(orjson.dumps([name, table, weights], option=orjson.OPT_SORT_KEYS)).hexdigest()
