"""A problem: one question to be answered, as read from the user's file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from r2.call import Message


@dataclass(frozen=True, slots=True)
class Asked:
    """What a row asks for itself, in place of what the run would do. None or empty: the row does not say.

    `messages` is the conversation as the row has it, its system texts included; () where the row is one question, and
    then `system` may be its system text. `max_output_tokens` limits the answer. `n` is how many answers it wants.
    `schema` is the text of a JSON Schema that the answer must match; `json_object` wants any JSON object. `effort` is
    the reasoning effort. `logprobs` wants the log-probabilities of the answer's tokens, with `top_logprobs`
    alternatives for each.
    """

    messages: tuple[Message, ...] = ()
    system: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n: int | None = None
    schema: str | None = None
    json_object: bool = False
    effort: str | None = None
    logprobs: bool = False
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of the input.

    `problem_id` is unique in a run. `input_index` is its 0-based place in the input, which the output keeps. `target`
    is the gold answer where the user has one. `benchmark` names the check and the task wording (`r2/problems/`); ""
    means free text, answered in full. `aliases` are other answers, as right as the target. `extra` holds the user's
    other columns, carried to the output untouched. `asked` is what the row asks for itself, None for a plain question.
    """

    problem_id: str
    question: str
    input_index: int = 0
    target: str | None = None
    benchmark: str = ""
    choices: tuple[str, ...] = ()
    context: str = ""
    aliases: tuple[str, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)
    asked: Asked | None = None
