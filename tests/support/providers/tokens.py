"""How the imitations count tokens: a text is cut into pieces, and a token is a piece.

No provider's real tokenizer, but built like one: a word with its leading space, cut after a number of letters that
differs from provider to provider, so that no client can guess one provider's counts from another's. Nothing is lost:
the pieces joined are the text.
"""

import re
from collections.abc import Sequence
from functools import cache


@cache
def _pieces(letters: int) -> re.Pattern[str]:
    return re.compile(rf" ?[A-Za-z]{{1,{letters}}}| ?[0-9]{{1,3}}|[ \t]+|\r?\n|.", re.DOTALL)


def split(text: str, letters: int) -> list[str]:
    """The tokens of a text; `letters` is the longest word that is one token."""
    return _pieces(letters).findall(text)


class PrefixCache:
    """What a provider remembers of earlier prompts: every `step` tokens of them, from `least` tokens on."""

    def __init__(self, least: int, step: int) -> None:
        self.least = least
        self.step = step
        self._known: set[int] = set()

    def read_and_write(self, model: str, prompt: Sequence[str]) -> tuple[int, int]:
        """(tokens of the prompt that were known, tokens that are known from now on and were not)."""
        digest, known = hash(model), 0
        is_known = True
        last = len(prompt) // self.step * self.step
        for end in range(self.step, last + 1, self.step):
            digest = hash((digest, tuple(prompt[end - self.step : end])))
            if end < self.least:
                continue
            is_known = is_known and digest in self._known
            if is_known:
                known = end
            self._known.add(digest)
        written = last - known if last >= self.least else 0
        return known, written

    def read_and_write_marked(self, model: str, prompt: Sequence[str], marks: Sequence[int]) -> tuple[int, int]:
        """The same where the client says up to which tokens to remember; without marks nothing is read or written."""
        known, last = 0, 0
        for mark in sorted(marks):
            if mark < self.least:
                continue
            digest = hash((model, "".join(prompt[:mark])))
            if digest in self._known:
                known = mark
            self._known.add(digest)
            last = mark
        return known, last - known
