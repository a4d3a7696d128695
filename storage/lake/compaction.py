"""Compaction: a run's many small parts rewritten as one file per table with the columns of today, while queries and
commits continue.

The new files become the run at the instant their entry is linked, and then come into view (`storage/lake/view.py`); the
old ones stay, out of view, for readers that hold them, until `Lake.vacuum`. A crash at any step leaves the old rows or
the new ones, and of two compactions at the same time one is dropped, because both carry the same generation number.
Memory is bounded by a row group per table, whatever the size of the run.

Rewriting is also how problems leave a run, when they are to be answered again (`leave_out`), and how they lose their
words, when a person is to be forgotten (`forget`): at one instant, in every table.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from r2.errors import LakeError
from storage.lake.forgotten import forget_in
from storage.lake.manifest import COMPACTION, Manifest, UnitEntry
from storage.lake.ordered import rows_of_run, windows
from storage.lake.parts import columns_of
from storage.lake.schema import OF_RUNS, TABLES, Row, schema_digest, table_from_rows
from storage.lake.unit import UnitWriter
from storage.lake.view import bring_into_view, is_to_compact


def compact_run(manifest: Manifest, run_id: str) -> UnitEntry | None:
    """The new entry; None if the run is one file a table already, in view and with the columns of today, or another
    compaction was faster.

    Raises LakeError, and changes nothing, if the parts do not hold the rows that the manifest says, or columns that
    this program does not know.
    """
    live = manifest.live(run_id)
    entry = _rewritten(manifest, run_id, live) if is_to_compact(live) else None
    bring_into_view(manifest, run_id)
    return entry


def leave_out(
    manifest: Manifest,
    run_id: str,
    problem_ids: Collection[str],
    added: Mapping[str, Sequence[Row]],
    meta: Mapping[str, Any],
) -> UnitEntry | None:
    """The run rewritten without the rows of these problems, and with the rows `added` to its tables `OF_RUNS`; None if
    a compaction was faster."""
    entry = _rewritten(manifest, run_id, manifest.live(run_id), problem_ids, added, meta)
    bring_into_view(manifest, run_id)
    return entry


def forget(manifest: Manifest, run_id: str, problem_ids: Collection[str]) -> UnitEntry | None:
    """The run rewritten without a word of these problems (`storage/lake/forgotten.py`); None if a compaction was
    faster."""
    entry = _rewritten(manifest, run_id, manifest.live(run_id), forgotten=problem_ids)
    bring_into_view(manifest, run_id)
    return entry


def _rewritten(
    manifest: Manifest,
    run_id: str,
    live: Sequence[UnitEntry],
    left_out: Collection[str] = (),
    added: Mapping[str, Sequence[Row]] | None = None,
    meta: Mapping[str, Any] | None = None,
    forgotten: Collection[str] = (),
) -> UnitEntry | None:
    _check_known(manifest, run_id, live)
    newest = max((entry.unit for entry in live if entry.is_compaction), default=f"{COMPACTION}00000")
    unit = f"{COMPACTION}{int(newest.removeprefix(COMPACTION)) + 1:05d}"
    expected = {name: sum(e.parts[name].rows for e in live if name in e.parts) for name in TABLES}
    everything = {name: TABLES[name].schema.names for name in TABLES}
    n_read = dict.fromkeys(TABLES, 0)
    leaving = pa.array(sorted({*left_out, *forgotten}), pa.string())
    manifest.bring((entry, table) for entry in live for table in entry.parts)
    with UnitWriter(manifest, run_id, unit) as writer:
        for name in OF_RUNS:
            for rows in rows_of_run(manifest.root, live, name, everything.pop(name)):
                n_read[name] += rows.num_rows
                is_of_problems = "problem_id" in rows.column_names
                writer.write(name, _without(rows, leaving) if is_of_problems else rows)
            if more := (added or {}).get(name):
                writer.write(name, table_from_rows(name, more))
        for window in windows(manifest.root, live, everything):
            for name, rows in window.items():
                n_read[name] += rows.num_rows
            for name, rows in (forget_in(window, forgotten) if forgotten else window).items():
                staying = _without(rows, leaving)
                if staying.num_rows:
                    writer.write(name, staying)
        for name, n_rows in expected.items():
            if n_read[name] != n_rows:
                raise LakeError(
                    f"run {run_id}, table {name}: {n_read[name]} rows read, {n_rows} in the manifest; nothing "
                    "was changed. "
                    "Run `r2 lake verify` to find the part that is wrong."
                )
        replaced = {entry.unit for entry in live}.union(*(entry.replaces for entry in live))
        indices = [i for e in live for i in (e.first_input_index, e.last_input_index) if i is not None]
        return writer.publish(indices if writer.n_rows("trajectories") else [], sorted(replaced), meta)


def _without(rows: pa.Table, problem_ids: pa.Array) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows["problem_id"], problem_ids))) if len(problem_ids) else rows


def _check_known(manifest: Manifest, run_id: str, live: Sequence[UnitEntry]) -> None:
    """LakeError if rewriting would lose what a newer version of this program stored."""
    for entry in live:
        for name in entry.parts if entry.schema != schema_digest() else ():
            known = TABLES[name].schema.names if name in TABLES else []
            if unknown := sorted(set(columns_of(entry.file(manifest.root, name))) - set(known)):
                raise LakeError(
                    f"run {run_id}, table {name}: a newer version of this program stored {', '.join(unknown)}. "
                    "Nothing was changed. Upgrade this program."
                )
