"""OpenRouter: one address for many vendors' models.

It takes every parameter of chat completions and drops what the model's host does not know; it answers a failure of the
host with its own status or inside a 200; and every reply says what it cost.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from aiohttp import web

from tests.support.providers import chat, imitation
from tests.support.providers.bill import PriceList, Tokens, cost, rates
from tests.support.providers.chat import ChatModel
from tests.support.providers.imitation import Ask, Imitation, Written
from tests.support.providers.sent import Refused, Sent

MISTRAL = ChatModel(
    "mistralai/mistral-small-3.2",
    "mistralai/mistral-small-3.2-24b-instruct",
    PriceList(rates("0.075", "0.2")),
    context_tokens=131_072,
    max_output_tokens=32_768,
)
SONNET_55 = ChatModel(
    "anthropic/claude-sonnet-5.5",
    "anthropic/claude-sonnet-5.5-20261008",
    PriceList(rates("2", "10", cached="0.1", cache_write="2.5")),
    context_tokens=1_000_000,
    max_output_tokens=128_000,
    efforts=("none", "minimal", "low", "medium", "high", "xhigh"),
    default_effort="medium",
    sampling="never",
    writes_cache=True,
)
_SMALLEST_LIMIT = 16


class OpenRouter(Imitation):
    """`openrouter.ai`, with Bearer keys."""

    name = "openrouter"
    route = "/api/v1"
    letters = 7

    @classmethod
    def default_models(cls) -> Sequence[imitation.Model]:
        return (MISTRAL, SONNET_55)

    def read(self, request: web.Request, body: Any) -> Ask:
        if request.path != f"{self.route}/chat/completions" or request.method != "POST":
            raise Refused(self.not_found(request))
        given = request.headers.get("Authorization", "")
        if not given.startswith("Bearer "):
            raise Refused(self._error(401, "No auth credentials found"))
        if given.removeprefix("Bearer ") != self.key:
            raise Refused(self._error(401, "User not found."))
        if not isinstance(body, dict):
            raise Refused(self.not_json())
        model = self.models.get(body.get("model", ""))
        if not isinstance(model, ChatModel):
            self.refuse(f"{body.get('model')} is not a valid model ID", None, None)
        messages = chat.messages_of(body, self.refuse)
        system, turns = chat.split_system(messages)
        schema, is_json, _ = chat.response_format(body, self.refuse)
        effort = self._effort(body, model)
        is_asked = body.get("logprobs") is True and model.takes_sampling(effort)
        return Ask(
            model,
            system,
            turns,
            self.prompt(messages),
            self._limit(body),
            thinking=effort,
            schema=schema,
            is_json=is_json,
            stop=chat.stops(body, self.refuse, most=None),
            n_top_logprobs=(body.get("top_logprobs") or 0) if is_asked else None,
        )

    def _effort(self, body: Mapping[str, Any], model: ChatModel) -> str:
        asked = body.get("reasoning_effort") or (body.get("reasoning") or {}).get("effort")
        if not model.efforts:
            return "none"
        if asked is not None and asked not in model.efforts:
            self.refuse(f"Invalid option: expected one of {', '.join(map(repr, model.efforts))}", None, None)
        return str(asked or model.default_effort)

    def _limit(self, body: Mapping[str, Any]) -> int | None:
        limit = body.get("max_tokens") or body.get("max_completion_tokens")
        if limit is not None and limit < _SMALLEST_LIMIT:
            raw = f"Invalid 'max_output_tokens': integer below minimum value. Expected >= {_SMALLEST_LIMIT}."
            metadata = {"raw": raw, "provider_name": "Imitation"}
            raise Refused(self._error(400, "Provider returned error", metadata=metadata))
        return limit

    def check_context(self, ask: Ask) -> None:
        super().check_context(ask)
        if len(ask.prompt) + (ask.limit or 0) > ask.model.context_tokens:
            raise Refused(self.fault_context(ask))

    def count(self, ask: Ask, written: Sequence[Written]) -> Tokens:
        assert isinstance(ask.model, ChatModel)
        n_cached, n_written = (
            self.cache.read_and_write(ask.model.name, ask.prompt) if ask.model.writes_cache else (0, 0)
        )
        return Tokens(
            fresh=len(ask.prompt) - n_cached - n_written,
            cached=n_cached,
            written=n_written,
            thinking=sum(len(one.thinking) for one in written),
            answer=sum(len(one.answer) for one in written),
        )

    def document(self, ask: Ask, written: Sequence[Written], counts: Tokens) -> Sent:
        [one] = written
        more: dict[str, Any] = {"reasoning": None}
        if one.thinking:
            said = "".join(one.thinking)
            detail = {"type": "reasoning.text", "text": said, "format": "anthropic-claude-v1", "index": 0}
            more = {"reasoning": said, "reasoning_details": [detail]}
        made = chat.choice(0, one.text, one.finish, logprobs=chat.logprobs_of(ask, one.answer), **more)
        return self._completed(ask, made, counts, text=one.text, finish=one.finish)

    def _completed(self, ask: Ask, made: dict[str, Any], counts: Tokens, *, text: str, finish: str) -> Sent:
        made["native_finish_reason"] = {"stop": "end_turn", "length": "max_tokens"}.get(finish, finish)
        usage = chat.usage_of(counts, written=True, thinks=True)
        usage |= {"cost": float(cost(ask.model.prices, counts)), "is_byok": False}
        document = chat.completion(ask, [made], usage, number=self.serial, provider="Imitation")
        return Sent(200, document, tokens=counts, text=text, finish=finish)

    def entry_lines(self, model: imitation.Model) -> dict[str, str]:
        return {"guided": "true"}

    # Refusals

    def refuse(self, message: str, param: str | None, code: str | None) -> NoReturn:
        raise Refused(self._error(400, message))

    def _error(
        self,
        status: int,
        message: str,
        *,
        code: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Sent:
        error: dict[str, Any] = {"message": message, "code": status if code is None else code}
        if metadata is not None:
            error["metadata"] = dict(metadata)
        return Sent(status, {"error": error, "user_id": "user_imitation"}, headers or {})

    def not_found(self, request: web.Request) -> Sent:
        return Sent(404, "<!DOCTYPE html><html><head><title>Not Found | OpenRouter</title></head></html>")

    def not_json(self) -> Sent:
        return self._error(400, "Invalid JSON")

    # Failures

    def fault_rate_requests(self, ask: Ask) -> Sent:
        headers = {
            "X-RateLimit-Limit": "20",
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(round((time.time() + 0.3) * 1000)),
        }
        said = "Rate limit exceeded: free-models-per-min. "
        return self._error(429, said, metadata={"headers": headers}, headers=headers)

    def fault_rate_tokens(self, ask: Ask) -> Sent:
        metadata = {"raw": f"{ask.model.name} is temporarily rate-limited upstream.", "provider_name": "Imitation"}
        return self._error(429, "Provider returned error", metadata=metadata)

    def fault_rate_day(self, ask: Ask) -> Sent:
        headers = {
            "X-RateLimit-Limit": "50",
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(round((time.time() + 36_000) * 1000)),
        }
        said = "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day"
        return self._error(429, said, metadata={"headers": headers}, headers=headers)

    def fault_too_large(self, ask: Ask) -> Sent:
        return self.fault_context(ask)

    def fault_no_money(self, ask: Ask) -> Sent:
        said = (
            f"This request requires more credits, or fewer max_tokens. You requested up to {ask.limit or 65_536} "
            "tokens, but can only afford 12."
        )
        return self._error(402, said, metadata={"provider_name": None})

    def fault_overloaded(self, ask: Ask) -> Sent:
        metadata = {"raw": "overloaded", "provider_name": "Imitation"}
        return self._error(529, "Provider returned error", metadata=metadata)

    def fault_server_error(self, ask: Ask) -> Sent:
        return self._error(502, "Provider returned error", metadata={"raw": "", "provider_name": "Imitation"})

    def fault_retired(self, ask: Ask) -> Sent:
        return self._error(404, f"No endpoints found for {ask.model.name}.")

    def fault_context(self, ask: Ask) -> Sent:
        most, limit = ask.model.context_tokens, ask.limit or 0
        n_prompt = max(len(ask.prompt), most + 1 - limit)
        said = (
            f"This endpoint's maximum context length is {most} tokens. However, you requested about "
            f"{n_prompt + limit} tokens ({n_prompt} of text input, {limit} in the output). Please reduce the length of "
            "either one."
        )
        return self._error(400, said)

    def fault_flagged(self, ask: Ask) -> Sent:
        said = f'{ask.model.name} requires moderation on Imitation. Your input was flagged for "violence/graphic".'
        metadata = {
            "reasons": ["violence/graphic"],
            "flagged_input": ask.turns[-1][1][:100],
            "provider_name": "Imitation",
            "model_slug": ask.model.name,
        }
        return self._error(403, f"{said} No credits were charged.", metadata=metadata)

    def fault_content_filter(self, ask: Ask) -> Sent:
        return self.fault_flagged(ask)

    def fault_filtered_reply(self, ask: Ask) -> Sent:
        made = chat.choice(0, "", "content_filter")
        return self._completed(ask, made, self.count(ask, ()), text="", finish="content_filter")

    def fault_refusal(self, ask: Ask) -> Sent:
        said = "I can't help with that."
        counts = self.count(ask, (Written([], said.split(), "stop"),))
        return self._completed(ask, chat.choice(0, None, "stop", refusal=said), counts, text=said, finish="refusal")

    def fault_error_in_200(self, ask: Ask) -> Sent:
        sent = self.fault_rate_tokens(ask)
        return Sent(200, sent.document)

    def fault_empty_choices(self, ask: Ask) -> Sent:
        return Sent(200, chat.completion(ask, [], None, number=self.serial, provider="Imitation"))

    def fault_finish_error(self, ask: Ask) -> Sent:
        made = chat.choice(0, "", "error")
        made["error"] = {"code": 502, "message": "Upstream error from Imitation", "metadata": {"raw": ""}}
        return Sent(200, chat.completion(ask, [made], None, number=self.serial, provider="Imitation"))
