"""`r2 ops setup`: the automations on the embedded API, and on a server of its own what they do."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.clients import PrefectEventsClient
from prefect.events.schemas.automations import AutomationCore
from prefect.events.schemas.events import Event, Resource
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running
from typer.testing import CliRunner

from flows.cli.app import app
from flows.support import breaker_events
from flows.support.automations import CHAIN, SetUp, set_up
from flows.support.breaker_events import BreakerEvents
from flows.watch_lake import watch_lake
from r2.errors import ConfigError
from r2.pool.client.client import PoolClient
from storage.lake.lake import Lake
from tests.support.lake_rows import unit_of
from tests.support.prefect_api import shared_api
from tests.support.prefect_home import new_home
from tests.support.prefect_sockets import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS
TIMES = {"breaker_after": timedelta(minutes=15), "zombie_after": timedelta(minutes=10)}
NAMES = [
    "r2: labelled, then refresh-train",
    "r2: trained, then refresh-evaluate",
    "r2: evaluated, then refresh-promote",
    "r2: spend above budget",
    "r2: accuracy below floor",
    "r2: breaker open for long",
    "r2: zombie run",
]


async def with_deployments(client: PrefectClient) -> dict[str, Any]:
    flow_id = await client.create_flow_from_name("refresh-router")
    return {name: await client.create_deployment(flow_id, name) for _, name in CHAIN}


def done(*steps: Callable[[PrefectClient], Coroutine[Any, Any, Any]]) -> list[Any]:
    async def all_of() -> list[Any]:
        async with get_client() as client:
            return [await step(client) for step in steps]

    return asyncio.run(all_of())


def made(**changes: Any) -> list[SetUp]:
    [found] = done(lambda client: set_up(client, **{"notify": None, **TIMES, **changes}))
    return list(found)


@pytest.fixture(scope="module")
def api() -> Iterator[None]:
    with shared_api():
        yield


def test_it_makes_each_automation_once_and_mends_what_was_changed(api: None):
    with pytest.raises(ConfigError, match="no deployment refresh-router/refresh-train"):
        made()
    done(with_deployments)
    assert [(one.name, one.did) for one in made()] == [(name, "created") for name in NAMES]
    assert {one.did for one in made()} == {"as it was"}

    async def meddle(client: PrefectClient) -> None:
        [zombie] = await client.read_automations_by_name("r2: zombie run")
        await client.pause_automation(zombie.id)
        [spend] = await client.read_automations_by_name("r2: spend above budget")
        fields = set(AutomationCore.model_fields)
        await client.create_automation(AutomationCore.model_validate(spend.model_dump(include=fields)))

    done(meddle)
    assert {one.name: one.did for one in made() if one.did != "as it was"} == {
        "r2: spend above budget": "brought up to date"
    }
    assert [one.name for one in made(breaker_after=timedelta(minutes=5)) if one.did != "as it was"] == [
        "r2: breaker open for long"
    ]

    async def present(client: PrefectClient) -> dict[str, list[bool]]:
        return {name: [one.enabled for one in await client.read_automations_by_name(name)] for name in NAMES}

    [found] = done(present)
    assert found == {name: [name != "r2: zombie run"] for name in NAMES}, "what was switched off stays off"
    with pytest.raises(ConfigError, match="--notify slack-webhook/none: the server has no such block"):
        made(notify="slack-webhook/none")


def test_without_a_server_the_command_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch):
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        result = CliRunner().invoke(app, ["ops", "setup"])
    assert isinstance(result.exception, ConfigError) and "prefect server start" in str(result.exception)


def test_a_run_says_when_a_breaker_opens_and_closes_and_leaves_none_open(monkeypatch: pytest.MonkeyPatch):
    said: list[tuple[str, str]] = []
    monkeypatch.setattr(
        breaker_events, "emit_event", lambda event, resource, payload: said.append((event, *resource.values()))
    )
    breakers = {"small": "closed", "large": "closed"}
    client = object.__new__(PoolClient)
    monkeypatch.setattr(PoolClient, "gauges", lambda self: [SimpleNamespace(name=name) for name in breakers])
    monkeypatch.setattr(PoolClient, "gate_gauge", lambda self, name: SimpleNamespace(breaker=breakers[name]))
    session: Any = SimpleNamespace(client=client, plan=SimpleNamespace(run_id="run-a"))
    events = BreakerEvents(session)
    events.look()
    assert said == []
    breakers["large"] = "open"
    events.look()
    breakers["large"] = "half_open"
    events.look()
    assert said == [("r2.breaker.open", "r2.entry.large")], "said once"
    breakers["large"], breakers["small"] = "closed", "open"
    events.look()
    events.end()
    assert sorted(said[1:3]) == [("r2.breaker.closed", "r2.entry.large"), ("r2.breaker.open", "r2.entry.small")]
    assert said[3:] == [("r2.breaker.closed", "r2.entry.small")]


def test_the_flow_that_watches_says_each_alert_as_an_event(api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Lake(tmp_path).commit("run-a", "00000-0", unit_of(range(3)))
    said: list[str] = []
    monkeypatch.setattr("flows.watch_lake.emit_event", lambda event, **about: said.append(event))
    monkeypatch.setattr("tasks.watch.datetime", SimpleNamespace(now=lambda zone: datetime(2026, 5, 28, tzinfo=UTC)))
    [alert] = watch_lake(str(tmp_path), max_usd_per_day=0.001)
    assert (alert.event, said) == ("r2.alert.spend", ["r2.alert.spend"])


@contextlib.contextmanager
def server(folder: Path) -> Iterator[None]:
    """A Prefect server as people start it, with its triggers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PREFECT_HOME": new_home(folder), "DO_NOT_TRACK": "1"}
    environment |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}/api"
        until = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):
                    break
            except OSError:
                assert time.monotonic() < until and process.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        with temporary_settings({PREFECT_API_URL: url}):
            yield
    finally:
        process.terminate()
        process.wait(60)


async def emitted(*events: tuple[str, str]) -> None:
    async with PrefectEventsClient(api_url=str(PREFECT_API_URL.value())) as client:
        for event, resource in events:
            about = Resource({"prefect.resource.id": resource})
            await client.emit(Event(occurred=datetime.now(UTC), event=event, resource=about))


@pytest.mark.slow
def test_on_a_server_a_stage_is_followed_by_the_next_and_a_zombie_is_marked_crashed(tmp_path: Path):
    async def all_of() -> tuple[list[Any], StateType | None]:
        async with get_client() as client:
            deployments = await with_deployments(client)
            times = {"breaker_after": timedelta(seconds=10), "zombie_after": timedelta(seconds=10)}
            await set_up(client, notify=None, **times)
            await asyncio.sleep(3)  # the server loads its triggers
            flow_id = await client.create_flow_from_name("zombie")
            zombie = await client.create_deployment(flow_id, "zombie")
            run = await client.create_flow_run_from_deployment(zombie)
            await client.set_flow_run_state(run.id, Running(), force=True)
            await emitted(
                ("r2.refresh.labelled", "r2.policy.scorer"),
                ("prefect.flow-run.heartbeat", f"prefect.flow-run.{run.id}"),
            )
            followed: list[Any] = []
            state = None
            for _ in range(240):
                runs = await client.read_flow_runs()
                followed = [one for one in runs if one.deployment_id == deployments["refresh-train"]]
                state = (await client.read_flow_run(run.id)).state_type
                if followed and state == StateType.CRASHED:
                    break
                await asyncio.sleep(0.5)
            return followed, state

    with server(tmp_path):
        followed, state = asyncio.run(all_of())
        assert len(followed) == 1
        assert state == StateType.CRASHED
        again = CliRunner().invoke(app, ["ops", "setup", "--breaker-minutes", "0.2", "--heartbeat-minutes", "0.2"])
        assert again.exit_code == 0, again.output
        assert again.stdout.count("as it was") == 5 and again.stdout.count("brought up to date") == 2
