"""What is believed of a unit on the day without any checked row (docs/method.md, section 10; ours): from profiles, from
which results are the same, and from how sure the models were. Pure.

Each arm is right with a prior probability; two wrong results are the same with probability kappa. So results that
several arms bring are more probable, and results that disagree less. If no question were harder than another:

    S_r = sum of logit p_i over the arms that say r, plus (k_r - 1) * log(1 / kappa)      P(r) = exp(S_r) / Z

where Z adds the S of all results and what it takes that none of them is right. But arms err on the same questions, so
this holds for easier and for harder ones apart, and the two are weighed by what was seen. What may come next is worked
out from the same model, so that looking ahead never finds a gain that the formula does not have. A hundred checked rows
are better than this, and a trained scorer is.

The constants are priors, chosen by hand and stated here. Those that came last (`UNMEASURED`, `AT_ONCE`,
`TRAINED_REPLIES`, `SPREAD`) were chosen while looking at the 101 questions of pools/specialists.toml, so that its row
in docs/answering.md is optimistic. `KAPPA_FREE` and `AS_SHOWN` were chosen on other questions, by eye.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Self

from r2.answering.attempts import Attempt, Attempts
from r2.roster import PLAN_SKILL, ModelCard, PromptMode, Tier

TIER_MEANS: Final[Mapping[Tier, float]] = {"small": 0.5, "medium": 0.7, "large": 0.85}
"""P(right) of an entry of which nothing was measured."""
TIER_ROWS: Final = 4.0
"""Rows that the tier's mean counts for (k of the Beta prior)."""
PROFILE_ROWS: Final = 20.0
"""Rows that an accuracy of a profile counts for, where it does not say how many questions it was measured on."""
OTHER_ROWS: Final = 4.0
"""Rows that the mean of a profile counts for, where it says nothing of the kind of unit."""
UNMEASURED: Final = 0.75
"""How much of the mean of a profile is believed at a kind that it leaves out: models are measured at what they are
for."""
FOREIGN: Final = 0.05
"""P(right) of a fine-tuned entry (prompt mode `bare`) at a kind that its profile leaves out: it was made for others."""
SPECIALIST_MEAN: Final = 0.95
"""In place of the tier's mean, of a fine-tuned entry at the kinds that its profile names: it is small, and made for
them."""
AT_ONCE: Final[Mapping[PromptMode, float]] = {"direct": 0.25, "cot": 0.5}
"""How much of P(all steps are right) is left where they are done in one reply, without and with thinking; only of
entries that were not measured at it. A real 1.5 B model that adds and multiplies without a fault is right in 23 % of
expressions and commands without thinking, and in 52 % with it (docs/results.md)."""
NO_STEPS: Final[Mapping[str, int]] = {}
LEAST, MOST = 0.005, 0.995
"""No prior is surer than this."""
AS_SHOWN: Final = (0.95, 0.3)
"""Share of plans that have the steps which their question's form shows: of right ones, of wrong ones."""
DEGREES: Final = ("easier", "harder")
SPREAD: Final = 1.5
"""Between real questions of one kind: who errs, errs where others do."""
KAPPA_FREE: Final = 1 / 5
"""P(two wrong results are the same) where results are numbers or texts."""
KAPPA_SAME_WEIGHTS: Final = 0.5
"""The least of it for two arms that ask the same weights."""
_CERTAIN = 1e9
"""Odds in place of kappa = 1."""


@dataclass(frozen=True, slots=True)
class Level:
    """Confidences from `least` up to the next level. `typical` stands for all of them; `if_right` and `if_wrong`: their
    share among right results, and among wrong ones."""

    least: float
    typical: float
    if_right: float
    if_wrong: float


SHORT_REPLIES: Final = (Level(0.0, 0.5, 0.12, 0.66), Level(0.75, 0.9, 0.28, 0.24), Level(0.97, 0.99, 0.60, 0.10))
"""Of replies that are the result and nothing else. They tell right from wrong with an area under the curve of 0.83; on
short programs of two local models 0.86 was measured, on simulated models more. No result counts as six times more
probable than before because of it, or less than a fifth as probable."""
TRAINED_REPLIES: Final = (Level(0.0, 0.5, 0.02, 0.60), Level(0.75, 0.9, 0.08, 0.30), Level(0.97, 0.99, 0.90, 0.10))
"""Of an entry that was fine-tuned on the job: nearly always certain, and when it is not it has seen nothing like it."""
LONG_REPLIES: Final = (Level(0.0, 0.5, 0.25, 0.40), Level(0.75, 0.9, 0.35, 0.35), Level(0.97, 0.99, 0.40, 0.25))
"""Of chains of thought and of answers in full: most of their tokens are certain whatever they come to."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A pool entry as one unit sees it. `p_right`: before anything was asked. `levels` are empty where its endpoint
    gives no log-probabilities. Arms of equal `weights` ask the same model; "": nobody else's."""

    name: str
    p_right: float
    cost_usd: float
    levels: tuple[Level, ...] = ()
    weights: str = ""


Eases = Mapping[str, Mapping[str, tuple[float, float, float]]]
"""Kind of unit -> entry that was measured at it -> its tier's mean, the questions, and how many it did right."""
NO_EASES: Final[Eases] = {}


def eases_of(cards: Iterable[ModelCard], kinds: Iterable[str]) -> Eases:
    """What tells how easy kinds are. Fine-tuned entries do not count: they were made for their kinds."""
    stock = [card for card in cards if card.prompt_mode != "bare"]
    return {
        kind: {
            card.name: (TIER_MEANS[card.tier], _rows(card, kind), _rows(card, kind) * card.skills[kind])
            for card in stock
            if kind in card.skills
        }
        for kind in kinds
    }


def _rows(card: ModelCard, kind: str) -> float:
    rows = card.profile_rows.get(kind) if isinstance(card.profile_rows, Mapping) else card.profile_rows
    return PROFILE_ROWS if rows is None else rows


def usual(card: ModelCard, kind: str, eases: Eases) -> float | None:
    """What is expected of an entry at a kind before it was measured: its tier's mean, made lower or higher by how hard
    or easy the kind was for the other entries. None where no other was measured at it."""
    others = tuple(sorted(measured for name, measured in eases.get(kind, {}).items() if name != card.name))
    return _within(_expit(_logit(TIER_MEANS[card.tier]) + ease(others))) if others else None


@lru_cache(maxsize=4096)
def ease(measured: tuple[tuple[float, float, float], ...]) -> float:
    """How much easier a kind is than all kinds are: the difference in logit P(right), one for all entries, with which
    they are expected to do as many right as they did. One question more, half right, keeps it finite."""
    n_right = 0.5 + sum(right for _, _, right in measured)
    n_rows = 1 + sum(rows for _, rows, _ in measured)
    low, high = -12.0, 12.0
    for _ in range(30):
        middle = (low + high) / 2
        expected = sum(rows * _expit(_logit(mean) + middle) for mean, rows, _ in measured)
        is_too_easy = expected * n_rows / (n_rows - 1) > n_right
        low, high = (low, middle) if is_too_easy else (middle, high)
    return (low + high) / 2


def _expit(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _within(p: float) -> float:
    return min(MOST, max(LEAST, p))


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def prior(
    card: ModelCard,
    kinds: Sequence[str],
    steps: Mapping[str, int] = NO_STEPS,
    eases: Eases = NO_EASES,
) -> float:
    """P(the entry is right) at a unit of these kinds, the most telling first, from its profile.

    Beta(k * mu, k * (1 - mu)) with k = `TIER_ROWS` and the tier's mean mu, added to what was measured: the first kind
    that the profile names. Where it names none: of a unit that takes several `steps` (kind -> how many) the product
    over them, times `AT_ONCE`; else the mean of all it names.
    """
    named = next((kind for kind in kinds if kind in card.skills), None)
    if named is not None:
        mean = SPECIALIST_MEAN if card.prompt_mode == "bare" else usual(card, named, eases) or TIER_MEANS[card.tier]
        return _shrunk(card.skills[named], _rows(card, named), mean)
    if card.skills and card.prompt_mode == "bare":
        return FOREIGN
    for kind in kinds:
        if (expected := usual(card, kind, eases)) is not None:
            return expected
    mean = TIER_MEANS[card.tier]
    p_right = mean
    if others := [accuracy for skill, accuracy in card.skills.items() if skill != PLAN_SKILL]:
        p_right = UNMEASURED * _shrunk(sum(others) / len(others), OTHER_ROWS, mean)
    if steps:
        if steps.keys() <= card.skills.keys():
            p_right = math.prod(prior(card, [kind], eases=eases) ** n for kind, n in steps.items())
        p_right *= AT_ONCE.get(card.prompt_mode, 1.0)
    return min(MOST, max(LEAST, p_right))


def _shrunk(measured: float, n_rows: float, mean: float) -> float:
    return min(MOST, max(LEAST, (n_rows * measured + TIER_ROWS * mean) / (n_rows + TIER_ROWS)))


def after_plan(p_plan: float, *, is_as_shown: bool) -> float:
    """P(a plan is right) after it came: whether it has the steps that the question's form shows."""
    if_right, if_wrong = AS_SHOWN if is_as_shown else (1 - AS_SHOWN[0], 1 - AS_SHOWN[1])
    return p_plan * if_right / (p_plan * if_right + (1 - p_plan) * if_wrong)


def by_difficulty(p_right: float, spread: float) -> list[float]:
    """P(right) at the easier half of questions and at the harder one: logits `spread` above and below one and the same,
    with `p_right` as their mean."""
    scale = math.exp(spread)
    both = scale + 1 / scale
    # odds x of the middle, from x * scale / (1 + x * scale) + x / (x + scale) = 2 * p_right
    short = both * (1 - 2 * p_right)
    middle = (math.sqrt(short * short + 16 * p_right * (1 - p_right)) - short) / (4 * (1 - p_right))
    return [middle * factor / (1 + middle * factor) for factor in (scale, 1 / scale)]


def kappa_of(n_choices: int) -> float:
    """P(two wrong results are the same): 1 / (choices - 1), and `KAPPA_FREE` for less than two choices."""
    return 1 / (n_choices - 1) if n_choices > 1 else KAPPA_FREE


@dataclass(frozen=True)
class ProfileBeliefs:
    """`Beliefs` of the formula above. `has_equality` False: nobody can say whether two results are the same (free
    text); then each stands for itself, and the probabilities of several may sum to more than 1."""

    known: tuple[Arm, ...]
    kappa: float = KAPPA_FREE
    has_equality: bool = True
    spread: float = 0.0
    """How much easier the easier half of questions is, and how much harder the other, in units of logit P(right)."""
    closed: frozenset[str] = frozenset()
    """Arms that are not asked any more."""
    _by_name: dict[str, Arm] = field(init=False, repr=False, compare=False)
    _by_degree: dict[str, list[float]] = field(init=False, repr=False, compare=False)
    _usual_odds: float = field(init=False, repr=False, compare=False)
    _weights_by_name: dict[str, str] = field(init=False, repr=False, compare=False)
    """Empty where no two arms share their weights."""
    _odds_by_attempt: dict[tuple[str, float | None], list[tuple[float, float]]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    _known: dict[Attempts, "_State"] = field(init=False, repr=False, compare=False, default_factory=dict)
    """The last state that was asked about."""

    def __post_init__(self) -> None:
        named = [arm.weights for arm in self.known if arm.weights]
        object.__setattr__(self, "_by_name", {arm.name: arm for arm in self.known})
        by_degree = {arm.name: by_difficulty(arm.p_right, self.spread) for arm in self.known}
        object.__setattr__(self, "_by_degree", by_degree)
        object.__setattr__(self, "_usual_odds", _odds_of(self.kappa))
        by_name = {arm.name: arm.weights for arm in self.known if arm.weights} if len(set(named)) < len(named) else {}
        object.__setattr__(self, "_weights_by_name", by_name)

    def told_length(self, output_tokens: int | None) -> None:
        """How long a reply is tells nothing here."""

    def without(self, names: Set[str]) -> Self:
        """The same where these arms are not asked any more; what they brought still counts."""
        closed = frozenset(names & self._by_name.keys())
        return self if closed == self.closed else replace(self, closed=closed)

    def with_arm(self, arm: Arm) -> Self:
        """The same with one arm more, or with this one in the place of that of its name."""
        return replace(self, known=(*(one for one in self.known if one.name != arm.name), arm))

    def told(self, arm: str, confidence: float | None) -> float | None:
        """The typical confidence of the level that this one is in; None where it is not told apart."""
        levels = self._by_name[arm].levels if arm in self._by_name else ()
        return None if confidence is None or not levels else level_of(confidence, levels).typical

    @property
    def arms(self) -> Sequence[str]:
        return tuple(name for name in self._by_name if name not in self.closed)

    def cost_usd(self, arm: str, attempts: Attempts) -> float:
        return self._by_name[arm].cost_usd

    def p_right(self, attempts: Attempts) -> Sequence[float]:
        if not self.has_equality:
            return self._each_by_itself(attempts)
        weights = self._state(attempts).weights
        total = sum(weights)
        return [weight / total for weight in weights[:-1]]

    def outcomes(self, attempts: Attempts, arm: str) -> Sequence[tuple[float, Attempt]]:
        """Without "none": that a call fails is not counted on."""
        levels = self._by_name[arm].levels
        found: list[tuple[float, Attempt]] = []
        for result, right, wrong, _ in self._with_result(attempts, arm):
            if not levels:
                found.append((right + wrong, Attempt(arm, result)))
            for level in levels:
                found.append((right * level.if_right + wrong * level.if_wrong, Attempt(arm, result, level.typical)))
        total = sum([weight for weight, _ in found])
        return [(weight / total, further) for weight, further in found]

    def expected_best(self, attempts: Attempts, arm: str, least: float = 0.0) -> float:
        """As of `Foreseeing` (r2/answering/lookahead.py)."""
        if not self.has_equality:
            least = max(least, *self.p_right(attempts), 0.0)
        levels = [(level.if_right, level.if_wrong) for level in self._by_name[arm].levels] or _NOT_TOLD
        best = total = 0.0
        for _, right, wrong, other in self._with_result(attempts, arm):
            for if_right, if_wrong in levels:
                every = right * if_right + wrong * if_wrong
                total += every
                best += max(right * if_right, other * if_wrong, least * every)
        return best / total

    def _with_result(self, attempts: Attempts, arm: str) -> Iterator[tuple[int, float, float, float]]:
        """Each result that the arm may bring, an earlier one or a new one, with joint likelihoods up to a factor: that
        it is right; that it is not; and of the other results the likeliest one's, that this one is right instead."""
        asked = self._by_name[arm]
        if not self.has_equality:
            n_results = 1 + max((one.result for one in attempts if one.result is not None), default=-1)
            yield n_results, asked.p_right, 1 - asked.p_right, 0.0
            return
        state = self._state(attempts)
        further = self._if_right_and_wrong(Attempt(arm, None))
        if_its, if_not = [], []
        for by_degree, alike in zip(state.by_degree, state.alike, strict=True):
            if_its.append(alike * sum([told * p for told, (p, _) in zip(by_degree, further, strict=True)]))
            if_not.append(alike * sum([told * p for told, (_, p) in zip(by_degree, further, strict=True)]))
        nobody = len(if_its) - 1  # also the number of a new result: nobody has said it, so nobody was right before it
        sames = self._same_as(state, arm)
        for result in range(nobody + 1):
            wrong = other = 0.0
            for right, same in enumerate(sames[result]):
                if right == result and right != nobody:
                    continue
                weight = if_not[right] * same
                wrong += weight
                if right != nobody and weight > other:
                    other = weight
            yield result, if_its[result], wrong, other

    def _state(self, attempts: Attempts) -> "_State":
        """What the attempts say, worked out once for all arms that may be asked after them."""
        if attempts not in self._known:
            self._known.clear()  # the search goes on from one state to the next
            self._known[attempts] = self._worked_out(attempts)
        return self._known[attempts]

    def _worked_out(self, attempts: Attempts) -> "_State":
        """Arms that this pool does not have (a fallback from elsewhere) bring a result, and no evidence."""
        told = sorted([one for one in attempts if one.result is not None], key=_arm_of)
        seen = [(one.result, self._if_right_and_wrong(one)) for one in told]
        results = tuple([one.result for one in told if one.result is not None])
        are_twins_among = self._has_twins([one.arm for one in told])
        state = _State(told, results)
        for right in (*range(1 + max(results, default=-1)), None):
            by_degree = [1.0] * len(DEGREES)
            for result, pairs in seen:
                is_wrong = result != right
                for degree, pair in enumerate(pairs):
                    by_degree[degree] *= pair[is_wrong]
            alike = 1.0
            if len(told) > 1:
                alike = self._alike(told, right) if are_twins_among else _alike(results, right, self._usual_odds)
            state.by_degree.append(by_degree)
            state.alike.append(alike)
            state.weights.append(alike * sum(by_degree))
        return state

    def _same_as(self, state: "_State", arm: str) -> list[list[float]]:
        """For each result that the arm may bring next, and each that may be right (last: none): by what factor the
        wrong ones are then less probably the same where they are, and different where they differ."""
        n = len(state.alike) - 1
        if self._has_twins([*(one.arm for one in state.told), arm]):
            place = bisect_right([one.arm for one in state.told], arm)
            found = []
            for result in range(n + 1):
                among = [*state.told[:place], Attempt(arm, result), *state.told[place:]]
                rights = (*range(n), None)
                found.append([self._alike(among, right) / state.alike[at] for at, right in enumerate(rights)])
            return found
        return _factors(state.results, n, self._usual_odds)

    def _has_twins(self, arms: Iterable[str]) -> bool:
        """Two of the arms share their weights."""
        named = [self._weights_by_name[arm] for arm in arms if arm in self._weights_by_name]
        return len(set(named)) < len(named)

    def _if_right_and_wrong(self, attempt: Attempt) -> list[tuple[float, float]]:
        """For each degree of difficulty: P(its result is right, so surely), P(it is wrong, so surely)."""
        known = self._odds_by_attempt.get((attempt.arm, attempt.confidence))
        if known is None:
            known = self._odds_by_attempt[attempt.arm, attempt.confidence] = self._odds(attempt)
        return known

    def _odds(self, attempt: Attempt) -> list[tuple[float, float]]:
        arm = self._by_name.get(attempt.arm)
        if arm is None:
            return [(1.0, 1.0)] * len(DEGREES)
        if_right = if_wrong = 1.0
        if attempt.confidence is not None and arm.levels:
            level = level_of(attempt.confidence, arm.levels)
            if_right, if_wrong = level.if_right, level.if_wrong
        return [(p * if_right, (1 - p) * if_wrong) for p in self._by_degree[attempt.arm]]

    def _each_by_itself(self, attempts: Attempts) -> list[float]:
        found = []
        for one in attempts:
            if one.result is None:
                continue
            pairs = self._if_right_and_wrong(one)
            right, wrong = sum(right for right, _ in pairs), sum(wrong for _, wrong in pairs)
            found.append(right / (right + wrong))
        return found

    def _alike(self, told: Sequence[Attempt], right: int | None) -> float:
        """P(the wrong ones among the results are the same where they are, and differ where they do).

        One after the other: each repeats an earlier wrong result with odds kappa / (1 - kappa) for each that has it,
        against 1 for a new one. For equal kappa this does not depend on the order (Ewens' sampling formula).
        """
        total, before = 1.0, list[Attempt]()
        for one in told:
            if one.result == right:
                continue
            same = every = 0.0
            for other in before:
                odds = self._same_odds(one.arm, other.arm)
                every += odds
                same += odds if other.result == one.result else 0.0
            total *= (same or 1.0) / (1 + every)
            before.append(one)
        return total

    def _same_odds(self, one: str, other: str) -> float:
        kappa, first, second = self.kappa, self._by_name.get(one), self._by_name.get(other)
        if first is not None and second is not None and first.weights and first.weights == second.weights:
            kappa = max(kappa, KAPPA_SAME_WEIGHTS)
        return _odds_of(kappa)


@dataclass(slots=True)
class _State:
    """What attempts say. The lists go by which result is right, and last if none is: likelihood by degree of
    difficulty, P(the wrong ones are the same where they are), both together over all degrees."""

    told: list[Attempt]
    """Those with a result, by arm."""
    results: tuple[int, ...]
    by_degree: list[list[float]] = field(default_factory=list)
    alike: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


_NOT_TOLD: Final = [(1.0, 1.0)]


@lru_cache(maxsize=4096)
def _factors(results: tuple[int, ...], n_results: int, odds: float) -> list[list[float]]:
    """`ProfileBeliefs._same_as` where no two of the entries share their weights: a wrong result is an earlier one with
    `odds` for each that has it, against 1 for a new one."""
    found = []
    for result in range(n_results + 1):
        by_right = []
        for right in range(n_results + 1):
            n_wrong = len(results) - results.count(right)
            n_same = 0 if result == right else results.count(result)
            by_right.append((n_same * odds or 1.0) / (1 + n_wrong * odds))
        found.append(by_right)
    return found


@lru_cache(maxsize=4096)
def _alike(results: tuple[int, ...], right: int | None, odds: float) -> float:
    """The same where no two of the entries share their weights: then it depends on the results only."""
    total, before = 1.0, list[int]()
    for one in results:
        if one == right:
            continue
        same = every = 0.0
        for other in before:
            every += odds
            same += odds if other == one else 0.0
        total *= (same or 1.0) / (1 + every)
        before.append(one)
    return total


def _odds_of(kappa: float) -> float:
    return kappa / (1 - kappa) if kappa < 1 else _CERTAIN


def _arm_of(attempt: Attempt) -> str:
    return attempt.arm


def level_of(confidence: float, levels: Sequence[Level]) -> Level:
    """The level that a confidence is in; `levels` begin at 0."""
    return next(level for level in reversed(levels) if confidence >= level.least)
