"""The scorer: a pointwise predictor of success, from text, ONE arm's profile, and the evidence of attempts
(docs/method.md, section 11; ours). The artefact, and what it predicts; numpy alone.

Two heads. The *result head* gives each distinct result of the attempts a score, the evidence as ease has it
(r2/answering/ease.py) and what nets add to it; P(it is right) is the softmax over these scores and a 0 for "none is
right". The *arm head* gives P(the next arm is right) where the best-supported result is right, and where it is wrong.
What both see of an arm is its profile: accuracy at the kind of unit, usual length of its replies, how its confidences
go with being right. No input depends on the order or the size of the pool, so a new arm needs a profile and no
training. Trained by r2/training/scorer/fit.py; `ScoredBeliefs` (r2/answering/scored.py) is what the rule reads.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from r2.answering.attempts import Attempts
from r2.answering.ease import Ease, likelihoods, log_sum, prior_of
from r2.answering.query_router import features
from r2.errors import ConfigError
from r2.problem import Problem

FORMAT: Final = "r2-scorer-2"
OTHER: Final = ""
"""The kind that stands for all kinds that the scorer was not trained on."""
FARTHEST: Final = 3.0
"""Deviations are cut here, in standard deviations."""
MOST_SCORE: Final = 20.0
"""No evidence counts for more than this, in logits."""
SUREST: Final = 1e-4
"""No accuracy and no confidence is taken for surer than this. At steps of plans small models differ in their third
nine."""
RESULT_FEATURES: Final = (
    "logits of those who say it, summed",
    "the best of them",
    "how many say it",
    "logits of those who say otherwise, summed",
    "the best of them (0 where there is none)",
    "how many say otherwise",
    "distinct other results",
    "most who say one of them",
    "length of replies, deviation from their arms' usual one",
    "the same of those who say otherwise",
    "difficulty of the text",
    "difficulty times how many say it",
    "accuracy of the kind",
    "accuracy of the kind times how many say it",
    "most confidence of those who say it, as a logit",
    "deviation of their confidence",
    "whether any of them has a confidence",
    "most confidence of those who say otherwise",
    "whether any of them has a confidence",
    "attempts without a result",
    "arms of the same weights among those who say it",
    "logit of P(right | two agree), mean over pairs who say it",
    "how seldom their wrong results are the same, ln(1 / kappa), mean over pairs who say it",
    "logit of P(right | it disagrees with the other), mean over who says it and who says otherwise",
    "ln of the odds that it is right and not that none is, as ease has it",
)
EASE: Final = len(RESULT_FEATURES) - 1
ARM_FEATURES: Final = (
    "logit of the arm",
    "logit of q",
    "best logit of those who say the best result",
    "how many say it",
    "how many say otherwise",
    "most who say another result",
    "difficulty of the text",
    "accuracy of the kind",
    "length of replies for the best result",
    "whether the arm's weights said it",
    "logit of P(right | it agrees), mean over those who say the best result",
    "ln(1 / kappa), mean over those who say it",
    "logit of P(the arm is right | it disagrees), mean over those who say it",
)
CHOICE_FEATURES = (
    "one",
    "logit of P(the best-supported result is right), 0 without one",
    "whether there is a result",
    "attempts so far",
    "the arm's cost over v",
    "the arm's P(right) alone",
)
"""What the logits of a tuned choice are linear in (r2/answering/choice.py)."""
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Level:
    """A range of an arm's confidences: those from `least` up. `typical` stands for them; `if_right`, `if_wrong`: its
    share among right results and among wrong ones."""

    least: float
    typical: float
    if_right: float
    if_wrong: float


@dataclass(frozen=True, slots=True)
class KindProfile:
    """One arm at one kind of unit. `log_tokens` and its standard deviation are those of ln(1 + generated tokens);
    `confidence` and its deviation those of logits, both 0 where its endpoint gives none (then `levels` is empty).
    `cost_usd` is the mean of one call; `no_result`: share of replies without a result. `n` rows were seen."""

    n: int
    accuracy: float
    cost_usd: float
    log_tokens: float = 0.0
    log_tokens_sd: float = 1.0
    no_result: float = 0.0
    confidence: float = 0.0
    confidence_sd: float = 1.0
    levels: tuple[Level, ...] = ()
    ease: Ease | None = None


@dataclass(frozen=True, slots=True)
class ArmProfile:
    """What is known of an arm: at each kind it was seen at, and under `OTHER` at all of them together. Arms of equal
    `weights` ask the same model; "": nobody else's. `price_usd_per_mtok`: of a prompt token and of a generated one when
    it was seen, per million; None where that is not known."""

    kinds: Mapping[str, KindProfile]
    weights: str = ""
    price_usd_per_mtok: tuple[float, float] | None = None

    def at(self, kind: str) -> KindProfile:
        return self.kinds.get(kind) or self.kinds[OTHER]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two arms at one kind of unit: P(their result is right | they agree), P(the first is right | they disagree), and
    kappa: P(their results are the same | both are wrong)."""

    agree: float
    beats: float
    kappa: float


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of unit: the logit of the mean accuracy of the arms trained on, P(the results of two arms are the same |
    both are wrong), the text's weights: difficulty = (weights . features - mean) / sd, and what is known of pairs of
    arms."""

    accuracy: float
    kappa: float
    weights: Mapping[int, float] = field(default_factory=dict)
    mean: float = 0.0
    sd: float = 1.0
    pairs: Mapping[str, Mapping[str, Pair]] = field(default_factory=dict)
    shortlist: tuple[str, ...] = ()
    """Arms that the best agreement cascades of the kind are made of, the most used first."""
    spread: float = 0.0
    text: float = 0.0
    """How much units differ in ease, and how far the text tells it (r2/answering/ease.py)."""
    steps: Mapping[str, float] = field(default_factory=dict)
    """Of a kind of question: how many steps of each kind its plans have, on average."""

    def pair(self, one: str, other: str, p_one: float, p_other: float) -> Pair:
        """What is known of the two; else what would be so if they were right independently of each other."""
        known = self.pairs.get(one, {}).get(other)
        return known or independent(p_one, p_other, self.kappa)

    def difficulty(self, found: Mapping[int, float]) -> float:
        """In standard deviations; more is easier."""
        if not self.weights:
            return 0.0
        score = sum(self.weights.get(index, 0.0) * value for index, value in found.items())
        return max(-FARTHEST, min(FARTHEST, (score - self.mean) / self.sd))


@dataclass(frozen=True, slots=True)
class Net:
    """One hidden layer of tanh over standardised inputs; its output is one number."""

    mean: FloatArray
    sd: FloatArray
    hidden_FH: FloatArray
    hidden_H: FloatArray
    out_H: FloatArray
    out: float

    def scores(self, x: FloatArray) -> FloatArray:
        """Over the last axis."""
        inner = np.tanh(((x - self.mean) / self.sd) @ self.hidden_FH + self.hidden_H)
        return np.asarray(inner @ self.out_H + self.out)

    def times(self, share: float) -> "Net":
        """The net whose scores are `share` of these."""
        return replace(self, out_H=share * self.out_H, out=share * self.out)


@dataclass(frozen=True, slots=True)
class Linear:
    """A logistic regression over standardised inputs."""

    mean: FloatArray
    sd: FloatArray
    weights: FloatArray
    bias: float

    def probabilities(self, x: FloatArray) -> FloatArray:
        return sigmoid(((x - self.mean) / self.sd) @ self.weights + self.bias)


@dataclass(frozen=True, slots=True)
class States:
    """States of one unit, as arrays of states x attempts: the arm's place among the profiles, the number of its result
    (-1: none), its reply's length and confidence as deviations and logits (NaN: not known). States with fewer attempts
    are filled up with arm -1."""

    arms: IntArray
    results: IntArray
    lengths: FloatArray
    confidences: FloatArray


@dataclass(frozen=True, slots=True)
class UnitView:
    """One unit as the heads see it: its kind, the text's difficulty (for several units of the kind together one number
    for each of the states that are looked at), and each arm's profile at the kind."""

    kind: Kind
    difficulty: float | FloatArray
    logits: FloatArray
    confidence: FloatArray
    confidence_sd: FloatArray
    weights: IntArray
    """Equal numbers ask the same weights."""
    agree: FloatArray
    beats: FloatArray
    kappa: FloatArray
    """Of pairs of arms, as `Pair`; the first two as logits."""
    eases: FloatArray
    """Arms x 5: the numbers of their `Ease`; of arms without one as their accuracy has it, confidences NaN."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """Everything that was trained. `arms` are the profiles it was trained on, by name; `temperature` calibrates the
    result head on questions that its weights had not seen. `choice` holds the weights of group-relative fine-tuning,
    empty where there was none (r2/training/scorer/grpo.py)."""

    kinds: Mapping[str, Kind]
    arms: Mapping[str, ArmProfile]
    nets: tuple[Net, ...]
    arm_head: Linear
    temperature: float = 1.0
    choice: tuple[float, ...] = ()
    n_questions: int = 0
    memory: dict[Any, Any] = field(init=False, default_factory=dict, compare=False, repr=False)
    """What was worked out with it (r2/answering/scored_unit.py); no part of it."""

    def kind(self, name: str) -> Kind:
        return self.kinds.get(name) or self.kinds[OTHER]

    def difficulty(self, problem: Problem, kind: str) -> float:
        """Of the text of a unit of this kind, in standard deviations; more is easier."""
        return self.kind(kind).difficulty(features(replace(problem, benchmark=kind)))

    def shortlist(self, kind: str, arms: Sequence[str]) -> list[str]:
        """Those of `arms` that are worth considering at this kind: the shortlist, where at least two of them are on
        it; else all."""
        kept = [arm for arm in arms if arm in self.kind(kind).shortlist]
        return kept if len(kept) > 1 else list(arms)

    def view(self, problem: Problem, kind: str, profiles: Mapping[str, ArmProfile]) -> UnitView:
        """The unit as the heads see it. `problem` holds its text; the places in `profiles` are the arms' numbers."""
        its = self.kind(kind)
        at = [profile.at(kind) for profile in profiles.values()]
        named: dict[str, int] = {}
        weights = [named.setdefault(p.weights or f"\0{name}", len(named)) for name, p in profiles.items()]
        each = [
            [its.pair(a, b, x.accuracy, y.accuracy) for b, y in zip(profiles, at, strict=True)]
            for a, x in zip(profiles, at, strict=True)
        ]
        return UnitView(
            its,
            self.difficulty(problem, kind),
            np.array([logit(one.accuracy, SUREST) for one in at]),
            np.array([one.confidence for one in at]),
            np.array([one.confidence_sd for one in at]),
            np.array(weights, np.int64),
            np.array([[logit(pair.agree) for pair in row] for row in each]),
            np.array([[logit(pair.beats) for pair in row] for row in each]),
            np.array([[pair.kappa for pair in row] for row in each]),
            np.array([_ease(one, its.spread) for one in at]),
        )

    def p_right(self, view: UnitView, states: States) -> FloatArray:
        """States x results: P(each is right); 0 for numbers that no attempt has."""
        x, there = result_features(view, states)
        return self.p_of(x, there)

    def p_of(self, x: FloatArray, there: NDArray[np.bool_]) -> FloatArray:
        """The same from features that are at hand."""
        beside = np.mean([net.scores(x) for net in self.nets], axis=0)
        return softmax_with_none((x[..., EASE] + beside) / self.temperature, there)

    def p_next(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(P(right | the best is right), P(right | it is wrong)) from `arm_features`."""
        ones = np.ones((*x.shape[:-1], 1))
        if_right = np.concatenate([x, ones, x], axis=-1)
        if_wrong = np.concatenate([x, 0 * ones, 0 * x], axis=-1)
        return self.arm_head.probabilities(if_right), self.arm_head.probabilities(if_wrong)

    def to_json(self) -> bytes:
        """Numbers and names only: loading it runs no code."""
        document = {"format": FORMAT, "result_features": len(RESULT_FEATURES), "arm_features": len(ARM_FEATURES)}
        return orjson.dumps(
            document
            | {
                "n_questions": self.n_questions,
                "temperature": self.temperature,
                "choice": list(self.choice),
                "kinds": {name: _stored_kind(one) for name, one in self.kinds.items()},
                "arms": {name: asdict(one) for name, one in self.arms.items()},
                "nets": [_arrays(net) for net in self.nets],
                "arm_head": _arrays(self.arm_head),
            },
            option=orjson.OPT_SORT_KEYS,
        )

    @classmethod
    def from_json(cls, text: bytes, place: str = "scorer") -> "Scorer":
        """Inverse of `to_json`. ConfigError, naming `place`, for anything else, or a number that is not finite."""
        try:
            stored = orjson.loads(text)
            made = (stored["format"], stored["result_features"], stored["arm_features"])
            if made != (FORMAT, len(RESULT_FEATURES), len(ARM_FEATURES)):
                raise ValueError(f"made as {made}, this version reads {(FORMAT, len(RESULT_FEATURES))}")
            found = cls(
                {name: _kind(one) for name, one in stored["kinds"].items()},
                {name: _arm(one) for name, one in stored["arms"].items()},
                tuple(_net(one) for one in stored["nets"]),
                _linear(stored["arm_head"]),
                float(stored["temperature"]),
                tuple(float(one) for one in stored["choice"]),
                int(stored["n_questions"]),
            )
            if found.choice and (len(found.choice) != len(CHOICE_FEATURES) or not np.isfinite(found.choice).all()):
                raise ValueError(f"its choice has {len(found.choice)} weights, or one that is not finite")
            if OTHER not in found.kinds or not found.nets or any(OTHER not in arm.kinds for arm in found.arms.values()):
                raise ValueError("it lacks the kind that stands for all others")
            return found
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ConfigError(
                f"{place}: not a scorer of this version: {error!r}. Train it again: r2 sft --policy scorer."
            ) from None


def result_features(view: UnitView, states: States) -> tuple[FloatArray, NDArray[np.bool_]]:
    """(states x results x `RESULT_FEATURES`, which results are there)."""
    asked, results = states.arms >= 0, states.results
    told = asked & (results >= 0)
    n_results = int(results.max(initial=-1)) + 1
    place = np.maximum(states.arms, 0)
    logits = np.where(told, view.logits[place], 0.0)
    lengths = np.where(told & ~np.isnan(states.lengths), states.lengths, 0.0)
    sure = told & ~np.isnan(states.confidences)
    confidence = np.where(sure, states.confidences, 0.0)
    deviation = (confidence - view.confidence[place]) / view.confidence_sd[place]
    deviation = np.where(sure, deviation.clip(-FARTHEST, FARTHEST), 0.0)
    counts = (told[:, :, None] & (results[:, :, None] == np.arange(n_results))).sum(axis=1).astype(float)
    failed = (asked & (results < 0)).sum(axis=1)
    first, second = place[:, :, None], place[:, None, :]
    agree, beats, seldom = view.agree[first, second], view.beats[first, second], -np.log(view.kappa[first, second])
    apart = ~np.eye(results.shape[1], dtype=np.bool_)[None]
    x = np.zeros((len(results), n_results, len(RESULT_FEATURES)))
    for r in range(n_results):
        says = told & (results == r)
        not_it = told & (results != r)
        n_says, n_not = says.sum(axis=1), not_it.sum(axis=1)
        others = np.delete(counts, r, axis=1)
        out = x[:, r].T
        out[0] = np.where(says, logits, 0.0).sum(axis=1)
        out[1] = np.where(n_says > 0, np.where(says, logits, -np.inf).max(axis=1), 0.0)
        out[2] = n_says
        out[3] = np.where(not_it, logits, 0.0).sum(axis=1)
        out[4] = np.where(n_not > 0, np.where(not_it, logits, -np.inf).max(axis=1), 0.0)
        out[5] = n_not
        out[6] = (others > 0).sum(axis=1)
        out[7] = others.max(axis=1, initial=0.0)
        out[8] = _mean(lengths, says)
        out[9] = _mean(lengths, not_it)
        out[10] = view.difficulty
        out[11] = view.difficulty * n_says
        out[12] = view.kind.accuracy
        out[13] = view.kind.accuracy * n_says
        out[14] = _most(confidence, says & sure)
        out[15] = _mean(deviation, says & sure)
        out[16] = (says & sure).any(axis=1)
        out[17] = _most(confidence, not_it & sure)
        out[18] = (not_it & sure).any(axis=1)
        out[19] = failed
        out[20] = _twins(view.weights[place], says)
        both = says[:, :, None] & says[:, None, :] & apart
        out[21] = _mean_pair(agree, both)
        out[22] = _mean_pair(seldom, both)
        out[23] = _mean_pair(beats, says[:, :, None] & not_it[:, None, :])
    x[:, :, EASE] = _ease_scores(view, states, x[:, :, 2], x[:, :, 22])
    return x, counts > 0


def _ease_scores(view: UnitView, states: States, n_says: FloatArray, seldom: FloatArray) -> FloatArray:
    """States x results: ln of how probable what was seen is where the result is right, over where none is. Wrong
    results that are the same are less probable than different ones: `seldom` is ln(1 / kappa) of those who say it."""
    told = (states.arms >= 0) & (states.results >= 0)
    shown = np.where(told & ~np.isnan(view.eases[np.maximum(states.arms, 0), 1]), states.confidences, np.nan)
    arms = np.nan_to_num(view.eases[np.maximum(states.arms, 0)])
    if_right, if_wrong = likelihoods(arms, view.kind.spread, shown)
    if_wrong = np.where(told[..., None], if_wrong, 0.0)
    prior = prior_of(np.asarray(view.difficulty, np.float64), view.kind.text)
    none = prior + if_wrong.sum(axis=1)
    least = log_sum(none)
    found = np.zeros(n_says.shape)
    for r in range(n_says.shape[1]):
        says = told & (states.results == r)
        its = none + np.where(says[..., None], if_right - if_wrong, 0.0).sum(axis=1)
        found[:, r] = log_sum(its) - least + np.maximum(n_says[:, r] - 1, 0) * seldom[:, r]
    return found.clip(-MOST_SCORE, MOST_SCORE)


def _ease(profile: KindProfile, spread: float) -> tuple[float, ...]:
    if profile.ease is None:
        return logit(profile.accuracy, SUREST) * math.sqrt(1 + 0.35 * spread**2), math.nan, 0.0, 0.0, 1.0
    return astuple(profile.ease)


def arm_features(view: UnitView, x: FloatArray, p_right: FloatArray, states: States) -> FloatArray:
    """States x arms x `ARM_FEATURES`, for every arm of the view, from what `result_features` and `p_right` gave."""
    rows = np.arange(len(x))
    best = p_right.argmax(axis=1)
    q = p_right[rows, best].clip(0.01, 0.99)
    its = x[rows, best]
    says = (states.arms >= 0) & (states.results == best[:, None])
    n_arms = len(view.logits)
    found = np.empty((len(x), n_arms, len(ARM_FEATURES)))
    found[..., 0] = view.logits
    for number, values in enumerate(
        (np.log(q / (1 - q)), its[:, 1], its[:, 2], its[:, 5], its[:, 7], its[:, 10], its[:, 12], its[:, 8]), start=1
    ):
        found[..., number] = values[:, None]
    of = np.where(says, view.weights[np.maximum(states.arms, 0)], -1)
    found[..., 9] = (of[:, :, None] == view.weights[None, None, :]).any(axis=1)
    share = says / np.maximum(says.sum(axis=1, keepdims=True), 1)
    place = np.maximum(states.arms, 0)
    found[..., 10] = (share[:, :, None] * view.agree[place]).sum(axis=1)
    found[..., 11] = (share[:, :, None] * -np.log(view.kappa[place])).sum(axis=1)
    found[..., 12] = (share[:, :, None] * view.beats.T[place]).sum(axis=1)
    return found


def states_of(attempts: Sequence[Attempts], places: Mapping[str, int], profiles: Sequence[KindProfile]) -> States:
    """The arrays of these states. Arms without a place (a fallback from elsewhere) are left out."""
    known = [[one for one in state if one.arm in places] for state in attempts]
    shape = (len(known), max((len(state) for state in known), default=0))
    arms, results = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    lengths, confidences = np.full(shape, np.nan), np.full(shape, np.nan)
    for row, state in enumerate(known):
        for column, one in enumerate(state):
            place = places[one.arm]
            arms[row, column] = place
            results[row, column] = -1 if one.result is None else one.result
            if one.output_tokens is not None:
                lengths[row, column] = length_deviation(profiles[place], one.output_tokens)
            if one.confidence is not None:
                confidences[row, column] = logit(one.confidence, SUREST)
    return States(arms, results, lengths, confidences)


def length_deviation(profile: KindProfile, output_tokens: float) -> float:
    """A reply's length against the arm's usual one, in standard deviations of ln(1 + tokens)."""
    deviation = (math.log1p(output_tokens) - profile.log_tokens) / profile.log_tokens_sd
    return max(-FARTHEST, min(FARTHEST, deviation))


def logit(p: float, least: float = 0.005) -> float:
    """ln(p / (1 - p)), for p cut to `least` .. 1 - `least`."""
    p = min(max(p, least), 1 - least)
    return math.log(p / (1 - p))


def sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def softmax_with_none(scores: FloatArray, there: NDArray[np.bool_]) -> FloatArray:
    """exp(s_r) / (1 + sum of exp(s)), over the last axis, for results that are there; 0 for the others."""
    scores = np.where(there, scores, -np.inf)
    top = np.maximum(scores.max(axis=-1, keepdims=True, initial=0.0), 0.0)
    each = np.exp(scores - top)
    return np.asarray(each / (each.sum(axis=-1, keepdims=True) + np.exp(-top)))


def _mean(values: FloatArray, of: NDArray[np.bool_]) -> FloatArray:
    return np.asarray(np.where(of, values, 0.0).sum(axis=1) / np.maximum(of.sum(axis=1), 1))


def _most(values: FloatArray, of: NDArray[np.bool_]) -> FloatArray:
    return np.where(of.any(axis=1), np.where(of, values, -np.inf).max(axis=1, initial=-np.inf), 0.0)


def _mean_pair(values: FloatArray, of: NDArray[np.bool_]) -> FloatArray:
    n = of.sum(axis=(1, 2))
    return np.asarray(np.where(of, values, 0.0).sum(axis=(1, 2)) / np.maximum(n, 1))


def independent(p_one: float, p_other: float, kappa: float) -> Pair:
    """The pair of two arms that are right independently of each other."""
    both, neither = p_one * p_other, (1 - p_one) * (1 - p_other)
    same, apart = both + neither * kappa, 1 - both - neither * kappa
    return Pair(both / same if same else 0.5, p_one * (1 - p_other) / apart if apart else 0.5, kappa)


def _twins(weights: IntArray, says: NDArray[np.bool_]) -> FloatArray:
    """How many of those who say it ask weights that another of them asks."""
    same = (weights[:, :, None] == weights[:, None, :]) & says[:, :, None] & says[:, None, :]
    return np.asarray((says & (same.sum(axis=2) > 1)).sum(axis=1), np.float64)


def _texts(weights: Mapping[int, float]) -> dict[str, float]:
    return {str(index): float(f"{weight:.6g}") for index, weight in sorted(weights.items()) if weight}


def _arrays(one: Net | Linear) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in ((name, getattr(one, name)) for name in one.__dataclass_fields__)
    }


def _array(values: object) -> FloatArray:
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        raise ValueError("a number is not finite")
    return found


def _net(stored: Mapping[str, Any]) -> Net:
    mean, sd, first, bias, second = (_array(stored[key]) for key in ("mean", "sd", "hidden_FH", "hidden_H", "out_H"))
    return Net(mean, sd, first, bias, second, float(stored["out"]))


def _linear(stored: Mapping[str, Any]) -> Linear:
    mean, sd, weights = (_array(stored[key]) for key in ("mean", "sd", "weights"))
    return Linear(mean, sd, weights, float(stored["bias"]))


def _stored_kind(one: Kind) -> dict[str, Any]:
    pairs = {
        name: {other: [round(p.agree, 5), round(p.beats, 5), round(p.kappa, 5)] for other, p in its.items()}
        for name, its in one.pairs.items()
    }
    return asdict(one) | {"weights": _texts(one.weights), "pairs": pairs}


def _kind(stored: dict[str, Any]) -> Kind:
    weights = {int(index): float(weight) for index, weight in stored.pop("weights").items()}
    pairs = {
        str(name): {str(other): Pair(*map(float, p)) for other, p in its.items()}
        for name, its in stored.pop("pairs").items()
    }
    shortlist = tuple(map(str, stored.pop("shortlist")))
    steps = {str(kind): float(n) for kind, n in stored.pop("steps", {}).items()}
    numbers = {name: float(value) for name, value in stored.items()}
    return Kind(**numbers, weights=weights, pairs=pairs, shortlist=shortlist, steps=steps)


def _arm(stored: dict[str, Any]) -> ArmProfile:
    kinds = {
        str(name): KindProfile(
            **(
                one
                | {
                    "levels": tuple(Level(**level) for level in one["levels"]),
                    "ease": None if one["ease"] is None else Ease(**one["ease"]),
                }
            )
        )
        for name, one in stored["kinds"].items()
    }
    price = stored.get("price_usd_per_mtok")
    return ArmProfile(kinds, str(stored["weights"]), None if price is None else (float(price[0]), float(price[1])))
