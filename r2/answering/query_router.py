"""A query-level router that was learned: per model the calibrated probability that it answers a question right, from
the question's words.

The artefact is JSON, numbers only: loading it runs no code. Predicting is plain Python over a few hundred features, so
that it needs neither scikit-learn nor a model. After RouteLLM (arXiv:2406.18665), which chooses between two models;
ours: any number of models, calibrated apart, so that a threshold means the same for each. Fitted by
r2/training/fit_query_router.py, used by r2/methods/query_router.py. Left out: embeddings, which would need a model of
their own at every question.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from r2.errors import ConfigError
from r2.problem import Problem

FORMAT = "r2-query-router-1"
N_BUCKETS = 1024
"""Buckets the n-grams are hashed into."""
NUMBERS = ("words", "numbers", "most_digits", "digits", "operators")
"""Features that are counts, after ln(1 + n); they come behind the buckets, in this order."""

_OPERATORS = frozenset("-+*/^=%")
_TOKEN = re.compile(r"[^\W\d_]+|\d+|[-+*/^=%]")


def features(problem: Problem) -> dict[int, float]:
    """Feature index -> value; absent ones are 0. The n-grams' part has length 1 (L2).

    Hashed: words, operators and numbers (a number counts as its number of digits) alone and in pairs and threes,
    character trigrams, the benchmark's name.
    """
    tokens = _TOKEN.findall(f"{problem.context} {problem.question} {' '.join(problem.choices)}".casefold())
    digits = [len(token) for token in tokens if token.isdigit()]
    shapes = [f"#{len(token)}" if token.isdigit() else token for token in tokens]
    squeezed = " ".join(shapes)
    grams = [f"{n} {' '.join(shapes[i : i + n])}" for n in (1, 2, 3) for i in range(len(shapes) - n + 1)]
    grams += [f"c {squeezed[i : i + 3]}" for i in range(len(squeezed) - 2)]
    grams.append(f"b {problem.benchmark}")
    counts = Counter(zlib.crc32(gram.encode("utf-8", "surrogatepass")) % N_BUCKETS for gram in grams)
    length = math.sqrt(sum(n * n for n in counts.values()))
    found = {bucket: n / length for bucket, n in counts.items()}
    n_operators = sum(token in _OPERATORS for token in tokens)
    numbers = (len(tokens) - n_operators, len(digits), max(digits, default=0), sum(digits), n_operators)
    return found | {N_BUCKETS + i: math.log1p(n) for i, n in enumerate(numbers)}


@dataclass(frozen=True, slots=True)
class ModelCurve:
    """One model's probability of being right: sigmoid(slope * score + offset), score = bias + sum of weight * feature.

    `slope` and `offset` are Platt's calibration, fitted on questions the weights had not seen. `cost_usd` is its mean
    cost per question.
    """

    weights: Mapping[int, float]
    bias: float
    slope: float
    offset: float
    cost_usd: float

    def p_right(self, found: Mapping[int, float]) -> float:
        score = self.bias + sum(self.weights.get(index, 0.0) * value for index, value in found.items())
        return sigmoid(self.slope * score + self.offset)


@dataclass(frozen=True, slots=True)
class QueryRouter:
    """`models` by pool name, cheapest first. `n_questions` it was fitted on; 0 where that is not known."""

    models: Mapping[str, ModelCurve]
    n_questions: int = 0

    def p_right(self, problem: Problem) -> dict[str, float]:
        """Each model's probability of answering the question right, cheapest model first."""
        found = features(problem)
        return {name: curve.p_right(found) for name, curve in self.models.items()}

    def pick(self, problem: Problem, threshold: float) -> str:
        """The cheapest model whose probability reaches the threshold, else the most probable one (of equals, the
        cheapest)."""
        return pick(self.p_right(problem), threshold)

    def to_json(self) -> str:
        """Everything, weights to six significant digits; `from_json(to_json())` predicts the same to that precision."""
        return orjson.dumps(
            {
                "format": FORMAT,
                "n_buckets": N_BUCKETS,
                "numbers": NUMBERS,
                "n_questions": self.n_questions,
                "models": {
                    name: {
                        "weights": {str(i): float(f"{w:.6g}") for i, w in sorted(curve.weights.items()) if w},
                        "bias": curve.bias,
                        "slope": curve.slope,
                        "offset": curve.offset,
                        "cost_usd": curve.cost_usd,
                    }
                    for name, curve in self.models.items()
                },
            }
        ).decode()

    @classmethod
    def from_json(cls, text: str | bytes, place: str = "query router") -> "QueryRouter":
        """Inverse of `to_json`. ConfigError, naming `place`, for anything else."""
        try:
            stored = orjson.loads(text)
            made_with = (stored["format"], stored["n_buckets"], tuple(stored["numbers"]))
            if made_with != (FORMAT, N_BUCKETS, NUMBERS):
                raise ValueError(f"made with {made_with}, this version reads {(FORMAT, N_BUCKETS, NUMBERS)}")
            curves = {str(name): _curve(entry) for name, entry in stored["models"].items()}
            if not curves:
                raise ValueError("it names no model")
            return cls(_cheapest_first(curves), int(stored["n_questions"]))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ConfigError(
                f"{place}: not a query router of this version: {error!r}. Fit it again "
                "(r2/training/fit_query_router.py)."
            ) from None


def pick(p_right: Mapping[str, float], threshold: float) -> str:
    """The first model that reaches the threshold, else the most probable. `p_right` comes cheapest first and is not
    empty."""
    return next((name for name, p in p_right.items() if p >= threshold), max(p_right, key=lambda name: p_right[name]))


def sigmoid(score: float) -> float:
    """1 / (1 + e^-score), for any finite score."""
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))


def make_query_router(curves: Mapping[str, ModelCurve], n_questions: int) -> QueryRouter:
    """The router over fitted curves, in any order."""
    return QueryRouter(_cheapest_first(curves), n_questions)


def _cheapest_first(curves: Mapping[str, ModelCurve]) -> dict[str, ModelCurve]:
    return dict(sorted(curves.items(), key=lambda item: (item[1].cost_usd, item[0])))


def _curve(entry: Mapping[str, object]) -> ModelCurve:
    weights = entry["weights"]
    if not isinstance(weights, dict):
        raise TypeError("weights are no table")
    numbers = [_number(entry[name]) for name in ("bias", "slope", "offset", "cost_usd")]
    return ModelCurve({int(index): _number(weight) for index, weight in weights.items()}, *numbers)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def known_indices() -> Sequence[int]:
    """Every feature index there is."""
    return range(N_BUCKETS + len(NUMBERS))
