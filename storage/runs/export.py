"""Tables of a lake for others: Parquet or JSON lines, a file a table, or a folder as the Hugging Face hub has data
sets, with its card. Written by `r2 lake export`; needs no network.

The rows are those of the runs that are named, in the order of the input. `datasets.load_dataset(FOLDER, TABLE)` reads
the folder as it is, and so does whoever downloads it from the hub.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from r2.atomic import check_folder, replacing, write_atomically
from r2.errors import ConfigError
from storage.lake.lake import Lake
from storage.lake.schema import TABLES

FORMATS: Final = ("hf", "parquet", "jsonl")
DEFAULT_TABLES: Final = ("trajectories", "subtasks", "calls", "runs")
_BATCH_ROWS: Final = 4096


def export(lake: Lake, run_ids: Sequence[str], tables: Sequence[str], form: str, out: Path) -> Mapping[str, int]:
    """Writes the tables into the folder `out`, each in one move, and returns the rows of each. Tables without a row are
    left out. ConfigError for a table or a format that there is not."""
    if form not in FORMATS:
        raise ConfigError(f"--format {form}: expected {', '.join(FORMATS)}.")
    if unknown := [name for name in tables if name not in TABLES]:
        raise ConfigError(f"--tables {', '.join(unknown)}: the lake has {', '.join(TABLES)}.")
    check_folder(out, "--out")
    written: dict[str, int] = {}
    for table in dict.fromkeys(tables):
        batches = (batch for run_id in run_ids for batch in lake.iter_rows(table, run_id, batch_size=_BATCH_ROWS))
        first = next(batches, None)
        if first is None:
            continue
        path = out / _name(table, form)
        path.parent.mkdir(parents=True, exist_ok=True)
        written[table] = _write(path, table, _chain(first, batches))
    if form == "hf":
        write_atomically(out / "README.md", _card(written, run_ids).encode())
    return written


def _name(table: str, form: str) -> str:
    if form == "hf":
        return f"data/{table}/train-00000-of-00001.parquet"
    return f"{table}.{form}"


def _chain(first: pa.RecordBatch, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from batches


def _write(path: Path, table: str, batches: Iterator[pa.RecordBatch]) -> int:
    n_rows = 0
    with replacing(path) as file:
        if path.suffix == ".jsonl":
            for batch in batches:
                file.writelines(map(_line, batch.to_pylist()))
                n_rows += batch.num_rows
            return n_rows
        with pq.ParquetWriter(file, TABLES[table].schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch.cast(TABLES[table].schema))
                n_rows += batch.num_rows
    return n_rows


def _line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, default=_plain, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)


def _plain(value: object) -> str:
    """Bytes of a body as text: they are JSON as it came."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    raise TypeError


def _card(written: Mapping[str, int], run_ids: Sequence[str]) -> str:
    """README.md of the folder, whose head tells the hub which files a table has."""
    configurations = [
        f"- config_name: {table}\n  data_files:\n  - split: train\n    path: data/{table}/*.parquet"
        for table in written
    ]
    if configurations:
        configurations[0] += "\n  default: true"
    rows = [f"| {table} | {n_rows:,} | {_first_line(TABLES[table].doc)} |" for table, n_rows in written.items()]
    shown = [f"- `{run_id}`" for run_id in run_ids[:50]]
    if len(run_ids) > len(shown):
        shown.append(f"- and {len(run_ids) - len(shown)} more")
    return "\n".join(
        [
            "---",
            "configs:",
            *configurations,
            "---",
            "",
            "# Answers of a router over a pool of models",
            "",
            "Questions, the subtasks they were cut into, the model that answered each, every call with its cost, and",
            "what the answers were judged by. Written by `r2 lake export` (R2-Reasoner).",
            "",
            "| table | rows | one row is |",
            "|---|---|---|",
            *rows,
            "",
            "Columns carry their meaning and unit in the metadata of the Parquet files.",
            "",
            "Runs:",
            "",
            *shown,
            "",
            "Before this is given away: questions and answers are of those who wrote them, and calls hold whole",
            "prompts. Add the licence that applies to the head of this file.",
            "",
        ]
    )


def _first_line(doc: str) -> str:
    return " ".join(doc.partition("\n\n")[0].split()).replace("|", "\\|")
