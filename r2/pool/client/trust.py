"""What an entry has shown of itself to this process: whether its bills keep their bound, and whether its key is good.

Money caps hold because each call's worst case is set aside before it is sent. A server that bills more than was asked
for breaks that, and only its bill shows it. So in a run with a cap an entry gets one call at a time until one of its
bills kept its bound, and no further call once a bill did not.
"""

import asyncio

from r2.pool.client.billing import Charge

UNEXPLAINED_REFUSALS = 5
"""More refusals in a row than this of a key that was good, without a word about the key, and it is taken as bad."""


class Bills:
    """An entry's bills in this process. `why_closed` is "" while they keep their bound."""

    def __init__(self) -> None:
        self.is_proven = False
        self.why_closed = ""
        self.turn = asyncio.Lock()
        """Held by the one call that is on its way until a bill has kept its bound."""

    def saw(self, entry: str, bill: Charge, reserved_usd: float) -> None:
        """Takes in what a call cost for which `reserved_usd` was set aside."""
        if bill.usd <= reserved_usd * (1 + 1e-9):
            self.is_proven = True
            return
        self.why_closed = (
            f"{entry} billed {bill.usage.input_tokens} prompt and {bill.usage.output_tokens} generated tokens, "
            f"{bill.usd:.6f} USD for a call that may cost {reserved_usd:.6f} USD at most by what was asked. No cap can "
            "hold for it, and it gets no further call in this session. If the bill is right, tell the pool file what "
            "the server adds (hidden_input_tokens, hidden_output_tokens); else use another entry."
        )


class Key:
    """One key at one host, shared by all entries that use it."""

    def __init__(self) -> None:
        self.has_answered = False
        self._n_unexplained = 0

    def answered(self) -> None:
        self.has_answered = True
        self._n_unexplained = 0

    def is_bad(self, *, blamed: bool) -> bool:
        """Whether a 401, 402 or 403 closes the endpoint. Not where the key answered other calls and the body does not
        blame it: then this one input was refused, unless it goes on so."""
        if blamed or not self.has_answered:
            return True
        self._n_unexplained += 1
        return self._n_unexplained > UNEXPLAINED_REFUSALS
