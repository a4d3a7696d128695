"""Reading a streamed reply: its pieces become the one body that the same server would have sent at once.

A slow server is not a dead one. A reply that comes token by token shows that it is being computed, so it is given up
only when nothing came for a while, however long the whole takes; and when it is given up, what had been computed is
known, and closing the connection ends the computing.
"""

import asyncio
from typing import Any, Final

import aiohttp
import orjson

from r2.pool.client.dialects.text import as_json

STREAM_FIELDS: Final[dict[str, Any]] = {"stream": True, "stream_options": {"include_usage": True}}
"""What a request has beside its other fields to be answered in pieces, the counts of tokens in the last one."""


class StreamedReply:
    """The pieces of one reply. `n_tokens` counts those with text: the servers we start send one token a piece."""

    def __init__(self) -> None:
        self.n_tokens = 0
        self.is_done = False
        self._rest = b""
        self._head: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {"content": [], "reasoning_content": []}
        self._logprobs: list[Any] = []
        self._finish: Any = None
        self._usage: Any = None
        self._error: Any = None

    def feed(self, piece: bytes) -> None:
        """Takes in bytes as they came: whole lines `data: {...}`, or parts of them."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._line(line.strip())

    def body(self) -> bytes:
        """What came so far as a chat completion that was not streamed; an error that came is the whole of it."""
        if self._rest.strip():
            self._line(self._rest.strip())
            self._rest = b""
        if self._error is not None:
            return orjson.dumps({"error": self._error})
        message = {"role": "assistant", **{name: "".join(texts) for name, texts in self._texts.items() if texts}}
        choice: dict[str, Any] = {"index": 0, "message": {"content": "", **message}, "finish_reason": self._finish}
        if self._logprobs:
            choice["logprobs"] = {"content": self._logprobs}
        whole = {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage}
        return orjson.dumps(whole)

    def _line(self, line: bytes) -> None:
        name, _, rest = line.partition(b":")
        if name not in (b"data", b"error") or not rest.strip():
            return  # an event's name, a comment that keeps the connection open, or the line between two events
        if rest.strip() == b"[DONE]":
            self.is_done = True
            return
        document = as_json(rest.strip())
        if not isinstance(document, dict):
            return
        if name == b"error" or document.get("error"):
            self._error = document.get("error") or document
            return
        self._head = self._head or {key: document.get(key) for key in ("id", "model", "created")}
        if document.get("usage") is not None:
            self._usage = document["usage"]
        choices = document.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            self._choice(choices[0])

    def _choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        has_text = False
        for name, texts in self._texts.items():
            text = delta.get(name) if isinstance(delta, dict) else None
            if isinstance(text, str) and text:
                texts.append(text)
                has_text = True
        self.n_tokens += has_text
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
            self._logprobs += logprobs["content"]
        self._finish = choice.get("finish_reason") or self._finish


async def read_stream(
    response: aiohttp.ClientResponse, reply: StreamedReply, *, idle_s: float, limit: int
) -> tuple[bytes, bool]:
    """(the body, True), or (what came of it, False) if it is longer than `limit` bytes.

    Raises TimeoutError when nothing came for `idle_s` seconds; then `reply` has what came before.
    """
    loop = asyncio.get_running_loop()
    n_bytes = 0
    async with asyncio.timeout(idle_s) as patience:
        while piece := await response.content.readany():
            patience.reschedule(loop.time() + idle_s)
            n_bytes += len(piece)
            if n_bytes > limit:
                response.close()
                return reply.body(), False
            reply.feed(piece)
    return reply.body(), True
