"""What a run tells Prefect's events of the breakers of its pool: an entry that is taken for down, and one that answers
again. Without an API, or without anybody who listens, nothing depends on it."""

from typing import Final

from prefect.events import emit_event

from r2.pool.client.client import PoolClient
from tasks.answering.session import RunSession

OPEN: Final = "r2.breaker.open"
CLOSED: Final = "r2.breaker.closed"
ENTRY: Final = "r2.entry."
"""Before the name of the entry: the resource that the events are of."""


class BreakerEvents:
    """Of one session. `look` now and then, `end` once."""

    def __init__(self, session: RunSession) -> None:
        self._session = session
        self._open: set[str] = set()

    def look(self) -> None:
        """Says of each entry whether its breaker has opened or closed since."""
        client = self._session.client
        if not isinstance(client, PoolClient):
            return
        for gauge in client.gauges():
            is_open = client.gate_gauge(gauge.name).breaker != "closed"
            if is_open != (gauge.name in self._open):
                self._say(OPEN if is_open else CLOSED, gauge.name)

    def end(self) -> None:
        """A session that is over takes nothing for down any more."""
        for name in sorted(self._open):
            self._say(CLOSED, name)

    def _say(self, event: str, name: str) -> None:
        (self._open.add if event == OPEN else self._open.discard)(name)
        about = {"run_id": self._session.plan.run_id}
        emit_event(event=event, resource={"prefect.resource.id": f"{ENTRY}{name}"}, payload=about)
