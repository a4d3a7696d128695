"""Prefect's settings for this application, put in place before Prefect is imported (flows/__init__.py sees to it).

Only defaults: a variable that the user has set stands. Telemetry and analytics are off, the embedded API gets time to
start on slow machines, and Prefect's own log lines stay below warnings (the run's progress is ours to show).
"""

import os

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "RAY_USAGE_STATS_ENABLED": "0",
}

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)
