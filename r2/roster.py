"""The pool as the reasoning sees it: names, tiers, prices and profiles, without an endpoint or a key in sight."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from r2.errors import ConfigError
from r2.ledger import Price, Usage, is_surely_longer, likely_prompt_tokens, worst_case_usage

Tier = Literal["small", "medium", "large"]
TIERS: tuple[Tier, ...] = ("small", "medium", "large")
PromptMode = Literal["direct", "cot", "bare", "program"]
"""`bare`: without instructions, for a model that was fine-tuned on the job (r2/answering/prompts.py BARE_SYSTEM).
`program`: it writes a program, and what that prints is the result (r2/answering/programs.py)."""


PLAN_SKILL: Final = "plan"
"""The entry of a profile that says how often a decomposer's plans are right: no skill at answering."""
UNBOUNDED: Final = 10**9
"""Room of an entry whose context is not known: what does not fit is for its server to say."""
LEAST_ROOM: Final = 512
"""Tokens of answer for which an entry is still chosen, however many a call allows."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One pool entry. An entry is an arm: (weights, prompt mode); two entries may share one server.

    `skills` maps a skill name to measured accuracy in 0..1 (`r2 pool calibrate`); empty when nothing was measured.
    `has_logprobs` and `guided` say what its server can do. `context_tokens` bounds prompt and answer together, where
    `states_context` says that it is known and no default. `max_output_tokens` is the most that the model can generate
    (None: not known), and `thinking_tokens` is added to a call's limit. `weights` is equal for entries that ask the
    same model; "" where that is not known. `sent_output_limit` is the limit that the entry sends in place of a call's
    own (None: the call's own). `further_input_tokens` and `hidden_output_tokens` bound what a bill may hold beside the
    messages and beyond that limit.
    """

    name: str
    tier: Tier
    price: Price
    prompt_mode: PromptMode = "direct"
    context_tokens: int = 4096
    states_context: bool = False
    skills: Mapping[str, float] = field(default_factory=dict)
    has_logprobs: bool = False
    guided: bool = False
    is_solver: bool = True
    weights: str = ""
    sent_output_limit: int | None = None
    max_output_tokens: int | None = None
    thinking_tokens: int = 0
    further_input_tokens: int = 0
    hidden_output_tokens: int = 0
    takes_temperature: bool = True
    """False: it samples at a temperature of its own, so that the same request may be answered otherwise."""
    profile_rows: int | Mapping[str, int] | None = None
    """Questions that `skills` were measured on, of each or by skill; None, and of a skill that is not there: not
    known."""
    examples: tuple[tuple[str, str], ...] = ()
    """Worked examples, (question, reply), that the entry is shown where it is asked in its own prompt mode."""

    def examples_for(self, mode: PromptMode) -> tuple[tuple[str, str], ...]:
        """Its worked examples; none in another prompt mode, whose replies look otherwise."""
        return self.examples if mode == self.prompt_mode else ()

    def output_limit(self, asked: int) -> int:
        """The most tokens that a call which asks for `asked` can have generated and billed."""
        return self._sent_limit(asked) + self.hidden_output_tokens

    def _sent_limit(self, asked: int) -> int:
        if self.sent_output_limit is not None:
            return self.sent_output_limit
        limit = asked + self.thinking_tokens
        return limit if self.max_output_tokens is None else min(limit, self.max_output_tokens)

    def worst_case(
        self, messages: Sequence[tuple[str, str]], max_output_tokens: int, json_schema: str | None = None
    ) -> Usage:
        """The bound of `r2.ledger.worst_case_usage` for a call to this entry, with all that the entry adds to it."""
        further = self.further_input_tokens
        if json_schema is not None and self.guided:
            further += 2 * len(json_schema.encode()) + 128  # it is sent in the form that the provider takes
        return worst_case_usage(messages, self.output_limit(max_output_tokens), further_input_tokens=further)

    def room(self, messages: Sequence[tuple[str, str]]) -> int:
        """Tokens that the context probably leaves for an answer to this prompt, thinking taken off; less than 0 where
        the prompt itself does not fit. `UNBOUNDED` where the context is not known."""
        if not self.states_context:
            return UNBOUNDED
        return self.context_tokens - likely_prompt_tokens(messages) - self.thinking_tokens

    def can_hold(self, messages: Sequence[tuple[str, str]], max_output_tokens: int) -> bool:
        """Whether the prompt and a useful answer probably fit: the whole limit, or `LEAST_ROOM` of a longer one, which
        is then cut to the room that is left."""
        need = min(max_output_tokens, LEAST_ROOM) if self.sent_output_limit is None else self.sent_output_limit
        return self.room(messages) >= need

    def is_too_long(self, messages: Sequence[tuple[str, str]]) -> bool:
        """Whether the prompt by itself surely has more tokens than the context."""
        return self.states_context and is_surely_longer(messages, self.context_tokens)

    def answer_limit(self, messages: Sequence[tuple[str, str]], wanted: int) -> int:
        """The output limit of a call that would like `wanted` tokens: of it what the model can generate, and what the
        context surely has room for. There the prompt counts double (a token per 2 bytes, ours: digits and rare scripts
        come near), since servers refuse a limit that does not fit. `LEAST_ROOM` is asked for all the same."""
        limit = wanted
        if self.states_context and (room := self.room(messages)) >= LEAST_ROOM:
            limit = min(wanted, max(room - likely_prompt_tokens(messages), LEAST_ROOM))
        return limit if self.max_output_tokens is None else min(limit, self.max_output_tokens)

    @property
    def blended_price(self) -> float:
        """USD per million tokens at three prompt tokens per generated one: the order of "cheaper" and "dearer"."""
        return 0.75 * self.price.input + 0.25 * self.price.output


def _strength(card: ModelCard) -> tuple[int, float, int, str]:
    """A program is no answer to every question, and so never the strongest beside a twin of equal price."""
    by_mode = {"program": -1, "cot": 1}.get(card.prompt_mode, 0)
    return TIERS.index(card.tier), card.blended_price, by_mode, card.name


class Roster:
    """The solvers of a pool, cheapest first within tier order, with look-up by name.

    "Stronger" follows (tier, blended price, programs before direct before cot): the order escalation climbs. Entries
    with `is_solver=False` (a trained router policy served beside the pool) can be called by name but are never
    allocated.
    """

    def __init__(self, cards: Iterable[ModelCard]) -> None:
        ordered = sorted(cards, key=_strength)
        self.by_name: dict[str, ModelCard] = {card.name: card for card in ordered}
        self.solvers: tuple[ModelCard, ...] = tuple(card for card in ordered if card.is_solver)
        if len(self.by_name) != len(ordered):
            raise ConfigError("two pool entries share a name; every entry needs its own")

    def __getitem__(self, name: str) -> ModelCard:
        """The entry called `name`; ConfigError with the known names if there is none."""
        try:
            return self.by_name[name]
        except KeyError:
            known = ", ".join(self.by_name)
            raise ConfigError(f"model {name!r} is not in the pool. Pool: {known}. Add it to the pool file.") from None

    def require(self, name: str) -> None:
        """Nothing if the pool has an entry called `name`; else the ConfigError of `roster[name]`."""
        self[name]

    def step_by_step(self, name: str) -> str:
        """The entry to ask for a chain of thought of the weights of `name`; see `asked_in`."""
        return self.asked_in("cot", name)

    def asked_in(self, mode: PromptMode, name: str) -> str:
        """The entry to ask in this mode of the weights of `name`: the one whose prompt mode it is, whose price was
        measured on such replies, solver or not; `name` itself where the pool has none."""
        card = self[name]
        twins = [c.name for c in self.by_name.values() if c.prompt_mode == mode and c.weights == card.weights]
        return name if not card.weights or not twins or name in twins else twins[0]

    def stronger(self, name: str) -> str | None:
        """The next solver above `name`, or None at the top."""
        names = [card.name for card in self.solvers]
        if name not in names:
            return None
        index = names.index(name) + 1
        return names[index] if index < len(names) else None

    @property
    def strongest(self) -> str:
        return self.solvers[-1].name

    @property
    def middle(self) -> str:
        """The solver in the middle of the order, the upper one of two."""
        return self.solvers[len(self.solvers) // 2].name

    @property
    def cheapest(self) -> str:
        return self.solvers[0].name
