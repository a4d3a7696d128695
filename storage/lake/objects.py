"""The objects under one prefix of a bucket: S3, Google Cloud Storage or Azure, through obstore.

Keys and the prefix by which objects are listed are relative to it; a prefix ends at a slash. Credentials come from the
variables of the provider's own tools (`AWS_ACCESS_KEY_ID`, ...), and nothing of them is in a message. Everything here
blocks; from a coroutine call it in a thread.
"""

import contextlib
import datetime
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from r2.atomic import replacing
from r2.errors import ConfigError, StoreError
from storage.lake.address import ENDPOINTS

AT_ONCE: Final = 16
"""Requests in parallel, where there are many."""
_TIMEOUT: Final = "60s"
_RETRIES: Final[Any] = {
    "max_retries": 8,
    "retry_timeout": datetime.timedelta(seconds=60),
    "backoff": {
        "init_backoff": datetime.timedelta(milliseconds=100),
        "max_backoff": datetime.timedelta(seconds=10),
        "base": 2,
    },
}
"""Of one request: 5xx, a cut connection, a time-out."""
_PAUSES_S: Final = (0.0, 0.2, 1.0, 3.0)
"""Before each try of what obstore does not repeat by itself."""


class Found(NamedTuple):
    """An object in a listing; `modified_at` by the store's clock, in epoch seconds."""

    key: str
    size: int
    modified_at: float
    e_tag: str


class Objects:
    """One prefix of a bucket. Connects with the first request."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connected: Any = None
        self.can_delete = True
        """False once the store said that it does not delete several objects at once."""

    def put(self, key: str, content: bytes | Path) -> None:
        """The object with this content, whatever was there."""
        with self._told(key):
            _obstore().put(self._store, key, content)

    def create(self, key: str, content: bytes) -> bool:
        """The object with this content where there is none. False, and nothing changed, where there is one.

        "There is one" may be our own: a request whose answer was lost is repeated, and then finds what it made itself.
        So the object is read back: it is ours where it has our content. Contents of two writers must differ, then.
        """
        obstore = _obstore()
        unclear = (
            obstore.exceptions.AlreadyExistsError,
            obstore.exceptions.PreconditionError,
            obstore.exceptions.GenericError,
        )
        with self._told(key):
            for pause_s in _PAUSES_S:
                time.sleep(pause_s)
                try:
                    obstore.put(self._store, key, content, mode="create")
                    return True
                except unclear as error:
                    refused: BaseException = error
                stored = self.get(key)
                if stored is not None:
                    return stored == content
            raise refused

    def get(self, key: str) -> bytes | None:
        """The content; None where there is no such object."""
        with self._told(key):
            try:
                return bytes(_obstore().get(self._store, key).bytes())
            except FileNotFoundError as error:
                _check_bucket(error)
                return None

    def fetch(self, key: str, path: Path) -> bool:
        """The object as the file `path`, whole or not at all. False where there is no such object."""
        obstore = _obstore()
        with self._told(key):
            for pause_s in _PAUSES_S:
                time.sleep(pause_s)
                try:
                    with replacing(path) as file:
                        found = obstore.get(self._store, key)
                        for piece in found.stream():
                            file.write(piece)
                        if file.tell() != found.meta["size"]:
                            raise obstore.exceptions.GenericError("fewer bytes came than were announced")
                    return True
                except FileNotFoundError as error:
                    _check_bucket(error)
                    return False
                except obstore.exceptions.GenericError as error:
                    failed: BaseException = error
            raise failed

    def about(self, key: str) -> Found | None:
        """What the store says of an object; None where there is none."""
        with self._told(key):
            try:
                return _found(_obstore().head(self._store, key))
            except FileNotFoundError as error:
                _check_bucket(error)
                return None

    def under(self, prefix: str) -> Iterator[Found]:
        """Every object under a prefix, by key. A store may list an object some time after it was made."""
        with self._told(prefix):
            for batch in _obstore().list(self._store, prefix or None):
                yield from map(_found, batch)

    def folders(self, prefix: str) -> list[str]:
        """The names that keys under a prefix continue with before another slash."""
        with self._told(prefix):
            found = _obstore().list_with_delimiter(self._store, prefix or None)["common_prefixes"]
        return sorted(key.rpartition("/")[2] for key in found)

    def delete(self, keys: Iterable[str]) -> None:
        """Those that are not there are no error. Nothing depends on it: a store that cannot delete keeps what is not
        needed any more, and `can_delete` says so."""
        listed = list(keys)
        if not listed or not self.can_delete:
            return
        obstore = _obstore()
        with self._told(listed[0]), contextlib.suppress(FileNotFoundError):
            try:
                obstore.delete(self._store, listed)
            except obstore.exceptions.GenericError as error:
                if "501 Not Implemented" not in str(error):
                    raise
                self.can_delete = False

    def move(self, key: str, to: str) -> bool:
        """By a copy within the store and a deletion: a kill in between leaves both. False where `key` is not there."""
        with self._told(key):
            try:
                _obstore().copy(self._store, key, to)
            except FileNotFoundError as error:
                _check_bucket(error)
                return False
        self.delete([key])
        return True

    def now(self) -> float:
        """Epoch seconds by the store's clock, by which `modified_at` is."""
        key = f"_probe/{secrets.token_hex(8)}"
        self.put(key, b"")
        found = self.about(key)
        self.delete([key])
        return found.modified_at if found is not None else time.time()

    def check_promise(self) -> None:
        """ConfigError for a store that overwrites an object although it was to be created only where there is none:
        then two writers could overwrite each other's commits."""
        obstore = _obstore()
        key = f"_probe/{secrets.token_hex(8)}"
        with self._told(key):
            try:
                for content in (b"first", b"second"):
                    try:
                        obstore.put(self._store, key, content, mode="create")
                    except obstore.exceptions.AlreadyExistsError:
                        continue  # what is expected of the second, and of the first after a lost answer
                kept = self.get(key)
            finally:
                self.delete([key])
        if kept != b"first":
            raise ConfigError(
                f"{self.url}: this object store ignores `If-None-Match: *`, by which a commit is made exactly once: an "
                "object that was there was overwritten. Use a store that keeps to it (Amazon S3, Google Cloud Storage, "
                "Azure Blob Storage, MinIO), or a folder of this machine. Nothing was stored and nothing was paid."
            )

    @property
    def _store(self) -> Any:
        if self._connected is None:
            self._connected = _connected(self.url)
        return self._connected

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Errors of the store as ours: what happened in a line, with the place, and nothing secret."""
        obstore = _obstore()
        place = f"{self.url}/{key}".rstrip("/")
        try:
            yield
        except (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError) as error:
            raise ConfigError(
                f"{place}: the store refuses us: {_line(error)} Check the credentials in the environment and what they "
                "are allowed to do: read, write, list and delete under this prefix."
            ) from None
        except (obstore.exceptions.BaseError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of this machine
            if "NoSuchBucket" in str(error) or isinstance(error, FileNotFoundError):
                raise ConfigError(f"{place}: there is no such bucket. Name one that exists.") from None
            raise StoreError(
                f"{place}: {_line(error)} What was committed is kept, and so are calls that were paid: run the same "
                "command again once the store can be reached."
            ) from None


def in_parallel(work: Any, items: Iterable[Any]) -> list[Any]:
    """`work` of each item, some at once, in their order; the first error is raised."""
    listed = list(items)
    if len(listed) <= 1:
        return [work(item) for item in listed]
    with ThreadPoolExecutor(min(AT_ONCE, len(listed))) as threads:
        return list(threads.map(work, listed))


def _connected(url: str) -> Any:
    """A store of obstore. Plain HTTP is allowed where the endpoint of the environment is of that kind: a server of
    one's own."""
    _obstore()
    from obstore.store import from_url

    endpoints = (os.environ.get(name, "") for name in ENDPOINTS)
    options: Any = {"timeout": _TIMEOUT, "connect_timeout": "5s"}
    if any(endpoint.startswith("http://") for endpoint in endpoints):
        options["allow_http"] = True
    try:
        return from_url(url, client_options=options, retry_config=_RETRIES)
    except Exception as error:  # obstore has no class for a wrong setting
        raise ConfigError(f"{url}: cannot be used: {_line(error)} Check the variables of the environment.") from None


_SECRETS: Final = ("SECRET", "TOKEN", "KEY", "PASSWORD", "SAS")


def _line(error: BaseException) -> str:
    """The first line of an error, without a value of the environment that is secret."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0].partition(": <?xml")[0].rstrip(". :-")
    for name, value in os.environ.items():
        if len(value) >= 8 and any(word in name.upper() for word in _SECRETS):
            said = said.replace(value, f"${name}")
    return f"{said}."


def _check_bucket(error: BaseException) -> None:
    """FileNotFoundError again where it is the bucket that is not there."""
    if "NoSuchBucket" in str(error):
        raise FileNotFoundError("there is no such bucket") from error


def _found(about: Any) -> Found:
    return Found(about["path"], about["size"], about["last_modified"].timestamp(), about["e_tag"] or "")


def _obstore() -> Any:
    try:
        import obstore
        import obstore.exceptions
    except ImportError:
        raise ConfigError(
            "a lake in an object store needs the package obstore. Install it: pip install 'r2-reasoner[s3]', or "
            "`pip install obstore` into this environment."
        ) from None
    return obstore
