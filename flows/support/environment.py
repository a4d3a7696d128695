"""Settings of Prefect and pyarrow for this application, in place before they are imported (flows/__init__.py sees to
it).

Only defaults: a variable that the user has set stands. Telemetry and analytics are off, the embedded API gets time to
start on slow machines, and Prefect's own log lines stay below warnings (the run's progress is ours to show). pyarrow's
allocator gives memory back at once: what it would keep is more than a compaction needs. This machine's own addresses
are added to NO_PROXY: no proxy can reach what listens here, and Prefect's client, its websocket and the children of
this process would ask one.
"""

import os

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MIMALLOC_PURGE_DELAY": "0",
}

CHOSEN_BY_USER = frozenset(name for name, value in DEFAULTS.items() if os.environ.get(name, value) != value)
"""Settings that somebody else than us made, here or in the process that started this one."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def without_proxy(listed: str) -> str:
    """A value of NO_PROXY with this machine's own addresses in it."""
    known = [part.strip() for part in listed.split(",") if part.strip()]
    return ",".join(known if "*" in known else dict.fromkeys([*known, *LOOPBACK]))


for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)
_listed = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY"))
os.environ["NO_PROXY"] = os.environ["no_proxy"] = without_proxy(_listed)  # programs read the one or the other
