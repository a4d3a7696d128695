"""Gemini's own `generateContent`.

Refused as there: keys as Bearer, roles other than user and model, unknown names at any level, level and budget of
thinking at once, a level for the 2.5 models, log-probabilities where they are not enabled, and for the newest models a
last turn of the model. Sampling parameters are read and ignored by those. Thinking is counted beside the answer; a
reply that was cut while thinking has no parts, and a blocked prompt no candidates.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from aiohttp import web

from tests.support.providers import imitation
from tests.support.providers.batch_gemini import GeminiBatches
from tests.support.providers.bill import PriceList, Tokens, rates
from tests.support.providers.imitation import Ask, Imitation, Written
from tests.support.providers.sent import Refused, Sent

_FIELDS = frozenset(
    {
        "cachedContent",
        "contents",
        "generationConfig",
        "labels",
        "model",
        "safetySettings",
        "serviceTier",
        "store",
        "systemInstruction",
        "toolConfig",
        "tools",
    }
)
_CONFIG = frozenset(
    {
        "audioTimestamp",
        "audioTranscriptionConfig",
        "candidateCount",
        "enableAffectiveDialog",
        "enableEnhancedCivicAnswers",
        "frequencyPenalty",
        "imageConfig",
        "logprobs",
        "maxOutputTokens",
        "mediaResolution",
        "presencePenalty",
        "responseJsonSchema",
        "responseLogprobs",
        "responseMimeType",
        "responseModalities",
        "responseSchema",
        "seed",
        "speechConfig",
        "stopSequences",
        "temperature",
        "thinkingConfig",
        "topK",
        "topP",
    }
)
_THINKING = frozenset({"includeThoughts", "thinkingBudget", "thinkingLevel"})
_PATH = re.compile(r"/v1(?:beta)?/models/([^/:]+):generateContent")


@dataclass(frozen=True, slots=True)
class GeminiModel(imitation.Model):
    """`levels`: thinking levels it knows; () for the 2.5 models, which know budgets. `is_new`: sampling parameters are
    ignored, and the model cannot have the last turn."""

    levels: tuple[str, ...] = ()
    default_effort: str = "medium"
    can_stop_thinking: bool = True
    has_logprobs: bool = False
    is_new: bool = False


FLASH_25 = GeminiModel(
    "gemini-2.5-flash",
    "gemini-2.5-flash",
    PriceList(rates("0.3", "2.5", cached="0.03")),
    context_tokens=1_048_576,
    max_output_tokens=65_536,
    has_logprobs=True,
)
PRO_25 = GeminiModel(
    "gemini-2.5-pro",
    "gemini-2.5-pro",
    PriceList(rates("1.25", "10", cached="0.125"), 200_000, rates("2.5", "15", cached="0.25")),
    context_tokens=1_048_576,
    max_output_tokens=65_536,
    can_stop_thinking=False,
)
FLASH_LITE_35 = GeminiModel(
    "gemini-3.5-flash-lite",
    "gemini-3.5-flash-lite",
    PriceList(rates("0.3", "2.5", cached="0.03")),
    context_tokens=1_048_576,
    max_output_tokens=65_536,
    levels=("MINIMAL", "LOW", "MEDIUM", "HIGH"),
    default_effort="low",
    is_new=True,
)
FLASH_38 = GeminiModel(
    "gemini-3.8-flash",
    "gemini-3.8-flash",
    PriceList(rates("0.75", "3.75", cached="0.075")),
    context_tokens=1_048_576,
    max_output_tokens=65_536,
    levels=("LOW", "MEDIUM", "HIGH"),
    is_new=True,
)


class Gemini(Imitation):
    """`generativelanguage.googleapis.com`, with the key in `x-goog-api-key`, or as `key` of the query.

    `/v1beta` and `/v1` (what the vendor's own SDK asks since 3.0) take the same.
    """

    name = "gemini"
    route = "/v1beta"
    batch_form = GeminiBatches
    letters = 5
    tokens_per_message = 1

    @classmethod
    def default_models(cls) -> Sequence[imitation.Model]:
        return (FLASH_25, PRO_25, FLASH_LITE_35, FLASH_38)

    def read(self, request: web.Request, body: Any) -> Ask:
        path = _PATH.fullmatch(request.path)
        if path is None or request.method != "POST":
            raise Refused(self.not_found(request))
        self.check_key(request)
        model = self.models.get(path[1])
        if not isinstance(model, GeminiModel):
            said = f"models/{path[1]} is not found for API version v1beta, or is not supported for generateContent."
            raise Refused(self.error(404, "NOT_FOUND", said))
        if not isinstance(body, dict):
            raise Refused(self.not_json())
        return self.read_content(body, model)

    def read_content(self, body: Mapping[str, Any], model: GeminiModel) -> Ask:
        """The body, checked for this model."""
        body = self.named(body, _FIELDS, "")
        config = self.named(body.get("generationConfig") or {}, _CONFIG, "generation_config")
        turns = self._turns(body, model)
        system = "\n".join(self._texts(body.get("systemInstruction") or {"parts": []}, "system_instruction"))
        schema = self._schema(config)
        asked = self.named(config.get("thinkingConfig") or {}, _THINKING, "generation_config.thinking_config")
        thinking = self._thinking(asked, model)
        limit = self._whole(config, "maxOutputTokens", 1, model.max_output_tokens)
        self._whole(config, "seed", -(2**31), 2**31 - 1)
        stops = config.get("stopSequences") or []
        if len(stops) > 5:
            self.refuse("The number of stop sequences must be at most 5.")
        if not model.is_new and not 0 <= (config.get("temperature") or 0) <= 2:
            self.refuse("temperature must be in the range [0.0, 2.0].")
        messages = [("system", system)] if system else []
        return Ask(
            model,
            system,
            turns,
            self.prompt([*messages, *turns]),
            limit,
            thinking=thinking,
            schema=schema,
            is_json=schema is not None or config.get("responseMimeType") == "application/json",
            stop=tuple(stops),
            n=1 if model.is_new else config.get("candidateCount") or 1,
            n_top_logprobs=self._logprobs(config, model),
            seed=config.get("seed") or 0,
            is_sampled=bool(config.get("temperature")),
            form={"shows_thoughts": bool(asked.get("includeThoughts"))},
        )

    def check_key(self, request: web.Request) -> None:
        if request.headers.get("Authorization"):
            said = "Request had invalid authentication credentials. Expected OAuth 2 access token."
            raise Refused(self.error(401, "UNAUTHENTICATED", said))
        given = request.headers.get("x-goog-api-key") or request.query.get("key")
        if not given:
            said = "Method doesn't allow unregistered callers (callers without established identity)."
            raise Refused(self.error(403, "PERMISSION_DENIED", said))
        if given != self.key:
            info = {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
                "metadata": {"service": "generativelanguage.googleapis.com"},
            }
            said = "API key not valid. Please pass a valid API key."
            raise Refused(self.error(400, "INVALID_ARGUMENT", said, details=[info]))

    def named(self, fields: Mapping[str, Any], known: frozenset[str], where: str) -> dict[str, Any]:
        """The fields by their JSON names; the server takes `max_output_tokens` as well as `maxOutputTokens`."""
        found = {}
        for name, value in fields.items():
            camel = re.sub(r"_([a-z])", lambda letter: letter[1].upper(), name)
            if camel not in known:
                at = f" at '{where}'" if where else ""
                said = f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.'
                violation = {"field": where, "description": said}
                bad = {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}
                raise Refused(self.error(400, "INVALID_ARGUMENT", said, details=[bad]))
            found[camel] = value
        return found

    def _turns(self, body: Mapping[str, Any], model: GeminiModel) -> tuple[tuple[str, str], ...]:
        contents = body.get("contents")
        if not isinstance(contents, list) or not contents:
            self.refuse("* GenerateContentRequest.contents: contents is not specified")
        turns = []
        for place, content in enumerate(contents):
            self.named(content, frozenset({"role", "parts"}), f"contents[{place}]")
            role = content.get("role", "user")
            if role not in ("user", "model"):
                self.refuse("Please use a valid role: user, model.")
            texts = self._texts(content, f"contents[{place}]")
            if not texts:
                self.refuse(f"* GenerateContentRequest.contents[{place}].parts: contents.parts must not be empty.")
            turns.append(("assistant" if role == "model" else "user", "".join(texts)))
        if model.is_new and turns[-1][0] == "assistant":
            self.refuse("Please ensure that the last turn of the conversation is from the user.")
        return tuple(turns)

    def _texts(self, content: Mapping[str, Any], where: str) -> list[str]:
        texts = []
        for place, part in enumerate(content.get("parts") or []):
            self.named(part, frozenset({"text", "thought", "thoughtSignature"}), f"{where}.parts[{place}]")
            if not isinstance(part.get("text"), str):
                self.refuse(f"* {where}.parts[{place}].data: required oneof field 'data' must have one initialized")
            texts.append(part["text"])
        return texts

    def _thinking(self, asked: Mapping[str, Any], model: GeminiModel) -> str | int:
        level, budget = asked.get("thinkingLevel"), asked.get("thinkingBudget")
        if level is not None and budget is not None:
            self.refuse("You can only set only one of thinking budget and thinking level.")
        if level is not None:
            if not model.levels:
                self.refuse("Thinking level is not supported for this model.")
            if str(level).upper() not in model.levels:
                self.refuse(f"Thinking level {level} is not supported for this model.")
            return str(level).lower()
        if budget is None or budget == -1:
            return model.default_effort
        if not isinstance(budget, int) or not 0 <= budget <= 32_768:
            self.refuse(f"The thinking budget ({budget}) is invalid.")
        if budget == 0:
            if not model.can_stop_thinking:
                self.refuse("Budget 0 is invalid. This model only works in thinking mode.")
            return "none"
        return budget

    def _schema(self, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
        given = [name for name in ("responseSchema", "responseJsonSchema") if config.get(name) is not None]
        if len(given) == 2:
            self.refuse("response_schema and response_json_schema cannot both be set.")
        if not given:
            return None
        if config.get("responseMimeType") != "application/json":
            self.refuse(f"{given[0]} needs response_mime_type application/json.")
        schema = config[given[0]]
        if not isinstance(schema, dict):
            self.refuse("The schema must be an object.")
        return _lower_types(schema) if given[0] == "responseSchema" else schema

    def _logprobs(self, config: Mapping[str, Any], model: GeminiModel) -> int | None:
        n_top = config.get("logprobs")
        if not config.get("responseLogprobs"):
            if n_top is not None:
                self.refuse("logprobs needs response_logprobs to be true.")
            return None
        if not model.has_logprobs:
            self.refuse(f"Logprobs is not enabled for models/{model.name}")
        return self._whole(config, "logprobs", 0, 20) or 0

    def _whole(self, config: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
        value = config.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(f"Invalid value at 'generation_config.{name}' (TYPE_INT32), {value!r}")
        if not least <= value <= most:
            self.refuse(f"{name} must be within the range from {least} (inclusive) to {most + 1} (exclusive).")
        return value

    def count(self, ask: Ask, written: Sequence[Written]) -> Tokens:
        n_cached, _ = self.cache.read_and_write(ask.model.name, ask.prompt)
        return Tokens(
            fresh=len(ask.prompt) - n_cached,
            cached=n_cached,
            thinking=sum(len(one.thinking) for one in written),
            answer=sum(len(one.answer) for one in written),
        )

    def document(self, ask: Ask, written: Sequence[Written], counts: Tokens) -> Sent:
        candidates = [self._candidate(ask, index, one) for index, one in enumerate(written)]
        return self._content(
            ask, candidates, counts, text=written[0].text, finish=str(candidates[0].get("finishReason"))
        )

    def _candidate(self, ask: Ask, index: int, one: Written) -> dict[str, Any]:
        parts: list[dict[str, Any]] = []
        if one.thinking and ask.form["shows_thoughts"]:
            parts.append({"text": "".join(one.thinking), "thought": True})
        if one.answer:
            parts.append({"text": one.text})
        content = {"role": "model", "parts": parts} if parts else {"role": "model"}
        reason = "STOP" if one.finish == "stop" else "MAX_TOKENS"
        candidate: dict[str, Any] = {"content": content, "finishReason": reason, "index": index}
        if ask.n_top_logprobs is not None:
            found = imitation.logprobs(one.answer, ask.n_top_logprobs)
            chosen = [self._logprob(each.token, each.logprob) for each in found]
            tops = [{"candidates": [self._logprob(*pair) for pair in each.top]} for each in found]
            candidate["avgLogprobs"] = sum(each.logprob for each in found) / max(1, len(found))
            candidate["logprobsResult"] = {"chosenCandidates": chosen, "topCandidates": tops}
        return candidate

    @staticmethod
    def _logprob(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "tokenId": sum(token.encode()), "logProbability": logprob}

    def _content(
        self,
        ask: Ask,
        candidates: Sequence[Mapping[str, Any]],
        counts: Tokens,
        *,
        text: str = "",
        finish: str = "",
        **more: Any,
    ) -> Sent:
        usage = {"promptTokenCount": counts.prompt, "totalTokenCount": counts.prompt + counts.output}
        if counts.answer:
            usage["candidatesTokenCount"] = counts.answer
        if counts.thinking:
            usage["thoughtsTokenCount"] = counts.thinking
        if counts.cached:
            usage["cachedContentTokenCount"] = counts.cached
        document: dict[str, Any] = {
            "usageMetadata": usage,
            "modelVersion": ask.model.snapshot,
            "responseId": f"imitation{self.serial:06d}",
        }
        if candidates:
            document["candidates"] = list(candidates)
        return Sent(200, document | more, tokens=counts, text=text, finish=finish)

    def headers(self, sent: Sent) -> dict[str, str]:
        return {"server-timing": "gfet4t7; dur=12"}

    def entry_lines(self, model: imitation.Model) -> dict[str, str]:
        is_new = isinstance(model, GeminiModel) and model.is_new
        return {"guided": "true"} | ({"sampling": "false"} if is_new else {})

    # Refusals

    def refuse(self, message: str) -> NoReturn:
        raise Refused(self.error(400, "INVALID_ARGUMENT", message))

    def error(
        self, status: int, word: str, message: str, *, details: Sequence[Mapping[str, Any]] | None = None
    ) -> Sent:
        error: dict[str, Any] = {"code": status, "message": message, "status": word}
        if details is not None:
            error["details"] = list(details)
        return Sent(status, {"error": error})

    def not_found(self, request: web.Request) -> Sent:
        return Sent(404, "<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>")

    def not_json(self) -> Sent:
        return self.error(400, "INVALID_ARGUMENT", "Invalid JSON payload received. Unexpected token.")

    # Failures

    def _quota(self, ask: Ask, quota: str, limit: int, delay: str) -> Sent:
        violation = {
            "quotaMetric": "generativelanguage.googleapis.com/generate_content_requests",
            "quotaId": quota,
            "quotaDimensions": {"location": "global", "model": ask.model.name},
            "quotaValue": str(limit),
        }
        details: list[dict[str, Any]] = [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
        ]
        said = "You exceeded your current quota, please check your plan and billing details."
        return self.error(429, "RESOURCE_EXHAUSTED", said, details=details)

    def fault_rate_requests(self, ask: Ask) -> Sent:
        limit = self.requests_window.limit
        return self._quota(ask, "GenerateRequestsPerMinutePerProjectPerModel", limit, "0.2s")

    def fault_rate_tokens(self, ask: Ask) -> Sent:
        limit = self.tokens_window.limit
        return self._quota(ask, "GenerateContentInputTokensPerModelPerMinute", limit, "0.2s")

    def fault_rate_day(self, ask: Ask) -> Sent:
        return self._quota(ask, "GenerateRequestsPerDayPerProjectPerModel-FreeTier", 20, "36s")

    def fault_too_large(self, ask: Ask) -> Sent:
        limit = self.tokens_window.limit
        return self._quota(ask, "GenerateContentInputTokensPerModelPerMinute", limit, "58s")

    def fault_no_money(self, ask: Ask) -> Sent:
        said = "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing."
        return self.error(402, "RESOURCE_EXHAUSTED", said)

    def fault_overloaded(self, ask: Ask) -> Sent:
        return self.error(503, "UNAVAILABLE", "The model is overloaded. Please try again later.")

    def fault_server_error(self, ask: Ask) -> Sent:
        return self.error(500, "INTERNAL", "An internal error has occurred. Please retry.")

    def fault_retired(self, ask: Ask) -> Sent:
        return self.error(404, "NOT_FOUND", f"models/{ask.model.name} is no longer available.")

    def fault_context(self, ask: Ask) -> Sent:
        most = ask.model.context_tokens
        n_tokens = max(len(ask.prompt), most + 1)
        said = f"The input token count ({n_tokens}) exceeds the maximum number of tokens allowed ({most})."
        return self.error(400, "INVALID_ARGUMENT", said)

    def fault_content_filter(self, ask: Ask) -> Sent:
        feedback = {"blockReason": "PROHIBITED_CONTENT"}
        return self._content(ask, (), self.count(ask, ()), finish="PROHIBITED_CONTENT", promptFeedback=feedback)

    def fault_filtered_reply(self, ask: Ask) -> Sent:
        return self._content(ask, [{"finishReason": "SAFETY", "index": 0}], self.count(ask, ()), finish="SAFETY")

    def fault_finish_error(self, ask: Ask) -> Sent:
        candidate = {"content": {"role": "model"}, "finishReason": "MALFORMED_RESPONSE", "index": 0}
        return self._content(ask, [candidate], self.count(ask, ()), finish="MALFORMED_RESPONSE")

    def fault_empty_choices(self, ask: Ask) -> Sent:
        return self._content(ask, (), self.count(ask, ()))


def _lower_types(schema: Any) -> Any:
    """`responseSchema` writes its types in capitals."""
    if isinstance(schema, dict):
        return {
            name: value.lower() if name == "type" and isinstance(value, str) else _lower_types(value)
            for name, value in schema.items()
        }
    return [_lower_types(each) for each in schema] if isinstance(schema, list) else schema
