"""Together: chat completions with log-probabilities in a form of its own, and batches that tell little of themselves.

`logprobs` is a number, temperatures end at 1, a text ends with `eos`. A batch has no metadata and no counts, its states
are written in capitals, and the list of batches is one list.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.providers import chat, imitation, openai
from tests.support.providers.batch import Job
from tests.support.providers.batch_openai import MIB, Habits, OpenAIBatches
from tests.support.providers.bill import PriceList, Tokens, rates
from tests.support.providers.chat import ChatModel
from tests.support.providers.imitation import Ask, Model, Written
from tests.support.providers.sent import Sent

LLAMA = ChatModel(
    "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    PriceList(rates("0.88", "0.88")),
    context_tokens=131_072,
    max_output_tokens=32_768,
)


class TogetherBatches(OpenAIBatches):
    """`/files/upload` and `/batches`."""

    habits = Habits(
        purpose="batch-api",
        upload_path="/files/upload",
        most_bytes=100 * MIB,
        longest_id=64,
        windows=(),
        is_bare=True,
        is_upper=True,
        keeps_counts=False,
        keeps_metadata=False,
        wraps_created=True,
        pages=False,
    )

    def document(self, job: Job) -> dict[str, Any]:
        def at(moment: float | None) -> str | None:
            return None if moment is None else datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat()

        said = job.errors[0]["message"] if job.errors else None
        return {
            "id": job.id,
            "user_id": "user-imitation",
            "input_file_id": job.request["input_file_id"],
            "file_size_bytes": self.files[job.request["input_file_id"]].n_bytes,
            "status": self.status(job),
            "job_deadline": at(job.expires_at),
            "created_at": at(job.created_at),
            "completed_at": at(job.ended_at),
            "endpoint": job.request["endpoint"],
            "progress": round(100 * job.n_run / max(1, len(job.rows))),
            "model_id": job.model,
            "output_file_id": job.files.get("output"),
            "error_file_id": job.files.get("error"),
            "error": said,
        }


class Together(openai.OpenAI):
    """`api.together.xyz`."""

    name = "together"
    batch_form = TogetherBatches

    @classmethod
    def default_models(cls) -> Sequence[Model]:
        return (LLAMA,)

    def read_body(self, body: Mapping[str, Any], model: ChatModel) -> Ask:
        refuse = self.refuse
        if body.get("top_logprobs") is not None:
            refuse("Unrecognized request argument supplied: top_logprobs", "top_logprobs", None)
        n_top = chat.number(body, "logprobs", refuse, least=0, most=20, whole=True)
        chat.number(body, "temperature", refuse, least=0, most=1)
        if body.get("max_completion_tokens") is not None:
            refuse("Unrecognized request argument supplied: max_completion_tokens", "max_completion_tokens", None)
        asked = {**body, "logprobs": n_top is not None, "top_logprobs": n_top}
        return super().read_body({name: value for name, value in asked.items() if value is not None}, model)

    def document(self, ask: Ask, written: Sequence[Written], counts: Tokens) -> Sent:
        choices = []
        for index, one in enumerate(written):
            finish = "eos" if one.finish == "stop" else one.finish
            choices.append(chat.choice(index, one.text, finish, logprobs=_logprobs(ask, one.answer)))
        usage = chat.usage_of(counts, cached=False)
        document = chat.completion(ask, choices, usage, number=self.serial, prompt=[])
        return Sent(200, document, tokens=counts, text=written[0].text, finish=written[0].finish)

    def entry_lines(self, model: Model) -> dict[str, str]:
        return {"guided": "true", "logprobs": "true"}


def _logprobs(ask: Ask, answer: Sequence[str]) -> dict[str, Any] | None:
    """As lists beside each other."""
    if ask.n_top_logprobs is None:
        return None
    found = imitation.logprobs(answer, max(1, ask.n_top_logprobs))
    return {
        "tokens": [each.token for each in found],
        "token_logprobs": [each.logprob for each in found],
        "token_ids": [sum(each.token.encode()) for each in found],
        "top_logprobs": [dict(each.top) for each in found],
    }
