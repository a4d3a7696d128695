"""How many tokens a text probably has, without its tokenizer: for reserves of token rates made before a call.

The rule is bytes: a token per 2.5 UTF-8 bytes, the rule of `r2.ledger.expected_usage`, until a model has reported the
usage of real prompts; from then on its own ratio. Ours. Money goes by bounds, not by this (`billing.py`).
"""

TOKENS_PER_BYTE = 1 / 2.5
"""Upper estimate for unknown text: English prose has about 1/4, digits and symbols up to 1."""

_LEARNING_RATE = 1 / 16


class TokenRatio:
    """Tokens per byte of one model's prompts, learned from the usage it reports.

    The mean and mean deviation are exponential averages; `upper` adds four deviations, as TCP does for its timeouts
    (RFC 6298), so that a reserve is seldom too small.
    """

    def __init__(self) -> None:
        self._mean: float | None = None
        self._deviation = 0.0

    def learn(self, n_bytes: int, n_tokens: int) -> None:
        """Takes in one prompt of `n_bytes` that the provider counted as `n_tokens`; empty ones teach nothing."""
        if n_bytes <= 0 or n_tokens <= 0:
            return
        ratio = n_tokens / n_bytes
        if self._mean is None:
            self._mean, self._deviation = ratio, ratio / 8
            return
        self._deviation += (abs(ratio - self._mean) - self._deviation) * _LEARNING_RATE
        self._mean += (ratio - self._mean) * _LEARNING_RATE

    def upper(self, n_bytes: int) -> int:
        """Tokens that `n_bytes` will seldom exceed."""
        if self._mean is None:
            return round(n_bytes * TOKENS_PER_BYTE)
        return round(n_bytes * (self._mean + 4 * self._deviation)) + 1
