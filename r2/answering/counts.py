"""Beliefs that are counted on checked questions instead of assumed (docs/method.md, section 10; ours).

A state is who was asked, and which of their results are the same. How often a result is right in a state, and what
asking one arm more brings there, are shares among the checked questions that were in this state. A state that few of
them were in borrows from the states with one arm less, by `pseudo_rows` questions' weight. The questions are of one
kind (one benchmark): what is counted on easy questions says little of hard ones.

A hundred checked questions are enough to make it better than the untrained beliefs. What it cannot know is which
questions of a state are the easy ones: the scorer reads the text, this does not.
"""

from collections.abc import Sequence
from itertools import combinations

from r2.answering.attempts import Attempt, Attempts
from r2.errors import ConfigError

PSEUDO_ROWS = 4.0
"""Weight, in questions, of what the states with one arm less say."""

State = tuple[tuple[int, int], ...]
"""(place of the arm, number of its result) in the order of the arms; -1 for an attempt without a result. Results are
numbered as they first appear in this order."""
NO_RESULT = -1


class CountedBeliefs:
    """What checked questions of one kind say of every arm and every pattern of agreement.

    `results[a][q]` numbers the result of arm a on question q: equal numbers are the same result, a negative number is
    none. `right[a][q]` is 0..1, `cost_usd[a][q]` in USD. Raises ConfigError without questions or arms, or where the
    tables do not fit together.
    """

    def __init__(
        self,
        arms: Sequence[str],
        results: Sequence[Sequence[int]],
        right: Sequence[Sequence[float]],
        cost_usd: Sequence[Sequence[float]],
        *,
        pseudo_rows: float = PSEUDO_ROWS,
    ) -> None:
        self.arms: Sequence[str] = tuple(arms)
        n = len(results[0]) if results else 0
        if not n or any(
            len(table) != len(self.arms) or any(len(row) != n for row in table) for table in (results, right, cost_usd)
        ):
            raise ConfigError(
                f"counting needs results, right and cost of {len(self.arms)} arms on the same questions, at least one"
            )
        self.n_questions = n
        self._place = {arm: place for place, arm in enumerate(self.arms)}
        self._results = [tuple(max(NO_RESULT, int(number)) for number in row) for row in results]
        self._right = [tuple(map(float, row)) for row in right]
        self._cost = [sum(map(float, row)) / n for row in cost_usd]
        self._pseudo_rows = pseudo_rows
        self._questions: dict[tuple[int, ...], dict[State, list[int]]] = {(): {(): list(range(n))}}
        self._p_right: dict[State, tuple[float, ...]] = {(): ()}
        self._outcomes: dict[tuple[State, int], tuple[float, ...]] = {}

    def cost_usd(self, arm: str, attempts: Attempts) -> float:
        """Mean cost of the arm on the checked questions, whatever the attempts."""
        return self._cost[self._place[arm]]

    def p_right(self, attempts: Attempts) -> Sequence[float]:
        """Share of the state's questions on which each result was right, in the attempts' own numbering."""
        state = self.state_of(attempts)
        shares = self.p_right_in(state)
        number_of = dict(state)
        found = [0.0] * (1 + max((a.result for a in attempts if a.result is not None), default=-1))
        for attempt in attempts:
            if attempt.result is not None:
                found[attempt.result] = shares[number_of[self._place[attempt.arm]]]
        return found

    def outcomes(self, attempts: Attempts, arm: str) -> Sequence[tuple[float, Attempt]]:
        """What asking the arm brought on the state's questions. Confidences are not counted, and so None."""
        state = self.state_of(attempts)
        own_number = {dict(state)[self._place[a.arm]]: a.result for a in attempts if a.result is not None}
        *shares, new, none = self.outcome_shares(state, self._place[arm])
        found = [(share, Attempt(arm, own_number[number])) for number, share in enumerate(shares)]
        return [*found, (new, Attempt(arm, len(shares))), (none, Attempt(arm, None))]

    def n_checked(self, state: State) -> int:
        """Checked questions that were in this state."""
        return len(self._questions_in(state))

    def state_of(self, attempts: Attempts) -> State:
        """The state after these attempts, whatever their order. KeyError for an arm that is not counted."""
        return numbered([(self._place[a.arm], NO_RESULT if a.result is None else a.result) for a in attempts])

    def p_right_in(self, state: State) -> tuple[float, ...]:
        """P(right) of each result of the state, by its number; they sum to at most 1."""
        known = self._p_right.get(state)
        if known is not None:
            return known
        n_results = 1 + max(number for _, number in state)
        questions = self._questions_in(state)
        totals = [0.0] * n_results
        prior = self._prior(state, n_results)
        for number in range(n_results):
            places = [place for place, its in state if its == number]
            totals[number] = sum(self._right[place][q] for q in questions for place in places) / len(places)
        weight = len(questions) + self._pseudo_rows
        shares = [
            (total + self._pseudo_rows * before) / weight if weight else before
            for total, before in zip(totals, prior, strict=True)
        ]
        scale = max(1.0, sum(shares))
        self._p_right[state] = found = tuple(share / scale for share in shares)
        return found

    def outcome_shares(self, state: State, place: int) -> tuple[float, ...]:
        """Probabilities that the arm at `place` gives each result of the state again, a new one, or none; sum 1."""
        known = self._outcomes.get((state, place))
        if known is not None:
            return known
        n_results = 1 + max((number for _, number in state), default=-1)
        counts = [0.0] * (n_results + 2)
        for q in self._questions_in(state):
            counts[self._outcome(state, n_results, place, q)] += 1.0
        total = sum(counts)
        prior = self._outcome_prior(state, n_results, place)
        weight = total + self._pseudo_rows
        found = tuple(
            (count + self._pseudo_rows * before) / weight if weight else before
            for count, before in zip(counts, prior, strict=True)
        )
        self._outcomes[state, place] = found
        return found

    def after(self, state: State, place: int, outcome: int) -> State:
        """The state once the arm at `place` has brought this outcome, by its place in `outcome_shares`."""
        n_results = 1 + max((number for _, number in state), default=-1)
        return numbered([*state, (place, NO_RESULT if outcome == n_results + 1 else outcome)])

    def _outcome(self, state: State, n_results: int, place: int, q: int) -> int:
        result = self._results[place][q]
        if result < 0:
            return n_results + 1
        return next((number for earlier, number in state if self._results[earlier][q] == result), n_results)

    def _questions_in(self, state: State) -> list[int]:
        places = tuple(place for place, _ in state)
        by_state = self._questions.get(places)
        if by_state is None:
            by_state = {}
            for q in range(self.n_questions):
                its = numbered([(place, self._results[place][q]) for place in places])
                by_state.setdefault(its, []).append(q)
            self._questions[places] = by_state
        return by_state.get(state, [])

    def _prior(self, state: State, n_results: int) -> list[float]:
        """Each result's P(right) by the states with one arm less that still have it, on average; the arm's own rate
        among its results for a state of one arm."""
        if len(state) == 1:
            [(place, _)] = state
            n_with = sum(number >= 0 for number in self._results[place])
            n_right = sum(r for r, number in zip(self._right[place], self._results[place], strict=True) if number >= 0)
            return [(n_right + 1.0) / (n_with + 2.0)] * n_results
        totals, n_parents = [0.0] * n_results, [0] * n_results
        for parent in combinations(state, len(state) - 1):
            shares = self.p_right_in(numbered(parent))
            for number, its in _renumbered(parent).items():
                if number >= 0:
                    totals[number] += shares[its]
                    n_parents[number] += 1
        return [total / n if n else 0.0 for total, n in zip(totals, n_parents, strict=True)]

    def _outcome_prior(self, state: State, n_results: int, place: int) -> list[float]:
        """The outcome's probabilities by the states with one arm less, on average."""
        found = [0.0] * (n_results + 2)
        if not state:
            n_with = sum(number >= 0 for number in self._results[place])
            found[0] = (n_with + 1.0) / (self.n_questions + 2.0)
            found[1] = 1.0 - found[0]
            return found
        for parent in combinations(state, len(state) - 1):
            shares = self.outcome_shares(numbered(parent), place)
            for number, its in _renumbered(parent).items():
                if number >= 0:
                    found[number] += shares[its] / len(state)
            found[n_results] += shares[-2] / len(state)
            found[n_results + 1] += shares[-1] / len(state)
        return found


def numbered(attempts: Sequence[tuple[int, int]]) -> State:
    """The state of (place of the arm, any number of its result; negative for none)."""
    numbers: dict[int, int] = {}
    return tuple(
        (place, NO_RESULT if result < 0 else numbers.setdefault(result, len(numbers)))
        for place, result in sorted(attempts)
    )


def _renumbered(parent: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Number in the larger state -> number in the state of `parent` alone."""
    numbers: dict[int, int] = {}
    for _, number in parent:
        if number >= 0:
            numbers.setdefault(number, len(numbers))
    return numbers
