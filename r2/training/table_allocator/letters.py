"""A language model as an allocator of whole questions: the probability of each model's letter, in one forward pass.

The prompt is the product's (`allocate_messages`), the reply its JSON with the one letter left open, as a server with
guided decoding writes it. So a choice needs no generation, and its log-probability is exact. Models are shown in
whatever order is given, and the probabilities come back in the order of the arms.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from r2.answering.allocation import format_allocation
from r2.answering.prompts import MODEL_LETTERS, allocate_messages
from r2.errors import ConfigError
from r2.plan import DIRECT
from r2.problem import Problem
from r2.roster import ModelCard

MICRO = 32
"""Prompts of one forward pass."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A question with the arms in one order. `order[i]` is the place of the arm with the i-th letter."""

    ids: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(slots=True)
class LetterModel:
    """Weights and tokenizer, and the arms that are chosen among."""

    model: Any
    tokenizer: Any
    arms: tuple[str, ...]
    cards: Mapping[str, ModelCard]
    _opening: tuple[int, ...] = ()
    _letters: tuple[int, ...] = ()
    _known: dict[tuple[str, tuple[int, ...]], Shown] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._opening, self._letters = _tokens_of_reply(self.tokenizer, len(self.arms))

    def prices(self) -> dict[str, float]:
        """By arm, above 0."""
        return {arm: max(self.cards[arm].blended_price, 1e-9) for arm in self.arms}

    def train_last(self, n_layers: int | None) -> None:
        """Only the last `n_layers` blocks learn from now on, and what follows them; None: all weights."""
        if n_layers is None:
            return
        self.model.requires_grad_(False)
        decoder = self.model.get_decoder()
        for part in (*decoder.layers[len(decoder.layers) - n_layers :], decoder.norm):
            part.requires_grad_(True)

    def learning(self) -> list[Any]:
        """The tensors that learn."""
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def weights(self) -> list[Any]:
        """A copy of what learns."""
        return [weight.detach().clone() for weight in self.learning()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Inverse of `weights`."""
        import torch

        with torch.no_grad():
            for weight, value in zip(self.learning(), weights, strict=True):
                weight.copy_(value)

    def shown(self, problem: Problem, order: Sequence[int]) -> Shown:
        """The question as it is asked with the arms in this order, tokenized once."""
        key = problem.question, tuple(order)
        if key not in self._known:
            text = prompt_text(self.tokenizer, problem, [self.cards[self.arms[place]] for place in order])
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            self._known[key] = Shown((*ids, *self._opening), key[1])
        return self._known[key]

    def log_probabilities(self, prompts: Sequence[Shown]) -> Any:
        """Prompts x arms, natural logarithms, a tensor. Prompts of like length belong together: the batch is padded."""
        import torch

        width = max(len(prompt.ids) for prompt in prompts)
        pad = self.tokenizer.pad_token_id
        # Padded on the right: what comes after the last token is not seen by it, so that no mask is needed.
        device = self.model.device
        padded = torch.tensor([[*prompt.ids, *[pad] * (width - len(prompt.ids))] for prompt in prompts], device=device)
        last = [len(prompt.ids) - 1 for prompt in prompts]
        hidden = self.model.get_decoder()(input_ids=padded, use_cache=False).last_hidden_state
        of_letters = self.model.get_output_embeddings().weight[list(self._letters)]
        logits = hidden[list(range(len(prompts))), last] @ of_letters.T
        by_letter = torch.log_softmax(logits, dim=1)
        letter_of = torch.tensor([_inverse(prompt.order) for prompt in prompts], device=device)
        return by_letter.gather(1, letter_of)

    def in_batches(self, prompts: Sequence[Shown]) -> Iterator[tuple[list[int], Any]]:
        """(places in `prompts`, log-probabilities) of prompts of like length together."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
        for start in range(0, len(order), MICRO):
            at = order[start : start + MICRO]
            yield at, self.log_probabilities([prompts[i] for i in at])


def prompt_text(tokenizer: Any, problem: Problem, cards: Sequence[ModelCard]) -> str:
    """What an allocator is asked about a whole question, with its chat template."""
    said = [{"role": role, "content": text} for role, text in allocate_messages(problem, DIRECT, cards, "bare")]
    text: str = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    return text


def words_of(problems: Iterable[Problem], cards: Sequence[ModelCard]) -> list[str]:
    """All that is asked and replied: the words of a tokenizer that is made for it."""
    asked = [text for problem in problems for _, text in allocate_messages(problem, DIRECT, cards, "bare")]
    return [*asked, *(format_allocation([letter]) for letter in MODEL_LETTERS[: len(cards)])]


def _inverse(order: Sequence[int]) -> list[int]:
    """By arm: the number of its letter."""
    letters = [0] * len(order)
    for letter, place in enumerate(order):
        letters[place] = letter
    return letters


def _tokens_of_reply(tokenizer: Any, n_arms: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(tokens before the letter, the letters' tokens). ConfigError for a tokenizer that does not write each letter as
    one token."""
    if n_arms > len(MODEL_LETTERS):
        raise ConfigError(f"an allocator tells {len(MODEL_LETTERS)} models apart; these are {n_arms}.")
    replies = [
        tokenizer(format_allocation([letter]), add_special_tokens=False)["input_ids"]
        for letter in MODEL_LETTERS[:n_arms]
    ]
    at = next((i for i, tokens in enumerate(zip(*replies, strict=False)) if len(set(tokens)) > 1), 0)
    letters = tuple(reply[at] for reply in replies)
    if n_arms > 1 and (len(set(letters)) < n_arms or len({tuple(reply[at + 1 :]) for reply in replies}) > 1):
        raise ConfigError("this base's tokenizer does not write each model's letter as one token; take another base.")
    return tuple(replies[0][:at]), letters
