"""How sure a model is of what it wrote, from its completions alone. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from r2.call import Call, Completion
from r2.problem import Problem
from r2.problems.benchmark import checked_part, result_in
from r2.problems.checks import extract_answer
from r2.roster import Roster


def with_logprobs(call: Call, roster: Roster) -> Call:
    """The same call, with log-probabilities where the entry's endpoint has them."""
    return replace(call, top_logprobs=1) if roster[call.model].has_logprobs else call


def token_confidence(completion: Completion, alpha: float) -> float | None:
    """The alpha-quantile of the generated tokens' probabilities, position by position; None without log-probabilities.

    Linear interpolation between order statistics; tokens of white space alone are left out, they are certain
    everywhere.
    """
    probabilities = sorted(math.exp(t.logprob) for t in completion.token_logprobs if t.token.strip())
    if not probabilities:
        return None
    place = alpha * (len(probabilities) - 1)
    low = math.floor(place)
    high = min(low + 1, len(probabilities) - 1)
    return probabilities[low] + (place - low) * (probabilities[high] - probabilities[low])


def agreement(texts: Sequence[str], problem: Problem | None = None) -> float:
    """Share of the answers that are the most frequent one, white space and case aside (self-consistency). Answers of a
    problem without a benchmark are compared whole, or by the letter or number that they come to."""

    def compared(text: str) -> str:
        result = extract_answer(text) if problem is None else result_in(problem, text)
        part = None if problem is None else checked_part(problem, result)
        return " ".join((part or result).casefold().split())

    counts = Counter(map(compared, texts))
    return max(counts.values()) / len(texts)
