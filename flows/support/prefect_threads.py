"""Prefect's threads, ended before the interpreter is.

Prefect asks its background loops to end when the process does, and does not wait for them. What they hold then is
never collected, with all that can be reached from it: the flows, their modules, DuckDB. DuckDB's binding finds its
types alive after the interpreter's end and reports each as leaked, a hundred lines on stderr.
"""

import atexit

from prefect._internal.concurrency import threads

PATIENCE_S = 2.0


@atexit.register
def end_threads() -> None:
    """Waits for the loops that were started. They are idle by now; one that is not is left behind."""
    for loop in (threads._global_loop, threads._run_sync_loop):
        if loop is not None and loop.thread.is_alive():
            loop.shutdown()
            loop.thread.join(PATIENCE_S)
