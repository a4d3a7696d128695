"""The allocation: which pool model gets each subtask, read from the allocator's text.

The format is strict (JSON, one object per subtask, models as letters); what small models really write is repaired where
the meaning is plain, and is `AllocationParseError` otherwise. Where the server gave log-probabilities, the choice can
be shifted towards cheaper models with the cost knob `b`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from r2.answering.prompts import MODEL_LETTERS
from r2.call import Completion, TokenLogprob
from r2.errors import AllocationParseError
from r2.roster import ModelCard

_PAIR = re.compile(r'"?subtask"?\s*[:=]\s*"?(\d{1,3})"?\s*,\s*"?model"?\s*[:=]\s*"?([^"\s,}\]]+)', re.IGNORECASE)
_LINE = re.compile(
    r'^\W*(?:step|subtask)?\s*(\d{1,3})\s*[:.)=-]+\s*(?:model\s*)?"?([^"\s,}\]]+)', re.IGNORECASE | re.MULTILINE
)
_MODEL_VALUE = re.compile(r'"model"\s*:\s*"\s*([A-Za-z])(?![A-Za-z])', re.IGNORECASE)


def allocation_tokens(n_steps: int) -> int:
    """Output limit of an allocation (ours): a step's pair of number and model in JSON is at most 20 tokens."""
    return 16 + 20 * n_steps


@dataclass(frozen=True, slots=True)
class Choice:
    """The model for one subtask, with what is known of the alternatives.

    `log_probabilities` maps pool names to the allocator's natural-log probability; empty where the server gave none.
    """

    model: str
    log_probabilities: dict[str, float]

    def propensities(self) -> dict[str, float]:
        """Probabilities over the models that were listed, normalised to one; empty without log-probabilities."""
        if not self.log_probabilities:
            return {}
        top = max(self.log_probabilities.values())
        weights = {name: math.exp(value - top) for name, value in self.log_probabilities.items()}
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}


def parse_allocation(text: str, n_subtasks: int, models: Sequence[ModelCard]) -> list[str]:
    """Pool names for subtasks 1..n, in order. `models` as they were shown: letter A is `models[0]`.

    Repaired: chatter around the JSON, JSON cut short, names instead of letters, "1: B" lines, and a bare letter for a
    single subtask. A subtask without a model, or a model that was not shown, is AllocationParseError.
    """
    name_of = {letter: card.name for letter, card in zip(MODEL_LETTERS, models, strict=False)}
    name_of |= {card.name: card.name for card in models}
    pairs = _strict_pairs(text) or _PAIR.findall(text) or _LINE.findall(text)
    if not pairs and n_subtasks == 1:
        pairs = [("1", text.strip().strip('"[]{}().'))]
    chosen: dict[int, str] = {}
    for number, model in pairs:
        name = name_of.get(model.strip().rstrip('."'))
        if name is not None:
            chosen.setdefault(int(number), name)
    missing = [number for number in range(1, n_subtasks + 1) if number not in chosen]
    if missing:
        raise AllocationParseError(f"no model of the pool for subtask {missing[0]} of {n_subtasks} in {text[:80]!r}")
    return [chosen[number] for number in range(1, n_subtasks + 1)]


def choose(completion: Completion, n_subtasks: int, models: Sequence[ModelCard], b: float) -> list[Choice]:
    """The allocator's choices under the cost knob.

    Ours (docs/method.md, section 3): per subtask argmax of log p(m) - b * ln(price of m), price in USD per million
    tokens. With b = 0, or without log-probabilities, the model that was written stands. Raises AllocationParseError as
    `parse_allocation`.
    """
    names = parse_allocation(completion.text, n_subtasks, models)
    scores = _letter_scores(completion.token_logprobs, n_subtasks, models)
    price_of = {card.name: max(card.blended_price, 1e-9) for card in models}
    choices = []
    for index, name in enumerate(names):
        listed = scores.get(index, {})
        if b and listed:
            name = shifted_choice(listed, price_of, b)
        choices.append(Choice(name, listed))
    return choices


def shifted_choice(log_probabilities: Mapping[str, float], price_of: Mapping[str, float], b: float) -> str:
    """The model of the highest log p - b * ln(price), the cheaper of equals; prices are above 0."""
    return max(log_probabilities, key=lambda m: (log_probabilities[m] - b * math.log(price_of[m]), -price_of[m]))


def allocation_schema(n_subtasks: int, n_models: int) -> str:
    """JSON schema of a well-formed reply, for servers with guided decoding."""
    entry = {
        "type": "object",
        "properties": {
            "subtask": {"type": "integer", "minimum": 1, "maximum": n_subtasks},
            "model": {"type": "string", "enum": list(MODEL_LETTERS[:n_models])},
        },
        "required": ["subtask", "model"],
        "additionalProperties": False,
    }
    return orjson.dumps({"type": "array", "items": entry, "minItems": n_subtasks, "maxItems": n_subtasks}).decode()


def format_allocation(letters: Sequence[str]) -> str:
    """The canonical text: what an allocator is trained to write."""
    return orjson.dumps([{"subtask": i, "model": m} for i, m in enumerate(letters, start=1)]).decode()


def _strict_pairs(text: str) -> list[tuple[str, str]]:
    start, end = text.find("["), text.rfind("]")
    try:
        entries = orjson.loads(text[start : end + 1])
        return [(str(int(entry["subtask"])), str(entry["model"])) for entry in entries]
    except (ValueError, TypeError, KeyError, OverflowError):
        return []


def _letter_scores(
    tokens: Sequence[TokenLogprob], n_subtasks: int, models: Sequence[ModelCard]
) -> dict[int, dict[str, float]]:
    """Subtask index -> pool name -> log-probability, read at the token that holds the model's letter."""
    if not tokens:
        return {}
    text = "".join(token.token for token in tokens)
    starts, position = [], 0
    for token in tokens:
        starts.append(position)
        position += len(token.token)
    name_of = {letter: card.name for letter, card in zip(MODEL_LETTERS, models, strict=False)}
    scores: dict[int, dict[str, float]] = {}
    for index, match in enumerate(_MODEL_VALUE.finditer(text)):
        if index >= n_subtasks:
            break
        at = max(i for i, start in enumerate(starts) if start <= match.start(1))
        listed: dict[str, float] = {}
        for alternative, logprob in tokens[at].alternatives or ((tokens[at].token, tokens[at].logprob),):
            name = name_of.get(alternative.strip(' "'))
            if name is not None:
                listed[name] = max(logprob, listed.get(name, -math.inf))
        if listed:
            scores[index] = listed
    return scores
