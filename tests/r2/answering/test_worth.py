"""What a right answer is worth where nobody says, and what is asked at that."""

import math

import pytest

from r2.answering.expected_cost import cost_ref_usd
from r2.answering.protocol import Router
from r2.answering.sequential import solve_by_rule
from r2.answering.worth import VALUES_IN_REFS, expected_asks, value_in_refs, value_usd
from r2.ledger import Price
from r2.problem import Problem
from r2.roster import ModelCard, PromptMode, Roster, Tier
from r2.settings import Reasoning
from tests.support.scripted import replay

QUESTION = Problem("q", "Solve for x: 3 * x + 5 = 26", benchmark="arithmetic")
SURE = 10**6
"""Rows of a profile that is believed as it stands."""


def card(name: str, tier: Tier, mode: PromptMode, usd: float, right: float) -> ModelCard:
    price = Price(input=usd, cached_input=usd, output=usd, date="2026-11-26", source="test")
    return ModelCard(name, tier, price, mode, skills={"equation": right}, profile_rows=SURE)


def router(small: float, large: float, *further: ModelCard, **settings: object) -> Router:
    """One that costs a small part of the other, which thinks step by step and is the reference."""
    cards = [card("small", "small", "direct", 1.0, small), card("large", "large", "cot", 10.0, large), *further]
    return Router(Roster(cards), "small", "small", None, Reasoning.model_validate({"routing": "rule", **settings}))


def test_a_kind_at_which_nobody_is_good_is_not_asked_dearly_in_vain():
    # the large one is worth asking at 50 (50 * 0.025 = 1.25 of its cost) and not at 35 (0.875)
    hopeless = router(0.005, 0.025)
    assert value_in_refs(QUESTION, hopeless) == 35
    assert value_usd(QUESTION, hopeless) == pytest.approx(35 * cost_ref_usd(QUESTION, hopeless))
    assert expected_asks(QUESTION, hopeless).whole == {"small": 1.0}
    assert expected_asks(QUESTION, router(0.005, 0.025, value_usd=value_usd(QUESTION, hopeless) * 50 / 35)).whole == {
        "large": 1.0
    }


def test_where_nobody_is_worth_asking_a_malformed_text_stands_and_a_failed_call_does_not():
    waves, outcome = replay(solve_by_rule(QUESTION, router(0.005, 0.025)), ["a few"])
    assert [[call.model for call in wave] for wave in waves] == [["small"]]
    assert (outcome.answer, outcome.failed_checks) == ("a few", ["no_number"])
    assert [one.reason for one in outcome.decisions] == ["no_result_yet", "not_worth_more"]
    waves, outcome = replay(solve_by_rule(QUESTION, router(0.005, 0.025)), ["", "7"])
    assert [[call.model for call in wave] for wave in waves] == [["small"], ["large"]]
    assert outcome.answer == "7"


def test_a_second_opinion_on_what_is_surer_than_the_reference_is_not_bought_at_its_price():
    middle = card("middle", "medium", "cot", 8.0, 0.95)
    at_50 = router(0.95, 0.9, middle, value_usd=50 * cost_ref_usd(QUESTION, router(0.95, 0.9)))
    assert expected_asks(QUESTION, at_50).whole["middle"] > 0.9
    as_good = router(0.95, 0.9, middle)
    assert value_in_refs(QUESTION, as_good) < VALUES_IN_REFS[0]
    assert expected_asks(QUESTION, as_good).whole == {"small": 1.0}


def test_where_the_large_model_is_needed_it_is_asked():
    # the small one alone would cost a few hundredths, and be wrong five times as often
    needed = router(0.5, 0.9)
    assert value_in_refs(QUESTION, needed) == VALUES_IN_REFS[0]
    assert expected_asks(QUESTION, needed).whole["large"] > 0.9


def test_a_value_that_is_named_is_taken_and_b_divides_either():
    assert value_usd(QUESTION, router(0.005, 0.025, value_usd=0.7)) == 0.7
    assert value_usd(QUESTION, router(0.005, 0.025, value_usd=0.7, b=1.0)) == pytest.approx(0.7 / math.e)
    assert value_usd(QUESTION, router(0.5, 0.9, b=1.0)) == pytest.approx(
        50 * cost_ref_usd(QUESTION, router(0.5, 0.9)) / math.e
    )
