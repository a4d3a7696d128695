"""The forms in which providers take a prompt and give a text: by name, by address, and by what a body looks like."""

import urllib.parse
from collections.abc import Mapping
from typing import Any

from r2.pool.client.dialects import anthropic, gemini, openai_chat
from r2.pool.client.dialects.dialect import Dialect, NoReply, Reply

DIALECTS: Mapping[str, Dialect] = {
    **openai_chat.DIALECTS,
    anthropic.DIALECT.name: anthropic.DIALECT,
    gemini.DIALECT.name: gemini.DIALECT,
}
_BY_HOST = (
    ("api.openai.com", "openai"),
    (".openai.azure.com", "azure"),
    ("api.anthropic.com", "anthropic"),
    ("generativelanguage.googleapis.com", "gemini"),
    ("openrouter.ai", "openrouter"),
    ("api.deepseek.com", "deepseek"),
    ("api.mistral.ai", "mistral"),
    ("api.groq.com", "groq"),
    ("api.together.xyz", "together"),
    ("api.fireworks.ai", "fireworks"),
    ("api.x.ai", "xai"),
)


def dialect_of(endpoint: str, named: str | None = None) -> Dialect:
    """The dialect that the pool file names, else the one of the address's host (or of Ollama's port), else plain
    OpenAI-compatible."""
    if named is not None:
        return DIALECTS[named]
    parts = urllib.parse.urlsplit(endpoint)
    host = (parts.hostname or "").lower()
    for suffix, name in _BY_HOST:
        if host == suffix.lstrip(".") or host.endswith(suffix if suffix.startswith(".") else f".{suffix}"):
            if name == "gemini" and "/openai" in parts.path:
                return DIALECTS["compatible"]
            if name == "deepseek" and parts.path.rstrip("/").endswith("/anthropic"):
                return DIALECTS["anthropic"]
            return DIALECTS[name]
    if parts.netloc.endswith(":11434"):
        return DIALECTS["ollama"]
    if "/openai/deployments/" in parts.path or "api-version=" in parts.query:
        return DIALECTS["azure"]
    return DIALECTS["compatible"]


def parse(document: Any) -> Reply | NoReply:
    """What the JSON of a body says, in whichever of the three forms it has: a stored body is read again by its form
    alone."""
    if isinstance(document, list) and document and isinstance(document[0], dict) and document[0].get("error"):
        document = document[0]  # Gemini's compatible address
    if not isinstance(document, dict):
        return NoReply("not a JSON object")
    if "choices" not in document:
        if any(field in document for field in ("candidates", "promptFeedback", "usageMetadata")):
            return gemini.parse(document)
        if document.get("type") in ("message", "error") or isinstance(document.get("content"), list):
            return anthropic.parse(document)
    return openai_chat.parse(document)
