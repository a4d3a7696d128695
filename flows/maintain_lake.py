"""Flow: keep a lake fast and whole. Finished runs compacted, superseded files deleted after a day, checksums verified,
views refreshed."""

import sys

from prefect import flow

from flows.support.embedded_api import embedded_api
from flows.support.ending import as_command
from r2.errors import LakeError
from storage.lake.address import lake_folder
from tasks.keep_lake import compact_lake, refresh_views, vacuum_lake, verify_lake


@flow(name="maintain-lake", flow_run_name="upkeep of {lake}", persist_result=False)
def maintain_lake(lake: str = "lake", vacuum_after_hours: float = 24.0) -> None:
    """Raises LakeError, naming every file, if anything stored is torn, foreign or changed."""
    root = lake_folder(lake)
    compact_lake(root)
    vacuum_lake(root, vacuum_after_hours)
    refresh_views(root)
    if problems := verify_lake(root):
        raise LakeError(f"{lake}: {len(problems)} problems\n" + "\n".join(problems))


def _by_hand() -> None:
    with embedded_api():
        maintain_lake(sys.argv[1] if len(sys.argv) > 1 else "lake")


if __name__ == "__main__":
    as_command(_by_hand)
