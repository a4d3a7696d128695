"""Recorded completions: a run replayed without a model. `--pool recording:FILE`, or one pool entry with `endpoint =
"recording:FILE"`.

JSON lines, gzipped where the name ends in `.gz`: `{"pool": ...}` with the text of the run's pool file (prices and
profiles, names of key variables but no keys), then `{"request_sha": ..., "completion": {...}}` for each call. Keyed by
what was asked (`Call.request_sha`), so a changed prompt is a request that was never recorded, and says so.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

import orjson

from r2.atomic import replacing
from r2.call import Completion
from r2.errors import PoolFileError

MAX_RECORD_BYTES = 64 * 1024 * 1024
MAX_RATIO, FREE_BYTES = 250, 256 * 1024 * 1024
"""A gzip file may unpack to so many times its size, and to so many bytes in any case."""


class Recording:
    """The completions of one file, held as bytes and read when asked for."""

    def __init__(self, path: Path, completions: Mapping[str, bytes]) -> None:
        self.path = path
        self._completions = completions

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises PoolFileError with the line of the first record that is not one. Of records with one key the first
        counts."""
        completions: dict[str, bytes] = {}
        n_read = 0
        try:
            with _opened(path) as file:
                for line in _lines(path, file):
                    n_read += 1
                    record = orjson.loads(line)
                    if n_read == 1 and "pool" in record:
                        continue
                    completion = orjson.dumps(record["completion"])
                    Completion.from_bytes(completion)
                    completions.setdefault(record["request_sha"], completion)
        except OSError as error:
            raise PoolFileError(
                f"{path}: the recording cannot be read: {error}. Check `endpoint` in the pool file."
            ) from error
        except (EOFError, zlib.error, ValueError, KeyError, TypeError, IndexError) as error:
            raise PoolFileError(
                f'{path}:{n_read}: expected {{"request_sha": ..., "completion": {{...}}}}, got something else '
                f"({error!r}). "
                "Record the run again, or drop the line."
            ) from error
        return cls(path, completions)

    def __len__(self) -> int:
        return len(self._completions)

    def find(self, request_sha: str) -> Completion | None:
        """The recorded completion, marked as replayed, or None."""
        stored = self._completions.get(request_sha)
        return None if stored is None else Completion.from_bytes(stored)


def _lines(path: Path, file: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    """The records. ValueError for one that is too long, and for a gzip file that unpacks to hundreds of times its
    size: recordings of repeated prompts reach about 20 times."""
    most = max(FREE_BYTES, MAX_RATIO * path.stat().st_size) if path.suffix == ".gz" else None
    n_bytes = 0
    while line := file.readline(MAX_RECORD_BYTES + 1):
        n_bytes += len(line)
        if len(line) > MAX_RECORD_BYTES:
            raise ValueError(f"a record of more than {MAX_RECORD_BYTES >> 20} MB")
        if most is not None and n_bytes > most:
            raise ValueError(f"more than {most >> 20} MB, over {MAX_RATIO} times the size of the file")
        yield line


def recorded_pool(path: Path) -> str:
    """The text of the pool file that a recording was made with. PoolFileError if it has none."""
    return str(_header(path)["pool"])


def recorded_evaluation(path: Path) -> dict[str, Any] | None:
    """Settings and problems of the evaluation that was recorded; None for the recording of a single run. Errors as
    `recorded_pool`."""
    return _header(path).get("evaluation")


def recorded_routing(path: Path) -> str:
    """How the recorded run found its models: `rule`, or `allocator`, as all did before there was a rule. Errors as
    `recorded_pool`."""
    return str(_header(path).get("routing", "allocator"))


def _header(path: Path) -> dict[str, Any]:
    try:
        with _opened(path) as file:
            header: dict[str, Any] = orjson.loads(next(_lines(path, file), b""))
            return header | {"pool": header["pool"]}
    except OSError as error:
        raise PoolFileError(f"{path}: the recording cannot be read: {error}. `r2 lake record` makes one.") from error
    except (EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise PoolFileError(
            f"{path}:1: expected the pool file of the recorded run ({error!r}). Record the run with `r2 lake "
            "record`, or name the "
            "recording in the entries of a pool file of yours."
        ) from error


def write_recording(
    path: Path,
    pairs: Iterable[tuple[str, Completion]],
    pool_text: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
    routing: str = "allocator",
) -> int:
    """Writes the pool file, how the run found its models or what an evaluation was asked to do, and (request_sha,
    completion) pairs, replacing the file; returns how many pairs."""
    n_written = 0
    with replacing(path) as plain, _packed(plain, is_gzipped=path.suffix == ".gz") as file:
        if pool_text is not None:
            header = {"pool": pool_text} | ({} if evaluation is None else {"evaluation": evaluation})
            header |= {} if routing == "allocator" else {"routing": routing}
            file.write(orjson.dumps(header, option=orjson.OPT_APPEND_NEWLINE))
        for request_sha, completion in pairs:
            record = {"request_sha": request_sha, "completion": orjson.Fragment(completion.to_bytes())}
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
            n_written += 1
    return n_written


def _opened(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


@contextmanager
def _packed(file: BinaryIO, *, is_gzipped: bool) -> Iterator[BinaryIO | gzip.GzipFile]:
    if not is_gzipped:
        yield file
        return
    with gzip.GzipFile(filename="", mode="wb", fileobj=file) as packed:
        yield packed
