"""Compaction: a run's many small parts rewritten as one file per table, while queries and commits continue.

The new files become the run at the instant their entry is linked; the old ones stay for readers that hold them, until
`Lake.vacuum`. A crash at any step leaves the old state, and of two compactions at the same time one is dropped, because
both carry the same generation number. Memory is bounded by a row group per table, whatever the size of the run.
"""

from r2.errors import LakeError
from storage.lake.manifest import COMPACTION, Manifest, UnitEntry
from storage.lake.ordered import rows_of_run, windows
from storage.lake.parts import GROUP_ROWS
from storage.lake.schema import OF_RUNS, TABLES
from storage.lake.unit import UnitWriter


def compact_run(manifest: Manifest, run_id: str) -> UnitEntry | None:
    """The new entry; None if the run is one unit already, or another compaction was faster.

    Raises LakeError, and changes nothing, if the parts do not hold the rows that the manifest says.
    """
    live = manifest.live(run_id)
    if len(live) < 2:
        return None
    newest = max((entry.unit for entry in live if entry.is_compaction), default=f"{COMPACTION}00000")
    unit = f"{COMPACTION}{int(newest.removeprefix(COMPACTION)) + 1:05d}"
    expected = {name: sum(e.parts[name].rows for e in live if name in e.parts) for name in TABLES}
    everything = {name: TABLES[name].schema.names for name in TABLES}
    n_problems = expected["trajectories"]
    bloom_rows = {
        name: min(n_problems, n_problems * GROUP_ROWS // n_rows + 1) for name, n_rows in expected.items() if n_rows
    }
    with UnitWriter(manifest, run_id, unit, bloom_rows) as writer:
        for name in OF_RUNS:
            for rows in rows_of_run(manifest.root, live, name, everything.pop(name)):
                writer.write(name, rows)
        for window in windows(manifest.root, live, everything):
            for name, rows in window.items():
                writer.write(name, rows)
        for name, n_rows in expected.items():
            if writer.n_rows(name) != n_rows:
                raise LakeError(
                    f"run {run_id}, table {name}: {writer.n_rows(name)} rows read, {n_rows} in the manifest; nothing "
                    "was changed. "
                    "Run `r2 lake verify` to find the part that is wrong."
                )
        replaced = {entry.unit for entry in live}.union(*(entry.replaces for entry in live))
        indices = [i for e in live for i in (e.first_input_index, e.last_input_index) if i is not None]
        return writer.publish(indices, sorted(replaced))
