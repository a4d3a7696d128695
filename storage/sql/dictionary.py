"""docs/data_dictionary.md, rendered from the stored schema and the views, so that it cannot say anything else than they
do.

python -m storage.sql.dictionary            writes the file
python -m storage.sql.dictionary --check    exits 1 if it is out of date
"""

import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

from r2.records.tables import SCHEMA_VERSION
from storage.lake.schema import TABLES
from storage.sql.query import column_doc, connect, shipped_views

PATH = Path(__file__).parent.parent.parent / "docs" / "data_dictionary.md"

_WIDTH = 118
_INTRODUCTION = f"""# Data dictionary

Rendered by `python -m storage.sql.dictionary` from `r2/records/tables.py` and `storage/sql/`; do not edit it by hand.
Schema version {SCHEMA_VERSION}. Tables are joined on (`run_id`, `problem_id`, `rollout`). Times are UTC. Costs are
USD at the price of the day of the call. Units end the names. After each column stands its type, with a question mark
where it may be null. OTel gives the name in the OpenTelemetry conventions for generative AI.

A trajectory is stored once it is settled (answered or failed), in one unit with all its subtasks and calls. Deferred
problems are only counted in `runs`. The views that start with `reconcile_` are empty unless something is wrong.
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
        yield f"### {table.name}\n\n{_wrapped(table.doc)}\n"
        for field in table.schema:
            otel = field.metadata.get(b"otel", b"").decode()
            kind = str(field.type).replace(" not null", "").replace("item: ", "").replace("element: ", "")
            meaning = column_doc(field.metadata) + (f". OTel: `{otel}`" if otel else "")
            yield _line(field.name, kind + ("?" if field.nullable else ""), meaning)
        yield ""


def _views() -> Iterator[str]:
    yield "## Views\n"
    with tempfile.TemporaryDirectory() as empty_lake, connect(empty_lake, is_documented=True) as connection:
        for view in shipped_views():
            [(doc,)] = connection.execute("select comment from duckdb_views() where view_name = ?", [view]).fetchall()
            yield f"### {view}\n\n{_wrapped(doc)}\n"
            columns = connection.execute(
                "select column_name, lower(data_type), comment from duckdb_columns() where table_name = ? order by "
                "column_index",
                [view],
            )
            for name, kind, comment in columns.fetchall():
                yield _line(name, kind, comment or "")
            yield ""


def _line(name: str, kind: str, meaning: str) -> str:
    """One column as an item of a list: a table would be wider than a page."""
    return _wrapped(f"- `{name}` *{kind}*: {meaning.replace('<', '&lt;')}", indent="  ")


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()), _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
