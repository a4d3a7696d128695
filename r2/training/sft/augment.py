"""Allocator rows shown again with the models in another order and some of them left out. Pure; called by
tasks/training/training_rows.py.

An allocator that has seen one pool in one order learns letters. One that has seen many orders and parts of pools should
read the profiles; then a changed pool would need a profile and no new training (docs/method.md, section 3; ours: the
paper's router degrades when its pool changes). The allocators that ship did not learn it. A model is left out only
where the row's answer does not use it, so the answer stays the cheapest right one of those that are shown.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from r2.answering.prompts import MODEL_LETTERS, MODELS_MARK
from r2.training.data import ChatMessage, ChatRow

_ENTRY = re.compile(r"^([A-Za-z]): (.*)$")
_LETTER = re.compile(r'("model"\s*:\s*")([A-Za-z])(")')


@dataclass(frozen=True, slots=True)
class AllocatorPrompt:
    """An allocator's prompt taken apart: the profiles in their order, and what stands around them."""

    before: str
    profiles: tuple[str, ...]
    after: str

    @classmethod
    def of(cls, text: str) -> "AllocatorPrompt":
        """Reads `allocate_messages`' user text (r2/answering/prompts.py). ValueError where it lists no models."""
        lines = text.split("\n")
        if MODELS_MARK not in lines:
            raise ValueError(f"no line {MODELS_MARK!r} in the prompt {text[:80]!r}; not an allocator's")
        start = lines.index(MODELS_MARK) + 1
        profiles: list[str] = []
        for line, letter in zip(lines[start:], MODEL_LETTERS, strict=False):
            entry = _ENTRY.match(line)
            if entry is None or entry[1] != letter:
                break
            profiles.append(entry[2])
        return cls("\n".join(lines[:start]), tuple(profiles), "\n".join(lines[start + len(profiles) :]))

    def text(self) -> str:
        """The prompt again."""
        entries = [f"{letter}: {profile}" for letter, profile in zip(MODEL_LETTERS, self.profiles, strict=False)]
        return "\n".join([self.before, *entries, self.after])


def reordered(row: ChatRow, order: Sequence[int]) -> ChatRow:
    """The row with only these models, in this order; `order` holds places in the old list. Letters in the answer follow
    their models.

    ValueError if the answer uses a model that is left out, or a letter the prompt does not have.
    """
    shown = AllocatorPrompt.of(row["prompt"][-1]["content"])
    letter_of = {MODEL_LETTERS[old]: MODEL_LETTERS[new] for new, old in enumerate(order)}

    def renamed(match: re.Match[str]) -> str:
        if match[2] not in letter_of:
            raise ValueError(f"the answer uses model {match[2]}, which is not among those shown ({list(order)})")
        return match[1] + letter_of[match[2]] + match[3]

    asked = AllocatorPrompt(shown.before, tuple(shown.profiles[old] for old in order), shown.after).text()
    prompt = [*row["prompt"][:-1], ChatMessage(role=row["prompt"][-1]["role"], content=asked)]
    answer = [
        ChatMessage(role=said["role"], content=_LETTER.sub(renamed, said["content"])) for said in row["completion"]
    ]
    return ChatRow(prompt=prompt, completion=answer)


def used_models(row: ChatRow) -> set[int]:
    """Places of the models that the row's answer names."""
    return {MODEL_LETTERS.index(match[2]) for said in row["completion"] for match in _LETTER.finditer(said["content"])}


def drawn_order(n_models: int, used: set[int], chance: random.Random, drop_share: float) -> list[int]:
    """Places in a random order, each unused one left out with probability `drop_share`; at least two stay where there
    are two."""
    order = chance.sample(range(n_models), n_models)
    kept = [place for place in order if place in used or chance.random() >= drop_share]
    if len(kept) < min(2, n_models):
        kept = sorted({*kept, *[place for place in order if place not in kept][: 2 - len(kept)]}, key=order.index)
    return kept


def shuffled_rows(rows: Sequence[ChatRow], seed: int = 0) -> list[ChatRow]:
    """Each row with all its models in a random order, which is not the one it has where there are several: what an
    allocator that goes by places gets wrong."""
    mixed = []
    for number, row in enumerate(rows):
        n_models = len(AllocatorPrompt.of(row["prompt"][-1]["content"]).profiles)
        chance = random.Random(f"shuffled:{seed}:{number}")
        order = list(range(n_models))
        while n_models > 1 and order == sorted(order):
            chance.shuffle(order)
        mixed.append(reordered(row, order))
    return mixed


def augmented(rows: Sequence[ChatRow], n_views: int, *, seed: int = 0, drop_share: float = 0.25) -> list[ChatRow]:
    """Each row as it is, followed by `n_views` - 1 further views of it (ours). The same seed gives the same views.

    The first view is the order a router is asked in; `n_views` 0 or 1 changes nothing.
    """
    views: list[ChatRow] = []
    for number, row in enumerate(rows):
        views.append(row)
        n_models = len(AllocatorPrompt.of(row["prompt"][-1]["content"]).profiles) if n_views > 1 else 0
        for view in range(1, n_views):
            chance = random.Random(f"view:{seed}:{number}:{view}")
            views.append(reordered(row, drawn_order(n_models, used_models(row), chance, drop_share)))
    return views
