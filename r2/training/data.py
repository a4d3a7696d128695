"""Rows to train on: prompt-completion chat rows, their bare form, and the order they are seen in. Pure; no heavy
package.

A row is `{"prompt": [{role, content}, ...], "completion": [{role, content}]}`, TRL's conversational format: TRL masks
the prompt by itself.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from r2.answering.prompts import BARE_SYSTEM
from r2.call import Message

_ROLES: Mapping[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
}


class ChatMessage(TypedDict):
    """One message as chat templates want it."""

    role: str
    content: str


class ChatRow(TypedDict):
    """One example: what is asked, and the right reply."""

    prompt: list[ChatMessage]
    completion: list[ChatMessage]


def chat_row(messages: Sequence[Message], answer: str) -> ChatRow:
    """The row that teaches `answer` as the reply to `messages`."""
    prompt = [ChatMessage(role=role, content=text) for role, text in messages]
    return ChatRow(prompt=prompt, completion=[ChatMessage(role="assistant", content=answer)])


def messages_of(row: ChatRow) -> tuple[Message, ...]:
    """The row's prompt as the reasoning has it. KeyError for a role that chat prompts do not have."""
    return tuple((_ROLES[said["role"]], said["content"]) for said in row["prompt"])


def bare_row(row: Mapping[str, Sequence[ChatMessage]], job: str) -> ChatRow:
    """The row with its system message's text replaced by the job's bare word (`plan`, `allocate`, `solve`): a model
    that is fine-tuned on the job needs no instructions. `job` is a key of `BARE_SYSTEM`."""
    prompt = [
        ChatMessage(role="system", content=BARE_SYSTEM[job])
        if said["role"] == "system"
        else ChatMessage(role=said["role"], content=said["content"])
        for said in row["prompt"]
    ]
    return ChatRow(
        prompt=prompt, completion=[ChatMessage(role=s["role"], content=s["content"]) for s in row["completion"]]
    )


def training_order(
    lengths: Sequence[int], batch_size: int, n_steps: int, seed: int, *, by_length: bool = True
) -> list[int]:
    """Row indices of `n_steps` batches, one after the other: each pass over the rows in a new order, with `by_length`
    rows of like length together.

    Batches of like length hardly pad, which halves the time where lengths differ widely. But a batch's loss is the mean
    over its tokens. In batches of one length two tokens of DIRECT weigh as much as forty of a plan, and a decomposer
    that is trained so hardly plans at all (measured). Router policies are therefore trained on mixed batches. The order
    depends on the arguments alone, so a trainer that reads it in sequence is resumed exactly where it was.
    """
    if not lengths:
        raise ValueError("no rows to order")
    order: list[int] = []
    n_rows, window, epoch = n_steps * batch_size, 50 * batch_size, 0
    while len(order) < n_rows:
        chance = random.Random(f"order:{seed}:{epoch}")
        shuffled = chance.sample(range(len(lengths)), len(lengths))
        while len(shuffled) % batch_size:
            shuffled.append(chance.randrange(len(lengths)))
        batches = []
        for start in range(0, len(shuffled), window):
            near = shuffled[start : start + window]
            if by_length:
                near.sort(key=lambda i: lengths[i])
            batches += [near[at : at + batch_size] for at in range(0, len(near), batch_size)]
        chance.shuffle(batches)
        order += [i for batch in batches for i in batch]
        epoch += 1
    return order[:n_rows]
