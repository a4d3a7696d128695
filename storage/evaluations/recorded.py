"""Comparisons on recorded answers, kept in the lake: `<lake>/_recorded/<id>.json` (r2/evaluation/recorded/comparison.py
`from_json`). The id follows from the files' bytes and the methods, so that the same comparison replaces itself."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from r2.atomic import write_atomically
from r2.evaluation.recorded.comparison import RecordedComparison, to_json
from storage.lake.stores import store_of
from storage.sources.questions import file_digest

FOLDER = "_recorded"


def recorded_id(outcomes: Sequence[Path], test: Sequence[Path], methods: Sequence[str], **further: int) -> str:
    """Identity of a comparison; `further` are settings that are not what they usually are. InputFileError where a file
    cannot be opened."""
    parts: list[Any] = [[file_digest(path) for path in paths] for paths in (outcomes, test)]
    parts += [list(methods), *([further] if further else [])]
    return f"recorded-{hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]}"


def keep_recorded(lake: Path, comparison_id: str, comparison: RecordedComparison) -> Path:
    """Writes it, and says where."""
    path = lake / FOLDER / f"{comparison_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_json(comparison))
    store_of(lake).share(path)
    return path
