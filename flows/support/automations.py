"""The automations of `r2 ops setup`: the nightly loop's stages chained by their events, and what raises an alert.

    r2.refresh.labelled -> refresh-train, .trained -> refresh-evaluate, .evaluated -> refresh-promote
    r2.alert.spend, r2.alert.accuracy     sent by the flow `watch_lake`
    r2.breaker.open without .closed       sent by runs that answer questions (breaker_events.py)
    no heartbeat of a flow run            the run is marked crashed: a zombie holds no lock, but looks alive

Made once however often it is asked for: an automation is known by its name, and brought to what it should be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from flows.support.breaker_events import CLOSED, ENTRY, OPEN
from r2.errors import ConfigError

FLOW: Final = "refresh-router"
CHAIN: Final = (
    ("r2.refresh.labelled", "refresh-train"),
    ("r2.refresh.trained", "refresh-evaluate"),
    ("r2.refresh.evaluated", "refresh-promote"),
)
"""(event, deployment that follows)."""
ALERTS: Final = {"r2.alert.spend": "spend above budget", "r2.alert.accuracy": "accuracy below floor"}
"""Event -> what it says."""
_HEARTBEAT: Final = "prefect.flow-run.heartbeat"
_ENDS: Final = ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "Paused", "Suspended", "Scheduled")


@dataclass(frozen=True, slots=True)
class SetUp:
    """What became of one automation."""

    name: str
    did: Literal["created", "brought up to date", "as it was"]


async def set_up(
    client: PrefectClient, *, notify: str | None, breaker_after: timedelta, zombie_after: timedelta
) -> list[SetUp]:
    """Makes or mends every automation. `notify`: a block that alerts are sent by, as `slack-webhook/ops`; None: they
    are in the server's events alone. ConfigError for a block or a deployment that is not there."""
    send = await _sending(client, notify)
    wanted = [await _chained(client, event, name) for event, name in CHAIN]
    wanted += [_alert(event, what, send) for event, what in ALERTS.items()]
    wanted += [_breaker(breaker_after, send), _zombie(zombie_after, send)]
    return [await _made(client, automation) for automation in wanted]


async def _made(client: PrefectClient, wanted: AutomationCore) -> SetUp:
    present = await client.read_automations_by_name(wanted.name)
    if not present:
        await client.create_automation(wanted)
        return SetUp(wanted.name, "created")
    for twin in present[1:]:
        await client.delete_automation(twin.id)
    if _same(present[0], wanted) and len(present) == 1:
        return SetUp(wanted.name, "as it was")
    await client.update_automation(present[0].id, wanted)
    return SetUp(wanted.name, "brought up to date")


def _same(present: AutomationCore, wanted: AutomationCore) -> bool:
    """Whether it does what it should. Whether it is enabled is left to whoever switched it off."""
    fields = {"name", "description", "trigger", "actions"}
    both = [one.model_dump(mode="json", include=fields) for one in (present, wanted)]
    for one in both:
        one["trigger"].pop("id", None)
        one["trigger"] = {
            name: sorted(value) if name in ("after", "expect", "for_each") else value
            for name, value in one["trigger"].items()
        }
    return both[0] == both[1]


async def _chained(client: PrefectClient, event: str, name: str) -> AutomationCore:
    return AutomationCore(
        name=f"r2: {event.rpartition('.')[2]}, then {name}",
        description=f"Made by r2 ops setup: after {event} the deployment {FLOW}/{name} runs.",
        trigger=EventTrigger(
            expect={event},
            match={"prefect.resource.id": "r2.policy.*"},
            posture=Posture.Reactive,
        ),
        actions=[
            RunDeployment(
                source="selected", deployment_id=await _deployment(client, name), parameters=None, job_variables=None
            )
        ],
    )


async def _deployment(client: PrefectClient, name: str) -> UUID:
    try:
        return (await client.read_deployment_by_name(f"{FLOW}/{name}")).id
    except ObjectNotFound:
        raise ConfigError(
            f"the server has no deployment {FLOW}/{name}. Make the deployments first: prefect --no-prompt deploy --all."
        ) from None


def _alert(event: str, what: str, send: Sequence[ActionTypes]) -> AutomationCore:
    return AutomationCore(
        name=f"r2: {what}",
        description=f"Made by r2 ops setup: {event}, which the flow watch_lake sends.",
        trigger=EventTrigger(expect={event}, posture=Posture.Reactive),
        actions=list(send),
    )


def _breaker(after: timedelta, send: Sequence[ActionTypes]) -> AutomationCore:
    return AutomationCore(
        name="r2: breaker open for long",
        description=f"Made by r2 ops setup: a run takes an entry for down for more than {after}.",
        trigger=EventTrigger(
            after={OPEN},
            expect={CLOSED},
            match={"prefect.resource.id": f"{ENTRY}*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=after,
        ),
        actions=list(send),
    )


def _zombie(after: timedelta, send: Sequence[ActionTypes]) -> AutomationCore:
    crashed = ChangeFlowRunState(
        name=None,
        state=StateType.CRASHED,
        message=f"no heartbeat for {after}: its process is gone (r2 ops setup)",
        force=False,
    )
    return AutomationCore(
        name="r2: zombie run",
        description=f"Made by r2 ops setup: a flow run without a heartbeat for {after} is marked crashed.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *(f"prefect.flow-run.{end}" for end in _ENDS)},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=after,
        ),
        actions=[crashed, *(one for one in send if not isinstance(one, DoNothing))],
    )


async def _sending(client: PrefectClient, notify: str | None) -> list[ActionTypes]:
    if notify is None:
        return [DoNothing()]
    kind, _, name = notify.partition("/")
    try:
        block = await client.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound:
        raise ConfigError(
            f"--notify {notify}: the server has no such block. Expected TYPE/NAME, as slack-webhook/ops; make it in "
            "the UI under Blocks."
        ) from None
    body = "{{ automation.name }}: {{ event.resource.id }} {{ event.payload }}"
    return [SendNotification(block_document_id=block.id, subject="{{ automation.name }}", body=body)]
