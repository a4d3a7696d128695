"""The progress of a run that Prefect's UI shows, and what its events say of breakers. Without its API there is none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact

from flows.support.breaker_events import BreakerEvents
from flows.support.progress import REPORT_S, settled_percent
from flows.support.running import told
from tasks.answering.session import RunSession


@asynccontextmanager
async def progress_artifact(session: RunSession) -> AsyncIterator[None]:
    """Kept up to date until the block ends: each update is a call to the API."""
    artifact, breakers = _Artifact(), BreakerEvents(session)
    await told(artifact.create(f"run {session.plan.run_id}"))
    updates = asyncio.create_task(_keep(session, artifact, breakers))
    try:
        yield
    finally:
        updates.cancel()
        await asyncio.gather(updates, return_exceptions=True)
        breakers.end()
        await told(artifact.update(settled_percent(session)))


class _Artifact:
    def __init__(self) -> None:
        self._id: UUID | None = None

    async def create(self, description: str) -> None:
        self._id = await acreate_progress_artifact(
            progress=0.0, key="answer-questions-progress", description=description
        )

    async def update(self, percent: float) -> None:
        if self._id is not None:
            await aupdate_progress_artifact(artifact_id=self._id, progress=percent)


async def _keep(session: RunSession, artifact: _Artifact, breakers: BreakerEvents) -> None:
    is_told = True
    while is_told:
        await asyncio.sleep(REPORT_S)
        breakers.look()
        is_told = await told(artifact.update(settled_percent(session)))
