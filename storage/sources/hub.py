"""Data sets of the Hugging Face hub, or folders in its layout, as questions: `hf:NAME?split=test`.

The rows are written once as a question file of the lake, named by its content, so that the same rows are the same run.
The package `datasets` (extra `train`) reads them; it takes what it fetched before from its own cache.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from r2.atomic import beside, replacing
from r2.errors import ConfigError
from r2.problems.source import parse_source

SCHEME: Final = "hf:"
_FORM: Final = "hf:NAME?split=SPLIT, and &config=NAME or &revision=NAME where the data set has several"


def is_of_hub(text: str) -> bool:
    """Whether an input is a data set and no file."""
    return text.startswith(SCHEME)


def hub_questions(text: str, lake: Path) -> Path:
    """The data set's rows as a question file. ConfigError for a source that is written otherwise or cannot be had."""
    source = parse_source(text)
    if not source.place or "split" not in source.options or set(source.options) - {"split", "config", "revision"}:
        raise ConfigError(f"{text}: expected {_FORM}.")
    options = source.options
    rows = hub_rows(source.place, options.get("config"), options["split"], text, options.get("revision"))
    folder = lake / "_problems"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    draft = beside(folder / "hf")  # the file is named by its content, which is known at the end
    with replacing(draft) as file:
        for row in rows:
            line = orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
            digest.update(line)
            file.write(line)
    path = folder / f"hf-{digest.hexdigest()[:16]}.jsonl"
    draft.replace(path)
    return path


def default_out(text: str) -> str:
    """Where the answers to a data set go: a file of its name in the working folder."""
    source = parse_source(text)
    return f"{source.place.rstrip('/').rpartition('/')[2]}-{source.options.get('split', '')}.answers.jsonl"


def hub_rows(
    dataset: str, configuration: str | None, split: str | None, asked: str, revision: str | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a data set. ConfigError, which says what was `asked` for, where it cannot be had."""
    try:
        from datasets import load_dataset  # type: ignore[attr-defined, unused-ignore]
    except ImportError as error:
        raise ConfigError(
            f"{asked}: {error}. Data sets of the hub need the package datasets: pip install datasets. Or name a file."
        ) from error
    try:
        data = load_dataset(dataset, configuration, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{asked}: {dataset} cannot be loaded from the hub: {said} Name a file instead.") from error
    yield from map(dict, data)
