"""A pool that answers from a script, and the loop that drives a generator with it: what stands where mocks would."""

import math
from collections.abc import Sequence
from dataclasses import replace

from r2.answering.protocol import Outcome, Router, Solving
from r2.call import Attempt, Call, Completion, TokenLogprob
from r2.ledger import Price, Usage, cost_usd
from r2.problems.own_check import own_checks
from r2.roster import ModelCard, Roster
from r2.settings import Reasoning

CHEAP = Price(1.0, 0.5, 2.0, "2026-11-01", "made up for tests")
DEAR = Price(10.0, 5.0, 20.0, "2026-11-01", "made up for tests")
ROSTER = Roster(
    [
        ModelCard("small", "small", CHEAP, skills={"add": 0.8}),
        ModelCard("middle", "medium", Price(3.0, 3.0, 6.0, "2026-11-01", "made up for tests")),
        ModelCard("large", "large", DEAR, prompt_mode="cot"),
    ]
)

LOGPROBS = Roster([replace(card, has_logprobs=True) for card in ROSTER.solvers])


def router(**settings: object) -> Router:
    chosen = Reasoning.model_validate(settings)
    check, verify = own_checks(chosen)
    second = chosen.second_decomposer
    return Router(ROSTER, "small", "small", None, chosen, second_decomposer=second, check=check, verify=verify)


def completion(
    text: str, model: str = "small", *, finish_reason: str = "stop", error_type: str | None = None
) -> Completion:
    """10 prompt tokens and 5 generated ones, at the model's price; failed ones cost nothing."""
    usage = Usage() if error_type else Usage(10, 0, 5)
    attempt = Attempt(
        model,
        0,
        0 if error_type else 200,
        1000.0,
        latency_s=0.5,
        queue_s=0.1,
        usage=usage,
        cost_usd=cost_usd(ROSTER[model].price, usage),
        price_version=ROSTER[model].price.version,
        finish_reason=finish_reason,
        error_type=error_type,
    )
    return Completion(text if error_type is None else "", model, (attempt,), finish_reason, error_type=error_type)


def sure(text: str, probability: float, model: str = "small") -> Completion:
    """An answer of one token of that probability."""
    return replace(completion(text, model), token_logprobs=(TokenLogprob(text, math.log(probability)),))


def replay(solving: Solving, replies: Sequence[str | Completion]) -> tuple[list[list[Call]], Outcome]:
    """Drives a generator with replies in order of asking; returns the waves it asked for and its outcome. All replies
    must be used."""
    waves, left = [], list(replies)
    try:
        wave = next(solving)
        while True:
            waves.append(wave)
            answers = [left.pop(0) for _ in wave]
            wave = solving.send(
                [completion(a, call.model) if isinstance(a, str) else a for a, call in zip(answers, wave, strict=True)]
            )
    except StopIteration as end:
        assert left == [], f"replies nobody asked for: {left}"
        return waves, end.value
