"""Which store keeps the lake of a folder."""

from pathlib import Path

from r2.atomic import check_folder
from storage.lake.address import address_in, lake_folder
from storage.lake.bucket import Bucket
from storage.lake.store import Store

_known: dict[Path, Store] = {}


def store_of(root: Path) -> Store:
    """The store of the lake whose folder on this machine this is."""
    store = _known.get(root)
    if store is None:
        address = address_in(root)
        store = _known[root] = Store(root) if address is None else Bucket(root, address)
    return store


def check_lake(lake: Path | str, flag: str = "--lake") -> None:
    """Before anything is paid: ConfigError where nothing could be stored in the lake."""
    folder = lake_folder(lake)
    check_folder(folder, flag)
    store_of(folder).open()
