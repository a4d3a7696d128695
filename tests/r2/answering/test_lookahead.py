"""The rule: whom to ask, when to stop. Values worked by hand, and against the plain recursion."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import pytest

from r2.answering.attempts import Attempt, Attempts
from r2.answering.lookahead import Candidate, Decision, decide, on_outer_hulls


@dataclass(frozen=True)
class Independent:
    """Arms that are right independently of each other; two wrong results are the same with probability `kappa`."""

    p: dict[str, float]
    cost: dict[str, float]
    kappa: float = 0.0
    order: tuple[str, ...] = field(default=())

    @property
    def arms(self) -> Sequence[str]:
        return self.order or tuple(self.p)

    def cost_usd(self, arm: str, attempts: Attempts) -> float:
        return self.cost[arm]

    def p_right(self, attempts: Attempts) -> list[float]:
        weights, none = self._weights(attempts)
        return [weight / (sum(weights) + none) for weight in weights]

    def outcomes(self, attempts: Attempts, arm: str) -> list[tuple[float, Attempt]]:
        n = len(self._weights(attempts)[0])
        further = [Attempt(arm, number) for number in range(n + 1)]
        totals = [sum(weights) + none for weights, none in (self._weights((*attempts, one)) for one in further)]
        return [(total / sum(totals), one) for total, one in zip(totals, further, strict=True)]

    def _weights(self, attempts: Attempts) -> tuple[list[float], float]:
        """Likelihood of the attempts with each result right, and with none of them right."""
        n = 1 + max((one.result for one in attempts if one.result is not None), default=-1)
        return [self._likelihood(attempts, number) for number in range(n)], self._likelihood(attempts, None)

    def _likelihood(self, attempts: Attempts, right: int | None) -> float:
        total, seen = 1.0, Counter[int | None]()
        for one in attempts:
            total *= self.p[one.arm] if one.result == right else 1 - self.p[one.arm]
            if one.result != right:
                same, all_wrong = self.kappa * seen[one.result], self.kappa * seen.total()
                total *= (same if seen[one.result] else 1 - self.kappa) / (all_wrong + 1 - self.kappa)
                seen[one.result] += 1
        return total


TWO = Independent({"small": 0.6, "large": 0.9}, {"small": 1.0, "large": 10.0})
"""Two wrong results are never the same: who is agreed with is right."""


def plainly(beliefs: Independent, attempts: Attempts, v_usd: float, horizon: int) -> float:
    """V_h as it is written, nothing left out."""
    best = v_usd * max(beliefs.p_right(attempts), default=0.0)
    if not horizon:
        return best
    asked = {one.arm for one in attempts}
    for arm in beliefs.arms:
        if arm not in asked:
            outcomes = beliefs.outcomes(attempts, arm)
            after = sum(p * plainly(beliefs, (*attempts, one), v_usd, horizon - 1) for p, one in outcomes)
            best = max(best, after - beliefs.cost_usd(arm, attempts))
    return best


def test_who_is_asked_first_depends_on_what_a_right_answer_is_worth():
    assert decide(TWO, (), 20.0, horizon=1).arm == "small"  # 20 * 0.6 - 1 = 11 against 20 * 0.9 - 10 = 8
    assert decide(TWO, (), 40.0, horizon=1).arm == "large"  # 23 against 26
    assert decide(TWO, (), 40.0, horizon=1).value_usd == pytest.approx(26)


def test_a_result_is_accepted_where_a_further_one_costs_more_than_it_brings():
    sure = decide(TWO, (Attempt("large", 0),), 9.0)
    assert (sure.action, sure.result, sure.reason) == ("accept", 0, "not_worth_more")
    assert (sure.q, sure.value_usd, sure.cost_usd) == (pytest.approx(0.9), pytest.approx(8.1), 0)
    assert [one.value_usd for one in sure.candidates] == [None]  # 1 USD cannot come back from 0.1 * 9


def test_one_step_ahead_never_buys_a_second_opinion_and_three_ahead_do():
    three = Independent({"a": 0.7, "b": 0.6, "c": 0.6}, {"a": 1.0, "b": 0.2, "c": 0.2})
    after = (Attempt("a", 0),)
    assert decide(three, after, 10.0, horizon=1).action == "accept"
    assert decide(three, after, 10.0, horizon=3).arm == "b"


def test_a_stronger_arm_is_asked_even_one_step_ahead_for_its_result_may_be_taken_instead():
    asked = decide(TWO, (Attempt("small", 0),), 100.0, horizon=1)
    # P(right) after: agree 0.54 + differ 0.46 * (0.36 / (0.36 + 0.06 + 0.04)) = 0.9, so 90 - 10 against 60
    assert (asked.arm, asked.reason, asked.value_usd) == ("large", "worth_asking", pytest.approx(80))
    [large] = asked.candidates
    assert (large.p_right, large.p1, large.p0) == (pytest.approx(0.9), pytest.approx(0.9), pytest.approx(0.9))


def test_a_gain_that_is_too_small_to_be_known_is_not_asked_for():
    after = (Attempt("small", 0),)  # 80 against 60, of 100
    assert decide(TWO, after, 100.0, horizon=1, least_gain=0.19).action == "ask"
    assert decide(TWO, after, 100.0, horizon=1, least_gain=0.21).action == "accept"
    assert decide(TWO, (), 100.0, least_gain=9.0).action == "ask", "without a result somebody is asked"


def test_without_a_result_somebody_is_asked_even_at_a_loss():
    least = decide(TWO, (), 0.5)
    assert (least.action, least.arm, least.reason) == ("ask", "small", "no_result_yet")
    assert least.value_usd == pytest.approx(0.5 * 0.6 - 1)
    # 10 * 0.02 - 0.3 loses less than 10 * 0.07 - 1.3, though it is less than half as likely to be right
    hopeless = Independent({"poor": 0.02, "better": 0.07}, {"poor": 0.3, "better": 1.3})
    asked = decide(hopeless, (), 10.0)
    assert (asked.arm, asked.value_usd) == ("poor", pytest.approx(-0.1))
    dear_to_wait_for = decide(hopeless, (), 10.0, waits=(("poor", 1.0),))
    assert (dear_to_wait_for.arm, dear_to_wait_for.value_usd) == ("better", pytest.approx(-0.6))


def test_where_everybody_was_asked_the_best_supported_result_stands():
    one = decide(TWO, (Attempt("small", 0), Attempt("large", 1)), 100.0)
    assert (one.action, one.result, one.reason) == ("accept", 1, "nobody_left")
    nothing = decide(TWO, (Attempt("small", None), Attempt("large", None)), 100.0)
    assert (nothing.action, nothing.result, nothing.q) == ("accept", None, 0)


def test_decomposing_is_done_where_it_is_worth_more():
    assert decide(TWO, (), 20.0, decompose=15.0).action == "decompose"
    assert decide(TWO, (), 20.0, decompose=8.0).action == "ask"
    assert decide(TWO, (Attempt("large", 0),), 20.0, decompose=19.0).action == "decompose"
    assert decide(TWO, (Attempt("large", 0),), 20.0, decompose=17.0).action == "accept"
    assert decide(TWO, (), 0.5, decompose=-5.0).arm == "small"
    assert decide(TWO, (), 0.5, decompose=-0.1).action == "decompose"


def test_no_state_is_cut_off_that_could_be_the_best():
    chance = random.Random(7)
    for _ in range(60):
        names = "abcd"[: chance.randint(1, 4)]
        beliefs = Independent(
            {name: chance.uniform(0.6, 0.95) for name in names},
            {name: chance.random() for name in names},
            chance.random(),
        )
        attempts: Attempts = (Attempt(names[0], 0),) if chance.random() < 0.5 else ()
        v_usd, horizon = 10 * chance.random(), chance.randint(0, 4)
        if attempts:
            got = decide(beliefs, attempts, v_usd, horizon).value_usd
            assert got == pytest.approx(plainly(beliefs, attempts, v_usd, horizon))


def test_the_order_of_the_pool_decides_nothing():
    beliefs = Independent({"a": 0.5, "b": 0.5, "c": 0.7, "d": 0.8}, {"a": 1.0, "b": 1.0, "c": 2.0, "d": 4.0})
    first = decide(beliefs, (), 20.0)
    for _ in range(10):
        order = tuple(random.Random(3).sample(list(beliefs.p), 4))
        assert decide(replace(beliefs, order=order), (), 20.0) == first


def test_an_arm_that_is_never_worth_it_may_be_missing():
    with_it = Independent({**TWO.p, "dear": 0.5}, {**TWO.cost, "dear": 99.0})
    assert _chosen(decide(with_it, (), 40.0)) == _chosen(decide(TWO, (), 40.0))


def test_the_value_grows_with_what_a_right_answer_is_worth():
    values = [decide(TWO, (), v_usd).value_usd for v_usd in range(100)]
    assert values == sorted(values)


def test_what_foreseeing_beliefs_work_out_in_one_go_is_what_the_recursion_finds():
    @dataclass(frozen=True)
    class Quick(Independent):
        def expected_best(self, attempts: Attempts, arm: str, least: float = 0.0) -> float:
            return sum(p * max(*self.p_right((*attempts, one)), least) for p, one in self.outcomes(attempts, arm))

    slow = Independent({"a": 0.5, "b": 0.6, "c": 0.7}, {"a": 0.1, "b": 0.2, "c": 0.5}, 0.2)
    for attempts in ((), (Attempt("b", 0),)):
        for plan in (None, 5.0, 8.0):
            quick = decide(Quick(slow.p, slow.cost, slow.kappa), attempts, 9.0, decompose=plan)
            assert quick.value_usd == pytest.approx(decide(slow, attempts, 9.0, decompose=plan).value_usd)


def test_of_many_arms_those_that_cost_less_and_promise_more_are_looked_into():
    many = {f"m{i}": 0.5 + 0.05 * i for i in range(1, 10)} | {"poor": 0.5, "hopeless": 0.1}
    costs = {f"m{i}": float(i) for i in range(1, 10)} | {"poor": 9.5, "hopeless": 0.0}
    decision = decide(Independent(many, costs), (), 1000.0, horizon=1)
    worked_out = {one.arm for one in decision.candidates if one.value_usd is not None}
    assert len(worked_out) == 6
    assert {"m1", "m9"} <= worked_out, "from the cheapest to the dearest"
    assert not {"poor", "hopeless"} & worked_out


def test_of_many_arms_those_that_buy_most_evidence_for_their_cost_are_looked_into():
    def one(arm: str, cost: float, evidence: float) -> Candidate:
        return Candidate(arm, cost, 1 / (1 + math.exp(-evidence)), None, None, None)

    # from a to c the line is at 2 where b costs 2; e costs more and says less than d
    arms = [one("d", 6.0, 4.0), one("c", 3.0, 3.0), one("b", 2.0, 1.9), one("a", 1.0, 1.0), one("e", 7.0, 3.9)]
    assert [kept.arm for kept in on_outer_hulls(arms, 3)] == ["d", "c", "a"]
    assert [kept.arm for kept in on_outer_hulls(arms, 5)] == ["d", "c", "b", "a", "e"]
    assert [kept.arm for kept in on_outer_hulls(arms, 2)] == ["d", "c"], "of one hull the first ones in the order given"
    assert on_outer_hulls([], 3) == []


@pytest.mark.parametrize(("v_usd", "horizon"), [(-1.0, 3), (1.0, -1)])
def test_negative_settings_are_refused(v_usd: float, horizon: int):
    with pytest.raises(ValueError, match="must not be negative"):
        decide(TWO, (), v_usd, horizon)


def _chosen(one: Decision) -> tuple[object, ...]:
    return one.action, one.arm, one.result, one.value_usd, one.reason


THREE = Independent({"small": 0.6, "middle": 0.7, "large": 0.9}, {"small": 1.0, "middle": 2.0, "large": 10.0})


def asked_alone(beliefs: Independent, attempts: Attempts, arm: str, v_usd: float, horizon: int, wait: float) -> float:
    after = sum(
        p * waiting(beliefs, (*attempts, one), v_usd, horizon - 1, wait) for p, one in beliefs.outcomes(attempts, arm)
    )
    return after - beliefs.cost_usd(arm, attempts) - wait


def asked_together(beliefs: Independent, arms: tuple[str, str], v_usd: float, horizon: int, wait: float) -> float:
    total = -sum(beliefs.cost[arm] for arm in arms) - wait
    for p, one in beliefs.outcomes((), arms[0]):
        for further, second in beliefs.outcomes((one,), arms[1]):
            total += p * further * waiting(beliefs, (one, second), v_usd, horizon - 2, wait)
    return total


def waiting(beliefs: Independent, attempts: Attempts, v_usd: float, horizon: int, wait: float) -> float:
    """V_h where each further wave costs `wait`, nothing left out."""
    best = v_usd * max(beliefs.p_right(attempts), default=0.0)
    asked = {one.arm for one in attempts}
    open_arms = [arm for arm in beliefs.arms if arm not in asked] if horizon else []
    return max([best, *(asked_alone(beliefs, attempts, arm, v_usd, horizon, wait) for arm in open_arms)])


@pytest.mark.parametrize("wait", [0.0, 0.5, 2.0, 5.0, 15.0, 60.0, 95.0])
def test_waiting_is_paid_once_for_two_who_are_asked_side_by_side(wait: float):
    waits = tuple((arm, wait) for arm in THREE.arms) if wait else ()
    chosen = decide(THREE, (), 100.0, 3, waits=waits)
    alone = {arm: asked_alone(THREE, (), arm, 100.0, 3, wait) for arm in THREE.arms}
    together = {pair: asked_together(THREE, pair, 100.0, 3, wait) for pair in combinations(THREE.arms, 2)}
    best_alone, best_together = max(alone.values()), max(together.values()) if wait else 0.0
    assert chosen.value_usd == pytest.approx(max(best_alone, best_together))
    if best_together > best_alone:
        assert chosen.arm is not None and together[chosen.arm, str(chosen.beside)] == pytest.approx(best_together)
    else:
        assert chosen.beside is None and alone[str(chosen.arm)] == pytest.approx(best_alone)


def test_the_price_of_waiting_widens_the_first_wave_and_then_leaves_one_who_is_asked_alone():
    def first(wait: float) -> tuple[str | None, str | None]:
        chosen = decide(THREE, (), 100.0, 3, waits=tuple((arm, wait) for arm in THREE.arms))
        return chosen.arm, chosen.beside

    assert [first(wait) for wait in (0.0, 2.0, 20.0)] == [("small", None), ("small", "middle"), ("large", None)]


def test_nobody_waits_for_a_second_opinion_that_is_not_worth_the_wait():
    told = (Attempt("middle", 0),)
    assert decide(THREE, told, 100.0, 2).action == "ask"
    assert decide(THREE, told, 100.0, 2, waits=tuple((arm, 40.0) for arm in THREE.arms)).action == "accept"
