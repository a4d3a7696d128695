"""Which entries of a pool go by batch, and why others do not. Before anything is asked.

The pool file may say it of an entry (`lane`), and `--lane` of all that can: an entry whose provider has a batch
endpoint that we know. What it costs there: r2/pool/batch/prices.py.
"""

from dataclasses import dataclass
from typing import Final, Literal

from r2.errors import ConfigError, PoolFileError
from r2.ledger import Price
from r2.pool.batch.prices import BATCH_DIALECTS, batch_price
from r2.pool.client.dialects import dialect_of
from r2.pool.file.config import PoolConfig, endpoint_kind

LEAST_DEADLINE_S: Final = 600.0
"""A job may take minutes to be taken, and as long to be cancelled."""


@dataclass(frozen=True, slots=True)
class BatchChoice:
    """An entry that goes by batch. `routes`: its calls as decomposer or allocator too."""

    price: Price
    routes: bool


def batch_choices(
    pool: PoolConfig, lane: Literal["live", "batch"] | None, deadline_s: float | None
) -> tuple[dict[str, BatchChoice], list[str]]:
    """The entries that go by batch, and a sentence for each that stays live although `lane` is "batch".

    PoolFileError for an entry whose `lane` cannot be; ConfigError where `lane` is "batch" and no entry can, and for a
    deadline that is too short or has nothing to hold for.
    """
    chosen: dict[str, BatchChoice] = {}
    left: list[str] = []
    for name, table in pool.models.items():
        if lane == "live" or table.lane == "live" or (table.lane is None and lane is None):
            continue
        if endpoint_kind(table.endpoint) == "recording":  # it asks nobody, whatever the recorded pool said
            continue
        why_not = _why_not(pool, name)
        if table.lane == "batch" and why_not:
            raise PoolFileError(f'{pool.path}: models.{name}.lane = "batch", but {why_not}')
        if why_not:
            left.append(f"{name} stays live: {why_not}")
        else:
            chosen[name] = BatchChoice(batch_price(pool, name), routes=table.lane == "batch")
    if lane == "batch" and not chosen:
        more = f" The same holds of {len(left) - 3} further entries." if len(left) > 3 else ""
        raise ConfigError(f"--lane batch: no entry of {pool.path} can go by batch. {' '.join(left[:3])}{more}")
    if deadline_s is not None and not chosen:
        raise ConfigError(
            "--deadline is for batch lanes, and no entry goes by batch: add --lane batch, or leave it out."
        )
    if deadline_s is not None and deadline_s < LEAST_DEADLINE_S:
        raise ConfigError(
            f"--deadline: {deadline_s:.0f} s is shorter than {LEAST_DEADLINE_S:.0f} s, which a batch job may need to "
            "be taken and cancelled. Give a longer one, or ask live: --lane live."
        )
    return chosen, left


def _why_not(pool: PoolConfig, name: str) -> str:
    """Why an entry cannot go by batch, with the next move; "" if it can."""
    table = pool.models[name]
    if endpoint_kind(table.endpoint) != "http":
        return f"{table.endpoint} is no provider's address: only those have batch endpoints."
    dialect = dialect_of(table.endpoint, table.dialect)
    if dialect.name not in BATCH_DIALECTS:
        return (
            f"we know no batch endpoint of {table.endpoint} (dialect {dialect.name}). Where it is one of a provider "
            "that we know, name it: dialect."
        )
    return ""
