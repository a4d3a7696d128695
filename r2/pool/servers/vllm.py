"""vLLM servers for `vllm:` entries: one for all entries of a model, found or started, with the entries' adapters loaded
while it runs.

An adapter is served under the name of its version and weights, so a promotion is one more adapter: runs of the version
before go on as they were, the next run loads the new one, and nothing is started again. The server ends with the block
that started it (r2/pool/servers/keeper.py), whatever becomes of this process; one that `r2 pool serve` keeps stays
(vllm_shared.py). It listens on loopback, to everybody on this machine.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from r2.errors import EndpointError
from r2.policies.registry import Policy
from r2.pool.client.ports import Address
from r2.pool.file.config import PoolConfig
from r2.pool.servers.child_server import Child, child, until_healthy
from r2.pool.servers.keeper import PATIENCE_S
from r2.pool.servers.vllm_command import Start, check_adapter, port_argument, start_of, vllm_environment, weights_of
from r2.pool.servers.vllm_shared import Place
from r2.pool.servers.vllm_watch import Watch

RESTARTS = 3
"""Deaths of a server within half an hour after which it is started again."""
WITHIN_S = 1800.0


@dataclass(frozen=True, slots=True)
class Planned:
    """The server of one model, as a pool file's entries need it."""

    target: str
    start: Start
    timeout_s: float
    entries: tuple[str, ...]
    adapters: Mapping[str, Policy]
    """Entry -> the version that it asks, for entries with one."""

    @property
    def what(self) -> str:
        return f"vllm:{self.target}"

    def served_name(self, entry: str) -> str:
        """The `model` of its requests."""
        policy = self.adapters.get(entry)
        return self.target if policy is None else adapter_name(policy)


def adapter_name(policy: Policy) -> str:
    """The same name always means the same weights."""
    return f"{policy.ref}-{policy.card.weights_sha256[:8]}"


def targets_of(pool: PoolConfig) -> list[str]:
    """The models that vLLM serves, in the pool's order."""
    return list(dict.fromkeys(m.vllm_target for m in pool.models.values() if m.vllm_target is not None))


def plan_server(pool: PoolConfig, target: str, models_dir: Path, say: Callable[[str], None]) -> Planned:
    """PoolFileError (vLLM or weights not there, an adapter that does not fit) or ConfigError (a changed version)."""
    what, table = f"vllm:{target}", pool.vllm_server(target)
    entries = tuple(name for name, model in pool.models.items() if model.vllm_target == target)
    adapters = {name: pool.policies[name] for name in entries if name in pool.policies}
    for policy in adapters.values():
        check_adapter(policy, table, target, what)
    environment = vllm_environment(what)
    start = start_of(
        target,
        weights_of(target, models_dir, environment, what, say),
        table,
        environment,
        context_tokens=max(pool.models[name].context_tokens for name in entries),
        n_adapters=len({pool.models[name].adapter for name in adapters}),
    )
    return Planned(target, start, table.start_timeout_s, entries, adapters)


@asynccontextmanager
async def open_vllm(
    pool: PoolConfig, target: str, *, models_dir: Path, log_dir: Path, state_dir: Path, say: Callable[[str], None]
) -> AsyncIterator[dict[str, Address]]:
    """Entry -> where it answers. EndpointError if the server does not come up or refuses an adapter; else as
    `plan_server`."""
    planned = await asyncio.to_thread(plan_server, pool, target, models_dir, say)
    place = Place.of(state_dir, planned.start)
    async with AsyncExitStack() as stack:
        address = place.address()
        if address is not None:
            hint = "`r2 pool serve` keeps it and knows more."
            await until_healthy(address, planned.what, hint, planned.timeout_s, place.is_free, say)
            say(f"{planned.what}: asked at {address}, which `r2 pool serve` keeps")
            has_ended, adapters = place.is_free, place.adapters
        else:
            adapters = log_dir / f"vllm-{place.key}.adapters"
            started = await stack.enter_async_context(started_server(planned, adapters, log_dir, say))
            address, has_ended = started.address, started.has_ended
        await load_adapters(address, planned, adapters)
        watch = await stack.enter_async_context(Watch(address, has_ended))
        yield {
            name: Address(address, planned.served_name(name), pool.models[name].stream, is_ours=True, backlog=watch)
            for name in planned.entries
        }


@asynccontextmanager
async def started_server(
    planned: Planned, adapters: Path, log_dir: Path, say: Callable[[str], None]
) -> AsyncIterator[Child]:
    """A server of our own, once it is healthy. `adapters`: the file of what is loaded, begun anew."""
    adapters.parent.mkdir(parents=True, exist_ok=True)
    adapters.unlink(missing_ok=True)
    port = _free_port()
    address = f"http://127.0.0.1:{port}/v1"
    args = [sys.executable, "-m", "r2.pool.servers.keeper", "--address", address, "--modules", str(adapters)]
    args += ["--restarts", str(RESTARTS), "--within", str(WITHIN_S)]
    say(f"{planned.what}: the server is started")
    async with child(
        [*args, "--", *planned.start.command, *port_argument(port)],
        planned.what,
        log_dir,
        start_timeout_s=planned.timeout_s,
        patience_s=PATIENCE_S + 10,
        env={**os.environ, **planned.start.env},
        say=say,
    ) as server:
        yield server


async def load_adapters(address: str, planned: Planned, noted: Path) -> None:
    """Loads what the server does not have yet, and notes it in the file `noted`, from which a server that is started
    again gets it."""
    wanted = {adapter_name(policy): str(policy.path.absolute()) for policy in planned.adapters.values()}
    if not wanted:
        return
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=planned.timeout_s)) as session:
        async with session.get(f"{address}/models") as reply:
            there = {one["id"]: one.get("root") for one in (await reply.json())["data"]}
        if planned.target not in there:
            raise EndpointError(f"{planned.what}: {address} serves {', '.join(there)}. Another server took its port.")
        for name, path in wanted.items():
            if there.get(name) == path:
                continue
            body: dict[str, Any] = {"lora_name": name, "lora_path": path, "load_inplace": name in there}
            async with session.post(f"{address}/load_lora_adapter", json=body) as reply:
                said = await reply.text()
                if reply.status != 200 and "already been loaded" not in said:  # by another run, a moment ago
                    raise EndpointError(f"{planned.what}: adapter {name} was refused (HTTP {reply.status}): {said}")
            with noted.open("a", encoding="utf-8") as file:
                file.write(f"{name}={path}\n")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
