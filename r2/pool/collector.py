"""How Python's cycle collector is set for bulk work. A process-wide switch, so it is thrown by whoever owns the
process, once.

With calls in flight by the dozen, every collection of the default kind (each 700 new objects) walks the same living
frames again, and the full ones walk every imported module: a tenth of the client's time, and pauses of tens of
milliseconds (`benchmarks/bench_client.py`). Reference counts free nearly everything we make; cycles are few, and wait a
little longer.
"""

import atexit
import gc
from typing import Final

NEW_OBJECTS_PER_COLLECTION: Final = 10_000
"""Ours; 100,000 measures the same."""


def collect_seldom() -> None:
    """Leaves what is loaded by now out of all collections, and makes those of the rest seldom. Calling it again is
    harmless.

    What is left out comes back in when the process ends: DuckDB's binding counts its types then, and would report those
    that nobody can collect as leaked, a hundred lines.
    """
    gc.collect()
    gc.freeze()
    atexit.unregister(gc.unfreeze)
    atexit.register(gc.unfreeze)
    gc.set_threshold(NEW_OBJECTS_PER_COLLECTION)
