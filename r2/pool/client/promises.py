"""What a pool file promises of an entry, held against the first real reply that could keep it.

A run needs no calls of its own for this: its first call to each of the router's entries shows it, is in the ledger and
the journal like any other, and is not paid again when the run goes on. `r2 pool check` asks beforehand.
"""

from collections.abc import Callable
from pathlib import Path

import orjson

from r2.call import Call
from r2.pool.client.wire import ParsedReply
from r2.pool.file.tables import ModelTable


def is_json(text: str) -> bool:
    """Whether a text is JSON as a whole."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


class Promises:
    """One entry's. `say` gets one line for each promise that is not kept."""

    def __init__(self, name: str, table: ModelTable, say: Callable[[str], None], pool_path: Path) -> None:
        self._waits_for_logprobs, self._waits_for_schema = table.logprobs, table.guided
        self._place = f"[models.{name}] of {pool_path}"
        self._name, self._say = name, say

    def note(self, call: Call, reply: ParsedReply) -> None:
        """Takes in a reply to a call that was sent with all that it asks for."""
        if self._waits_for_logprobs and call.top_logprobs and reply.text:
            self._waits_for_logprobs = False
            if not reply.token_logprobs:
                self._say(
                    f"{self._name}: logprobs = true in {self._place}, and its first reply has none: --b and "
                    "--min-confidence have nothing to go by. Set logprobs = false, or have the server send them."
                )
        if self._waits_for_schema and call.json_schema is not None and reply.text and not reply.is_cut:
            self._waits_for_schema = False
            if not is_json(reply.text):
                self._say(
                    f"{self._name}: guided = true in {self._place}, and its first reply to a JSON schema is no JSON. "
                    "Set guided = false, or have the server guide its decoding."
                )
