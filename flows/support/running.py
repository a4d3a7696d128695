"""What a flow tells Prefect's API beside its states: tags, artifacts and log lines. Told as far as it goes: a run whose
API is away for a while, or for good, answers its questions all the same."""

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import LogCreate
from prefect.exceptions import PrefectException

PATIENCE_S = 15.0
_OF_THE_API = (httpx.HTTPError, PrefectException, TimeoutError, OSError)


async def told(*reports: Coroutine[Any, Any, object]) -> bool:
    """Awaits calls to the API, one after the other. The first that fails, or takes longer than `PATIENCE_S`, is said in
    one line on stderr, the others are left out, and the result is False."""
    for i, report in enumerate(reports):
        try:
            await asyncio.wait_for(report, PATIENCE_S)
        except _OF_THE_API as error:
            _not_told(error)
            for left in reports[i + 1 :]:
                left.close()
            return False
    return True


def told_now(report: Callable[[], object]) -> None:
    """The same for a flow without an event loop; Prefect's own retries bound it."""
    try:
        report()
    except _OF_THE_API as error:
        _not_told(error)


def rounded(table: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """The rows of a table artifact with figures that people can read: USD with six digits after the point, as
    everywhere, other figures with four."""
    return [{name: _rounded(name, value) for name, value in row.items()} for row in table]


def _rounded(name: str, value: object) -> object:
    n_digits = 6 if "USD" in name and "share" not in name else 4
    return round(value, n_digits) if isinstance(value, float) else value


async def logged(*lines: str) -> None:
    """Writes lines into the flow run's log, which Prefect's UI shows. The terminal has what the command says."""
    async with get_client() as client:
        await client.create_logs(_log_lines(lines))


def logged_now(*lines: str) -> None:
    """The same for a flow without an event loop."""
    with get_client(sync_client=True) as client:
        client.create_logs(_log_lines(lines))


def _log_lines(lines: Iterable[str]) -> list[LogCreate | dict[str, Any]]:
    run_id = UUID(runtime.flow_run.id)
    same = {"name": "r2", "level": logging.INFO, "timestamp": datetime.now(UTC), "flow_run_id": run_id}
    return [LogCreate.model_validate({**same, "message": line}) for line in lines]


def _not_told(error: Exception) -> None:
    what = str(error) or type(error).__name__
    sys.stderr.write(f"Prefect's API was not told ({what}). The run itself is not affected.\n")


async def tag_run(*tags: str) -> None:
    """Says on the flow run what it runs. Not by `prefect.tags`, which tags the tasks instead: each tagged task asks the
    API for a place under its tags' concurrency limits before it starts, half a second to two in all shards at once
    (`benchmarks/bench_flow.py prefect`).
    """
    await told(_tag_run(tags))


async def _tag_run(tags: tuple[str, ...]) -> None:
    async with get_client() as client:
        await client.update_flow_run(runtime.flow_run.id, tags=sorted({*runtime.flow_run.tags, *tags}))
