"""docs/data_dictionary.md, rendered from the stored schema and the views, so that it cannot say anything else than they
do.

python -m storage.sql.dictionary            writes the file
python -m storage.sql.dictionary --check    exits 1 if it is out of date
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from r2.records.tables import SCHEMA_VERSION
from storage.lake.schema import TABLES
from storage.sql.query import column_doc, connect, shipped_views

PATH = Path(__file__).parent.parent.parent / "docs" / "data_dictionary.md"

_INTRODUCTION = f"""# Data dictionary

Rendered by `python -m storage.sql.dictionary` from `r2/records/tables.py` and `storage/sql/`; do not edit it by hand.
Schema version {SCHEMA_VERSION}. Tables are joined on
(`run_id`, `problem_id`, `rollout`). Times are UTC; costs are USD at the
price of the day of the call; units end the names. OTel gives the name
in the OpenTelemetry conventions for generative AI.

A trajectory is stored once it is settled (answered or failed), in one unit with all its subtasks and calls;
deferred problems are only counted in `runs`. The views that start with `reconcile_` are empty
unless something is wrong.
"""


def render() -> str:
    """The whole document."""
    return "\n".join([_INTRODUCTION, *_tables(), *_views()])


def main(arguments: list[str]) -> int:
    """Writes or checks the file; returns the exit code."""
    expected = render()
    if "--check" in arguments:
        if not PATH.exists() or PATH.read_text("utf-8") != expected:
            print(f"{PATH} is out of date; run `python -m storage.sql.dictionary` and commit it", file=sys.stderr)
            return 1
        return 0
    PATH.write_text(expected, "utf-8")
    print(PATH)
    return 0


def _tables() -> Iterator[str]:
    yield "## Tables\n"
    for table in TABLES.values():
        yield f"### {table.name}\n\n{table.doc}\n\n| column | type | null | meaning | OTel |\n|---|---|---|---|---|"
        for field in table.schema:
            otel = field.metadata.get(b"otel", b"").decode()
            kind = str(field.type).replace(" not null", "").replace("item: ", "").replace("element: ", "")
            yield _line(
                f"`{field.name}`",
                kind,
                "yes" if field.nullable else "",
                column_doc(field.metadata),
                otel and f"`{otel}`",
            )
        yield ""


def _views() -> Iterator[str]:
    yield "## Views\n"
    with tempfile.TemporaryDirectory() as empty_lake, connect(empty_lake) as connection:
        for view in shipped_views():
            [(doc,)] = connection.execute("select comment from duckdb_views() where view_name = ?", [view]).fetchall()
            yield f"### {view}\n\n{doc}\n\n| column | type | meaning |\n|---|---|---|"
            columns = connection.execute(
                "select column_name, lower(data_type), comment from duckdb_columns() where table_name = ? order by "
                "column_index",
                [view],
            )
            for name, kind, comment in columns.fetchall():
                yield _line(f"`{name}`", kind, comment or "")
            yield ""


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
