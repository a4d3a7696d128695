"""The three scores of a candidate plan (paper Eq. 1), lower is better. Pure; what is scored is measured by
`r2/labelling/label.py`.

Conciseness and practicality are divided by the largest among a problem's candidates, so they compare plans of one
problem only.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from r2.plan import Plan

_WORD = re.compile(r"[a-z0-9]+")
_FUNCTION_WORDS = frozenset(
    (
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "by",
        "do",
        "does",
        "for",
        "from",
        "get",
        "has",
        "have",
        "how",
        "in",
        "into",
        "is",
        "it",
        "its",
        "of",
        "on",
        "or",
        "result",
        "results",
        "step",
        "steps",
        "that",
        "the",
        "then",
        "this",
        "to",
        "was",
        "what",
        "when",
        "which",
        "who",
        "will",
        "with",
    )
)


@dataclass(frozen=True, slots=True)
class PlanScores:
    """Conciseness, practicality and coherence in 0..1, and their weighted sum."""

    conciseness: float
    practicality: float
    coherence: float
    score: float


def score_plans(
    n_subtasks: Sequence[int],
    tokens: Sequence[int],
    coherence: Sequence[float],
    weights: tuple[float, float, float],
) -> list[PlanScores]:
    """Scores of one problem's candidates, in order (paper Eq. 1).

    `n_subtasks` are steps to execute (1 for a direct plan), `tokens` what M_eval generated and read for all of them,
    `coherence` the mean of Coe over adjacent pairs.
    """
    most_steps, most_tokens = max(n_subtasks, default=1) or 1, max(tokens, default=1) or 1
    scores = []
    for n, n_tokens, coe in zip(n_subtasks, tokens, coherence, strict=True):
        parts = (n / most_steps, n_tokens / most_tokens, 1 - coe)
        scores.append(PlanScores(*parts, score=sum(w * part for w, part in zip(weights, parts, strict=True))))
    return scores


def mean_coherence(pairs: Sequence[float]) -> float:
    """Mean Coe over adjacent pairs; 1 for a plan without any, which has no step that could fail to follow."""
    return sum(pairs) / len(pairs) if pairs else 1.0


def lexical_coherence(question: str, plan: Plan) -> list[float]:
    """Coe of each adjacent pair without a judge (ours): 1 where a step uses the one before, else the share of its
    content words that the question or earlier steps bring."""
    known = _content_words(question)
    pairs = []
    for index, subtask in enumerate(plan.subtasks):
        words = _content_words(subtask.text)
        if index:
            follows = index - 1 in subtask.needs
            pairs.append(1.0 if follows or not words else len(words & known) / len(words))
        known |= words
    return pairs


def read_judgement(text: str) -> float | None:
    """The first number of a judge's reply as a share in 0..1; None where it gives none (a refusal, a comment)."""
    match = re.search(r"(?<![\d.])(?:0?\.\d+|[01](?:\.\d+)?)(?![\d.]*\d)", text)
    return min(1.0, max(0.0, float(match[0]))) if match else None


def _content_words(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.lower()) if word not in _FUNCTION_WORDS}
