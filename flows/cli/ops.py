"""`r2 ops ...`: what a Prefect server does by itself. Results on stdout, messages on stderr."""

import asyncio
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

from flows.cli.console import say
from flows.cli.options import INPUT, flag
from r2.errors import ConfigError, EndpointError

if TYPE_CHECKING:  # not when the command starts: Prefect takes seconds
    from flows.support.automations import SetUp


def setup(
    notify: Annotated[
        str | None,
        flag(
            INPUT,
            "--notify",
            metavar="TYPE/NAME",
            help="Block of the server that alerts are sent by, as slack-webhook/ops.",
            default="none: alerts are in the server's events alone",
        ),
    ] = None,
    breaker_minutes: Annotated[
        float,
        flag(INPUT, "--breaker-minutes", metavar="N", help="An entry that is down for longer is an alert.", min=0.2),
    ] = 15.0,
    heartbeat_minutes: Annotated[
        float,
        flag(
            INPUT,
            "--heartbeat-minutes",
            metavar="N",
            help="A flow run without a heartbeat for longer is marked crashed. Several times as long as the "
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY of the workers, which is 3 minutes.",
            min=0.2,
        ),
    ] = 10.0,
) -> None:
    """Make a Prefect server's automations: the nightly loop chained by events, and alerts.

    The server is that of PREFECT_API_URL, and has the deployments of prefect.yaml.
    Done again it mends what somebody changed, and makes nothing twice; one that was
    switched off stays off.

    Examples:

        r2 ops setup
        r2 ops setup --notify slack-webhook/ops --breaker-minutes 5
    """
    from httpx import HTTPError
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise ConfigError(
            "r2 ops setup: PREFECT_API_URL names no server. Start one (prefect server start) and set it, as "
            "http://127.0.0.1:4200/api."
        )
    os.environ.setdefault("DO_NOT_TRACK", "1")
    breaker, zombie = timedelta(minutes=breaker_minutes), timedelta(minutes=heartbeat_minutes)
    try:
        done = asyncio.run(_set_up(notify, breaker, zombie))
    except (HTTPError, OSError) as error:
        raise EndpointError(
            f"{PREFECT_API_URL.value()}: Prefect's server does not answer ({error}). Start it, or correct "
            "PREFECT_API_URL."
        ) from error
    for one in done:
        print(f"{one.name}: {one.did}")
    if notify is None:
        say("Alerts are in the server's events alone: r2 ops setup --notify TYPE/NAME sends them.")


async def _set_up(notify: str | None, breaker: timedelta, zombie: timedelta) -> "list[SetUp]":
    from prefect.client.orchestration import get_client

    from flows.support.automations import set_up

    async with get_client() as client:
        return await set_up(client, notify=notify, breaker_after=breaker, zombie_after=zombie)
