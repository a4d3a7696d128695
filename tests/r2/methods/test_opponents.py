"""The strongest simple opponents, worked by hand: who is asked, when they stop, and which result is the answer."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from r2.answering.prompts import SOLVE_SYSTEM
from r2.answering.protocol import Outcome, Router
from r2.call import Call, Completion
from r2.errors import ConfigError
from r2.methods import method_named
from r2.methods.estimate import Rows, estimate_calls
from r2.methods.router import make_router
from r2.pool.file.config import load_pool
from r2.problem import Problem
from r2.problems.same_result import groups_of, same_result
from r2.settings import AnswerSettings, Example, Reasoning
from tests.support.paths import ROOT
from tests.support.scripted import LOGPROBS, ROSTER, completion, replay, router, sure

PROBLEM = Problem(
    "p1",
    "A box holds 12 pens. Ann has 4 boxes and gives away 9 pens. How many are left?",
    target="39",
    benchmark="word_problem",
)
BROKEN = completion("", error_type="timeout")


def with_logprobs(**chosen: object) -> Router:
    return Router(LOGPROBS, "small", "small", None, Reasoning.model_validate(chosen))


def asked(waves: list[list[Call]]) -> list[list[tuple[str, str]]]:
    return [[(call.purpose, call.model) for call in wave] for wave in waves]


def run(
    method: str, chosen: Router, replies: Sequence[str | Completion], problem: Problem = PROBLEM
) -> tuple[list[list[Call]], Outcome]:
    return replay(method_named(method).run(problem, chosen), replies)


# start


def test_start_asks_its_model_alone_where_the_check_passes_and_it_is_sure():
    waves, outcome = run("start", with_logprobs(model="small", min_confidence=0.8), [sure("39", 0.81)])
    assert asked(waves) == [[("solve", "small")]]
    assert (outcome.answer, outcome.n_escalations) == ("39", 0)


def test_start_climbs_one_entry_at_a_time_where_the_model_is_unsure_or_the_form_is_wrong():
    replies = [sure("38", 0.5), sure("no idea", 0.99, "middle"), sure("Answer: 39", 0.95, "large")]
    waves, outcome = run("start", with_logprobs(model="small", min_confidence=0.8), replies)
    assert asked(waves) == [[("solve", "small")], [("solve", "middle")], [("solve", "large")]]
    assert (outcome.answer, outcome.failed_checks) == ("39", ["unsure", "no_number"])
    waves, outcome = run("start", with_logprobs(model="middle", min_confidence=0.8), [replies[0], replies[2]])
    assert asked(waves) == [[("solve", "middle")], [("solve", "large")]]


def test_start_climbs_no_further_than_it_is_allowed_and_keeps_the_last_answer():
    chosen = with_logprobs(model="small", min_confidence=0.8, max_escalations=1)
    waves, outcome = run("start", chosen, [sure("38", 0.5), sure("37", 0.5, "middle")])
    assert (len(waves), outcome.answer, outcome.n_escalations) == (2, "37", 1)


def test_every_step_of_a_plan_starts_at_the_model_and_climbs_within_the_questions_bound():
    plan = (
        "1. Compute 12 * 4\n2. Compute 5 + 4\n3. Subtract the result of step 2 from the result of step 1 (needs: 1, 2)"
    )
    chosen = with_logprobs(model="small", min_confidence=0.8, max_escalations=1)
    replies = [plan, sure("47", 0.3), sure("9", 0.9), sure("48", 0.9, "middle"), sure("39", 0.5)]
    waves, outcome = run("start_steps", chosen, replies)
    assert asked(waves) == [
        [("decompose", "small")],
        [("solve", "small")] * 2,
        [("solve", "middle")],
        [("solve", "small")],
    ]
    assert [(step.model, step.text) for step in outcome.steps] == [("middle", "48"), ("small", "9"), ("small", "39")]
    assert (outcome.answer, outcome.failed_checks) == ("39", ["unsure", "unsure"])


# self-consistency


def test_self_consistency_takes_the_most_frequent_result_by_the_benchmarks_own_equality():
    waves, outcome = run("self_consistency", router(model="middle", n_samples=5), ["40", "39", "39.0", "no", "38"])
    assert asked(waves) == [[("solve", "middle")] * 5]
    assert {call.temperature for call in waves[0]} == {0.8}
    assert len({call.journal_key("p1") for call in waves[0]}) == 5
    assert (outcome.answer, outcome.failed_checks) == ("39", ["no_number"])


def test_of_equally_frequent_results_the_first_stands_and_a_failed_sample_has_no_vote():
    _, outcome = run("self_consistency", router(model="small", n_samples=4), [BROKEN, "38", "39", "38"])
    assert (outcome.answer, outcome.failed_checks) == ("38", ["solve_timeout"])
    _, outcome = run("self_consistency", router(model="small", n_samples=2), ["38", "39"])
    assert outcome.answer == "38"
    _, outcome = run("self_consistency", router(model="small", n_samples=2), ["no idea", BROKEN])
    assert outcome.answer == "no idea", "it may be all there is"


# the agreement cascade


def test_an_agreement_cascade_stops_at_the_first_two_that_agree():
    chosen = router(chain=("small", "middle", "large"))
    waves, outcome = run("agreement_cascade", chosen, ["39", "Answer: 39.0"])
    assert asked(waves) == [[("solve", "small")], [("solve", "middle")]]
    assert outcome.answer == "39.0"
    waves, outcome = run("agreement_cascade", chosen, ["38", "39", "Answer: 38"])
    assert asked(waves)[2] == [("solve", "large")]
    assert (outcome.answer, outcome.n_escalations, outcome.steps[0].model) == ("38", 2, "large")


def test_where_no_two_agree_the_last_result_stands():
    _, outcome = run("agreement_cascade", router(chain=("small", "middle")), ["38", "39"])
    assert outcome.answer == "39"


def test_what_is_no_result_agrees_with_nobody_and_takes_no_ones_place():
    chosen = router(chain=("small", "middle", "large"))
    _, outcome = run("agreement_cascade", chosen, ["39", "no idea", "no idea"])
    assert outcome.answer == "39"
    _, outcome = run("agreement_cascade", chosen, ["no idea", "39", BROKEN])
    assert (outcome.answer, outcome.error_type) == ("39", None)
    waves, outcome = run("agreement_cascade", chosen, [BROKEN, BROKEN, BROKEN])
    assert (len(waves), outcome.status, outcome.error_type) == (3, "deferred", "timeout")


def test_without_a_chain_it_asks_the_cheapest_the_middle_and_the_strongest():
    waves, _ = run("agreement_cascade", router(), ["1", "2", "Answer: 3"])
    assert [wave[0].model for wave in waves] == ["small", "middle", "large"]


# the confidence cascade


def test_a_confidence_cascade_stops_at_the_first_model_that_is_sure_enough():
    chosen = with_logprobs(chain=("small", "large"), threshold=0.7)
    waves, outcome = run("confidence_cascade", chosen, [sure("38", 0.71)])
    assert (asked(waves), outcome.answer) == ([[("solve", "small")]], "38")
    assert waves[0][0].top_logprobs == 1
    waves, outcome = run("confidence_cascade", chosen, [sure("38", 0.69), sure("39", 0.1, "large")])
    assert (asked(waves)[1], outcome.answer) == ([("solve", "large")], "39")


def test_an_endpoint_without_log_probabilities_is_never_sure_and_a_sure_malformed_reply_is_none():
    waves, outcome = run("confidence_cascade", router(chain=("small", "middle"), threshold=0.0), ["38", "39"])
    assert (len(waves), outcome.answer) == (2, "39")
    chosen = with_logprobs(chain=("small", "large"), threshold=0.5)
    _, outcome = run("confidence_cascade", chosen, [sure("no idea", 1.0), sure("39", 0.2, "large")])
    assert outcome.answer == "39"


# the rule by benchmark


def test_a_rule_sends_each_benchmark_to_its_model_and_all_others_where_it_says():
    chosen = router(by_benchmark={"word_problem": "middle", "": "small"})
    assert asked(run("rule", chosen, ["39"])[0]) == [[("solve", "middle")]]
    other = replace(PROBLEM, benchmark="arithmetic", question="What is 4 + 5?")
    assert asked(run("rule", chosen, ["9"], other)[0]) == [[("solve", "small")]]
    assert asked(run("rule", router(by_benchmark={"scan": "small"}), ["Answer: 39"])[0]) == [[("solve", "large")]]


# few shots


def test_few_shots_are_earlier_turns_its_own_benchmark_first_and_never_the_question_itself():
    mine = Example(benchmark="word_problem", asked="Question: How many?", reply="Two and two.\nAnswer: 4")
    other = Example(benchmark="scan", asked="Question: jump", reply="Answer: I_JUMP")
    itself = Example(benchmark="word_problem", asked=f"Question: {PROBLEM.question}", reply="Answer: 39")
    chosen = router(model="small", examples=(other, itself, mine), n_examples=2)
    [[call]], outcome = run("few_shot", chosen, ["So\nAnswer: 39"])
    assert outcome.answer == "39"
    assert SOLVE_SYSTEM["cot"] in call.messages[0][1]
    assert call.messages[1:] == (
        ("user", mine.asked),
        ("assistant", mine.reply),
        ("user", other.asked),
        ("assistant", other.reply),
        ("user", f"Question: {PROBLEM.question}"),
    )
    [[call]], _ = run("few_shot", router(model="small", examples=(other, mine), n_examples=1), ["Answer: 39"])
    assert [text for role, text in call.messages if role == "assistant"] == [mine.reply]


# when two results are the same


@pytest.mark.parametrize(
    ("benchmark", "choices", "one", "other", "is_same"),
    [
        ("word_problem", (), "39", "39.0", True),
        ("word_problem", (), "39", "It is 39", True),
        ("word_problem", (), "39", "38", False),
        ("scan", (), "I_JUMP I_WALK", "I_JUMP  I_WALK", True),
        ("scan", (), "I_JUMP I_WALK", "I_WALK I_JUMP", False),
        ("commonsense_qa", ("cat", "dog"), "B", "(B) dog", True),
        ("commonsense_qa", ("cat", "dog"), "A", "B", False),
        ("", (), "The capital is **Paris**", "Paris", True),
        ("", (), "About 12 apples", "About 13 apples", False),
        ("", ("cat", "dog"), "The best is option B", "dog", True),
    ],
)
def test_two_results_are_the_same_where_the_benchmark_takes_one_for_the_other(
    benchmark: str, choices: tuple[str, ...], one: str, other: str, is_same: bool
):
    problem = Problem("p", "?", target="the gold answer is not looked at", benchmark=benchmark, choices=choices)
    assert same_result(problem, one, other) is is_same
    assert same_result(problem, other, one) is is_same


def test_results_are_numbered_and_what_is_none_gets_no_number():
    assert groups_of(PROBLEM, ["39", "no idea", None, "38", "39.0", ""]) == [0, -1, -1, 1, 0, -1]


# before anything is asked


def test_what_a_method_lacks_is_said_before_anything_is_asked(tmp_path: Path):
    pool = load_pool(ROOT / "pools" / "simulated.toml")

    def made(**chosen: object) -> Router:
        return make_router(pool, AnswerSettings(input="q.jsonl", reasoning=Reasoning.model_validate(chosen)))

    with pytest.raises(ConfigError, match=r"reasoning\.by_benchmark"):
        made(method="rule")
    with pytest.raises(ConfigError, match="model 'x' is not in the pool"):
        made(method="rule", by_benchmark={"scan": "x"})
    with pytest.raises(ConfigError, match=r"reasoning\.examples"):
        made(method="few_shot")
    silent = tmp_path / "pool.toml"
    silent.write_text(pool.text.replace("logprobs = true", "logprobs = false"))
    settings = AnswerSettings(input="q.jsonl", reasoning=Reasoning(method="start", min_confidence=0.9))
    with pytest.raises(ConfigError, match=r"no solver of .* gives log-probabilities"):
        make_router(load_pool(silent), settings)


def test_estimates_count_what_each_opponent_asks():
    prices = {card.name: card.price for card in ROSTER.solvers}

    def n_calls(method: str, **chosen: object) -> dict[tuple[str, str], int]:
        return {
            (e.purpose, e.model): e.n_calls
            for e in estimate_calls(router(method=method, **chosen), prices, [Rows(100, 5000)])
        }

    assert n_calls("start", model="small") == {("solve", "small"): 100}
    # Three in ten are unsure, and three in ten of those again.
    climbed = {("solve", "small"): 100, ("solve", "middle"): 30, ("solve", "large"): 9}
    assert n_calls("start", model="small", min_confidence=0.9) == climbed
    assert n_calls("confidence_cascade") == climbed
    # Both of the first two are always asked; on three in ten they differ.
    assert n_calls("agreement_cascade") == {("solve", "small"): 100, ("solve", "middle"): 100, ("solve", "large"): 30}
    assert n_calls("self_consistency", model="small", n_samples=5) == {("solve", "small"): 500}
    assert n_calls("rule", by_benchmark={"a": "small", "b": "large"}) == {
        ("solve", "small"): 50,
        ("solve", "large"): 50,
    }
    assert n_calls("few_shot", model="small") == {("solve", "small"): 100}
    climbing = n_calls("start_steps", model="small", min_confidence=0.9)
    assert climbing == {("decompose", "small"): 100, ("solve", "small"): 250, ("solve", "middle"): 75}
    assert n_calls("program") == {("solve", "large"): 100}
