"""Secrets that a pool file must not hold: it is stored with every run, recorded and shown. Keys are named by their
environment variable (`api_key_env`), nowhere written."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_KEY_NAMES = re.compile(
    r"(^|[-_.])(api[-_]?key|apikey|key|token|access[-_]?token|auth|authorization|bearer|secret|password|passwd|pwd|sig|"
    r"signature|credentials?|code)$",
    re.IGNORECASE,
)
"""Names of query parameters and of body fields that carry a key; `max_tokens` and `stop_token_ids` do not."""
_LOGIN = re.compile(r"\bhttps?://[^\s/?#@\"'<>]*@", re.IGNORECASE)
"""An address with a user name or a password in it."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def secret_of_endpoint(endpoint: str) -> str | None:
    """What of an address is a secret, in words that do not repeat it; None if nothing is."""
    if re.match(r"[a-z][a-z0-9+.-]*://[^/?#]*@", endpoint, re.IGNORECASE):
        return "the address holds a user name or a password"
    try:
        query = urlsplit(endpoint).query
    except ValueError:  # no address at all, which others tell
        return None
    for pair in re.split("[&;]", query):
        name, has_value, _ = pair.partition("=")
        if has_value and _KEY_NAMES.search(name):
            return f"the address holds a key in its query ({name}=...)"
    return None


def secret_of_body(extra_body: Mapping[str, Any]) -> str | None:
    """The same for the further fields of a request body."""
    for name, value in extra_body.items():
        if isinstance(value, str) and value and _KEY_NAMES.search(name):
            return f"the field {name!r} holds a key"
    return None


def secret_of_variable(name: str | None) -> str | None:
    """The same for `api_key_env`, where a key may stand in place of the name of its variable."""
    if name is None or _VARIABLE.fullmatch(name):
        return None
    return "not the name of an environment variable (letters, digits and _), and so perhaps the key itself"


def line_of_login(text: str) -> int | None:
    """1-based line of the first address with a user name or a password anywhere in the file, comments included."""
    found = _LOGIN.search(text)
    return None if found is None else text.count("\n", 0, found.start()) + 1
