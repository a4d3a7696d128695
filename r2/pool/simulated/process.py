"""Simulated models in a process of their own: `start_simulated` for a run's `simulated:` entries, `serve` for `r2 pool
serve`.

An entry's `simulated` table: `ability` (required), `ttft_s` (seconds to the first token), `tokens_per_s` (0: tokens
take no time), `abilities` (a table: the ability at single kinds of work, for a specialist), `certainty_noise` (of its
token probabilities). Faults come from the pool file's [simulated_faults]. As a script this module is the server's
process (`--help` lists its flags); started by `start_simulated`, it ends with its parent, even one killed with -9.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import orjson
import uvloop
from aiohttp import web

from r2.errors import EndpointError, R2Error
from r2.lifeline import die_with_parent, end, spawn
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.simulated.mind import expected_plans, expected_skills
from r2.pool.simulated.server import Conditions, SimulatedServer, simulated_models
from r2.roster import PLAN_SKILL

_FLUSH_S = 0.2
_START_S = 60.0


async def run(pool: PoolConfig, host: str, port: int, conditions: Conditions, log_path: Path | None = None) -> None:
    """Serves until SIGINT or SIGTERM; prints `listening <base URL>` once it can be called.

    The log is flushed every 0.2 s and at the end, after the requests then in flight were given half a second.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log = log_path.open("ab") if log_path is not None else None
    server = SimulatedServer(pool, conditions, log)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
        print(f"listening http://{host}:{runner.addresses[0][1]}/v1", flush=True)
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _FLUSH_S)
            if log is not None:
                log.flush()
    finally:
        await runner.cleanup()
        if log is not None:
            log.close()


def serve(
    pool: PoolConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 8100,
    conditions: Conditions | None = None,
    log_path: Path | None = None,
) -> None:
    """`run`, from a command, until Ctrl-C or SIGTERM."""
    uvloop.run(run(pool, host, port, conditions or Conditions(), log_path))


@contextmanager
def started_ahead(pool: PoolConfig) -> Iterator[None]:
    """Starts the server that the first `start_simulated(pool)` within the block will take, and waits for nothing: it
    loads while this process does something else. Ended with the block if nobody took it. A no-op for a pool without
    simulated entries.

    The kernel ends a child with the thread that started it: this one's has to live as long as the server is needed.
    Raises PoolFileError or ConfigError, as `start_simulated`.
    """
    if not simulated_models(pool):
        yield
        return
    key = tuple(_command(pool, Conditions(), None))
    process = _ahead[key] = _started(pool, key)
    try:
        yield
    finally:
        if _ahead.pop(key, None) is not None:
            end(process, 0.0)


_ahead: dict[tuple[str, ...], "subprocess.Popen[bytes]"] = {}
"""Command -> the server that was started with it and that nobody has taken yet."""


@asynccontextmanager
async def start_simulated(
    pool: PoolConfig, *, conditions: Conditions | None = None, log_path: Path | None = None
) -> AsyncIterator[str]:
    """The base URL of a server in a process of its own, which ends with the block and, whatever happens, with this
    process.

    Raises PoolFileError or ConfigError for what it cannot serve, EndpointError if it does not come up.
    """
    command = tuple(_command(pool, conditions or Conditions(), log_path))
    process = _ahead.pop(command, None) or _started(pool, command)
    assert process.stdout is not None
    try:
        try:
            line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), _START_S)
        except TimeoutError:
            line = b""
        if not line.startswith(b"listening "):
            raise EndpointError(
                f"{pool.path}: the simulated server did not come up within {_START_S:g} s; "
                f"run `r2 pool serve --pool {pool.path}` to see why"
            )
        yield line.split()[1].decode()
    finally:
        await asyncio.to_thread(end, process, 5.0 if log_path is not None else 0.0)  # without a log nothing is left


def _command(pool: PoolConfig, conditions: Conditions, log_path: Path | None) -> list[str]:
    """The server's command line, once it is known that the pool can be served: a mistake is named here, not on a
    child's standard error."""
    SimulatedServer(pool, conditions)
    args = [sys.executable, "-m", "r2.pool.simulated.process", "--pool", str(pool.path), *_flags(conditions)]
    return args if log_path is None else [*args, "--log", str(log_path)]


def _started(pool: PoolConfig, command: Sequence[str]) -> "subprocess.Popen[bytes]":
    # The child reads the pool file again and must find the same policies in it.
    return spawn(command, stdout=subprocess.PIPE, env={**os.environ, "R2_POLICIES_DIR": str(pool.policies_dir)})


def _flags(conditions: Conditions) -> list[str]:
    flags = ["--seed", str(conditions.seed), "--time-scale", str(conditions.time_scale)]
    if conditions.faults is not None:
        flags += ["--faults", orjson.dumps(dict(conditions.faults)).decode()]
    if conditions.max_requests_per_minute is not None:
        flags += ["--max-requests-per-minute", str(conditions.max_requests_per_minute)]
    if conditions.max_tokens_per_minute is not None:
        flags += ["--max-tokens-per-minute", str(conditions.max_tokens_per_minute)]
    return flags


def _print_profiles(pool: PoolConfig) -> None:
    models = simulated_models(pool)
    for name, table in pool.models.items():
        model = models.get(table.endpoint.partition(":")[2])
        if model is not None:
            skills = expected_skills(model.ability, model.abilities, thinks=table.prompt_mode == "cot")
            if name == pool.router.decomposer:
                skills[PLAN_SKILL] = expected_plans(model.ability)
            print(f"{name}: {{{', '.join(f'{skill} = {min(0.99, share):.2f}' for skill, share in skills.items())}}}")


def main() -> None:
    """The script: serves, or with --profiles prints the profile that each entry truly has."""
    parser = argparse.ArgumentParser(
        prog="python -m r2.pool.simulated.process", description="Serve a pool file's simulated models."
    )
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; the address is printed")
    parser.add_argument("--seed", type=int, default=0, help="of answers and faults")
    parser.add_argument("--time-scale", type=float, default=1.0, help="stretches every delay; 0: as fast as possible")
    parser.add_argument("--faults", type=orjson.loads, help='instead of the pool file\'s, as JSON: {"hang": 0.01}')
    parser.add_argument("--max-requests-per-minute", type=float, help="per model; enforced with 429")
    parser.add_argument("--max-tokens-per-minute", type=float, help="per model; enforced with 429")
    parser.add_argument("--log", type=Path, help="one JSON line per request goes here")
    parser.add_argument("--profiles", action="store_true", help="print the true profile of each entry and end")
    given = parser.parse_args()
    conditions = Conditions(
        given.seed, given.time_scale, given.faults, given.max_requests_per_minute, given.max_tokens_per_minute
    )
    try:
        pool = load_pool(given.pool)
        if given.profiles:
            _print_profiles(pool)
        else:
            serve(pool, host=given.host, port=given.port, conditions=conditions, log_path=given.log)
    except R2Error as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    die_with_parent()
    main()
