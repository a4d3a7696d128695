"""Where words are in a lake: a search of every file, as its bytes lie and as they are read.

Parquet is decoded column by column and gzip unpacked; journals, plans and jobs are not compressed. A text may stand in
JSON, and in JSON within JSON: what is sought is its longest stretch that no escape changes, and its escaped forms.
"""

import gzip
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

LEAST: Final = 12
"""Letters that a text needs to be sought: shorter ones stand in other people's rows as well."""
_PLAIN: Final = re.compile(r"[ !#-\[\]-~]+")
"""What JSON writes as it is."""


def files_with(root: Path, texts: Collection[str]) -> list[Path]:
    """The files under `root` that hold one of the texts, but for those shorter than `LEAST`."""
    sought = {form for text in texts if len(text) >= LEAST for form in _forms(text)}
    if not sought:
        return []
    pattern = re.compile(b"|".join(re.escape(form) for form in sorted(sought)))
    paths = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
    return [path for path in paths if any(pattern.search(content) for content in _contents(path))]


def _forms(text: str) -> Iterator[bytes]:
    longest = max(_PLAIN.findall(text), key=len, default="")
    if len(longest) >= LEAST:
        yield longest.encode()
        return
    once = json.dumps(text, ensure_ascii=False)[1:-1]
    escaped = json.dumps(text)[1:-1]
    for form in {text, once, escaped, json.dumps(once, ensure_ascii=False)[1:-1], json.dumps(escaped)[1:-1]}:
        yield form.encode("utf-8", "surrogatepass")


def _contents(path: Path) -> Iterator[bytes]:
    yield path.read_bytes()
    if path.suffix == ".gz":
        try:
            with gzip.open(path) as file:
                yield file.read()
        except (OSError, EOFError):
            return
    if ".parquet" in path.name:
        yield from _decoded(path)


def _decoded(path: Path) -> Iterator[bytes]:
    """The texts of all columns, those within lists too. Nothing of a file that cannot be read as Parquet."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                for column in batch.columns:
                    for values in _texts(column):
                        yield b"\n".join(value for value in values.cast(pa.binary()).to_pylist() if value is not None)
    except (OSError, pa.ArrowException):
        return


def _texts(column: pa.Array) -> Iterator[pa.Array]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        yield from _texts(column.dictionary_decode())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        yield column
    elif pa.types.is_list(kind):
        yield from _texts(column.flatten())
    elif pa.types.is_struct(kind):
        for child in column.flatten():
            yield from _texts(child)
