"""What questions look like before they are asked, and what follows for an estimate."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from r2.answering.protocol import Router
from r2.answering.question_shape import ASSUMED, MOST_EXAMPLES, SENTENCE_TOKENS, Sample, shape_of, text_of, tokens_in
from r2.ledger import Price
from r2.methods.estimate import Rows, estimate_calls, rows_of
from r2.methods.expected import UNSURE_SHARE, one_step, routed_steps, unsure_share
from r2.pool.simulated.faults import charged_share
from r2.problem import Asked, Problem
from r2.problems import arithmetic, scan
from r2.roster import ModelCard, Roster
from r2.settings import Reasoning

CHEAP, DEAR = (Price(input=p, cached_input=p, output=p, date="2026-11-26", source="test") for p in (1.0, 10.0))
ROSTER = Roster(
    [
        ModelCard("small", "small", CHEAP, skills={"add": 0.99, "multiply": 0.25}, context_tokens=8000),
        ModelCard("large", "large", DEAR, skills={"add": 0.99, "multiply": 0.9}, context_tokens=8000),
    ]
)
PRICES = {"small": CHEAP, "large": DEAR}


def router(**settings: Any) -> Router:
    return Router(ROSTER, "small", "small", None, Reasoning(**settings))


def sums(*questions: str) -> list[Problem]:
    return [Problem(q, q, benchmark="arithmetic") for q in questions]


def test_a_question_whose_steps_follow_from_its_text_is_measured_by_its_gold_plan():
    shape = shape_of(sums("What is (15 + 9) * 3?", "What is 4 + 5?"))
    assert shape.steps == 1.5, "two steps, and one question that needs no plan"
    assert shape.step_kinds == {"add": 2 / 3, "multiply": 1 / 3}
    assert shape.kinds == {"expression": 0.5, "add": 0.5}
    assert (shape.answer_tokens, shape.step_tokens) == (1, 1)
    assert shape.thought_tokens == SENTENCE_TOKENS * (2 + 1.5)


def test_a_long_answer_and_the_wording_of_a_benchmark_are_seen():
    problems = list(scan.generate(20, 3))
    shape = shape_of(problems)
    assert (
        shape.answer_tokens == sum(tokens_in(problem.target or "") for problem in problems) / 20 > ASSUMED.answer_tokens
    )
    assert shape.wording_tokens > 50 and shape_of(sums("What is 4 + 5?")).wording_tokens == 0


def test_of_another_question_with_numbers_an_operation_between_each_two_is_expected_and_of_the_rest_nothing_is_known():
    assert shape_of([Problem("a", "6 coaches have 42 seats each. 31 are broken. How many are not?")]).steps == 2
    silent = shape_of([Problem("a", "Who wrote it?")])
    assert (silent.steps, silent.plan_tokens, silent.thought_tokens) == (
        ASSUMED.steps,
        ASSUMED.plan_tokens,
        ASSUMED.thought_tokens,
    )
    assert shape_of([]) == ASSUMED


@pytest.mark.parametrize(
    ("text", "n"), [("", 0), ("What is 12 * 4?", 6), ("TURN_LEFT JUMP", 2), ("decomposition", 2), ("思考思考", 3)]
)
def test_a_token_is_a_word_or_a_mark_and_a_long_word_has_several(text: str, n: int):
    assert tokens_in(text) == n
    assert tokens_in(text_of(n)) == n


def test_a_sample_of_a_long_file_is_spread_over_it_and_bounded():
    sample = Sample()
    for index in range(5 * MOST_EXAMPLES):
        sample.show(Problem(str(index), "q"))
    places = [int(problem.problem_id) for problem in sample.problems]
    assert MOST_EXAMPLES / 2 <= len(places) <= MOST_EXAMPLES
    assert len({b - a for a, b in pairwise(places)}) == 1
    assert places[0] == 0 and places[-1] > 4.9 * MOST_EXAMPLES


def test_steps_are_expected_where_the_profiles_send_them_and_doubt_is_what_they_leave():
    chosen = replace(router(), shape=shape_of(sums("What is (15 + 9) * 3?")))
    assert {part.model: part.per_question for part in routed_steps(chosen)} == {"small": 1.0, "large": 1.0}
    assert unsure_share(chosen, "small", is_step=True) == pytest.approx((0.01 + 0.75) / 2)
    assert unsure_share(chosen, "small") == UNSURE_SHARE, "no profile speaks of expressions"
    assert one_step(chosen, "small").per_question == 2


def test_rows_of_different_benchmarks_are_estimated_apart():
    rows = rows_of([*sums("What is 4 + 5?"), *scan.generate(3, 1)], router())
    assert [(part.n, part.is_free) for part in rows] == [(1, False), (3, False)]
    whole = estimate_calls(router(method="cot", model="small"), PRICES, rows)
    apart = [estimate_calls(router(method="cot", model="small"), PRICES, [part]) for part in rows]
    assert [call.cost_usd for call in whole] == [pytest.approx(sum(call.cost_usd for [call] in apart))]


def test_a_row_that_wants_several_answers_and_sets_its_own_limit_is_estimated_so():
    plain, asking = Problem("a", "Write a poem."), Problem("b", "Write a poem.", asked=Asked(n=3, max_output_tokens=20))
    chosen = router(method="cot", model="small")
    [alone] = estimate_calls(chosen, PRICES, rows_of([plain], chosen))
    [limited] = estimate_calls(chosen, PRICES, rows_of([asking], chosen))
    assert (alone.n_calls, limited.n_calls) == (1, 3)
    assert limited.output_tokens == 60 < alone.output_tokens


def test_attempts_that_a_simulated_pool_loses_are_charged_at_the_most_they_may_cost():
    faults = {"rate_limited_bare": 0.1, "cut_body": 0.2, "no_usage": 0.1, "slow_bytes": 0.1}
    assert charged_share(faults, timeout_s=60) == pytest.approx((0.2 + 0.1) / 0.7)
    assert charged_share(faults, timeout_s=5) == pytest.approx((0.3 + 0.1) / 0.6)
    assert charged_share({}, 5) == charged_share({"auth": 1.0}, 5) == 0
    rows = [Rows(100, 2000)]
    sound = estimate_calls(router(method="cot", model="small"), PRICES, rows)[0]
    lossy = estimate_calls(replace(router(method="cot", model="small"), lost_share={"small": 0.5}), PRICES, rows)[0]
    assert lossy.n_calls == sound.n_calls
    assert lossy.output_tokens - sound.output_tokens == 100 * 0.5 * Reasoning().cot_tokens
    assert lossy.input_tokens - sound.input_tokens > sound.input_tokens / 2, "a token per byte"


def test_the_middle_is_near_the_bill_of_generated_questions():
    """The bills were measured on pools/simulated.toml in November 2026; the estimate must not drift from them."""
    from r2.methods.router import make_router
    from r2.pool.file.config import load_pool
    from r2.settings import AnswerSettings
    from tests.support.paths import ROOT

    pool = load_pool(ROOT / "pools" / "simulated.toml")
    prices = {name: pool.price(name) for name in pool.models}
    measured = {
        ("cot", arithmetic): 0.032875,
        ("cot", scan): 0.053178,
        ("decompose_one", arithmetic): 0.011795,
        ("decompose_one", scan): 0.077857,
        ("datashunt", arithmetic): 0.002535,
        ("datashunt", scan): 0.018592,
    }
    for (method, kind), bill in measured.items():
        chosen = make_router(pool, AnswerSettings(input="", reasoning=Reasoning(method=method)))
        rows = rows_of(kind.generate(40, 5), chosen)
        middle = sum(call.cost_usd for call in estimate_calls(chosen, prices, rows))
        assert abs(middle - bill) <= 0.3 * bill, (method, kind.__name__, middle, bill)
