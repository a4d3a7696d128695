"""Anthropic's Messages.

Refused as there: Bearer keys (but for the newest version of the API), a missing version header, a missing `max_tokens`,
the role system among the messages, seed, n and every other unknown field, sampling parameters for the newest models,
thinking that a model cannot switch on or off, a last turn of the assistant, and the words of JSON Schema that it does
not know. Thinking is a part of the output and comes first; the cache is used only where the client marks it, and its
tokens are counted beside the input.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from aiohttp import web

from tests.support.providers import imitation
from tests.support.providers.batch_anthropic import AnthropicBatches
from tests.support.providers.bill import PriceList, Tokens, rates
from tests.support.providers.imitation import Ask, Imitation, Written
from tests.support.providers.sent import Refused, Sent

VERSION = "2023-06-01"
BEARER_VERSION = "2026-10-21"
"""What the vendor's own SDK sends since 2.0 (seen in anthropic 2.14.0), with the key as Bearer; every earlier version
takes keys in `x-api-key` alone."""

_FIELDS = frozenset(
    {
        "model",
        "max_tokens",
        "messages",
        "cache_control",
        "container",
        "diagnostics",
        "inference_geo",
        "metadata",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
        "user_profile_id",
    }
)
_REFUSED_WORDS = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "patternProperties",
    "if",
    "then",
    "else",
    "not",
    "oneOf",
)
EFFORTS = ("low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True, slots=True)
class ClaudeModel(imitation.Model):
    """`thinking`: "budget" for models that think only when given a budget, "adaptive" for those that think by
    themselves unless switched off, "always" for those that cannot be switched off. `min_cached` is the shortest prefix
    that is cached."""

    efforts: tuple[str, ...] = ()
    thinking: Literal["budget", "adaptive", "always"] = "budget"
    takes_sampling: bool = True
    min_cached: int = 1024


HAIKU_45 = ClaudeModel(
    "claude-haiku-4-5",
    "claude-haiku-4-5-20251001",
    PriceList(rates("1", "5", cached="0.1", cache_write="1.25", cache_write_1h="2")),
    context_tokens=200_000,
    max_output_tokens=64_000,
)
HAIKU_55 = ClaudeModel(
    "claude-haiku-5-5",
    "claude-haiku-5-5",
    PriceList(
        rates("0.1", "0.5", cached="0.01", cache_write="0.125", cache_write_1h="0.2"),
        100_000,
        rates("0.5", "2.5", cached="0.05", cache_write="0.625", cache_write_1h="1"),
    ),
    context_tokens=1_000_000,
    max_output_tokens=128_000,
    efforts=EFFORTS,
    thinking="adaptive",
    takes_sampling=False,
)
OPUS_55 = ClaudeModel(
    "claude-opus-5-5",
    "claude-opus-5-5",
    PriceList(rates("4", "20", cached="0.2", cache_write="5", cache_write_1h="8")),
    context_tokens=1_000_000,
    max_output_tokens=128_000,
    efforts=EFFORTS,
    thinking="always",
    takes_sampling=False,
)


class Anthropic(Imitation):
    """`api.anthropic.com`, with the key in `x-api-key` (the newest version of the API: as Bearer)."""

    name = "anthropic"
    route = "/v1"
    batch_form = AnthropicBatches
    letters = 4
    tokens_per_message = 3

    @classmethod
    def default_models(cls) -> Sequence[imitation.Model]:
        return (HAIKU_45, HAIKU_55, OPUS_55)

    def read(self, request: web.Request, body: Any) -> Ask:
        if request.path != f"{self.route}/messages" or request.method != "POST":
            raise Refused(self.not_found(request))
        self.check_headers(request)
        return self.read_params(body)

    def read_params(self, body: Any) -> Ask:
        """The body of a message."""
        if not isinstance(body, dict):
            raise Refused(self.not_json())
        for name in sorted(set(body) - _FIELDS):
            self.refuse(f"{name}: Extra inputs are not permitted")
        for name in ("model", "max_tokens", "messages"):
            if body.get(name) is None:
                self.refuse(f"{name}: Field required")
        model = self.models.get(body["model"]) if isinstance(body["model"], str) else None
        if not isinstance(model, ClaudeModel):
            raise Refused(self.error(404, "not_found_error", f"model: {body['model']}"))
        if body.get("stream"):
            self.refuse("stream: this imitation does not stream")
        limit = self._limit(body, model)
        messages = self._messages(body, model)
        thinking = self._thinking(body, model, limit)
        self._check_sampling(body, model, thinking)
        prompt, marks, is_long_lived = self._prompt(body, messages)
        return Ask(
            model,
            "\n".join(text for text, _ in self._blocks(body.get("system") or [], "system")),
            tuple((role, "".join(text for text, _ in blocks)) for role, blocks in messages),
            prompt,
            limit,
            thinking=thinking,
            schema=self._schema(body),
            stop=self._stops(body),
            marks=marks,
            is_sampled=bool(body.get("temperature")),
            form={"is_long_lived": is_long_lived},
        )

    def check_headers(self, request: web.Request) -> None:
        version = request.headers.get("anthropic-version")
        bearer, given = request.headers.get("Authorization"), request.headers.get("x-api-key")
        if version == BEARER_VERSION and bearer is not None and given is None:
            given = bearer.removeprefix("Bearer ")
        elif bearer is not None:
            raise Refused(self.error(401, "authentication_error", "Invalid bearer token"))
        if given is None:
            raise Refused(self.error(401, "authentication_error", "x-api-key header is required"))
        if given != self.key:
            raise Refused(self.error(401, "authentication_error", "invalid x-api-key"))
        if version is None:
            self.refuse("anthropic-version: header is required")
        if version not in (VERSION, BEARER_VERSION):
            self.refuse(f'anthropic-version: "{version}" is not a valid version')

    def _limit(self, body: Mapping[str, Any], model: ClaudeModel) -> int:
        limit = body["max_tokens"]
        if not isinstance(limit, int) or isinstance(limit, bool):
            self.refuse("max_tokens: Input should be a valid integer")
        if limit < 1:
            self.refuse("max_tokens: Input should be greater than or equal to 1")
        if limit > model.max_output_tokens:
            self.refuse(
                f"max_tokens: {limit} > {model.max_output_tokens}, which is the maximum allowed number of output "
                f"tokens for {model.name}"
            )
        return limit

    def _messages(
        self, body: Mapping[str, Any], model: ClaudeModel
    ) -> list[tuple[str, list[tuple[str, Mapping[str, Any] | None]]]]:
        """(role, its text blocks with their cache marks) of every message."""
        messages = body["messages"]
        if not isinstance(messages, list) or not messages:
            self.refuse("messages: at least one message is required")
        found = []
        for place, message in enumerate(messages):
            if not isinstance(message, dict):
                self.refuse(f"messages.{place}: Input should be an object")
            role = message.get("role")
            if role == "system":
                self.refuse(
                    'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, not '
                    '"system" as an input message role.'
                )
            if role not in ("user", "assistant"):
                self.refuse(f"messages.{place}.role: Input should be 'user' or 'assistant'")
            for name in sorted(set(message) - {"role", "content"}):
                self.refuse(f"messages.{place}.{name}: Extra inputs are not permitted")
            found.append((role, self._blocks(message.get("content"), f"messages.{place}")))
        if found[0][0] != "user":
            self.refuse('messages: first message must use the "user" role')
        if found[-1][0] == "assistant" and model.thinking != "budget":
            self.refuse(
                "This model does not support assistant message prefill. The conversation must end with a user message."
            )
        return found

    def _blocks(self, content: Any, where: str) -> list[tuple[str, Mapping[str, Any] | None]]:
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            self.refuse(f"{where}.content: Field required")
        found = []
        for place, block in enumerate(content):
            if not isinstance(block, dict) or block.get("type") != "text" or not isinstance(block.get("text"), str):
                self.refuse(f"{where}.content.{place}: Input tag does not match any of the expected tags: 'text'")
            for name in sorted(set(block) - {"type", "text", "cache_control", "citations"}):
                self.refuse(f"{where}.content.{place}.text.{name}: Extra inputs are not permitted")
            if not block["text"].strip():
                self.refuse(f"{where}: text content blocks must contain non-whitespace text")
            found.append((block["text"], self._mark(block.get("cache_control"), f"{where}.content.{place}")))
        return found

    def _mark(self, mark: Any, where: str) -> Mapping[str, Any] | None:
        if mark is None:
            return None
        if not isinstance(mark, dict) or mark.get("type") != "ephemeral" or mark.get("ttl", "5m") not in ("5m", "1h"):
            self.refuse(f"{where}.cache_control: Input should be 'ephemeral' with a ttl of '5m' or '1h'")
        return mark

    def _prompt(
        self, body: Mapping[str, Any], messages: Sequence[tuple[str, Sequence[tuple[str, Mapping[str, Any] | None]]]]
    ) -> tuple[list[str], tuple[int, ...], bool]:
        """(tokens of the prompt, places up to which it is to be cached, whether for an hour)."""
        pieces: list[str] = []
        marks: list[tuple[int, Mapping[str, Any]]] = []
        frames = [("system", self._blocks(body["system"], "system"))] if body.get("system") else []
        for role, blocks in [*frames, *messages]:
            for text, mark in blocks:
                pieces += self.prompt([(role, text)])
                if mark is not None:
                    marks.append((len(pieces), mark))
        everywhere = self._mark(body.get("cache_control"), "cache_control")
        if everywhere is not None:
            marks.append((len(pieces), everywhere))
        if len(marks) > 4:
            self.refuse(f"A maximum of 4 blocks with cache_control may be provided. Found {len(marks)}.")
        is_long_lived = bool(marks) and all(mark.get("ttl") == "1h" for _, mark in marks)
        return pieces, tuple(place for place, _ in marks), is_long_lived

    def _thinking(self, body: Mapping[str, Any], model: ClaudeModel, limit: int) -> str | int:
        output = body.get("output_config") or {}
        for name in sorted(set(output) - {"effort", "format"}):
            self.refuse(f"output_config.{name}: Extra inputs are not permitted")
        effort = output.get("effort")
        if effort is not None and not model.efforts:
            self.refuse("This model does not support the effort parameter.")
        if effort is not None and effort not in model.efforts:
            known = ", ".join(map(repr, model.efforts))
            self.refuse(f"output_config.effort: Input should be {known}")
        asked = body.get("thinking")
        kind = asked.get("type") if isinstance(asked, dict) else None
        default = "none" if model.thinking == "budget" else effort or "high"
        if asked is None:
            return default
        if kind == "disabled" and model.thinking != "always":
            return "none"
        if kind == "adaptive" and model.thinking != "budget":
            return default
        if kind == "enabled" and model.thinking == "budget":
            budget = asked.get("budget_tokens")
            if not isinstance(budget, int) or budget < 1024:
                self.refuse("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
            if budget >= limit:
                self.refuse("`max_tokens` must be greater than `thinking.budget_tokens`.")
            return budget
        instead = ' Use "thinking.type.adaptive" and "output_config.effort" to control thinking behavior.'
        self.refuse(f'"thinking.type.{kind}" is not supported for this model.{instead}')

    def _check_sampling(self, body: Mapping[str, Any], model: ClaudeModel, thinking: str | int) -> None:
        for name in ("temperature", "top_p", "top_k"):
            value = body.get(name)
            if value is None:
                continue
            if not model.takes_sampling:
                self.refuse(f"`{name}` is deprecated for this model.")
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                self.refuse(f"{name}: Input should be a valid number")
            if name != "top_k" and not 0 <= value <= 1:
                self.refuse(f"{name}: range: 0..1")
        if body.get("temperature") is not None and body.get("top_p") is not None:
            self.refuse("`temperature` and `top_p` cannot both be specified for this model.")
        if isinstance(thinking, int) and body.get("temperature") not in (None, 1):
            self.refuse("`temperature` may only be set to 1 when thinking is enabled.")

    def _stops(self, body: Mapping[str, Any]) -> tuple[str, ...]:
        stops = body.get("stop_sequences") or []
        if not isinstance(stops, list) or any(not isinstance(stop, str) for stop in stops):
            self.refuse("stop_sequences: Input should be a valid list of texts")
        if any(not stop.strip() for stop in stops):
            self.refuse("stop_sequences: each stop sequence must contain non-whitespace")
        return tuple(stops)

    def _schema(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        form = (body.get("output_config") or {}).get("format")
        if form is None:
            return None
        if not isinstance(form, dict) or form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
            self.refuse("output_config.format: Input should be of type 'json_schema' with a schema")
        for name in sorted(set(form) - {"type", "schema"}):
            self.refuse(f"output_config.format.{name}: Extra inputs are not permitted")
        schema: Mapping[str, Any] = form["schema"]
        self._check_schema(schema)
        return schema

    def _check_schema(self, part: Any) -> None:
        if not isinstance(part, dict):
            return
        kind = part.get("type", "object")
        for word in _REFUSED_WORDS:
            if word in part:
                self.refuse(f"output_config.format.schema: For '{kind}' type, property '{word}' is not supported")
        if part.get("minItems", 0) not in (0, 1):
            self.refuse(
                "output_config.format.schema: For 'array' type, 'minItems' values other than 0 or 1 are not supported"
            )
        is_object = part.get("type") == "object" or "properties" in part
        if is_object and part.get("additionalProperties") is not False:
            self.refuse(
                "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false"
            )
        for several in ("properties", "$defs", "definitions"):
            for inner in part.get(several, {}).values():
                self._check_schema(inner)
        for inner in (part.get("items"), *part.get("anyOf", ()), *part.get("allOf", ())):
            self._check_schema(inner)

    def check_context(self, ask: Ask) -> None:
        super().check_context(ask)
        is_older = isinstance(ask.model, ClaudeModel) and ask.model.thinking == "budget"
        if is_older and len(ask.prompt) + (ask.limit or 0) > ask.model.context_tokens:
            raise Refused(self.fault_context_with_limit(ask))

    def count(self, ask: Ask, written: Sequence[Written]) -> Tokens:
        assert isinstance(ask.model, ClaudeModel)
        self.cache.least = ask.model.min_cached
        n_read, n_new = self.cache.read_and_write_marked(ask.model.name, ask.prompt, ask.marks)
        is_long_lived = ask.form["is_long_lived"]
        return Tokens(
            fresh=len(ask.prompt) - n_read - n_new,
            cached=n_read,
            written=0 if is_long_lived else n_new,
            written_1h=n_new if is_long_lived else 0,
            thinking=sum(len(one.thinking) for one in written),
            answer=sum(len(one.answer) for one in written),
        )

    def document(self, ask: Ask, written: Sequence[Written], counts: Tokens) -> Sent:
        [one] = written
        content: list[dict[str, Any]] = []
        if one.thinking:
            content.append({"type": "thinking", "thinking": "".join(one.thinking), "signature": "c2lnbmF0dXJl"})
        if one.answer:
            content.append({"type": "text", "text": one.text, "citations": None})
        n_room = ask.model.context_tokens - len(ask.prompt)
        if one.stop is not None:
            reason = "stop_sequence"
        elif one.finish == "length":
            reason = "max_tokens" if (ask.limit or 0) <= n_room else "model_context_window_exceeded"
        else:
            reason = "end_turn"
        return self._message(ask, content, reason, counts, text=one.text, stop_sequence=one.stop)

    def _message(
        self,
        ask: Ask,
        content: Sequence[Mapping[str, Any]],
        reason: str,
        counts: Tokens,
        *,
        text: str,
        stop_sequence: str | None = None,
        stop_details: Mapping[str, Any] | None = None,
    ) -> Sent:
        usage = {
            "input_tokens": counts.fresh,
            "cache_creation_input_tokens": counts.written + counts.written_1h,
            "cache_read_input_tokens": counts.cached,
            "cache_creation": {
                "ephemeral_5m_input_tokens": counts.written,
                "ephemeral_1h_input_tokens": counts.written_1h,
            },
            "output_tokens": counts.output,
            "output_tokens_details": {"thinking_tokens": counts.thinking},
            "service_tier": "standard",
            "speed": "standard",
            "inference_geo": "global",
            "server_tool_use": None,
        }
        document = {
            "id": f"msg_imitation{self.serial:06d}",
            "type": "message",
            "role": "assistant",
            "model": ask.model.snapshot,
            "content": list(content),
            "stop_reason": reason,
            "stop_sequence": stop_sequence,
            "stop_details": stop_details,
            "container": None,
            "usage": usage,
        }
        return Sent(200, document, tokens=counts, text=text, finish=reason)

    def headers(self, sent: Sent) -> dict[str, str]:
        now = datetime.datetime.now(datetime.UTC)
        headers = {"request-id": f"req_{self.serial:08d}", "anthropic-organization-id": "org-imitation"}
        windows = {
            "requests": self.requests_window,
            "tokens": self.tokens_window,
            "input-tokens": self.tokens_window,
            "output-tokens": self.tokens_window,
        }
        for kind, window in windows.items():
            reset = now + datetime.timedelta(seconds=window.reset_s)
            headers[f"anthropic-ratelimit-{kind}-limit"] = str(window.limit)
            headers[f"anthropic-ratelimit-{kind}-remaining"] = str(window.remaining)
            headers[f"anthropic-ratelimit-{kind}-reset"] = reset.strftime("%Y-%m-%dT%H:%M:%SZ")
        return headers

    def entry_lines(self, model: imitation.Model) -> dict[str, str]:
        is_older = isinstance(model, ClaudeModel) and model.takes_sampling
        return {"guided": "true"} | ({} if is_older else {"sampling": "false"})

    # Refusals

    def refuse(self, message: str) -> NoReturn:
        raise Refused(self.error(400, "invalid_request_error", message))

    def error(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        error_code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Sent:
        details = None if error_code is None else {"error_code": error_code}
        error = {"type": kind, "message": message, "details": details}
        document = {"type": "error", "error": error, "request_id": f"req_{self.serial:08d}"}
        return Sent(status, document, headers or {})

    def not_found(self, request: web.Request) -> Sent:
        return self.error(404, "not_found_error", "Not found")

    def not_json(self) -> Sent:
        return self.error(400, "invalid_request_error", "The request body is not valid JSON")

    # Failures

    def fault_rate_requests(self, ask: Ask) -> Sent:
        return self._limited("requests per minute", "requests")

    def fault_rate_tokens(self, ask: Ask) -> Sent:
        return self._limited("input tokens per minute", "input-tokens")

    def _limited(self, unit: str, kind: str) -> Sent:
        said = f"This request would exceed your organization's rate limit of {self.requests_window.limit} {unit}."
        headers = {"retry-after": "1", f"anthropic-ratelimit-{kind}-remaining": "0"}
        return self.error(429, "rate_limit_error", said, headers=headers)

    def fault_rate_day(self, ask: Ask) -> Sent:
        said = "This request would exceed a limit on how fast your usage can grow."
        headers = {"retry-after": "3600"}
        return self.error(429, "rate_limit_error", said, error_code="ramp_limit_exceeded", headers=headers)

    def fault_too_large(self, ask: Ask) -> Sent:
        return Sent(413, "<html><head><title>413 Request Entity Too Large</title></head><body></body></html>")

    def fault_no_money(self, ask: Ask) -> Sent:
        said = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."
        return self.error(400, "invalid_request_error", said)

    def fault_overloaded(self, ask: Ask) -> Sent:
        return self.error(529, "overloaded_error", "Overloaded", headers={"x-should-retry": "true"})

    def fault_server_error(self, ask: Ask) -> Sent:
        return self.error(500, "api_error", "Internal server error")

    def fault_retired(self, ask: Ask) -> Sent:
        return self.error(404, "not_found_error", f"model: {ask.model.name}")

    def fault_context(self, ask: Ask) -> Sent:
        most = ask.model.context_tokens
        said = f"prompt is too long: {max(len(ask.prompt), most + 1)} tokens > {most} maximum"
        return self.error(400, "invalid_request_error", said)

    def fault_context_with_limit(self, ask: Ask) -> Sent:
        said = (
            f"input length and `max_tokens` exceed context limit: {len(ask.prompt)} + {ask.limit} > "
            f"{ask.model.context_tokens}, decrease input length or `max_tokens` and try again"
        )
        return self.error(400, "invalid_request_error", said)

    def fault_content_filter(self, ask: Ask) -> Sent:
        return self.error(400, "invalid_request_error", "Output blocked by content filtering policy")

    def fault_refusal(self, ask: Ask) -> Sent:
        details = {"type": "refusal", "category": "cyber", "explanation": "This could enable cyber harm."}
        return self._message(ask, [], "refusal", self.count(ask, ()), text="", stop_details=details)
