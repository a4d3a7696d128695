"""Where the machines of a team coordinate: a PostgreSQL, named by an environment variable: its URL holds a password.

Where `$R2_COORDINATION_URL` is set, limits and budgets hold over all hosts that name the same database
(`r2/pool/limits/remote_lease.py`), and runs can be joined by several of them (`storage/joined/`). Where it is not, they
hold on this host.
"""

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from r2.errors import ConfigError

VARIABLE = "R2_COORDINATION_URL"


def coordination_url(environ: Mapping[str, str] = os.environ) -> str | None:
    """The URL; None where none is set. ConfigError, without a word of it, for what is no URL of a PostgreSQL."""
    url = environ.get(VARIABLE, "").strip()
    if not url:
        return None
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("postgresql", "postgres") and (parts.port is None or parts.port > 0)
    except ValueError:
        is_good = False
    if not is_good:
        raise ConfigError(
            f"${VARIABLE}: not the URL of a PostgreSQL. Expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE; unset "
            "the variable to share limits on this host alone."
        )
    return url


def named_url(environ: Mapping[str, str] = os.environ) -> str:
    """The same for what cannot do without. ConfigError where none is set."""
    url = coordination_url(environ)
    if url is None:
        raise ConfigError(
            f"a run is joined through a PostgreSQL that all machines reach: name it in ${VARIABLE} "
            "(docs/many_machines.md). Without one nothing would keep two machines within the pool file's limits, or "
            "from paying for the same question."
        )
    return url


def shown(url: str) -> str:
    """The URL as it may be said: host, port and database, without user, password and options."""
    parts = urlsplit(url)
    host = parts.hostname or "local socket"
    port = f":{parts.port}" if parts.port else ""
    return f"PostgreSQL at {host}{port}/{parts.path.lstrip('/')}"
