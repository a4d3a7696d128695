"""Jobs for the batch endpoints of the imitations: lines as the product writes them, and a provider to send them to."""

import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from r2.call import Call
from r2.pool.batch.protocol import BatchJob, BatchLine, BatchProvider, BatchRow, BatchStatus
from r2.pool.batch.providers import open_provider
from r2.pool.client.dialects import DIALECTS
from r2.pool.client.wire import ParsedReply, parse_body, request_body
from r2.pool.file.config import PoolConfig, load_pool
from tests.support.providers.batch import Batches
from tests.support.providers.imitation import Imitation

KEY_ENV = "IMITATED_KEY"
ENTRY = "one"


def pool_of(server: Imitation, model: str, folder: Path) -> PoolConfig:
    """A pool file with one entry, for this model of the imitation."""
    table = server.entry(ENTRY, model, tier="small", key_env=KEY_ENV)
    path = folder / "pool.toml"
    path.write_text(f'[router]\ndecomposer = "{ENTRY}"\nallocator = "{ENTRY}"\n{table}', "utf-8")
    return load_pool(path)


def job_of(n_rows: int, *, name: str = "a job", created_at: float | None = None) -> BatchJob:
    """A job as the lane would make it, with an id of its own for each name."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    at = time.time() if created_at is None else created_at
    return BatchJob(digest, "run-1", ENTRY, n_rows, 0, 0, 1.0, at)


@dataclass
class Opened:
    """One entry's batch endpoint at an imitation."""

    server: Imitation
    pool: PoolConfig
    provider: BatchProvider
    model: str

    @property
    def batches(self) -> Batches:
        assert self.server.batches is not None
        return self.server.batches

    def lines(self, job: BatchJob, prompts: Sequence[str], **fields: object) -> list[BatchLine]:
        """A line for each prompt, in the entry's dialect."""
        table, dialect = self.pool.models[ENTRY], DIALECTS[self.server.name]
        made = []
        for place, prompt in enumerate(prompts):
            call = Call(ENTRY, (("user", prompt),), "solve", 4000, **fields)  # type: ignore[arg-type]
            body = request_body(call, table, self.model, dialect=dialect)
            made.append(BatchLine(job.id[:16] + hashlib.sha256(str(place).encode()).hexdigest()[:32], body))
        return made

    async def finished(self, provider_id: str, *, looks: int = 20) -> BatchStatus:
        """The status of a job that is over after some looks."""
        for _ in range(looks):
            status = await self.provider.status(provider_id)
            if status.is_over:
                return status
        raise AssertionError(f"not over after {looks} looks: {status}")

    async def rows(self, provider_id: str) -> list[BatchRow]:
        return [row async for row in self.provider.results(provider_id)]


@asynccontextmanager
async def opened(
    server: Imitation, folder: Path, *, model: str | None = None, key: str | None = None
) -> AsyncIterator[Opened]:
    """The imitation started, and its batch endpoint as the product opens it."""
    async with server, aiohttp.ClientSession() as session:
        model = model or batch_model(server)
        pool = pool_of(server, model, folder)
        environ = {KEY_ENV: server.key if key is None else key}
        provider = open_provider(
            DIALECTS[server.name], server.base_url, model, KEY_ENV, session=session, environ=environ
        )
        assert provider is not None
        yield Opened(server, pool, provider, model)


def batch_model(server: Imitation) -> str:
    """A model that takes batches and does not think unless it is asked to."""
    named = {"azure": "our-mini-batch", "groq": "llama-3.3-70b-versatile", "anthropic": "claude-haiku-4-5"}
    return named.get(server.name) or next(iter(server.models))


def text_of(row: BatchRow) -> str:
    """The answer in a row that has one."""
    parsed = parse_body(row.body, row.status)
    assert isinstance(parsed, ParsedReply), parsed
    return parsed.text
