"""Azure OpenAI: OpenAI's models behind deployments, with two addresses and one kind of key.

`base_url` is the newer address, where the deployment is the `model` of the body; `classic_url` the older one, where it
stands in the path and an `api-version` is needed. Both take the key in the header `api-key` only.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web

from tests.support.providers import openai
from tests.support.providers.batch_openai import Habits, OpenAIBatches
from tests.support.providers.bill import PriceList, Tokens, rates
from tests.support.providers.chat import ChatModel
from tests.support.providers.imitation import Ask, Model, Written
from tests.support.providers.sent import Refused, Sent

_CLASSIC = re.compile(r"/openai/deployments/([^/]+)/chat/completions")
API_VERSION = "2024-10-21"
_SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}

OUR_MINI = replace(openai.GPT_41_MINI, name="our-mini", prices=PriceList(rates("0.44", "1.76", cached="0.11")))
OUR_THINKER = replace(openai.GPT_5_MINI, name="our-thinker")
OUR_MINI_BATCH = replace(OUR_MINI, name="our-mini-batch")
FOR_BATCHES = frozenset({OUR_MINI_BATCH.name})
"""Deployments of the kind Global-Batch: they take batches and nothing else, and the others take none."""


class AzureBatches(OpenAIBatches):
    """Jobs that never expire."""

    habits = Habits(most_lines=100_000, expires=False)

    def path_of(self, request: web.Request) -> str:
        """Behind either address; the older one needs its version."""
        if newer := super().path_of(request):
            return newer
        is_versioned = request.query.get("api-version") == API_VERSION
        return request.path.removeprefix("/openai") if is_versioned and request.path.startswith("/openai/") else ""

    @property
    def endpoint(self) -> str:
        return "/chat/completions"

    def refused_model(self, model: Any) -> tuple[str, str] | None:
        if model in FOR_BATCHES:
            return None
        said = "The deployment specified is not a batch deployment, or does not exist."
        return "invalid_deployment" if model in self.server.models else "model_not_found", said


class Azure(openai.OpenAI):
    """A resource with two deployments: `our-mini` is gpt-4.1-mini, `our-thinker` is gpt-5-mini."""

    name = "azure"
    route = "/openai/v1"
    batch_form = AzureBatches

    @classmethod
    def default_models(cls) -> Sequence[Model]:
        return (OUR_MINI, OUR_THINKER)

    @property
    def classic_url(self) -> str:
        return f"{self.base_url.removesuffix(self.route)}?api-version={API_VERSION}"

    def read(self, request: web.Request, body: Any) -> Ask:
        classic = _CLASSIC.fullmatch(request.path)
        is_new = request.path == f"{self.route}/chat/completions"
        is_versioned = request.query.get("api-version") == API_VERSION
        if request.method != "POST" or not (is_new or (classic and is_versioned)):
            raise Refused(self.not_found(request))
        self.check_key(request)
        if not isinstance(body, dict):
            raise Refused(self.not_json())
        named = classic[1] if classic else body.get("model")
        model = self.models.get(named) if isinstance(named, str) else None
        if not isinstance(model, ChatModel):
            said = "The API deployment for this resource does not exist."
            raise Refused(Sent(404, {"error": {"code": "DeploymentNotFound", "message": said}}))
        if named in FOR_BATCHES:
            said = "The chatCompletion operation does not work with this deployment: its type is GlobalBatch."
            raise Refused(Sent(400, {"error": {"code": "OperationNotSupported", "message": said}}))
        ask = self.read_body(body, model)
        return replace(ask, form={**ask.form, "is_classic": classic is not None})

    def check_key(self, request: web.Request) -> None:
        if request.headers.get("api-key") != self.key:
            said = "Access denied due to invalid subscription key or wrong API endpoint."
            raise Refused(Sent(401, {"error": {"code": "401", "message": said}}))

    def not_found(self, request: web.Request) -> Sent:
        return Sent(404, {"error": {"code": "404", "message": "Resource not found"}})

    def document(self, ask: Ask, written: Sequence[Written], counts: Tokens) -> Sent:
        sent = super().document(ask, written, counts)
        for each in sent.document["choices"]:
            each["content_filter_results"] = _SAFE
        return sent

    def completed(
        self, ask: Ask, choices: Sequence[Mapping[str, Any]], counts: Tokens, *, text: str, finish: str
    ) -> Sent:
        sent = super().completed(ask, choices, counts, text=text, finish=finish)
        sent.document["prompt_filter_results"] = [{"prompt_index": 0, "content_filter_results": _SAFE}]
        return sent

    def headers(self, sent: Sent) -> dict[str, str]:
        headers = {"apim-request-id": f"{self.serial:08d}", "x-ms-region": "Sweden Central"}
        for kind, window in (("requests", self.requests_window), ("tokens", self.tokens_window)):
            headers[f"x-ratelimit-limit-{kind}"] = str(window.limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(window.remaining)
            headers[f"x-ratelimit-reset-{kind}"] = str(round(window.reset_s))
        return headers

    def _limited(self, ask: Ask, kind: str, unit: str, limit: int, used: int, requested: int, wait_s: float) -> Sent:
        seconds = max(1, round(wait_s))
        headers = {"retry-after": str(seconds), f"x-ratelimit-remaining-{kind}": "0"}
        headers[f"x-ratelimit-reset-{kind}"] = str(seconds)
        if not ask.form["is_classic"]:
            said = f"Rate limit reached for {ask.model.name} on {unit}. Please retry after {seconds} seconds."
            return self.error(429, said, kind=kind, code="rate_limit_exceeded", headers=headers)
        rate = "call rate" if kind == "requests" else "token rate"
        said = (
            f"Requests to the ChatCompletions_Create Operation under Azure OpenAI API version {API_VERSION} have "
            f"exceeded {rate} limit of your current OpenAI S0 pricing tier. Please retry after {seconds} seconds."
        )
        return Sent(429, {"error": {"code": "429", "message": said}}, headers)

    def fault_content_filter(self, ask: Ask) -> Sent:
        results = {**_SAFE, "violence": {"filtered": True, "severity": "medium"}}
        error = {
            "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management "
            "policy. Please modify your prompt and retry.",
            "type": None,
            "param": "prompt",
            "code": "content_filter",
            "status": 400,
            "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": results},
        }
        return Sent(400, {"error": error})


class AzureWithBatches(Azure):
    """With a third deployment: `our-mini-batch` is gpt-4.1-mini for batches."""

    @classmethod
    def default_models(cls) -> Sequence[Model]:
        return (*super().default_models(), OUR_MINI_BATCH)
