"""OpenAI's chat completions: the reasoning family, and gpt-4.1, which takes the old parameters.

Refused as there: unknown fields, `max_tokens` for models that reason, temperature, top_p and log-probabilities unless
the effort is none, `stop` for those that think, an effort the model does not know, both limits at once, a strict schema
that is not closed. Reasoning is counted within the completion; a prompt from 1,024 tokens on is cached by itself, and
from gpt-5.6 on writing the cache is billed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from aiohttp import web

from tests.support.providers import chat
from tests.support.providers.batch_openai import OpenAIBatches
from tests.support.providers.bill import PriceList, Tokens, rates
from tests.support.providers.chat import ChatModel
from tests.support.providers.imitation import Ask, Imitation, Model, Written
from tests.support.providers.sent import Refused, Sent

_FIELDS = frozenset(
    {
        "messages",
        "model",
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "modalities",
        "moderation",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
EFFORTS = ("none", "low", "medium", "high", "xhigh")

GPT_41_MINI = ChatModel(
    "gpt-4.1-mini",
    "gpt-4.1-mini-2025-04-14",
    PriceList(rates("0.4", "1.6", cached="0.1")),
    context_tokens=1_047_576,
    max_output_tokens=32_768,
)
GPT_5_MINI = ChatModel(
    "gpt-5-mini",
    "gpt-5-mini-2025-08-07",
    PriceList(rates("0.25", "2", cached="0.025")),
    context_tokens=272_000,
    max_output_tokens=128_000,
    efforts=("minimal", "low", "medium", "high"),
    default_effort="medium",
    sampling="never",
    takes_max_tokens=False,
    takes_stop=False,
)
GPT_6_LUNA = ChatModel(
    "gpt-6-luna",
    "gpt-6-luna-2026-08-20",
    PriceList(
        rates("0.1", "0.5", cached="0.01", cache_write="0.125"),
        272_000,
        rates("0.2", "0.75", cached="0.02", cache_write="0.25"),
    ),
    context_tokens=922_000,
    max_output_tokens=128_000,
    efforts=EFFORTS,
    default_effort="medium",
    sampling="without_effort",
    takes_max_tokens=False,
    takes_stop=False,
    writes_cache=True,
)
GPT_6_ASTRA = ChatModel(
    "gpt-6-astra",
    "gpt-6-astra-2026-09-15",
    PriceList(
        rates("10", "50", cached="1", cache_write="12.5"),
        272_000,
        rates("20", "75", cached="2", cache_write="25"),
    ),
    context_tokens=922_000,
    max_output_tokens=128_000,
    efforts=("low", "medium", "high", "xhigh"),
    default_effort="medium",
    sampling="never",
    takes_max_tokens=False,
    takes_stop=False,
    writes_cache=True,
)


class OpenAI(Imitation):
    """`api.openai.com`, with Bearer keys."""

    name = "openai"
    route = "/v1"
    batch_form = OpenAIBatches

    @classmethod
    def default_models(cls) -> Sequence[Model]:
        return (GPT_41_MINI, GPT_5_MINI, GPT_6_LUNA, GPT_6_ASTRA)

    def read(self, request: web.Request, body: Any) -> Ask:
        if request.path != f"{self.route}/chat/completions" or request.method != "POST":
            raise Refused(self.not_found(request))
        self.check_key(request)
        if not isinstance(body, dict):
            raise Refused(self.not_json())
        return self.read_body(body, self.model_named(body))

    def check_key(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "")
        if not given.startswith("Bearer "):
            said = "You didn't provide an API key. You need to provide it in an Authorization header using Bearer auth."
            raise Refused(self.error(401, said))
        if given.removeprefix("Bearer ") != self.key:
            shown = f"{given[7:10]}****{given[-4:]}"
            raise Refused(self.error(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key"))

    def model_named(self, body: Mapping[str, Any]) -> ChatModel:
        named = body.get("model")
        if not isinstance(named, str):
            self.refuse("you must provide a model parameter", None, None)
        model = self.models.get(named)
        if not isinstance(model, ChatModel):
            said = f"The model `{named}` does not exist or you do not have access to it."
            raise Refused(self.error(404, said, code="model_not_found"))
        return model

    def read_body(self, body: Mapping[str, Any], model: ChatModel) -> Ask:
        """The body, checked for this model."""
        refuse = self.refuse
        known = _FIELDS if model.efforts else _FIELDS - {"reasoning_effort", "verbosity"}
        for name in sorted(set(body) - known):
            refuse(f"Unrecognized request argument supplied: {name}", None, None)
        if body.get("stream"):
            refuse("This imitation does not stream.", "stream", "unsupported_value")
        messages = chat.messages_of(body, refuse)
        effort = self._effort(body, model)
        self._check_sampling(body, model, effort)
        limit = self._limit(body, model)
        is_asked = body.get("logprobs") is True
        n_top = chat.number(body, "top_logprobs", refuse, least=0, most=20, whole=True)
        if n_top is not None and not is_asked:
            refuse("'top_logprobs' is only allowed when 'logprobs' is true.", "top_logprobs", "invalid_value")
        schema, is_json, is_strict = chat.response_format(body, refuse)
        if schema is not None and is_strict:
            chat.check_strict(schema, body["response_format"]["json_schema"]["name"], refuse)
        if is_json and schema is None and not any("json" in text.lower() for _, text in messages):
            said = "'messages' must contain the word 'json' in some form, to use 'response_format' of type "
            refuse(f"{said}'json_object'.", "messages", None)
        system, turns = chat.split_system(messages)
        return Ask(
            model,
            system,
            turns,
            self.prompt(messages),
            limit,
            thinking=effort,
            schema=schema,
            is_json=is_json,
            stop=chat.stops(body, refuse),
            n=chat.number(body, "n", refuse, least=1, most=128, whole=True) or 1,
            n_top_logprobs=(n_top or 0) if is_asked else None,
            seed=int(body.get("seed") or 0),
            is_sampled=bool(body.get("temperature")),
            form={"tier": body.get("service_tier"), "effort": effort},
        )

    def _effort(self, body: Mapping[str, Any], model: ChatModel) -> str:
        effort = body.get("reasoning_effort") or model.default_effort
        if model.efforts and effort not in model.efforts:
            known = ", ".join(map(repr, model.efforts))
            self.refuse(
                f"Unsupported value: 'reasoning_effort' does not support '{effort}' with this model. "
                f"Supported values are: {known}.",
                "reasoning_effort",
                "unsupported_value",
            )
        return str(effort)

    def _check_sampling(self, body: Mapping[str, Any], model: ChatModel, effort: str) -> None:
        refuse = self.refuse
        temperature = chat.number(body, "temperature", refuse, least=0, most=2)
        chat.number(body, "top_p", refuse, least=0, most=1)
        chat.number(body, "seed", refuse, least=-(2**63), most=2**63 - 1, whole=True)
        for name in ("presence_penalty", "frequency_penalty"):
            chat.number(body, name, refuse, least=-2, most=2)
        if body.get("stop") is not None and not model.takes_stop:
            self._unsupported("stop")
        if model.takes_sampling(effort):
            return
        if temperature not in (None, 1):
            refuse(
                f"Unsupported value: 'temperature' does not support {temperature} with this model. "
                "Only the default (1) value is supported.",
                "temperature",
                "unsupported_value",
            )
        for name in ("top_p", "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty", "logit_bias"):
            if body.get(name) not in (None, False):
                self._unsupported(name)

    def _unsupported(self, name: str, instead: str = "") -> NoReturn:
        self.refuse(
            f"Unsupported parameter: '{name}' is not supported with this model.{instead}",
            name,
            "unsupported_parameter",
        )

    def _limit(self, body: Mapping[str, Any], model: ChatModel) -> int | None:
        given = [name for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
        if len(given) == 2:
            self.refuse(
                "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
                "max_tokens",
                "invalid_parameter_combination",
            )
        if not given:
            return None
        if given[0] == "max_tokens" and not model.takes_max_tokens:
            self._unsupported("max_tokens", " Use 'max_completion_tokens' instead.")
        limit = int(chat.number(body, given[0], self.refuse, least=1, whole=True))
        if limit > model.max_output_tokens:
            self.refuse(
                f"{given[0]} is too large: {limit}. This model supports at most {model.max_output_tokens} completion "
                f"tokens, whereas you provided {limit}.",
                given[0],
                "invalid_value",
            )
        return limit

    def count(self, ask: Ask, written: Sequence[Written]) -> Tokens:
        n_cached, n_written = self.cache.read_and_write(ask.model.name, ask.prompt)
        if not (isinstance(ask.model, ChatModel) and ask.model.writes_cache):
            n_written = 0
        return Tokens(
            fresh=len(ask.prompt) - n_cached - n_written,
            cached=n_cached,
            written=n_written,
            thinking=sum(len(one.thinking) for one in written),
            answer=sum(len(one.answer) for one in written),
        )

    def document(self, ask: Ask, written: Sequence[Written], counts: Tokens) -> Sent:
        choices = [
            chat.choice(index, one.text, one.finish, logprobs=chat.logprobs_of(ask, one.answer), annotations=[])
            for index, one in enumerate(written)
        ]
        return self.completed(ask, choices, counts, text=written[0].text, finish=written[0].finish)

    def completed(
        self, ask: Ask, choices: Sequence[Mapping[str, Any]], counts: Tokens, *, text: str, finish: str
    ) -> Sent:
        writes = isinstance(ask.model, ChatModel) and ask.model.writes_cache
        document = chat.completion(
            ask,
            choices,
            chat.usage_of(counts, written=writes, thinks=True),
            number=self.serial,
            service_tier="default",
            system_fingerprint=None,
        )
        return Sent(200, document, tokens=counts, text=text, finish=finish)

    def headers(self, sent: Sent) -> dict[str, str]:
        headers = {"x-request-id": f"req_{self.serial:08d}", "openai-processing-ms": "12"}
        for kind, window in (("requests", self.requests_window), ("tokens", self.tokens_window)):
            headers[f"x-ratelimit-limit-{kind}"] = str(window.limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(window.remaining)
            headers[f"x-ratelimit-reset-{kind}"] = _duration(window.reset_s)
        return headers

    def entry_lines(self, model: Model) -> dict[str, str]:
        lines = {"guided": "true"}
        if isinstance(model, ChatModel) and model.takes_sampling(model.default_effort):
            return lines | {"logprobs": "true"}
        return lines | {"sampling": "false", "omit": '["stop"]'}

    # Refusals

    def refuse(self, message: str, param: str | None, code: str | None) -> NoReturn:
        raise Refused(self.error(400, message, param=param, code=code))

    def error(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Sent:
        error = {"message": message, "type": kind, "param": param, "code": code}
        return Sent(status, {"error": error}, headers or {})

    def not_found(self, request: web.Request) -> Sent:
        return self.error(404, f"Invalid URL ({request.method} {request.path})")

    def not_json(self) -> Sent:
        return self.error(400, "We could not parse the JSON body of your request.")

    # Failures

    def fault_rate_requests(self, ask: Ask) -> Sent:
        window = self.requests_window
        return self._limited(ask, "requests", "requests per min (RPM)", window.limit, window.limit, 1, 0.12)

    def fault_rate_tokens(self, ask: Ask) -> Sent:
        window = self.tokens_window
        wanted = len(ask.prompt) + (ask.limit or 0)
        return self._limited(ask, "tokens", "tokens per min (TPM)", window.limit, window.limit - 1, wanted, 0.2)

    def fault_rate_day(self, ask: Ask) -> Sent:
        return self._limited(ask, "requests", "requests per day (RPD)", 10_000, 10_000, 1, 8_640.0)

    def _limited(self, ask: Ask, kind: str, unit: str, limit: int, used: int, requested: int, wait_s: float) -> Sent:
        said = (
            f"Rate limit reached for {ask.model.name} in organization org-imitation on {unit}: Limit {limit}, "
            f"Used {used}, Requested {requested}. Please try again in {_duration(wait_s)}."
        )
        headers = {
            "retry-after-ms": str(round(wait_s * 1000)),
            "retry-after": str(max(1, round(wait_s))),
            f"x-ratelimit-remaining-{kind}": "0",
            f"x-ratelimit-reset-{kind}": _duration(wait_s),
        }
        return self.error(429, said, kind=kind, code="rate_limit_exceeded", headers=headers)

    def fault_too_large(self, ask: Ask) -> Sent:
        limit = self.tokens_window.limit
        requested = max(limit + 1, len(ask.prompt) + (ask.limit or 0))
        said = (
            f"Request too large for {ask.model.name} in organization org-imitation on tokens per min (TPM): "
            f"Limit {limit}, Requested {requested}. The input or output tokens must be reduced in order to run "
            "successfully."
        )
        return self.error(429, said, kind="tokens", code="rate_limit_exceeded")

    def fault_no_money(self, ask: Ask) -> Sent:
        said = "You exceeded your current quota, please check your plan and billing details."
        return self.error(429, said, kind="insufficient_quota", code="insufficient_quota")

    def fault_overloaded(self, ask: Ask) -> Sent:
        said = "The server is currently overloaded. Please try again later."
        return self.error(503, said, kind="server_error", headers={"retry-after-ms": "50"})

    def fault_server_error(self, ask: Ask) -> Sent:
        said = "The server had an error while processing your request. Sorry about that!"
        return self.error(500, said, kind="server_error")

    def fault_retired(self, ask: Ask) -> Sent:
        said = f"The model `{ask.model.name}` has been deprecated."
        return self.error(404, said, code="model_not_found")

    def fault_context(self, ask: Ask) -> Sent:
        said = (
            f"Input tokens exceed the configured limit of {ask.model.context_tokens} tokens. Your messages resulted in "
            f"{max(len(ask.prompt), ask.model.context_tokens + 1)} tokens. Please reduce the length of the messages."
        )
        return self.error(400, said, param="messages", code="context_length_exceeded")

    def fault_content_filter(self, ask: Ask) -> Sent:
        said = "Invalid prompt: your prompt was flagged as potentially violating our usage policy."
        return self.error(400, said, code="invalid_prompt")

    def fault_filtered_reply(self, ask: Ask) -> Sent:
        counts = self.count(ask, ())
        return self.completed(ask, [chat.choice(0, "", "content_filter")], counts, text="", finish="content_filter")

    def fault_refusal(self, ask: Ask) -> Sent:
        said = "I'm sorry, but I can't help with that."
        counts = self.count(ask, (Written([], said.split(), "stop"),))
        return self.completed(ask, [chat.choice(0, None, "stop", refusal=said)], counts, text=said, finish="refusal")


def _duration(seconds: float) -> str:
    """As OpenAI writes durations: `120ms`, `1s`, `6m0s`, `2h24m0s`."""
    if seconds < 1:
        return f"{max(1, round(seconds * 1000))}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + tail
