"""Holds calls back while a vLLM server has a queue, or is being started again.

vLLM refuses nothing: what it cannot do at once waits in it, where nobody else can be asked and a kill loses it. So its
metrics are read, one GET a look. A queue on two looks running means that more was sent than it works on; then nothing
is sent until a look finds it empty. A server that cannot be reached while its keeper lives is being started again; one
whose engine died answers for seconds yet, every call with an error, and its `/health` alone says so.
"""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import aiohttp

LOOK_S = 0.25
_TIMEOUT_S = 5.0
_WAITING = re.compile(r"^vllm:num_requests_waiting(?:\{[^}]*\})?\s+(\S+)", re.MULTILINE)

Look = float | Literal["down", "unclear"]
"""Requests that wait in the server; or nothing listens at its address, or it is not healthy; or no answer said
anything."""


def waiting_of(metrics: str) -> Look:
    """The requests that wait, over all engines, of a text in Prometheus' form."""
    found = _WAITING.findall(metrics)
    try:
        return sum(float(number) for number in found) if found else "unclear"
    except ValueError:
        return "unclear"


@dataclass(slots=True)
class Holding:
    """Whether calls are held back, look by look. Pure."""

    is_held: bool = False
    n_with_queue: int = 0

    def saw(self, look: Look, *, has_ended: bool) -> bool:
        """Whether to hold after this look. `has_ended`: nobody will start the server again; calls had better fail."""
        if has_ended:
            self.is_held = False
        elif look == "down":
            self.is_held, self.n_with_queue = True, 0
        elif look != "unclear":
            self.n_with_queue = self.n_with_queue + 1 if look > 0 else 0
            self.is_held = self.n_with_queue >= 2 or (self.is_held and look > 0)
        return self.is_held


class Watch:
    """Looks at one server for as long as the block that made it lasts. A `Backlog` (r2/pool/client/ports.py)."""

    def __init__(self, base_url: str, has_ended: Callable[[], bool], *, every_s: float = LOOK_S) -> None:
        self._url = base_url.removesuffix("/v1")
        self._has_ended = has_ended
        self._every_s = every_s
        self._followers: list[Callable[[bool], None]] = []
        self._holding = Holding()
        self.n_held = 0
        """How often calls were held back."""

    def follow(self, hold: Callable[[bool], None]) -> None:
        self._followers.append(hold)
        hold(self._holding.is_held)

    async def __aenter__(self) -> "Watch":
        self._task = asyncio.create_task(self._look_on(), name="vllm-watch")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _look_on(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
            while True:
                before = self._holding.is_held
                after = self._holding.saw(await self._look(session), has_ended=self._has_ended())
                if after != before:
                    self.n_held += after
                    for hold in self._followers:
                        hold(after)
                await asyncio.sleep(self._every_s)

    async def _look(self, session: aiohttp.ClientSession) -> Look:
        try:
            async with session.get(f"{self._url}/health") as reply:
                if reply.status != 200:
                    return "down"
            async with session.get(f"{self._url}/metrics") as reply:
                return waiting_of(await reply.text()) if reply.status == 200 else "unclear"
        except aiohttp.ClientConnectorError:
            return "down"
        except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError):
            return "unclear"
