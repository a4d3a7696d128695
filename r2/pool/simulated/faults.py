"""What goes wrong on purpose at the simulated server: which fault a request meets, how refusals look, and limits per
minute.

A pool file's [simulated_faults] table (or a flag of the server) gives the share of requests that meet each fault of
`FAULTS`. The draw is keyed by the request and by how often it was seen, so that a run can be repeated and a retry draws
anew.
"""

import random
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from r2.errors import ConfigError

FAULTS: dict[str, str] = {
    "rate_limited_seconds": "429 with Retry-After in seconds",
    "rate_limited_date": "429 with Retry-After as an HTTP date",
    "rate_limited_ms": "429 with retry-after-ms",
    "rate_limited_bare": "429 that does not say for how long",
    "server_error": "500",
    "auth": "401, as of a key that was revoked",
    "hang": "no answer until the client gives up",
    "cut_body": "the connection is closed in the middle of the body",
    "wrong_json": "200 with a body that ends too early",
    "no_usage": "an answer without its token counts",
    "slow_bytes": "an answer that trickles in over ten seconds",
}
"""Fault -> what the client meets."""

_CHARGED_IN_VAIN = ("hang", "cut_body", "wrong_json")
_UNCHARGED = (
    "rate_limited_seconds",
    "rate_limited_date",
    "rate_limited_ms",
    "rate_limited_bare",
    "server_error",
    "auth",
)
SLOW_BYTES_S = 10.0
"""How long an answer trickles in that does so."""

OVER_LIMIT = "over_limit"
"""Counted beside the faults: a request refused because its model's limit per minute was used up."""

_STATUS = {"server_error": 500, "auth": 401}


def check_faults(faults: Mapping[str, float], place: str) -> None:
    """Raises ConfigError, naming `place`, for a fault we do not know, a share outside 0..1, or shares that sum to more
    than 1."""
    for name, share in faults.items():
        if name not in FAULTS:
            raise ConfigError(f"{place}: unknown fault {name!r}. Known: {', '.join(FAULTS)}.")
        if not 0 <= share <= 1:
            raise ConfigError(f"{place}: the share of {name!r} is {share}; expected 0 to 1.")
    if sum(faults.values()) > 1 + 1e-9:
        raise ConfigError(f"{place}: the shares sum to {sum(faults.values()):g}; a request meets one fault at most.")


def charged_share(faults: Mapping[str, float], timeout_s: float) -> float:
    """Attempts per answered call that are charged at the most they may cost: those that were sent and whose answer did
    not come whole, and answers without token counts. Failed attempts are made again."""
    in_vain = sum(faults.get(name, 0.0) for name in _CHARGED_IN_VAIN)
    in_vain += faults.get("slow_bytes", 0.0) if timeout_s < SLOW_BYTES_S else 0.0
    answered = 1 - in_vain - sum(faults.get(name, 0.0) for name in _UNCHARGED)
    return (in_vain + faults.get("no_usage", 0.0)) / answered if answered > 0 else 0.0


def draw_fault(faults: Mapping[str, float], key: bytes, n_seen: int, seed: int) -> str | None:
    """The fault of this request, seen for the `n_seen`-th time; None where all goes well."""
    if not faults:
        return None
    left = random.Random(key + f":{n_seen}:{seed}".encode()).random()
    for fault, share in faults.items():
        left -= share
        if left < 0:
            return fault
    return None


def refusal(fault: str, wait_s: float = 1.0) -> tuple[int, dict[str, str]] | None:
    """Status and headers of a fault that is answered with an error at once; None for the faults of a body."""
    if fault in _STATUS:
        return _STATUS[fault], {}
    if fault == "rate_limited_date":
        # HTTP dates have whole seconds: one more, so that the wait is never shorter than meant.
        return 429, {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=wait_s + 1), usegmt=True)}
    if fault == "rate_limited_ms":
        return 429, {"retry-after-ms": f"{120 * wait_s:.0f}"}
    if fault == "rate_limited_bare":
        return 429, {}
    if fault in ("rate_limited_seconds", OVER_LIMIT):
        return 429, {"Retry-After": f"{wait_s:.3f}".rstrip("0").rstrip(".")}
    return None


class MinuteWindow:
    """A limit per sliding minute, as a provider counts it: what was admitted in the last 60 s may
    not pass the limit."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.admitted: deque[tuple[float, float]] = deque()
        self.total = 0.0

    def wait_s(self, now: float, amount: float) -> float:
        """Seconds until `amount` fits, 0 if it does now. What is more than the whole limit fits an empty window.

        A minute ends a microsecond early, so that who waited as long as told is let in whatever the sums of floats
        round to.
        """
        if self.limit is None:
            return 0.0
        while self.admitted and self.admitted[0][0] <= now - 60 + 1e-6:
            self.total -= self.admitted.popleft()[1]
        excess = self.total + amount - self.limit
        if excess <= 0 or not self.admitted:
            return 0.0
        for at, earlier in self.admitted:
            excess -= earlier
            if excess <= 0:
                return at + 60 - now
        return self.admitted[-1][0] + 60 - now

    def admit(self, now: float, amount: float) -> None:
        """Counts what was let in."""
        if self.limit is not None:
            self.admitted.append((now, amount))
            self.total += amount
