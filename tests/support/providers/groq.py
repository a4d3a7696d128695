"""Groq: OpenAI's chat completions without log-probabilities and with one answer only, and batches of up to a week."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.providers import openai
from tests.support.providers.batch_openai import MIB, Habits, OpenAIBatches
from tests.support.providers.bill import PriceList, rates
from tests.support.providers.chat import ChatModel
from tests.support.providers.imitation import Ask, Model

GPT_OSS_20B = ChatModel(
    "openai/gpt-oss-20b",
    "openai/gpt-oss-20b",
    PriceList(rates("0.075", "0.3", cached="0.0375")),
    context_tokens=131_072,
    max_output_tokens=65_536,
    efforts=("low", "medium", "high"),
    default_effort="medium",
)
LLAMA = ChatModel(
    "llama-3.3-70b-versatile",
    "llama-3.3-70b-versatile",
    PriceList(rates("0.59", "0.79")),
    context_tokens=131_072,
    max_output_tokens=32_768,
)


class GroqBatches(OpenAIBatches):
    """Windows of one to seven days, and files of half the size. The discount does not hold for cached input, too."""

    shares_cached = False
    habits = Habits(most_bytes=100 * MIB, windows=("24h", *(f"{n}d" for n in range(1, 8)), "48h", "72h", "168h"))


class Groq(openai.OpenAI):
    """`api.groq.com`."""

    name = "groq"
    route = "/openai/v1"
    batch_form = GroqBatches

    @classmethod
    def default_models(cls) -> Sequence[Model]:
        return (GPT_OSS_20B, LLAMA)

    def read_body(self, body: Mapping[str, Any], model: ChatModel) -> Ask:
        for name in ("logprobs", "top_logprobs", "logit_bias"):
            if body.get(name) not in (None, False):
                self.refuse(f"property '{name}' is unsupported", name, None)
        if body.get("n") not in (None, 1):
            self.refuse("'n' : number must be at most 1", "n", None)
        return super().read_body(body, model)

    def entry_lines(self, model: Model) -> dict[str, str]:
        return {"guided": "true"}
