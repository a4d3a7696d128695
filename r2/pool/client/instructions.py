"""How many calls with the same instructions go to an embedded server at once: the same system text, and where that is
short the same turns before the question, as of worked examples.

llama.cpp reads the instructions once for each of its slots, and a call that comes while the first is being answered is
given a slot that has not read them. For a few questions that is most of the bill: the five examples of a program are
190 tokens, its question and reply 35. So a further slot is used only once it pays: reading the instructions again is
kept to a tenth of the work done with them (ours). Short instructions are not waited for. Calls wait in the order in
which they came.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from r2.call import Call

LEAST_CHARACTERS: Final = 256
"""About 85 tokens. Shorter instructions are read again sooner than a call is answered."""
SHARE: Final = 0.1
"""What reading the same again may come to, of the tokens of questions and replies."""
_CHARACTERS_PER_TOKEN: Final = 3
_KEPT: Final = 256
"""Texts that are remembered of one server, beside those that somebody asks with."""


@dataclass(slots=True)
class Instructions:
    """The calls with one system text. `own_tokens`: of those that were answered, without the text itself."""

    n_tokens: int
    n_inside: int = 0
    own_tokens: float = 0.0
    waiting: "deque[asyncio.Future[None]]" = field(default_factory=deque)

    @property
    def most_inside(self) -> int:
        return 1 + int(SHARE * self.own_tokens / self.n_tokens)


class InstructionTurns:
    """One server's."""

    def __init__(self) -> None:
        self._by_text: dict[int, Instructions] = {}

    async def enter(self, call: Call, deadline: float | None = None) -> Instructions | None:
        """Waits until the call may be sent; what it returns is for `leave`. None: it need not wait. TimeoutError at
        `deadline` (the event loop's seconds)."""
        text = _instructions(call)
        if len(text) < LEAST_CHARACTERS:
            return None
        whose = self._of(text)
        if whose.n_inside < whose.most_inside and not whose.waiting:
            whose.n_inside += 1
            return whose
        turn = asyncio.get_running_loop().create_future()
        whose.waiting.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave(whose, 0)  # its turn came as it was given up
            elif turn in whose.waiting:
                whose.waiting.remove(turn)
            raise
        return whose

    def _of(self, text: str) -> Instructions:
        found = self._by_text.get(hash(text))
        if found is None:
            if len(self._by_text) >= _KEPT:
                self._by_text = {key: one for key, one in self._by_text.items() if one.n_inside or one.waiting}
            found = self._by_text[hash(text)] = Instructions(len(text) // _CHARACTERS_PER_TOKEN)
        return found

    def leave(self, whose: Instructions, n_tokens: float) -> None:
        """A call that entered has ended; `n_tokens`: of its prompt and its reply, 0 if it was not answered."""
        whose.n_inside -= 1
        whose.own_tokens += max(0.0, n_tokens - whose.n_tokens)
        while whose.waiting and whose.n_inside < whose.most_inside:
            turn = whose.waiting.popleft()
            if not turn.done():
                whose.n_inside += 1
                turn.set_result(None)


def _instructions(call: Call) -> str:
    role, text = call.messages[0] if call.messages else ("", "")
    if role == "system" and len(text) >= LEAST_CHARACTERS:
        return text
    return "\n".join(said for _, said in call.messages[:-1])
