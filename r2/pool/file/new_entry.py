"""New entries in a pool file: `r2 pool add`. Comments and order stay, and the file changes only if the whole of it is
good."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomlkit

from r2.atomic import beside, write_atomically
from r2.errors import PoolFileError
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.file.entry_text import document_of, list_key, with_entries
from r2.shipped.place import refuse_shipped


@contextmanager
def adding(
    path: Path,
    entries: Mapping[str, Mapping[str, Any]],
    policies_dir: Path | None,
    *,
    listed: tuple[str, ...] = (),
) -> Iterator[PoolConfig]:
    """The pool with the entries, in a file beside the old one that takes its place when the block ends well.

    Of a file that lists models of the catalogue, the names in `listed` go into the list, without a table. Inside the
    block the new file may be measured and changed (`write_profiles`). PoolFileError if a name is taken, or the pool
    with them would not be good; then, and if the block raises, the old file is as it was.
    """
    refuse_shipped(path)
    draft = beside(path)
    try:
        write_atomically(draft, _with(path, entries, listed).encode())
        yield load_pool(draft, policies_dir)
        load_pool(draft, policies_dir)
        write_atomically(path, draft.read_bytes())
    except PoolFileError as error:
        raise PoolFileError(f"{error}\n{path} was left as it was.".replace(str(draft), str(path))) from None
    finally:
        draft.unlink(missing_ok=True)


def _with(path: Path, entries: Mapping[str, Mapping[str, Any]], listed: tuple[str, ...]) -> str:
    if not path.is_file():
        raise PoolFileError(
            f"{path}: no such pool file. Give one that is there, or let `r2 pool init` write one for your keys."
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PoolFileError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    document = document_of(path, text)
    key = list_key(document)
    names = list(document[key]) if key is not None else []
    tables = document.get("models", {})
    taken = [*names, *(tables if isinstance(tables, Mapping) else ())]
    if double := next((name for name in entries if name in taken), None):
        raise PoolFileError(f"{path}: model {double!r} is there already. Take another name, or remove it first.")
    if key is not None:
        for name in listed:
            document[key].append(name)
        text = tomlkit.dumps(document)
        entries = {name: entry for name, entry in entries.items() if name not in listed}
    return with_entries(text, entries)
