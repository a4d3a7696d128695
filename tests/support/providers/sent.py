"""What an imitation sends: a response, or a refusal of the request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.providers.bill import Tokens


@dataclass(frozen=True, slots=True)
class Sent:
    """A response. `tokens` is what goes on the bill; None for what costs nothing."""

    status: int
    document: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    tokens: Tokens | None = None
    text: str = ""
    finish: str = ""


class Refused(Exception):
    """The provider refuses the request with this response."""

    def __init__(self, sent: Sent) -> None:
        super().__init__(f"{sent.status}: {sent.document}")
        self.sent = sent
