"""Where a lake is: a folder of this machine, or a prefix in a bucket, as `s3://bucket/prefix`.

A lake in a bucket has a folder on this machine too, found by its address: copies of what was read lie in it, and what
is of this machine alone (journals, locks). Everything that works on a lake goes by that folder, and
`storage/lake/stores.py` knows what it stands for.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import orjson

from r2.atomic import create_atomically
from r2.errors import ConfigError, LakeError
from r2.pool.client.state import state_dir

SCHEMES: Final = ("s3", "gs", "az")
ADDRESS: Final = "_address.json"
"""In the folder of a lake that lies in a bucket: its address."""
ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
"""Variables that name another server than the provider's own."""
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PREFIX: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]*")


def is_in_bucket(lake: str) -> bool:
    """Whether what was given for a lake is an address and no path."""
    return "://" in lake


def lake_folder(lake: Path | str) -> Path:
    """The folder on this machine by which the lake is worked on: itself, or the one that belongs to an address.

    ConfigError for an address that cannot be one. Asks nothing of the store.
    """
    if isinstance(lake, Path) or not is_in_bucket(lake):
        return Path(lake)
    address = checked(lake)
    server = next(filter(None, (os.environ.get(name) for name in ENDPOINTS if address.startswith("s3:"))), "")
    digest = hashlib.sha256(f"{address}\n{server}".encode()).hexdigest()[:12]
    folder = state_dir() / "lakes" / f"{urlsplit(address).netloc}-{digest}"
    note = folder / ADDRESS
    if not note.is_file():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        create_atomically(note, orjson.dumps({"url": address}))
    return folder


def address_in(folder: Path) -> str | None:
    """The address of the lake whose folder on this machine this is; None for a lake that lies in the folder itself."""
    try:
        return str(orjson.loads((folder / ADDRESS).read_bytes())["url"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LakeError(
            f"{folder / ADDRESS}: damaged ({error}). Remove it, and name the lake by its address."
        ) from None


def named(folder: Path) -> str:
    """What to call a lake where a user reads it, and can give it to --lake."""
    return address_in(folder) or str(folder)


def checked(address: str) -> str:
    """The address as it is stored: without a slash at its end. ConfigError, which repeats no key, where it has keys in
    it or names no bucket."""
    parts = urlsplit(address)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            "--lake: the address has keys or options in it (not repeated here). Give scheme, bucket and prefix alone, "
            "as s3://bucket/prefix, and the keys in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)."
        )
    names = parts.path.strip("/").split("/") if parts.path.strip("/") else []
    if parts.scheme not in SCHEMES or not _BUCKET.fullmatch(parts.netloc) or not all(map(_PREFIX.fullmatch, names)):
        raise ConfigError(
            f"--lake {address!r}: expected a folder, or an address as s3://bucket/prefix (s3, gs or az) of letters, "
            "digits, '_', '-', '.' and '='."
        )
    return "/".join([f"{parts.scheme}://{parts.netloc}", *names])
