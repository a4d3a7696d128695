"""Driving `solve` with a policy in the router's place: its decompose and allocate calls are answered here, all others go to the pool.

The policy's entries stand in the router under names of their own, with the prompt mode they were trained in and a price; `solve` itself is the
one that answers for users. A writer is anything that turns a call into a completion: a model in this process (`ModelWriter`), or one
sampled text (`fixed_text`), which is how a reward sees a rollout.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from r2.call import Attempt, Call, Completion, Message, Purpose
from r2.ledger import Price, Usage, cost_usd
from r2.pool.drive import Complete
from r2.roster import ModelCard, PromptMode, Roster
from r2.solve import Router
from r2.training.generate import Reply, replies

Write = Callable[[Call], Coroutine[Any, Any, Completion]]
FREE = Price(0.0, 0.0, 0.0, "2026-01-01", "a policy in training has no price")
DECOMPOSER_ENTRY = "policy-decomposer"
ALLOCATOR_ENTRY = "policy-allocator"


def router_with_policies(
    router: Router, purposes: Sequence[Purpose], mode: PromptMode = "bare", price: Price = FREE
) -> Router:
    """The router with policy entries for `decompose`, `allocate` or both; they are never allocated."""
    names = {"decompose": DECOMPOSER_ENTRY, "allocate": ALLOCATOR_ENTRY}
    cards = [ModelCard(names[p], "small", price, prompt_mode=mode, is_solver=False) for p in purposes]
    roster = Roster([*router.roster.by_name.values(), *cards])
    return replace(
        router, roster=roster, decomposer=DECOMPOSER_ENTRY if "decompose" in purposes else router.decomposer,
        allocator=ALLOCATOR_ENTRY if "allocate" in purposes else router.allocator,
    )  # fmt: skip


def with_writers(complete: Complete, writers: Mapping[Purpose, Write]) -> Complete:
    """Answers the purposes that have a writer by it, and the others by `complete`."""

    async def answer(call: Call) -> Completion:
        writer = writers.get(call.purpose)
        return await (complete(call) if writer is None else writer(call))

    return answer


def fixed_text(text: str, price: Price = FREE, usage: Usage | None = None) -> Write:
    """A writer that always says `text`: the sampled plan or allocation of one rollout."""

    async def write(call: Call) -> Completion:
        return written(call, text, price, usage or Usage())

    return write


def written(call: Call, text: str, price: Price, usage: Usage, finish_reason: str = "stop") -> Completion:
    """A completion as the pool would have given it, with one attempt that is paid at `price`."""
    attempt = Attempt(
        call.model, 0, 200, 0.0, usage=usage, cost_usd=cost_usd(price, usage), price_version=price.version, finish_reason=finish_reason
    )  # fmt: skip
    return Completion(text, call.model, (attempt,), finish_reason)


class ModelWriter:
    """A model in this process as a writer. Calls that wait are generated together, in a thread, so that the pool's answers are not held up."""

    def __init__(self, model: Any, tokenizer: Any, price: Price = FREE, batch_size: int = 16) -> None:
        self._model, self._tokenizer, self._price, self._batch_size = model, tokenizer, price, batch_size
        self._waiting: list[tuple[Call, asyncio.Future[Reply]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, call: Call) -> Completion:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._generate())
        reply = await future
        return written(
            call, reply.text, self._price, Usage(reply.input_tokens, 0, reply.output_tokens), reply.finish_reason
        )

    async def _generate(self) -> None:
        await asyncio.sleep(0)  # calls of the same moment come in first
        while self._waiting:
            batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
            prompts: list[tuple[Message, ...]] = [call.messages for call, _ in batch]
            longest = max(call.max_output_tokens for call, _ in batch)
            try:
                found = await asyncio.to_thread(
                    replies, self._model, self._tokenizer, prompts, longest, self._batch_size
                )
            except Exception as error:
                for _, future in batch:
                    future.set_exception(error)
                continue
            for (_, future), reply in zip(batch, found, strict=True):
                if not future.done():
                    future.set_result(reply)
