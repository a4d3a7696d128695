"""The batch endpoint of a pool entry, by its dialect."""

from collections.abc import Mapping

import aiohttp

from r2.pool.batch.anthropic import AnthropicBatch
from r2.pool.batch.gemini import GeminiBatch
from r2.pool.batch.http import BatchHttp
from r2.pool.batch.mistral import MistralBatch
from r2.pool.batch.openai import FORMS, OpenAIBatch
from r2.pool.batch.protocol import BatchProvider
from r2.pool.client.dialects.dialect import Dialect


def open_provider(
    dialect: Dialect,
    base_url: str,
    served_model: str,
    api_key_env: str | None,
    *,
    session: aiohttp.ClientSession,
    environ: Mapping[str, str],
) -> BatchProvider | None:
    """The endpoint behind `base_url`, the pool file's address; None for a dialect that has none, or none that we know.

    Nothing is asked here. `served_model` is what the job asks for (`r2.pool.batch.prices.asked_by_batch`); the caller
    closes the session. The key is read from `environ` when a request is sent.
    """
    http = BatchHttp(dialect, base_url, api_key_env, session=session, environ=environ)
    match dialect.name:
        case "anthropic":
            return AnthropicBatch(http)
        case "gemini":
            return GeminiBatch(http, served_model)
        case "mistral":
            return MistralBatch(http, served_model)
        case name if name in FORMS:
            return OpenAIBatch(http, FORMS[name], served_model, is_azure=name == "azure")
    return None
