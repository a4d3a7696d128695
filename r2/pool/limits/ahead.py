"""How much a share asks for ahead of need: what was used lately and half as much again, so that a process which uses
little holds little back from the others."""


class Ahead:
    """The size of the next slice of one thing. It doubles at most, so that no hurried moment makes it large."""

    def __init__(self, period_s: float, most: float) -> None:
        self._period_s = period_s
        self._most = most
        self._size = self._used = 0.0
        self._since: float | None = None

    def note(self, used: float) -> None:
        """So much of the slice was used."""
        self._used += used

    def next(self, now: float, least: float) -> float:
        """How much to ask for now, `least` or more."""
        if self._since is not None:
            per_period = self._used * self._period_s / max(now - self._since, 1e-3)
            self._size = min(1.5 * per_period, 2 * self._size)
        self._size = max(least, min(self._size, self._most))
        self._since, self._used = now, 0.0
        return self._size
