"""What does not fit a model's context is not sent to it: counted by hand, a token per 4 bytes and 8 per message."""

from dataclasses import replace

from r2.answering.protocol import QuestionBudget, Router, ask
from r2.answering.route import shown_models, solve
from r2.call import Call, Completion
from r2.ledger import is_surely_longer, likely_prompt_tokens
from r2.problem import Problem
from r2.roster import UNBOUNDED, ModelCard, Roster
from r2.settings import Reasoning
from tests.support.scripted import CHEAP, DEAR, completion, replay, router

SMALL = ModelCard("small", "small", CHEAP, context_tokens=1_000, states_context=True)
MIDDLE = ModelCard("middle", "medium", replace(CHEAP, output=4.0), context_tokens=8_000, states_context=True)
LARGE = ModelCard("large", "large", DEAR, context_tokens=32_000, states_context=True)


def pool(*cards: ModelCard) -> Router:
    return replace(router(), roster=Roster(cards), decomposer=cards[0].name, allocator=cards[0].name)


def sent(call: Call, *cards: ModelCard, **settings: object) -> Call:
    """The call as `ask` sends it."""
    asking = ask([call], QuestionBudget(replace(pool(*cards), settings=Reasoning.model_validate(settings))))
    return next(asking)[0]


def call_of(n_bytes: int, limit: int = 64, model: str = "small") -> Call:
    return Call(model, (("user", "a b " * (n_bytes // 4)),), "solve", limit)


def test_a_prompt_is_counted_by_its_bytes():
    assert likely_prompt_tokens((("system", "abcd" * 10), ("user", "é" * 20))) == 20 + 16
    assert is_surely_longer((("user", "a b " * 150),), 99) and not is_surely_longer((("user", "a b " * 150),), 100)
    assert not is_surely_longer((("user", "\n".join(["-" * 600] * 2)),), 3), "a run of one character may be one token"


def test_a_call_goes_to_the_next_model_that_can_hold_it():
    assert sent(call_of(3_600), SMALL, MIDDLE, LARGE).model == "small"
    assert sent(call_of(4_000), SMALL, MIDDLE, LARGE).model == "middle", "1,000 tokens, and 64 for the answer"
    assert sent(call_of(40_000), SMALL, MIDDLE, LARGE).model == "large"
    assert sent(call_of(40_000, model="middle"), replace(SMALL, context_tokens=32_000), MIDDLE).model == "small"


def test_a_context_that_nobody_stated_holds_everything():
    unknown = replace(SMALL, states_context=False)
    assert unknown.room(call_of(400_000).messages) == UNBOUNDED
    assert sent(call_of(400_000), unknown, MIDDLE, LARGE) == call_of(400_000)


def test_a_long_limit_is_cut_to_the_room_and_a_short_one_must_fit():
    # 2,400 bytes are 608 tokens with the message's 8
    assert sent(call_of(2_400, 4_096, "middle"), SMALL, MIDDLE).max_output_tokens == 4_096
    assert sent(call_of(1_200, 4_096), SMALL, MIDDLE).max_output_tokens == 1_000 - 308
    assert sent(call_of(2_400, 4_096), SMALL, MIDDLE).model == "middle", "room for less than 512 tokens"
    assert sent(call_of(2_400, 300), SMALL, MIDDLE).model == "small"
    thinking = replace(SMALL, thinking_tokens=500)
    assert sent(call_of(2_400, 300), thinking, MIDDLE).model == "middle", "its thoughts need room too"


def test_a_cheaper_model_for_the_cap_must_hold_the_call_as_well():
    question = call_of(4_000, 64, "large")
    cap = 0.02  # the bound is 4,000 prompt tokens: 0.0413 USD at 10 a million, 0.0043 at 1
    assert sent(question, SMALL, MIDDLE, LARGE, max_cost_per_question_usd=cap).model == "middle"


def test_what_may_fit_nowhere_is_asked_of_the_longest_context():
    # 6,000 bytes: 1,508 tokens at 4 bytes, but not surely more than 1,000
    assert sent(call_of(6_000), SMALL).model == "small"
    assert (
        sent(call_of(6_000), replace(SMALL, context_tokens=300), replace(MIDDLE, context_tokens=1_200)).model
        == "middle"
    )


def test_a_question_that_surely_fits_nowhere_fails_before_anything_is_paid():
    question = Problem("p", "What is it about?", context="one two " * 3_000)
    waves, outcome = replay(solve(question, pool(SMALL, replace(MIDDLE, context_tokens=2_000))), [])
    assert waves == []
    assert (outcome.status, outcome.error_type) == ("failed", "context_length")
    assert outcome.error_message == (
        "the prompt of 24017 bytes has more tokens than the longest context of the pool, 2000 (middle). Nothing was "
        "sent. Shorten it, or add a model that can hold it."
    )


def test_the_allocator_is_shown_those_that_can_hold_the_question():
    three = pool(SMALL, MIDDLE, LARGE)
    assert [card.name for card in shown_models(Problem("p", "Why?"), three)] == ["small", "middle", "large"]
    long = Problem("p", "Why?", context="one two " * 1_000)
    assert [card.name for card in shown_models(long, three)] == ["middle", "large"]
    longest = Problem("p", "Why?", context="one two " * 100_000)
    assert len(shown_models(longest, three)) == 3, "nobody can: the choice stays the allocator's"


def test_a_router_that_cannot_hold_the_question_is_not_asked_and_the_answer_is_direct():
    question = Problem("p", "Why?", context="one two " * 1_000)
    waves, outcome = replay(solve(question, pool(SMALL, MIDDLE)), ["because"])
    assert [[(call.purpose, call.model) for call in wave] for wave in waves] == [[("solve", "middle")]]
    assert outcome.answer == "because"
    assert outcome.failed_checks == ["decompose_context_length"]


def test_an_escalation_goes_past_a_model_that_cannot_hold_the_step():
    narrow = replace(MIDDLE, context_tokens=1_200)
    question = Problem("p", "Why?", context="one two " * 480)  # 3,844 bytes
    small = replace(SMALL, context_tokens=1_600)
    failed: list[str | Completion] = [
        "DIRECT",
        '[{"subtask": 1, "model": "small"}]',
        completion("", "small", error_type="server_error"),
        "because",
    ]
    waves, outcome = replay(solve(question, pool(small, replace(narrow, context_tokens=1_000), LARGE)), failed)
    assert [wave[0].model for wave in waves[2:]] == ["small", "large"]
    assert outcome.answer == "because"
