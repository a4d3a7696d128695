"""Reading a reply's body: in pieces, decompressed as they come, and never more of it than a reply can need.

aiohttp decompresses a piece at a time and stops reading while we are behind, so that neither an endless body nor one
that unpacks to gigabytes is ever held.
"""

from typing import Final

import aiohttp

LEAST_BYTES: Final = 2 << 20
MOST_BYTES: Final = 16 << 20
"""Nothing longer is read, whatever was asked for: parsing a hostile body of this size takes some hundred MB."""
KEPT_BYTES: Final = 16 << 10
"""Of a body that is a refusal or too long: for its message and for the stored row."""
_BYTES_PER_TOKEN: Final = 256
"""Of a generated token, or of a listed alternative with its log-probability; ours, generous."""


def most_bytes(output_limit: int, top_logprobs: int) -> int:
    """The longest body that is read of a reply to a call with this output limit."""
    asked = output_limit * (1 + top_logprobs) * _BYTES_PER_TOKEN
    return min(max(LEAST_BYTES, asked), MOST_BYTES)


async def read_body(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, bool]:
    """(the body, True), or (the first `KEPT_BYTES` of it, False) if it is longer than `limit`. Then the connection is
    closed: what is still coming is not read."""
    content = response.content
    first = await content.readany()
    if content.at_eof() and len(first) <= limit:
        return first, True
    pieces, n_bytes = [first], len(first)
    while n_bytes <= limit:
        piece = await content.readany()
        if not piece:
            return b"".join(pieces), True
        pieces.append(piece)
        n_bytes += len(piece)
    response.close()
    return b"".join(pieces)[:KEPT_BYTES], False
