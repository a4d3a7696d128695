"""How fast one entry is now, from its own answers: what a time limit has to leave room for. Pure.

On a busy machine, or behind a queue, the same answer takes many times as long as it did when a limit was set.
"""

_PROMPT_WEIGHT = 1 / 16
"""A prompt token takes about so much of a generated one's time: prompts are read in batches (ours; measured 1/8 to 1/40
with llama.cpp on one core)."""
_LEARNING_RATE = 1 / 4
_ROOM = 4.0
"""A call may take so many times what it would at the pace of the last ones."""


class Pace:
    """Seconds per generated token of the last calls, prompts counted with their weight."""

    def __init__(self) -> None:
        self._s_per_token: float | None = None

    def learn(self, input_tokens: int, output_tokens: int, seconds: float) -> None:
        """Takes in a call. Slower ones count at once, faster ones little by little."""
        work = output_tokens + input_tokens * _PROMPT_WEIGHT
        if work <= 0 or seconds <= 0:
            return
        measured = seconds / work
        if self._s_per_token is None or measured > self._s_per_token:
            self._s_per_token = measured
        else:
            self._s_per_token += (measured - self._s_per_token) * _LEARNING_RATE

    def limit_s(self, least_s: float, input_tokens: int, output_tokens: int) -> float:
        """Seconds after which a call of at most so many tokens may be given up; never fewer than `least_s`."""
        if self._s_per_token is None:
            return least_s
        return max(least_s, _ROOM * self._s_per_token * (output_tokens + input_tokens * _PROMPT_WEIGHT))
