"""DuckDB over the lake: the tables as views of the manifest's live files, the shipped views of `storage/sql/`, and
ad-hoc SQL.

`connect` is for programs; `write_database` leaves `lake.duckdb` and `lake.sql` for people and other tools, both
disposable; `run_sql` answers `r2 sql` and refuses whatever could write, read outside the lake or change a setting.
"""

import contextlib
import functools
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa

from r2.errors import ConfigError, LakeError
from storage.lake.address import lake_folder, named
from storage.lake.lake import Lake
from storage.lake.manifest import UnitEntry
from storage.lake.parts import check_footer, is_inside
from storage.lake.places import places_of
from storage.lake.schema import TABLES, StoredTable, schema_digest
from storage.sql.output import FILE, FORMATS, Reader

_COMMENT = re.compile(r"^comment on (?:view|column) \S+ is(?:\s+'(?:[^']|'')*')+;\n", re.MULTILINE)
_LATEST = "select * from runs qualify row_number() over (partition by run_id order by session desc) = 1"
_LATEST_DOC = "The newest session of each run; its counts and its cost are over all sessions."


def connect(
    lake_root: Path | str,
    *,
    memory_limit: str | None = None,
    threads: int | None = None,
    is_documented: bool = False,
    runs: Collection[str] | None = None,
    tables: Collection[str] | None = None,
    of_all_runs: Collection[str] = (),
    views: Collection[str] | None = None,
    units: Collection[str] | None = None,
) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the lake's tables and views as of now, time zone UTC. An empty lake gives empty
    tables. Nothing is written: the lake may lie on a read-only disk.

    `memory_limit` ("2GB") and `threads` default to DuckDB's own. `is_documented` adds what the views and their columns
    mean, which doubles the work of opening, and is for people. With `runs` and `tables` other runs and tables have no
    rows, but for the tables `of_all_runs`: of a lake in a bucket only what is wanted is fetched. With `views` only
    these of the shipped views and macros are there, with those that they build on: most of the work of opening is
    theirs. With `units` only rows of these units of the runs are there. Raises LakeError if there is no such lake, if
    the manifest cannot be read, or if a file it names is missing or damaged.
    """
    root = lake_folder(lake_root)
    sql = "".join(statements(root, _absolute, runs, tables, of_all_runs, views, units))
    if not is_documented:
        sql = _COMMENT.sub("", sql)
    connection = duckdb.connect(config={"temp_directory": str(_spill_folder())})
    try:
        if memory_limit is not None:
            connection.execute("set memory_limit = ?", [memory_limit])
        if threads is not None:
            connection.execute("set threads = ?", [threads])
        connection.execute("set TimeZone = 'UTC'; set parquet_metadata_cache = true")
        with damage_named(root):
            connection.execute(sql)
    except BaseException:
        connection.close()
        raise
    return connection


def _spill_folder() -> Path:
    """Where a query that outgrows the memory puts rows: a name of its own in a folder that only this user can open.

    DuckDB makes it when it needs it; its default would be a folder in the current one.
    """
    private = Path(tempfile.gettempdir()) / f"r2-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        private.mkdir(mode=0o700)
    about = private.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o077:
        private = Path(tempfile.mkdtemp(prefix="r2-"))  # somebody else has that name
    return private / f"duckdb-{secrets.token_hex(8)}"


@contextmanager
def damage_named(lake_root: Path, *, is_our_sql: bool = True) -> Iterator[None]:
    """A query that meets a damaged file raises LakeError with the file's name. Other errors of DuckDB pass; where the
    SQL is the user's, an error in its words is one of them, and no file is looked at."""
    try:
        yield
    except duckdb.Error as error:
        if not is_our_sql and isinstance(
            error, (duckdb.ParserException, duckdb.CatalogException, duckdb.BinderException)
        ):
            raise
        wrong = next(filter(None, (check_footer(path, schema) for path, schema in _live_files(Lake(lake_root)))), None)
        said = str(error).splitlines()[0]
        if wrong is None and any(phrase in said for phrase in _GONE) and str(lake_root.resolve()) in said:
            raise LakeError(
                f"{said}. A compaction moved files since the query began or the connection was opened; nothing is "
                "missing. Ask again, over a new connection."
            ) from error
        if wrong is None and not any(phrase in said for phrase in _DAMAGE):
            raise
        raise LakeError(
            f"{wrong or said} `r2 lake verify --lake {lake_root}` names everything that is wrong."
        ) from error


_DAMAGE = (
    "Failed to read file",
    "Decompression failure",
    "TProtocolException",
    "don't know what type",
    "Out of buffer",
)
"""How DuckDB speaks of a Parquet file whose inside is damaged."""
_GONE = ("Cannot open file", "No files found that match the pattern")
"""How DuckDB speaks of a file that is not there."""


def _live_files(lake: Lake) -> Iterator[tuple[Path, pa.Schema]]:
    """Of a lake in a bucket those that are on this machine: a query reads no others."""
    for run_id in lake.manifest.run_ids():
        for entry in lake.manifest.live(run_id):
            for name, part in entry.parts.items():
                is_here = any(path.is_file() for path in places_of(lake.root, name, run_id, part.path))
                if name in TABLES and (is_here or not lake.store.is_remote):
                    yield entry.file(lake.root, name), TABLES[name].schema


def statements(
    lake_root: Path,
    listed: Callable[[Path, Sequence[Path]], str],
    runs: Collection[str] | None = None,
    tables: Collection[str] | None = None,
    of_all_runs: Collection[str] = (),
    views: Collection[str] | None = None,
    units: Collection[str] | None = None,
) -> Iterator[str]:
    """The SQL that makes the views, in order: stored tables first, then the files of `storage/sql/` by name. `listed`
    writes a list of files in the lake as SQL. `runs`, `tables`, `of_all_runs`, `views` and `units` as for `connect`."""
    lake = Lake(lake_root)
    if not lake.store.is_there():
        raise LakeError(f"{named(lake_root)}: no lake there. Name its folder with --lake; a run creates it.")
    if any(sign in str(lake_root.resolve()) for sign in "*?["):
        raise LakeError(f"{lake_root}: DuckDB reads '*', '?' and '[' in a path as a pattern. Rename the folder.")
    run_ids = lake.manifest.run_ids() if runs is None or of_all_runs else sorted(set(runs))
    live = [entry for run_id in run_ids for entry in lake.manifest.live(run_id) if units is None or entry.unit in units]
    is_of_today = all(entry.schema == schema_digest() for entry in live)
    wanted = [
        (entry, name)
        for entry in live
        for name in entry.parts
        if name in of_all_runs or ((tables is None or name in tables) and (runs is None or entry.run_id in runs))
    ]
    entries_of: dict[str, list[UnitEntry]] = {name: [] for name in TABLES}
    for entry, name in wanted:
        entries_of.setdefault(name, []).append(entry)
    lake.manifest.bring(wanted)
    if not lake.store.is_remote and any(
        entry.file(lake.root, name) != lake.root / entry.parts[name].path for entry, name in wanted
    ):
        time.sleep(_A_MOVE_S)
    for name, table in TABLES.items():
        paths = [entry.file(lake.root, name) for entry in entries_of[name]]
        if missing := [path for path in paths if not path.is_file()]:
            raise LakeError(_missing(missing, lake_root))
        if outside := [path for path in paths if not is_inside(path, lake.root)]:
            raise LakeError(f"{outside[0]}: a link that leads out of the lake. Put the file itself in its place.")
        files = listed(lake.root, paths) if paths else None
        yield _view(name, _rows_of(table, files, is_of_today), table.doc, table.schema)
    # Here and not in storage/sql/, because its columns are those of `runs`, and so are their comments.
    yield _view("runs_latest", _LATEST, _LATEST_DOC, TABLES["runs"].schema)
    if views is None:
        yield from _shipped_sql()
    else:
        needed = _reached(frozenset(views))
        yield from (text for name, text in _pieces() if name in needed)


_A_MOVE_S = 0.05
"""A file that is not in its place is most likely just being moved there, by a compaction that ended in this moment."""


def _absolute(lake_root: Path, paths: Sequence[Path]) -> str:
    """For a connection of this moment."""
    return f"[{', '.join(_quoted(str(path.resolve())) for path in paths)}]"


def _in_lake_folder(lake_root: Path, paths: Sequence[Path]) -> str:
    """For a database that may be moved with the lake: see `_LAKE_FOLDER`."""
    files = ", ".join(_quoted(path.relative_to(lake_root).as_posix()) for path in paths)
    return f"[lake_folder() || file for file in [{files}]]"


_LAKE_FOLDER = """
-- The lake's folder, with a slash. DuckDB has no function for it; but where lake.duckdb is opened as such, and not
-- attached to another database, its temporary files lie beside it. Otherwise it is the variable lake_folder, or the
-- folder in which this was written.
create or replace macro lake_folder() as coalesce(
    getvariable('lake_folder') || '/',
    case when parse_filename(current_setting('temp_directory')) = 'lake.duckdb.tmp'
    then parse_dirpath(current_setting('temp_directory')) || '/' end,
    {here}
);
"""


def _rows_of(table: StoredTable, files: str | None, is_of_today: bool) -> str:
    """The SELECT over a table's files. Columns that they lack, and tables without a file, come from the declaration:
    what a lake holds is never written anew to be read."""
    nothing = ", ".join(f"null::{_sql_type(field.type)} as {_named(field.name)}" for field in table.schema)
    if files is None:
        return f"select {nothing} where false"
    if is_of_today:
        return f"select * from read_parquet({files}, hive_partitioning = false)"
    stored = f"from read_parquet({files}, hive_partitioning = false, union_by_name = true)"
    return f"(select {nothing} where false) union all by name ({stored})"


_SQL_TYPES = {
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float64(): "double",
    pa.bool_(): "boolean",
    pa.string(): "varchar",
    pa.binary(): "blob",
    pa.timestamp("us", tz="UTC"): "timestamptz",
}


def _sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of a stored column's type."""
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        fields = (kind.field(i) for i in range(kind.num_fields))
        return f"struct({', '.join(f'{_named(field.name)} {_sql_type(field.type)}' for field in fields)})"
    return _SQL_TYPES[kind]


def _named(name: str) -> str:
    return f'"{name}"'


def _missing(paths: Sequence[Path], lake_root: Path) -> str:
    others = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return (
        f"{paths[0]}{others}: missing, though the manifest names it. Restore it from a backup; `r2 lake verify --lake "
        f"{lake_root}` names everything that is wrong."
    )


def _view(name: str, query: str, doc: str, schema: pa.Schema) -> str:
    """A view with the comments of a stored table's columns."""
    comments = [f"comment on view {name} is {_quoted(doc)};"]
    comments += [f"comment on column {name}.{field.name} is {_quoted(column_doc(field.metadata))};" for field in schema]
    return "\n".join([f"create or replace view {name} as {query};", *comments, ""])


def shipped_views() -> list[str]:
    """Names of the views over the stored tables."""
    return ["runs_latest", *re.findall(r"^create or replace view (\w+)", "".join(_shipped_sql()), re.MULTILINE)]


def meanings() -> dict[str, str]:
    """What each table holds and each view says, by its name, in a few words. Needs no lake."""
    found = re.findall(r"^comment on view (\w+) is\s+'((?:[^']|'')*)'", "".join(_shipped_sql()), re.MULTILINE)
    views = {name: doc.replace("''", "'") for name, doc in [("runs_latest", _LATEST_DOC), *found]}
    return {**{table.name: table.doc for table in TABLES.values()}, **{name: views[name] for name in shipped_views()}}


def tables_in(sql: str) -> list[str]:
    """The stored tables that a query may read, by itself or through our views: those whose names are among its words,
    and among the words of what makes the views that it names."""
    found = _reached(frozenset(re.findall(r"\w+", sql.lower())))
    return [name for name in TABLES if name in found]


def all_of(name: str) -> str:
    """The query for a whole view or table, in an order that does not change. A table is in the order of the input."""
    if name in TABLES:
        return f"from {name}"
    return f"from {name} order by {'start_time, span_id' if name == 'otel_spans' else 'all'}"


def column_doc(metadata: dict[bytes, bytes]) -> str:
    """A stored column's meaning with its unit, from its Arrow metadata."""
    doc, unit = metadata.get(b"doc", b"").decode(), metadata.get(b"unit", b"").decode()
    return f"{doc} [{unit}]" if unit else doc


def write_database(lake_root: Path | str) -> Path | None:
    """Writes `lake.duckdb` (views, macros and comments; no data) and `lake.sql` (the same, for `duckdb -init`) anew.

    They name the files of this moment: write them again after a run, a compaction or a vacuum. `lake.duckdb` goes
    with the lake when that is moved or copied (`_LAKE_FOLDER`). The storage version lets older DuckDB programs open the
    file. Both are replaced atomically; returns the path of the first. None, and nothing is written, for a lake in a
    bucket: they would name copies of this machine.
    """
    root = Path(lake_root)
    if Lake(root).store.is_remote:
        return None
    sql = _database_sql(root)
    Lake(root).prepare()
    with tempfile.TemporaryDirectory(dir=root, prefix=".views-") as folder:
        script, database = Path(folder) / _SCRIPT, Path(folder) / _DATABASE
        script.write_text(_script_of(sql), "utf-8")
        database.write_bytes(_views_of_no_lake())
        _execute_in(database, _database_sql(root, views=()))
        database.replace(root / _DATABASE)
        script.replace(root / _SCRIPT)  # after the database, whose state `refresh_database` reads from it
    return root / _DATABASE


@functools.cache
def _views_of_no_lake() -> bytes:
    """The database of an empty lake, whose tables have no comments: the shipped views with theirs are the same in every
    lake, and most of the work."""
    with tempfile.TemporaryDirectory(prefix="r2-views-") as folder:
        empty, database = Path(folder) / "lake", Path(folder) / _DATABASE
        Lake(empty).prepare()
        _execute_in(database, _COMMENT.sub("", _database_sql(empty, views=())) + "".join(_shipped_sql()))
        return database.read_bytes()


def _execute_in(database: Path, sql: str) -> None:
    with closing(duckdb.connect()) as connection:
        connection.execute(f"attach {_quoted(str(database))} as lake (storage_version 'v1.0.0')")
        # One transaction: each would wait for the disk, and there are hundreds of statements. Written before the
        # detaching, which does not say why it could not write.
        connection.execute(f"use lake; begin; {sql}; commit; checkpoint; use memory; detach lake")


def refresh_database(lake_root: Path | str) -> None:
    """`write_database` where one of its files is missing, or names other files than those of this moment."""
    root = Path(lake_root)
    if Lake(root).store.is_remote:
        return
    script = root / _SCRIPT
    is_there = script.is_file() and (root / _DATABASE).is_file()
    if not is_there or script.read_text("utf-8") != _script_of(_database_sql(root)):
        write_database(root)


_DATABASE, _SCRIPT = "lake.duckdb", "lake.sql"


def _database_sql(root: Path, views: Collection[str] | None = None) -> str:
    folder = _LAKE_FOLDER.format(here=_quoted(f"{str(root.resolve()).rstrip('/')}/"))
    return folder + "".join(statements(root, _in_lake_folder, views=views))


def _script_of(sql: str) -> str:
    return f"set TimeZone = 'UTC';\n{sql}"


def run_sql(lake_root: Path | str, sql: str, fmt: str, out: BinaryIO, reader: Reader = FILE) -> int:
    """Writes the result of one reading statement to `out` as table, csv, json or parquet; returns its number of rows.

    Raises ConfigError for anything that is not a single SELECT-like statement, for SQL that DuckDB refuses (with the
    names of the views), and for an unknown format. The statement can read the lake and nothing else.
    """
    if fmt not in FORMATS:
        raise ConfigError(f"format {fmt!r}: expected {', '.join(FORMATS)}")
    root = lake_folder(lake_root)
    tables = tables_in(sql) if Lake(root).store.is_remote else None
    with closing(connect(root, tables=tables, is_documented=_SHOWS_MEANINGS.search(sql) is not None)) as connection:
        _lock_in(connection, root)
        with _explained(), damage_named(root, is_our_sql=False):
            _refuse_writing(connection, sql)
            return FORMATS[fmt](connection, sql, out, reader)


_SHOWS_MEANINGS = re.compile(r"\b(?:duckdb_\w|information_schema|comment)", re.IGNORECASE)
"""What only a query has that may show what tables and columns mean: to write that down takes longer than most queries.
"""


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


def _pieces() -> list[tuple[str, str]]:
    """(name, SQL) of each shipped view and macro with its comments, in order."""
    _, *found = re.split(r"^(?=create or replace (?:view|macro) )", "".join(_shipped_sql()), flags=re.MULTILINE)
    return [(re.split(r"\W+", text, maxsplit=5)[4], text) for text in found]


@functools.lru_cache(maxsize=64)
def _reached(words: frozenset[str]) -> frozenset[str]:
    """Words, and those of what makes the views and macros among them, and so on."""
    made = {"runs_latest": set(re.findall(r"\w+", _LATEST))}
    for name, text in _pieces():
        made.setdefault(name, set()).update(re.findall(r"\w+", _COMMENT.sub("", text).lower()))
    found: set[str] = set()
    new = set(words)
    while new:
        found |= new
        new = {word for name in new & made.keys() for word in made[name]} - found
    return frozenset(found)


@functools.cache
def _shipped_sql() -> tuple[str, ...]:
    folder = resources.files("storage") / "sql"
    return tuple(
        f.read_text("utf-8") for f in sorted(folder.iterdir(), key=lambda f: f.name) if f.name.endswith(".sql")
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
