"""Imitations of three providers with their batch endpoints, in a thread of the test, and runs against them in processes
of their own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.paths import ROOT
from tests.support.providers.anthropic import Anthropic
from tests.support.providers.batch import Batches
from tests.support.providers.bill import Rates
from tests.support.providers.gemini import Gemini
from tests.support.providers.imitation import Imitation
from tests.support.providers.openai import OpenAI

ENTRIES = (
    ("mini", "openai", "gpt-4.1-mini", "small"),
    ("haiku", "anthropic", "claude-haiku-5-5", "medium"),
    ("flash", "gemini", "gemini-3.8-flash", "large"),
)
"""(entry of the pool file, provider, model, tier)."""


def questions(n: int) -> list[dict[str, str]]:
    """Sums of two steps each."""
    return [
        {
            "id": f"q{i}",
            "question": f"What is {100 + i} + {7 + i % 31}, then multiply by {2 + i % 5}?",
            "answer": str((107 + i + i % 31) * (2 + i % 5)),
        }
        for i in range(n)
    ]


class BatchWorld:
    """Three providers, which live on while runs are killed. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.by_name: dict[str, Imitation] = {"openai": OpenAI(), "anthropic": Anthropic(), "gemini": Gemini()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()

        async def start() -> None:
            for one in self.by_name.values():
                await self._stack.enter_async_context(one)

        self.do(start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.do(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def slow(self, run_s: float) -> None:
        """From now on a job runs for so long."""
        for batches in self.batches.values():
            batches.terms.run_s = run_s

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """In the thread of the providers."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    @property
    def batches(self) -> dict[str, Batches]:
        return {name: one.batches for name, one in self.by_name.items() if one.batches is not None}

    @property
    def bill_usd(self) -> Decimal:
        """Of all providers, live calls and jobs."""
        return sum((one.bill_usd for one in self.by_name.values()), Decimal(0))

    @property
    def environment(self) -> dict[str, str]:
        return {f"IMITATED_{name.upper()}_KEY": one.key for name, one in self.by_name.items()}

    def pool(self, lane: str | None = "batch") -> Path:
        """A pool file with an entry at each provider."""
        tables = ['[router]\ndecomposer = "mini"\nallocator = "mini"\n']
        for entry, provider, model, tier in ENTRIES:
            server = self.by_name[provider]
            assert server.batches is not None
            live = server.models[model].prices
            rates = f"{rates_of(live.base)}, batch = {{{rates_of(server.batches.prices(model, live).base)}}}"
            price = f'{{{rates}, date = "2026-11-26", source = "the imitation"}}'
            lines = {} if lane is None else {"lane": json.dumps(lane)}
            variable = f"IMITATED_{provider.upper()}_KEY"
            tables.append(server.entry(entry, model, tier=tier, key_env=variable, price_usd_per_mtok=price, **lines))
        path = self.folder / f"pool-{lane}.toml"
        path.write_text("\n".join(tables), "utf-8")
        return path

    def jobs(self) -> Counter[str]:
        """How many jobs each of our job ids has at the providers, by the head of their custom_ids."""
        heads = Counter[str]()
        for batches in self.batches.values():
            for job in batches.jobs.values():
                heads.update({custom_id[:16] for custom_id, _ in job.rows})
        return heads

    def paid_twice(self) -> list[str]:
        return [digest for batches in self.batches.values() for digest in batches.paid_twice()]


def rates_of(at: Rates) -> str:
    told = f"input = {at.input}, cached_input = {at.cached}, output = {at.output}"
    return told + (f", cache_write = {at.cache_write}" if at.cache_write != at.input else "")


class Sessions:
    """Sessions of one run, forked from a process that has imported everything."""

    def __init__(self, settings: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.answer_by_batch", str(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def run(self, until: Callable[[], None] | None = None) -> int:
        """One session; `until` returns when it is to be killed, None: never. Its status as of `os.waitpid`."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        child = int(self._line())
        if until is not None:
            until()
            with suppress(ProcessLookupError):  # it has ended: its status says how
                os.kill(child, signal.SIGKILL)
        return int(self._line())

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


@contextmanager
def sessions(world: BatchWorld, rows: list[dict[str, str]], name: str, **settings: Any) -> Iterator[Sessions]:
    """Of a run over these rows into the lake `name`, with plans."""
    source = world.folder / "q.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    lines = {
        "input": str(source),
        "lake": str(world.folder / name),
        "out": str(world.folder / f"{name}.jsonl"),
        **settings,
    }
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
    path = world.folder / f"{name}.toml"
    path.write_text(text + '[reasoning]\nmethod = "r2"\nrouting = "allocator"\n', "utf-8")
    opened = Sessions(path, world.environment)
    try:
        yield opened
    finally:
        opened.close()
