"""Flow: look at a lake now and then, and raise alerts as events: spend above the day's budget, accuracy below a floor.

What is done about an event, `r2 ops setup` says (flows/support/automations.py).
"""

import sys
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from flows.support.embedded_api import embedded_api
from flows.support.ending import as_command
from storage.lake.address import lake_folder
from tasks.watch import Alert, alerts


@task(name="look-at-lake", cache_policy=NO_CACHE, persist_result=False, retries=1)
def look_at_lake(lake: Path, max_usd_per_day: float | None, accuracy_floor: float | None) -> list[Alert]:
    """What is cause for an alert."""
    return alerts(lake, max_usd_per_day=max_usd_per_day, accuracy_floor=accuracy_floor)


@flow(name="watch-lake", flow_run_name="watch {lake}", persist_result=False)
def watch_lake(
    lake: str = "lake", max_usd_per_day: float | None = None, accuracy_floor: float | None = None
) -> list[Alert]:
    """Says each alert as an event of the lake, as often as it is looked at."""
    found = look_at_lake(lake_folder(lake), max_usd_per_day, accuracy_floor)
    for one in found:
        about = {"what": one.what, "value": one.value, "limit": one.limit}
        emit_event(event=one.event, resource={"prefect.resource.id": f"r2.lake.{Path(lake).name}"}, payload=about)
    return found


def _by_hand() -> None:
    given = [*sys.argv[1:], *[""] * 3]
    with embedded_api():
        found = watch_lake(given[0] or "lake", *(float(one) if one else None for one in given[1:3]))
    for one in found:
        print(f"{one.event}: {one.what}")


if __name__ == "__main__":
    as_command(_by_hand)
