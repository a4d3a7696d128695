"""A new entry in a pool file: `r2 pool add`. Comments and order stay, and the file changes only if the whole of it is
good."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import ParseError

from r2.atomic import beside, write_atomically
from r2.errors import PoolFileError
from r2.pool.file.config import PoolConfig, load_pool
from r2.settings import parsed_toml


@contextmanager
def adding(path: Path, name: str, entry: Mapping[str, Any], policies_dir: Path | None) -> Iterator[PoolConfig]:
    """The pool with the entry, in a file beside the old one that takes its place when the block ends well.

    Inside the block the new file may be measured and changed (`write_profiles`). PoolFileError if the name is taken, or
    the pool with it would not be good; then, and if the block raises, the old file is as it was.
    """
    draft = beside(path)
    try:
        write_atomically(draft, _with_entry(path, name, entry).encode())
        yield load_pool(draft, policies_dir)
        load_pool(draft, policies_dir)
        write_atomically(path, draft.read_bytes())
    except PoolFileError as error:
        raise PoolFileError(f"{error}\n{path} was left as it was.".replace(str(draft), str(path))) from None
    finally:
        draft.unlink(missing_ok=True)


def _with_entry(path: Path, name: str, entry: Mapping[str, Any]) -> str:
    if not path.is_file():
        raise PoolFileError(
            f"{path}: no such pool file. Give one that is there: pools/local.toml, pools/simulated.toml."
        )
    try:
        text = path.read_text("utf-8")
        parsed_toml(text)  # within bounds; the other parser, which keeps comments, has none
        document = tomlkit.parse(text)
    except (ValueError, ParseError) as error:
        raise PoolFileError(f"{path}: not valid TOML: {error}") from error
    models = document.get("models", {})
    if name in models:
        raise PoolFileError(f"{path}: model {name!r} is there already. Take another name, or remove its table first.")
    table = tomlkit.table()
    for key, value in entry.items():
        table.add(key, _inline(value))
    models[name] = table
    return tomlkit.dumps(document)


def _inline(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    inline = tomlkit.inline_table()
    inline.update(dict(value))
    return inline
