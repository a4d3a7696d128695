"""How long replies are expected to be before anybody is asked."""

from dataclasses import replace

import pytest

from r2.answering.expected_cost import call_usd, reply_tokens
from r2.answering.protocol import Router
from r2.ledger import Price
from r2.problem import Problem
from r2.roster import ModelCard, Roster
from r2.settings import Reasoning

PRICE = Price(input=1.0, cached_input=1.0, output=1.0, date="2026-11-26", source="test")
ROUTER = Router(Roster([ModelCard("only", "large", PRICE)]), "only", "only", None, Reasoning())


def thinking(question: str, benchmark: str, *, is_answer: bool = True) -> int:
    return reply_tokens(Problem("q", question, benchmark=benchmark), ROUTER, "cot", is_answer=is_answer)


def test_a_chain_of_thought_has_a_sentence_for_each_step_that_the_question_shows():
    # 15 tokens each for a first sentence, three steps and a last one, and 12 of a result
    assert thinking("What is 3 * 4 + (5 + 6)?", "arithmetic") == 15 * 5 + 12
    assert thinking("What is 3 * 4?", "arithmetic") == 15 * 3 + 12
    assert thinking("A box holds 12 pens. How many pens are in 8 boxes?", "word_problem") == 15 * 3 + 12


def test_where_no_steps_are_seen_or_one_is_asked_a_usual_length_is_taken():
    assert thinking("Tom has 50 coins. He spends 18 and then finds 7. How many are left?", "gsm8k") == 150
    assert thinking("What is 3 * 4 + (5 + 6)?", "arithmetic", is_answer=False) == 150


def test_a_long_result_makes_the_reply_as_long():
    # two phrases and a join: 15 * (2 + 3) + 12 is less than half of the 288 tokens that an answer may have
    assert thinking("walk and jump", "scan") == 144


def test_instructions_that_were_read_before_cost_nothing_where_cached_tokens_are_free():
    messages = (("system", "s" * 40), ("user", "u" * 80))  # 10 and 20 tokens, and 8 for each message
    card = ROUTER.roster["only"]
    assert call_usd(card, messages, 5) == pytest.approx((18 + 28 + 5) / 1e6)
    free = replace(card, price=replace(PRICE, cached_input=0.0))
    assert call_usd(free, messages, 5) == pytest.approx((28 + 5) / 1e6)
