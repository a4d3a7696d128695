"""How a generation ended: the servers' words for it, and which of them leave an answer. Pure.

Only a natural end leaves an answer. A text cut by its limit may still be one where nobody stronger is left, and is
marked; every other end is an error of its own, whatever text came with it.
"""

from typing import Final

_NATURAL: Final = frozenset(
    {"", "stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_sequences", "end", "complete", "completed"}
)
_CUT: Final = frozenset(
    {
        "length",
        "max_tokens",  # Anthropic, Gemini
        "max_output_tokens",
        "max_length",
        "model_length",  # Mistral
        "model_context_window_exceeded",  # Anthropic
        "token_limit",
    }
)
_FILTERED: Final = frozenset(
    {
        "content_filter",
        "content_filtered",
        "content_policy",
        "refusal",  # Anthropic
        "sensitive",  # Zhipu
        "moderation",
        # Gemini:
        "safety",
        "recitation",
        "blocklist",
        "prohibited_content",
        "spii",
        "image_safety",
        "language",
        "model_armor",
    }
)
_SERVERS_FAULT: Final = frozenset(
    {"error", "insufficient_system_resource", "abort", "aborted", "cancelled", "canceled", "timeout", "other"}
)


def ending(finish_reason: str) -> tuple[bool, str | None]:
    """(cut by its limit, error type) of an end; the error type is None where it leaves an answer.

    The error types: `content_filter`, `server_error` where the server itself broke off, `bad_end` for anything else
    (tool calls, words that we do not know).
    """
    if finish_reason == "stop":
        return False, None
    word = finish_reason.strip().lower()
    if word in _NATURAL:
        return False, None
    if word in _CUT:
        return True, None
    if word in _FILTERED:
        return False, "content_filter"
    return False, "server_error" if word in _SERVERS_FAULT else "bad_end"
