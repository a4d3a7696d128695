"""DuckDB over the lake: the tables as views of the manifest's live files, the shipped views of `storage/sql/`, and
ad-hoc SQL.

`connect` is for programs; `write_database` leaves `lake.duckdb` and `lake.sql` for people and other tools, both
disposable; `run_sql` answers `r2 sql` and refuses whatever could write, read outside the lake or change a setting.
"""

import functools
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa

from r2.errors import ConfigError, LakeError
from storage.lake.lake import Lake
from storage.lake.schema import TABLES, schema_digest
from storage.sql.output import FORMATS

_LATEST = "select * from runs qualify row_number() over (partition by run_id order by session desc) = 1"
_LATEST_DOC = "The newest session of each run; its counts and its cost are over all sessions."


def connect(
    lake_root: Path | str, *, memory_limit: str | None = None, threads: int | None = None
) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the lake's tables and views as of now, time zone UTC. An empty lake gives empty
    tables.

    `memory_limit` ("2GB") and `threads` default to DuckDB's own. Raises LakeError if there is no such folder, or if the
    manifest cannot be read.
    """
    sql = "".join(statements(Path(lake_root)))
    spill = Path(tempfile.gettempdir()) / f"r2-duckdb-{os.getpid()}"  # DuckDB's default is a folder in the current one
    connection = duckdb.connect(config={"temp_directory": str(spill)})
    try:
        if memory_limit is not None:
            connection.execute("set memory_limit = ?", [memory_limit])
        if threads is not None:
            connection.execute("set threads = ?", [threads])
        connection.execute("set TimeZone = 'UTC'; set parquet_metadata_cache = true")
        connection.execute(sql)
    except BaseException:
        connection.close()
        raise
    return connection


def statements(lake_root: Path) -> Iterator[str]:
    """The SQL that makes the views, in order: stored tables first, then the files of `storage/sql/` by name."""
    if not lake_root.is_dir():
        raise LakeError(f"{lake_root}: no lake there. Name its folder with --lake; a run creates it.")
    if any(sign in str(lake_root.resolve()) for sign in "*?["):
        raise LakeError(f"{lake_root}: DuckDB reads '*', '?' and '[' in a path as a pattern. Rename the folder.")
    lake = Lake(lake_root)
    lake.prepare()
    live = [entry for run_id in lake.manifest.run_ids() for entry in lake.manifest.live(run_id)]
    by_name = ", union_by_name = true" if any(entry.schema != schema_digest() for entry in live) else ""
    for name, table in TABLES.items():
        paths = [
            lake.root / name / "_schema.parquet",
            *(lake.root / e.parts[name].path for e in live if name in e.parts),
        ]
        files = ", ".join(_quoted(str(path.resolve())) for path in paths)
        yield _view(
            name, f"select * from read_parquet([{files}], hive_partitioning = false{by_name})", table.doc, table.schema
        )
    # Here and not in storage/sql/, because its columns are those of `runs`, and so are their comments.
    yield _view("runs_latest", _LATEST, _LATEST_DOC, TABLES["runs"].schema)
    yield from _shipped_sql()


def _view(name: str, query: str, doc: str, schema: pa.Schema) -> str:
    """A view with the comments of a stored table's columns."""
    comments = [f"comment on view {name} is {_quoted(doc)};"]
    comments += [f"comment on column {name}.{field.name} is {_quoted(column_doc(field.metadata))};" for field in schema]
    return "\n".join([f"create or replace view {name} as {query};", *comments, ""])


def shipped_views() -> list[str]:
    """Names of the views over the stored tables."""
    return ["runs_latest", *re.findall(r"^create or replace view (\w+)", "".join(_shipped_sql()), re.MULTILINE)]


def column_doc(metadata: dict[bytes, bytes]) -> str:
    """A stored column's meaning with its unit, from its Arrow metadata."""
    doc, unit = metadata.get(b"doc", b"").decode(), metadata.get(b"unit", b"").decode()
    return f"{doc} [{unit}]" if unit else doc


def write_database(lake_root: Path | str) -> Path:
    """Writes `lake.duckdb` (views, macros and comments; no data) and `lake.sql` (the same, for `duckdb -init`) anew.

    They name the files of this moment with absolute paths: write them again after a run, a compaction or a vacuum. The
    storage version lets older DuckDB programs open the file. Both are replaced atomically; returns the path of the
    first.
    """
    root = Path(lake_root)
    sql = "".join(statements(root))
    with tempfile.TemporaryDirectory(dir=root, prefix=".views-") as folder:
        script, database = Path(folder) / "lake.sql", Path(folder) / "lake.duckdb"
        script.write_text("set TimeZone = 'UTC';\n" + sql, "utf-8")
        with closing(duckdb.connect()) as connection:
            connection.execute(f"attach {_quoted(str(database))} as lake (storage_version 'v1.0.0')")
            connection.execute("use lake")
            connection.execute(sql)
            connection.execute("use memory; detach lake")
        script.replace(root / "lake.sql")
        return database.replace(root / "lake.duckdb")


def run_sql(lake_root: Path | str, sql: str, fmt: str, out: BinaryIO) -> int:
    """Writes the result of one reading statement to `out` as table, csv, json or parquet; returns its number of rows.

    Raises ConfigError for anything that is not a single SELECT-like statement, for SQL that DuckDB refuses (with the
    names of the views), and for an unknown format. The statement can read the lake and nothing else.
    """
    if fmt not in FORMATS:
        raise ConfigError(f"format {fmt!r}: expected {', '.join(FORMATS)}")
    with closing(connect(lake_root)) as connection:
        _lock_in(connection, Path(lake_root))
        with _explained():
            _refuse_writing(connection, sql)
            return FORMATS[fmt](connection, sql, out)


def _lock_in(connection: duckdb.DuckDBPyConnection, lake_root: Path) -> None:
    """From here on the connection reads the lake's folder, and no setting can be changed."""
    connection.execute(f"set allowed_directories = [{_quoted(str(lake_root.resolve()) + '/')}]")
    connection.execute(
        "set enable_external_access = false; set python_enable_replacements = false; set lock_configuration = true"
    )


def _refuse_writing(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """ConfigError unless `sql` is one statement that only reads.

    The parser decides, not a list of words. EXPLAIN is refused too, because EXPLAIN ANALYZE executes what it explains;
    an INSERT inside a WITH passes for a SELECT and does no harm, all there is to insert into is this process's memory.
    """
    parsed = connection.extract_statements(sql)
    if len(parsed) != 1:
        raise ConfigError(f"{len(parsed)} SQL statements; expected exactly one")
    if parsed[0].type != duckdb.StatementType.SELECT:
        kind = parsed[0].type.name
        raise ConfigError(
            f"{kind} refused: `r2 sql` only reads (SELECT, FROM, WITH, DESCRIBE, SUMMARIZE). For more, open "
            "lake.duckdb with duckdb"
        )


@contextmanager
def _explained() -> Iterator[None]:
    """DuckDB's errors as ours, with what could have been asked."""
    try:
        yield
    except duckdb.Error as error:
        raise ConfigError(f"{error}\nTables: {', '.join(TABLES)}. Views: {', '.join(shipped_views())}.") from None


@functools.cache
def _shipped_sql() -> tuple[str, ...]:
    folder = resources.files("storage") / "sql"
    return tuple(
        f.read_text("utf-8") for f in sorted(folder.iterdir(), key=lambda f: f.name) if f.name.endswith(".sql")
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
