"""A vLLM server with a reasoning parser and guided decoding.

It drops fields that it does not know (the old `guided_*` names among them), takes any key unless it was started with
one, counts no cached tokens, writes its errors with the status as `code`, and cuts no prompt: what does not fit with
its output limit is refused. `qwen3-8b` thinks, with the thinking in `reasoning`; `qwen3-8b-raw` is the same model
behind a server without a parser, which leaves the thinking in the answer.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from aiohttp import web

from tests.support.providers import brain, chat, imitation
from tests.support.providers.bill import PriceList, Tokens, rates
from tests.support.providers.chat import ChatModel
from tests.support.providers.imitation import Ask, Imitation, Written
from tests.support.providers.sent import Refused, Sent

MAX_LOGPROBS = 20
LOWEST_LOGPROB = -9999.0

LLAMA = ChatModel(
    "llama-3.1-8b", "llama-3.1-8b", PriceList(rates("0.02", "0.06")), context_tokens=16_384, max_output_tokens=16_384
)
QWEN = ChatModel(
    "qwen3-8b",
    "qwen3-8b",
    PriceList(rates("0.03", "0.09")),
    context_tokens=16_384,
    max_output_tokens=16_384,
    efforts=("none", "low", "medium", "high"),
    default_effort="low",
)
QWEN_RAW = replace(QWEN, name="qwen3-8b-raw", snapshot="qwen3-8b-raw")


class Vllm(Imitation):
    """An own server; `key` "" for one that asks for none."""

    name = "vllm"
    route = "/v1"
    letters = 5

    @classmethod
    def default_models(cls) -> Sequence[imitation.Model]:
        return (LLAMA, QWEN, QWEN_RAW)

    def read(self, request: web.Request, body: Any) -> Ask:
        if request.path != f"{self.route}/chat/completions" or request.method != "POST":
            raise Refused(self.not_found(request))
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            raise Refused(Sent(401, {"error": "Unauthorized"}))
        if not isinstance(body, dict):
            raise Refused(self.not_json())
        model = self.models.get(body.get("model", ""))
        if not isinstance(model, ChatModel):
            said = f"The model `{body.get('model')}` does not exist."
            raise Refused(self._error(404, said, "NotFoundError"))
        messages = chat.messages_of(body, self.refuse)
        system, turns = chat.split_system(messages)
        schema, is_json, _ = chat.response_format(body, self.refuse)
        chosen, guided = self._structured(body, system, turns)
        is_asked = body.get("logprobs") is True
        n_top = chat.number(body, "top_logprobs", self.refuse, least=0, whole=True) or 0
        if is_asked and n_top > MAX_LOGPROBS:
            said = f"Requested sample logprobs of {n_top}, which is greater than max allowed: {MAX_LOGPROBS}"
            self.refuse(said, "top_logprobs", None)
        chat.number(body, "seed", self.refuse, least=-(2**63), most=2**63 - 1, whole=True)
        chat.number(body, "temperature", self.refuse, least=0)
        limit = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
        return Ask(
            model,
            system,
            turns,
            self.prompt(messages),
            chat.number(body, limit, self.refuse, least=1, whole=True),
            thinking=self._effort(body, model),
            schema=guided or schema,
            is_json=is_json or guided is not None,
            answer=chosen,
            stop=chat.stops(body, self.refuse, most=None),
            n=chat.number(body, "n", self.refuse, least=1, whole=True) or 1,
            n_top_logprobs=n_top if is_asked else None,
        )

    def _effort(self, body: Mapping[str, Any], model: ChatModel) -> str:
        template = body.get("chat_template_kwargs") or {}
        if not model.efforts or template.get("enable_thinking") is False:
            return "none"
        effort = body.get("reasoning_effort") or model.default_effort
        return effort if effort in model.efforts else model.default_effort

    def _structured(
        self, body: Mapping[str, Any], system: str, turns: Sequence[brain.Turn]
    ) -> tuple[str | None, Mapping[str, Any] | None]:
        """(the one answer that the request leaves, a schema) of `structured_outputs`."""
        given = body.get("structured_outputs")
        if given is None:
            return None, None
        kinds = [name for name in ("json", "regex", "choice", "grammar") if given.get(name) is not None]
        if len(kinds) != 1:
            self.refuse("You must use one kind of constraint for structured outputs.", "structured_outputs", None)
        own = brain.answer(system, turns)
        if kinds[0] == "json":
            return None, given["json"]
        if kinds[0] == "choice":
            return next((one for one in given["choice"] if one in own), given["choice"][0]), None
        if kinds[0] == "regex":
            fitting = (one for one in (own, *own.split(), "A", "1", "yes", "0.5") if re.fullmatch(given["regex"], one))
            found = next(fitting, None)
            if found is not None:
                return found, None
        self.refuse(f"This imitation cannot guide by {kinds[0]}.", "structured_outputs", None)

    def check_context(self, ask: Ask) -> None:
        super().check_context(ask)
        if len(ask.prompt) + (ask.limit or 0) > ask.model.context_tokens:
            raise Refused(self.fault_context_with_limit(ask))

    def document(self, ask: Ask, written: Sequence[Written], counts: Tokens) -> Sent:
        choices = [self._choice(ask, index, one) for index, one in enumerate(written)]
        document = chat.completion(
            ask,
            choices,
            chat.usage_of(counts, cached=False) | {"prompt_tokens_details": None},
            number=self.serial,
            service_tier=None,
            system_fingerprint=None,
            prompt_logprobs=None,
            kv_transfer_params=None,
        )
        content = str(choices[0]["message"]["content"] or "")
        return Sent(200, document, tokens=counts, text=content, finish=written[0].finish)

    def _choice(self, ask: Ask, index: int, one: Written) -> dict[str, Any]:
        content: str | None = one.text
        thinking = "".join(one.thinking) or None
        if thinking is not None and ask.model.name == QWEN_RAW.name:
            closed = "\n</think>\n\n" if one.answer else ""
            content, thinking = f"<think>\n{thinking}{closed}{content}", None
        elif thinking is not None and not one.answer:
            content = None
        logprobs = chat.logprobs_of(ask, one.answer, lowest=LOWEST_LOGPROB)
        made = chat.choice(
            index,
            content,
            one.finish,
            logprobs=logprobs,
            annotations=None,
            audio=None,
            tool_calls=[],
            reasoning=thinking,
        )
        made["stop_reason"] = one.stop
        return made

    def entry_lines(self, model: imitation.Model) -> dict[str, str]:
        return {"logprobs": "true", "guided": "true"}

    # Refusals

    def refuse(self, message: str, param: str | None, code: str | None) -> NoReturn:
        raise Refused(self._error(400, message, "BadRequestError", param))

    def _error(self, status: int, message: str, kind: str, param: str | None = None) -> Sent:
        return Sent(status, {"error": {"message": message, "type": kind, "param": param, "code": status}})

    def not_found(self, request: web.Request) -> Sent:
        return Sent(404, {"detail": "Not Found"})

    def not_json(self) -> Sent:
        return self._error(400, "[{'type': 'json_invalid', 'loc': ('body', 0)}]", "Bad Request")

    # Failures

    def fault_rate_requests(self, ask: Ask) -> Sent:
        return self._error(429, "The request queue is full.", "TooManyRequestsError")

    def fault_rate_tokens(self, ask: Ask) -> Sent:
        return self.fault_rate_requests(ask)

    def fault_too_large(self, ask: Ask) -> Sent:
        return self.fault_context_with_limit(ask)

    def fault_overloaded(self, ask: Ask) -> Sent:
        return self._error(503, "The server is overloaded.", "ServiceUnavailableError")

    def fault_server_error(self, ask: Ask) -> Sent:
        return self._error(500, "EngineCore encountered an issue.", "InternalServerError")

    def fault_context(self, ask: Ask) -> Sent:
        most = ask.model.context_tokens
        n_prompt = max(len(ask.prompt), most + 1)
        said = f"This model's maximum context length is {most} tokens. However, your request has {n_prompt} input "
        return self._error(400, f"{said}tokens. Please reduce the length of the input messages.", "BadRequestError")

    def fault_context_with_limit(self, ask: Ask) -> Sent:
        most, limit = ask.model.context_tokens, ask.limit or 1
        n_prompt = max(len(ask.prompt), most + 1 - limit)
        said = (
            f"'max_tokens' or 'max_completion_tokens' is too large: {limit}. This model's maximum context length is "
            f"{most} tokens and your request has {n_prompt} input tokens ({limit} > {most} - {n_prompt})."
        )
        return self._error(400, said, "BadRequestError", "max_tokens")
