"""One unit on its way into the lake: its parts first, its manifest entry last. Shared by commits and compactions."""

import datetime
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from storage.lake.manifest import COMPACTION, Manifest, UnitEntry
from storage.lake.parts import PartWriter
from storage.lake.schema import TABLES, schema_digest


class UnitWriter:
    """Writes a unit's tables; `publish` makes them count. Left without that, or after a lost race, nothing stays
    behind."""

    def __init__(self, manifest: Manifest, run_id: str, unit: str) -> None:
        self._manifest = manifest
        self._run_id = run_id
        self._unit = unit
        self._run_date = manifest.run_date(run_id) or _now().date().isoformat()
        self._writers: dict[str, PartWriter] = {}
        self._stack = ExitStack()

    def write(self, table: str, rows: pa.Table) -> None:
        """Adds rows to a table's part, in the order they are to be stored in."""
        if table not in self._writers:
            part = PartWriter(
                self._manifest.root,
                TABLES[table],
                self._run_id,
                self._unit,
                is_for_view=self._unit.startswith(COMPACTION),
            )
            self._writers[table] = self._stack.enter_context(part)
        self._writers[table].write(rows)

    def n_rows(self, table: str) -> int:
        return self._writers[table].rows if table in self._writers else 0

    def publish(
        self, input_indices: Sequence[int], replaces: Sequence[str] = (), meta: Mapping[str, Any] | None = None
    ) -> UnitEntry | None:
        """The entry once the unit is durably part of the lake, or None if another attempt got there first.

        `input_indices` are those of its trajectories, at least the first and the last.
        """
        entry = UnitEntry(
            run_id=self._run_id,
            unit=self._unit,
            run_date=self._run_date,
            parts={table: writer.finish() for table, writer in self._writers.items()},
            schema=schema_digest(),
            written_at=_now().isoformat(timespec="microseconds"),
            first_input_index=min(input_indices, default=None),
            last_input_index=max(input_indices, default=None),
            replaces=tuple(replaces),
            meta=dict(meta or {}),
        )
        paths = [writer.path for writer in self._writers.values()]
        self._manifest.store.keep(paths)
        if not self._manifest.link(entry):
            self._manifest.store.drop(paths)
            return None
        for writer in self._writers.values():
            writer.keep()  # before the sync: once linked, the files are data, whatever happens next
        self._manifest.sync(self._run_id)
        return entry

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
