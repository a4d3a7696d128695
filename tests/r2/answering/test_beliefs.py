"""What is believed without a checked row: values worked by hand, and what must hold whatever the pool."""

import itertools
import math
import random
from dataclasses import replace

import pytest

from r2.answering.attempts import Attempt, Attempts
from r2.answering.beliefs import (
    KAPPA_FREE,
    LEAST,
    LONG_REPLIES,
    SHORT_REPLIES,
    TRAINED_REPLIES,
    Arm,
    ProfileBeliefs,
    after_plan,
    by_difficulty,
    ease,
    eases_of,
    kappa_of,
    prior,
)
from r2.answering.lookahead import decide
from r2.ledger import Price
from r2.roster import ModelCard, PromptMode, Tier

PAIR = ProfileBeliefs((Arm("a", 0.6, 1.0), Arm("b", 0.9, 5.0)))


def card(tier: Tier, mode: PromptMode = "direct", **skills: float) -> ModelCard:
    return ModelCard("m", tier, Price(1.0, 1.0, 1.0, "2026-11-24", "made up"), mode, skills=skills)


def test_a_measured_skill_is_shrunk_to_the_mean_of_the_tier():
    assert prior(card("small", add=0.8), ["add"]) == pytest.approx((20 * 0.8 + 4 * 0.5) / 24)
    assert prior(card("large"), ["add"]) == pytest.approx(0.85)
    assert prior(card("medium", add=0.2, multiply=0.4, plan=1.0), ["scan"]) == pytest.approx(
        0.75 * (4 * 0.3 + 4 * 0.7) / 8
    )
    assert prior(card("small", gsm8k=0.8), ["", "gsm8k"]) == pytest.approx((20 * 0.8 + 4 * 0.5) / 24)


def test_a_profile_on_many_questions_is_believed_more():
    assert prior(replace(card("small", add=0.8), profile_rows=8), ["add"]) == pytest.approx((8 * 0.8 + 4 * 0.5) / 12)
    assert prior(replace(card("small", add=0.8), profile_rows=500), ["add"]) == pytest.approx((400 + 2) / 504)
    by_skill = replace(card("small", add=0.8, multiply=0.8), profile_rows={"add": 8})
    assert prior(by_skill, ["add"]) == pytest.approx((8 * 0.8 + 4 * 0.5) / 12)
    assert prior(by_skill, ["multiply"]) == pytest.approx((20 * 0.8 + 4 * 0.5) / 24), "20 where it is not said"


def test_a_kind_that_the_other_entries_cannot_do_is_hard_for_this_one_too():
    def named(name: str, **skills: float) -> ModelCard:
        return replace(card("medium", **skills), name=name)

    mine, others = named("mine", scan=0.0), [named("a", scan=0.0), named("b", scan=0.0)]
    eases = eases_of([mine, *others], ["scan", "add"])
    assert prior(mine, ["scan"], eases=eases) == LEAST, "0.117 without them"
    # the three did 0 of 60, which counts as 0.5 of 61
    assert prior(named("new", add=1.0), ["scan"], eases=eases) == pytest.approx(0.5 / 61), "not measured at it"
    assert prior(mine, ["scan"], eases=eases_of([mine], ["scan"])) == pytest.approx(4 * 0.7 / 24), "not by itself"
    tuned = replace(named("tuned", scan=1.0), prompt_mode="bare")
    assert eases_of([tuned], ["scan"]) == {"scan": {}}, "made for it"
    assert prior(tuned, ["scan"], eases=eases) == pytest.approx((20 + 4 * 0.95) / 24)


def test_how_easy_a_kind_is_is_told_by_all_that_was_measured_at_it():
    assert ease(((0.5, 19.0, 9.5),)) == pytest.approx(0, abs=1e-6)
    assert ease(((0.5, 19.0, 14.5),)) == pytest.approx(math.log(3), abs=1e-6), "15 of 20, where 10 are usual"
    # a large entry and a small one: by the same amount harder for both
    harder = ease(((0.85, 20.0, 10.0), (0.5, 20.0, 2.0)))
    large, small = (1 / (1 + math.exp(-math.log(p / (1 - p)) - harder)) for p in (0.85, 0.5))
    assert 20 * (large + small) == pytest.approx(12.5 * 40 / 41, abs=1e-4)


def test_a_plan_with_the_steps_that_its_question_shows_is_more_probable():
    assert after_plan(0.9, is_as_shown=True) == pytest.approx(0.9 * 0.95 / (0.9 * 0.95 + 0.1 * 0.3))
    assert after_plan(0.9, is_as_shown=False) == pytest.approx(0.9 * 0.05 / (0.9 * 0.05 + 0.1 * 0.7))


def test_an_arm_put_in_takes_the_place_of_that_of_its_name():
    more = PAIR.with_arm(Arm("(plan)", 0.7, 2.0)).with_arm(Arm("(plan)", 0.95, 0.0))
    assert (more.arms, more.cost_usd("(plan)", ())) == (("a", "b", "(plan)"), 0.0)
    assert more.p_right((Attempt("(plan)", 0),)) == [pytest.approx(0.95)]


def test_a_specialist_is_not_believed_at_what_its_profile_leaves_out():
    assert prior(card("small", "bare", scan_join=1.0), ["add"]) == 0.05
    assert prior(card("small", "bare"), ["add"]) == 0.5
    assert prior(card("small", "bare", add=0.98), ["add"]) == pytest.approx((20 * 0.98 + 4 * 0.95) / 24)


def test_several_steps_at_once_are_harder_than_each_where_nobody_measured_them():
    steps = {"add": 2, "multiply": 1}
    knows = card("large", add=1.0, multiply=0.8)
    alone = [(20 + 4 * 0.85) / 24, (16 + 4 * 0.85) / 24]
    assert prior(knows, ["expression"], steps) == pytest.approx(0.25 * alone[0] ** 2 * alone[1])
    assert prior(card("large", "cot", equation=0.9), ["expression"], steps) == pytest.approx(
        0.5 * 0.75 * (3.6 + 3.4) / 8
    )
    assert prior(card("large", expression=0.9), ["expression"], steps) == pytest.approx((18 + 3.4) / 24)


def test_results_that_agree_are_more_probable_by_the_formula():
    # S = logit 0.6 + logit 0.9 + ln 5: odds 1.5 * 9 * 5
    [p] = PAIR.p_right((Attempt("a", 0), Attempt("b", 0)))
    assert p == pytest.approx(67.5 / 68.5)


def test_results_that_disagree_lower_each_other():
    # odds 1.5 and 9, and both wrong with results that differ: 1 - 1/5
    a, b = PAIR.p_right((Attempt("a", 0), Attempt("b", 1)))
    assert (a, b) == (pytest.approx(1.5 / 11.3), pytest.approx(9 / 11.3))


def test_of_yes_and_no_one_is_right():
    both = ProfileBeliefs(PAIR.known, kappa_of(2))
    assert sum(both.p_right((Attempt("a", 0), Attempt("b", 1)))) == pytest.approx(1)
    assert both.p_right((Attempt("a", 0), Attempt("b", 0)))[0] == pytest.approx(13.5 / 14.5)
    assert (kappa_of(5), kappa_of(0)) == (0.25, KAPPA_FREE)


def test_agreement_of_the_same_weights_says_less():
    arms = (Arm("a", 0.6, 1.0, weights="w"), Arm("b", 0.9, 5.0, weights="w"))
    [p] = ProfileBeliefs(arms).p_right((Attempt("a", 0), Attempt("b", 0)))
    assert p == pytest.approx(27 / 28)


def test_a_sure_result_is_more_probable_and_an_unsure_one_less():
    arm = ProfileBeliefs((Arm("a", 0.6, 1.0, SHORT_REPLIES),))
    assert arm.p_right((Attempt("a", 0, 0.98),))[0] == pytest.approx(9 / 10)
    assert arm.p_right((Attempt("a", 0, 0.80),))[0] == pytest.approx(1.75 / 2.75)
    assert arm.p_right((Attempt("a", 0, 0.10),))[0] == pytest.approx(1.5 * 12 / (1.5 * 12 + 66))
    assert arm.p_right((Attempt("a", 0),))[0] == pytest.approx(0.6)
    shares = {one.confidence: p for p, one in arm.outcomes((), "a")}
    assert shares == pytest.approx({0.5: 0.336, 0.9: 0.264, 0.99: 0.40})


@pytest.mark.parametrize("levels", [SHORT_REPLIES, TRAINED_REPLIES, LONG_REPLIES])
def test_the_levels_of_confidence_cover_all_results(levels):
    assert sum(level.if_right for level in levels) == pytest.approx(1)
    assert sum(level.if_wrong for level in levels) == pytest.approx(1)
    assert levels[0].least == 0


def test_a_failed_attempt_says_nothing():
    assert PAIR.p_right((Attempt("a", None),)) == []
    assert PAIR.p_right((Attempt("a", None), Attempt("b", 0)))[0] == pytest.approx(0.9)


def test_results_without_an_equality_stand_each_for_itself():
    free = ProfileBeliefs(PAIR.known, has_equality=False)
    assert free.p_right((Attempt("a", 0), Attempt("b", 1))) == pytest.approx([0.6, 0.9])
    assert free.outcomes((Attempt("a", 0),), "b") == [(1.0, Attempt("b", 1))]


def test_who_errs_errs_where_others_do():
    easier, harder = by_difficulty(0.8, 1.5)
    assert (easier + harder) / 2 == pytest.approx(0.8)
    assert math.log(easier / (1 - easier)) - math.log(harder / (1 - harder)) == pytest.approx(3)
    assert by_difficulty(0.8, 0.0) == pytest.approx([0.8, 0.8])
    apart = ProfileBeliefs(PAIR.known, spread=1.5)
    [seen] = decide(apart, (Attempt("a", 0),), 1e9).candidates
    assert seen.p1 is not None and seen.p0 is not None and seen.p1 > 0.9 > seen.p0
    assert apart.p_right((Attempt("a", 0), Attempt("b", 0)))[0] < 270 / 271 + 1e-3


def made_up(chance: random.Random, n_arms: int, kappa: float, has_equality: bool = True) -> ProfileBeliefs:
    levels = [(), SHORT_REPLIES, LONG_REPLIES]
    return ProfileBeliefs(
        tuple(Arm(f"m{i}", chance.uniform(0.05, 0.95), chance.random(), chance.choice(levels)) for i in range(n_arms)),
        kappa,
        has_equality,
        chance.choice((0.0, 1.5)),
    )


def drawn(chance: random.Random, beliefs: ProfileBeliefs, n: int) -> Attempts:
    attempts: Attempts = ()
    for arm in beliefs.arms[:n]:
        shares, furthers = zip(*beliefs.outcomes(attempts, arm), strict=True)
        attempts = (*attempts, *chance.choices(furthers, shares))
    return attempts


@pytest.mark.parametrize("has_equality", [True, False])
@pytest.mark.parametrize("kappa", [KAPPA_FREE, 0.25, 1.0])
def test_what_may_come_sums_to_one_and_changes_no_probability_on_average(kappa: float, has_equality: bool):
    chance = random.Random(4)
    for n in (0, 1, 2, 3):
        beliefs = made_up(chance, 4, kappa, has_equality)
        attempts = drawn(chance, beliefs, n)
        outcomes = beliefs.outcomes(attempts, "m3")
        assert sum(p for p, _ in outcomes) == pytest.approx(1)
        for number, now in enumerate(beliefs.p_right(attempts)):
            later = sum(p * beliefs.p_right((*attempts, one))[number] for p, one in outcomes)
            assert later == pytest.approx(now)
        own = sum(p * beliefs.p_right((*attempts, one))[one.result or 0] for p, one in outcomes)
        if n == 0:
            assert own == pytest.approx(beliefs.known[3].p_right)


@pytest.mark.parametrize("twins", [(), ("m0", "m3"), ("m0", "m1")], ids=str)
@pytest.mark.parametrize("has_equality", [True, False])
def test_the_last_attempt_looked_at_is_worked_out_in_one_go(has_equality: bool, twins: tuple[str, ...]):
    chance = random.Random(8)
    for n in (0, 1, 2, 3):
        beliefs = made_up(chance, 4, 0.2, has_equality)
        known = (replace(arm, weights="same" if arm.name in twins else "") for arm in beliefs.known)
        beliefs = replace(beliefs, known=tuple(known))
        attempts = drawn(chance, beliefs, n)
        for least in (0.0, 0.7):
            outcomes = beliefs.outcomes(attempts, "m3")
            plainly = sum(p * max(*beliefs.p_right((*attempts, one)), least) for p, one in outcomes)
            assert beliefs.expected_best(attempts, "m3", least) == pytest.approx(plainly)


def test_neither_the_order_of_asking_nor_that_of_the_pool_matters():
    chance = random.Random(5)
    beliefs = made_up(chance, 4, 0.2)
    attempts = (Attempt("m0", 0, 0.99), Attempt("m1", 1, 0.5), Attempt("m2", 0, 0.9))
    was = beliefs.p_right(attempts)
    for order in itertools.permutations(attempts):
        assert beliefs.p_right(order) == pytest.approx(was)
    for known in itertools.permutations(beliefs.known):
        assert decide(replace(beliefs, known=known), attempts, 3.0) == decide(beliefs, attempts, 3.0)


def test_without_an_arm_the_others_are_believed_as_before():
    beliefs = made_up(random.Random(6), 4, 0.2)
    fewer = beliefs.without({"m3"})
    attempts = (Attempt("m0", 0), Attempt("m1", 1))
    assert beliefs.without({"m0"}).p_right(attempts) == beliefs.p_right(attempts), "what it brought still counts"
    assert list(fewer.arms) == ["m0", "m1", "m2"]
    assert fewer.p_right(attempts) == beliefs.p_right(attempts)
    assert fewer.outcomes(attempts, "m2") == beliefs.outcomes(attempts, "m2")
    three = replace(beliefs, known=beliefs.known[:3])
    assert (three.p_right(attempts), decide(three, attempts, 3.0)) == (
        fewer.p_right(attempts),
        decide(fewer, attempts, 3.0),
    )


def test_an_unknown_answering_entry_brings_a_result_and_no_evidence():
    [p] = PAIR.p_right((Attempt("elsewhere", 0),))
    assert p == 0.5


def test_the_value_grows_with_what_a_right_answer_is_worth():
    beliefs = made_up(random.Random(7), 5, KAPPA_FREE)
    values = [decide(beliefs, (Attempt("m0", 0),), v).value_usd for v in (0.1, 0.3, 1, 3, 10)]
    assert values == sorted(values)


def test_a_cheap_arm_that_tells_how_sure_it_is_is_asked_first():
    told = Arm("cheap", 0.7, 0.01, SHORT_REPLIES)
    dear = Arm("dear", 0.97, 1.0)
    assert decide(ProfileBeliefs((told, dear)), (), 10.0, horizon=1).arm == "dear"
    assert decide(ProfileBeliefs((told, dear)), (), 10.0).arm == "cheap"
    assert decide(ProfileBeliefs((told, dear)), (Attempt("cheap", 0, 0.3),), 10.0).arm == "dear"
    assert decide(ProfileBeliefs((told, dear)), (Attempt("cheap", 0, 0.99),), 10.0).action == "accept"


def test_agreement_is_bought_three_ahead_and_never_one_ahead():
    weak = ProfileBeliefs((Arm("first", 0.7, 1.0), Arm("second", 0.6, 0.1), Arm("third", 0.6, 0.1)))
    after = (Attempt("first", 0),)
    assert decide(weak, after, 10.0, horizon=1).action == "accept"
    assert decide(weak, after, 10.0).action == "ask"


def test_logit_sums_do_not_overflow_for_many_sure_arms():
    arms = tuple(Arm(f"m{i}", 0.995, 1.0, SHORT_REPLIES) for i in range(40))
    [p] = ProfileBeliefs(arms).p_right(tuple(Attempt(arm.name, 0, 1.0) for arm in arms))
    assert math.isfinite(p) and p == pytest.approx(1)
