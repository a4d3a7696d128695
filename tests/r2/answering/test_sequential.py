"""Questions answered by the rule of sequential routing, with scripted models.

By the profiles and prices of `ROSTER` a word problem goes to `small` first (0.65, nearly free), then `middle` (0.83),
then `large` (0.92, a fiftieth of what a right answer is worth).
"""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from r2.answering.prompts import TASK_MARK
from r2.answering.protocol import Outcome, Router, Trajectory
from r2.answering.sequential import solve_by_rule
from r2.answering.worth import expected_asks, value_usd
from r2.call import Call, Completion
from r2.errors import ConfigError
from r2.methods import method_named, refuse_unused
from r2.problem import Asked, Problem
from r2.problems.own_check import OwnCheck, Verdict
from r2.problems.schema import parse_schema
from r2.records.rows import to_rows
from r2.roster import ModelCard, Roster
from r2.settings import AnswerSettings, Reasoning, routed
from tests.support.scripted import CHEAP, DEAR, completion, replay, router, sure
from tests.support.scripted import ROSTER as THREE

ROSTER = Roster([replace(THREE["small"], skills={"word_problem": 0.68}), THREE["middle"], THREE["large"]])
LOGPROBS = Roster([replace(card, has_logprobs=True) for card in ROSTER.solvers])
PROBLEM = Problem(
    "p1",
    "A box holds 12 pens. Ann has 4 boxes and gives away 9 pens. How many are left?",
    target="39",
    benchmark="word_problem",
)
FREE = Problem("p1", "Write three lines about rivers, please.")
DOWN = completion("", error_type="server_error")


def asked(problem: Problem, chosen: Router, *replies: str | Completion) -> tuple[list[list[str]], Outcome]:
    """Who was asked in each wave, and the outcome."""
    waves, outcome = replay(solve_by_rule(problem, chosen), replies)
    return [[call.model for call in wave] for wave in waves], outcome


def rule(roster: Roster = ROSTER, **settings: object) -> Router:
    return replace(router(routing="rule", **settings), roster=roster)


def reasons(outcome: Outcome) -> list[tuple[str, str | None, str]]:
    return [(one.decision.action, one.arm, one.reason) for one in outcome.decisions]


def test_two_cheap_models_that_agree_are_enough():
    waves, outcome = asked(PROBLEM, rule(), "39", "39")
    assert waves == [["small"], ["middle"]]
    assert (outcome.answer, outcome.n_escalations, outcome.failed_checks) == ("39", 1, [])
    assert reasons(outcome) == [
        ("ask", "small", "no_result_yet"),
        ("ask", "middle", "worth_asking"),
        ("accept", None, "not_worth_more"),
    ]
    # 0.65 is 0.9238 of the easier questions and 0.3762 of the harder ones. `middle` was not measured; by what `small`
    # did its tier is right in 0.8266, which is 0.9768 and 0.6765.
    both_right = 0.9238 * 0.9768 + 0.3762 * 0.6765
    both_wrong = 0.0762 * 0.0232 + 0.6238 * 0.3235
    q = both_right / (both_right + both_wrong / 5)
    assert outcome.decisions[-1].decision.q == pytest.approx(q, abs=1e-3)


def test_two_that_disagree_are_not_and_the_third_decides():
    waves, outcome = asked(PROBLEM, rule(), "39", "40", "Think.\nAnswer: 39")
    assert waves == [["small"], ["middle"], ["large"]]
    assert (outcome.answer, outcome.steps[0].model, outcome.steps[0].choice.model) == ("39", "small", "small")


def test_the_same_number_written_in_another_way_agrees():
    waves, outcome = asked(PROBLEM, rule(), "39", "39.0 pens")
    assert (len(waves), outcome.answer) == (2, "39")


def test_what_a_right_answer_is_worth_decides_how_much_is_asked():
    assert asked(PROBLEM, rule(value_usd=1e-9), "39")[0] == [["small"]]
    assert asked(PROBLEM, rule(b=30), "39")[0] == [["small"]]
    assert value_usd(PROBLEM, rule(value_usd=2.0, b=1.0)) == pytest.approx(2.0 / 2.718281828)
    # 50 times the cost of the question on `large`, thinking step by step
    assert value_usd(PROBLEM, rule()) == pytest.approx(0.192, abs=0.03)


def test_without_looking_ahead_nobody_is_asked_twice():
    waves, outcome = asked(PROBLEM, rule(horizon=0), "Think.\nAnswer: 39")
    assert (waves, outcome.answer) == ([["large"]], "39")


def test_further_asks_are_bounded():
    assert asked(PROBLEM, rule(max_escalations=0), "Answer: 39")[0] == [["large"]]
    waves, outcome = asked(PROBLEM, rule(max_escalations=1), replace(DOWN, model="large"), "who knows")
    assert (len(waves), outcome.answer, outcome.decisions[-1].reason) == (2, "who knows", "escalations_spent")


def test_a_sure_model_is_enough_and_an_unsure_one_is_not():
    careful = rule(LOGPROBS)
    waves, outcome = replay(solve_by_rule(PROBLEM, careful), [sure("39", 0.99), sure("39", 0.99, "middle")])
    assert [(call.model, call.top_logprobs) for wave in waves for call in wave] == [("small", 1), ("middle", 1)]
    assert outcome.decisions[1].decision.q == pytest.approx(0.65 * 6 / (0.65 * 6 + 0.35))
    unsure = [sure("39", 0.3), sure("40", 0.3, "middle"), sure("Answer: 39", 0.99, "large")]
    assert asked(PROBLEM, careful, *unsure)[0] == [["small"], ["middle"], ["large"]]


def test_a_single_result_below_the_floor_of_confidence_is_not_accepted():
    cheap = rule(LOGPROBS, value_usd=1e-9)
    assert asked(PROBLEM, cheap, sure("39", 0.8))[0] == [["small"]]
    floor = rule(LOGPROBS, value_usd=1e-9, min_confidence=0.9)
    waves, outcome = asked(PROBLEM, floor, sure("39", 0.8), sure("Answer: 39", 0.95, "large"))
    assert (len(waves), outcome.failed_checks, outcome.decisions[1].reason) == (2, ["unsure"], "unsure")


def test_a_result_without_form_is_none_and_stands_only_where_there_is_no_other():
    _, outcome = asked(PROBLEM, rule(), "no idea", "Answer: 39")
    assert (outcome.answer, outcome.failed_checks) == ("39", ["no_number"])
    _, outcome = asked(PROBLEM, rule(), "no idea", "who knows", "Answer: none")
    assert (outcome.answer, outcome.status) == ("none", "answered")
    assert outcome.failed_checks == ["no_number"] * 3


def test_a_failed_call_goes_to_another_model_and_fails_where_nobody_is_left():
    _, outcome = asked(PROBLEM, rule(), DOWN, "Answer: 39")
    assert (outcome.answer, outcome.failed_checks) == ("39", ["solve_server_error"])
    _, outcome = asked(PROBLEM, rule(), DOWN, DOWN, DOWN)
    assert (outcome.answer, outcome.status, outcome.error_type) == (None, "deferred", "server_error")
    rejected = completion("", error_type="content_filter")
    _, outcome = asked(PROBLEM, rule(), rejected, rejected, rejected)
    assert (outcome.status, outcome.error_type) == ("failed", "content_filter")


def test_an_entry_that_answered_in_the_place_of_another_brings_no_second_opinion():
    _, outcome = asked(PROBLEM, rule(), "39", completion("39", "small"), "Answer: 39")
    assert outcome.decisions[2].n_attempts == 2
    assert outcome.decisions[2].decision.q == pytest.approx(0.65)


def test_a_question_with_a_cap_asks_whom_it_can_pay():
    waves, outcome = asked(PROBLEM, rule(max_cost_per_question_usd=0.002, max_escalations=0), "39")
    assert (waves, outcome.answer) == ([["middle"]], "39")
    assert outcome.decisions[0].decision.action == "ask"
    _, outcome = asked(PROBLEM, rule(max_cost_per_question_usd=1e-9))
    assert (outcome.status, outcome.error_type) == ("failed", "question_budget")


def test_free_text_goes_by_profiles_alone_and_is_never_agreed_upon():
    waves, outcome = asked(FREE, rule(), "Rhine\n\nNile")
    assert (waves, outcome.answer) == ([["large"]], "Rhine\n\nNile")
    waves, outcome = asked(FREE, rule(value_usd=1e-9), "Rhine")
    assert waves == [["small"]]


def test_what_is_wanted_in_full_is_not_asked_of_an_entry_that_writes_programs():
    writing = Roster([replace(ROSTER["small"], prompt_mode="program"), ROSTER["middle"]])
    assert asked(FREE, rule(writing, value_usd=1e-9), "Rhine\n\nNile")[0] == [["middle"]]
    assert asked(PROBLEM, rule(writing, value_usd=1e-9), "print(12 * 4 - 9)", "39")[0] == [["small"], ["small"]]


def test_a_cut_whole_answer_is_asked_for_again_at_twice_the_limit():
    cut = replace(completion("Rhine", "large"), finish_reason="length")
    waves, outcome = replay(solve_by_rule(FREE, rule(max_answer_tokens=100)), [cut, "Rhine, Nile"])
    assert [wave[0].max_output_tokens for wave in waves] == [100, 200]
    assert (outcome.answer, outcome.failed_checks, outcome.is_cut) == ("Rhine, Nile", ["truncated"], False)
    _, outcome = asked(FREE, rule(max_answer_tokens=100, max_escalations=0), cut, cut)
    assert (outcome.answer, outcome.is_cut) == ("Rhine", True)
    assert outcome.failed_checks[-1] == "cut_answer"


def test_an_answer_that_does_not_match_its_schema_is_mended_then_asked_of_others():
    chosen = replace(rule(), schema=parse_schema('{"type":"object","required":["name"]}'))
    waves, outcome = asked(FREE, chosen, "nothing", "{}", '{"name": "Ann"}')
    assert waves == [["large"], ["large"], ["middle"]]
    assert (outcome.value, outcome.failed_checks) == ('{"name":"Ann"}', ["schema", "schema"])
    _, outcome = asked(FREE, replace(chosen, settings=rule(max_escalations=0).settings), "nothing", "{}")
    assert (outcome.answer, outcome.error_type) == (None, "schema")


def verifying(*refused: str, score: float | None = 0.0) -> OwnCheck:
    def says(problem: Problem, answer: str, step: str | None) -> Verdict:
        return Verdict(score, "ValueError: odd" if score is None else None) if answer in refused else Verdict(1.0)

    return OwnCheck(name="grade.py:ok", says=says)


def test_what_the_users_verifier_takes_is_accepted_at_once_and_what_it_refuses_is_no_result():
    waves, outcome = asked(PROBLEM, replace(rule(), verify=verifying()), "39")
    assert (waves, reasons(outcome)[-1]) == ([["small"]], ("accept", None, "verified"))
    _, outcome = asked(PROBLEM, replace(rule(), verify=verifying("38")), "38", "Answer: 39")
    assert (outcome.answer, outcome.failed_checks) == ("39", ["verify"])
    _, outcome = asked(PROBLEM, replace(rule(), verify=verifying("38", "37", "36")), "38", "37", "36")
    assert (outcome.answer, outcome.failed_checks) == ("36", ["verify"] * 3)
    _, outcome = asked(PROBLEM, replace(rule(), verify=verifying("39", score=None)), "39", "39")
    assert (outcome.answer, outcome.check_error) == ("39", "ValueError: odd")


def test_a_row_that_wants_log_probabilities_is_answered_by_an_entry_that_gives_them():
    problem = replace(FREE, asked=Asked(logprobs=True, top_logprobs=3))
    mixed = Roster([ROSTER["small"], ROSTER["middle"], replace(ROSTER["large"], has_logprobs=True)])
    waves, _ = replay(solve_by_rule(problem, rule(mixed)), [sure("Rhine", 0.9, "large")])
    assert [(call.model, call.top_logprobs) for call in waves[0]] == [("large", 3)]


# Plans.

PLAN = "1. Compute 3 * 4\n2. Compute 5 + 6\n3. Add the result of step 1 to the result of step 2 (needs: 1, 2)"
SUM = Problem("p1", "What is 3 * 4 + (5 + 6)?", target="23", benchmark="arithmetic")


def planning(skills: Mapping[str, float] | None = None, **settings: object) -> Router:
    """A decomposer that was fine-tuned, and a specialist for steps."""
    planner = ModelCard("planner", "small", CHEAP, prompt_mode="bare", is_solver=False, skills=skills or {})
    small = ModelCard("small", "small", CHEAP, skills={"add": 1.0, "multiply": 1.0, "expression": 0.1})
    large = ModelCard("large", "large", DEAR, skills={"add": 0.8, "multiply": 0.8, "expression": 0.4})
    return replace(rule(Roster([planner, small, large]), **settings), decomposer="planner")


def test_a_question_is_decomposed_where_that_is_worth_more_and_its_steps_are_asked_side_by_side():
    waves, outcome = replay(
        solve_by_rule(SUM, planning(max_escalations=0)),
        [completion(PLAN, "small"), "12", "11", "23"],
    )
    assert [[(call.purpose, call.model) for call in wave] for wave in waves] == [
        [("decompose", "planner")],
        [("solve", "small"), ("solve", "small")],
        [("solve", "small")],
    ]
    assert (outcome.answer, len(outcome.steps)) == ("23", 3)
    assert reasons(outcome)[0] == ("decompose", None, "plan_worth_more")
    assert [one.subtask_index for one in outcome.decisions] == [None, 0, 1, 0, 1, 2, 2, None]


def whole_by(expression: float, **settings: object) -> Router:
    """`large` is so good at whole expressions."""
    chosen = planning(**settings)
    large = ModelCard("large", "large", DEAR, skills={"add": 0.8, "multiply": 0.8, "expression": expression})
    return replace(chosen, roster=Roster([chosen.roster["planner"], chosen.roster["small"], large]))


def by_plan_or_whole(chosen: Router, plan: str, whole: str) -> tuple[list[Call], Outcome]:
    """Steps come out as 12, 11 and 23, the question itself as `whole`; the calls that were made."""
    results, solving, made = {0: "12", 1: "11", 2: "23"}, solve_by_rule(SUM, chosen), list[Call]()
    try:
        wave = next(solving)
        while True:
            made += wave
            wave = solving.send([scripted(call, said(call, plan, whole, results)) for call in wave])
    except StopIteration as end:
        return made, end.value


def scripted(call: Call, text: str) -> Completion:
    return completion(text, "small" if call.model == "planner" else call.model)


def said(call: Call, plan: str, whole: str, results: Mapping[int, str]) -> str:
    if call.purpose == "decompose":
        return plan
    return results[call.subtask_index or 0] if TASK_MARK in call.messages[-1][1] else whole


def test_the_answer_of_a_plan_is_held_against_the_question_asked_whole_where_that_is_worth_it():
    calls, outcome = by_plan_or_whole(whole_by(0.95, value_usd=0.15), PLAN, "23")
    assert calls[0].purpose == "decompose"
    assert TASK_MARK not in calls[-1].messages[-1][1]
    assert (outcome.answer, len(outcome.steps)) == ("23", 3)
    assert reasons(outcome)[-2:] == [("ask", "large", "worth_asking"), ("accept", None, "not_worth_more")]
    before, after = (one.decision.q for one in outcome.decisions[-2:])
    # the plan has the steps that the question shows: 0.95 becomes 0.984; each step was agreed upon, 0.992
    assert (before, after > 0.99) == (pytest.approx(0.984 * 0.992**3, abs=0.01), True)
    calls, outcome = by_plan_or_whole(whole_by(0.4, value_usd=0.15), PLAN, "23")
    assert reasons(outcome)[-1] == ("accept", None, "not_worth_more")
    assert all(call.purpose == "decompose" or TASK_MARK in call.messages[-1][1] for call in calls), (
        "it knows too little"
    )


def test_where_the_plan_is_outvoted_the_answer_is_that_of_the_question_asked_whole():
    calls, outcome = by_plan_or_whole(whole_by(0.95), PLAN, "24")
    assert (outcome.answer, [step.text for step in outcome.steps]) == ("24", ["24"])
    assert outcome.plan is not None and outcome.plan.is_direct
    done = tuple(((call, scripted(call, "24")),) for call in calls)
    row, [subtask], _ = to_rows("run", "r2", Trajectory(SUM, outcome, done), ROSTER)
    assert (row.plan, row.answer, subtask.allocated_model) == ("DIRECT", "24", "large")


def test_a_plan_without_the_steps_that_the_question_shows_is_not_executed():
    short = "1. Compute 3 * 4\n2. Compute 5 + 6"
    calls, outcome = by_plan_or_whole(whole_by(0.8, value_usd=0.1), short, "23")
    assert [call.purpose for call in calls] == ["decompose", "solve"]
    assert TASK_MARK not in calls[1].messages[-1][1]
    assert (outcome.answer, outcome.plan and outcome.plan.is_direct) == ("23", True)


def test_a_step_that_fails_is_asked_again_by_the_same_rule():
    by_plan = planning(max_escalations=1, value_usd=0.002)
    waves, outcome = replay(solve_by_rule(SUM, by_plan), [completion(PLAN, "small"), "twelve", "11", "12", "23"])
    assert [[call.subtask_index for call in wave] for wave in waves] == [[None], [0, 1], [0], [2]]
    assert (outcome.answer, outcome.failed_checks, outcome.steps[0].model) == ("23", ["no_number"], "large")


def test_a_decomposer_without_evidence_or_with_a_poor_one_is_not_asked():
    prompted = replace(planning(max_escalations=0), decomposer="small")
    assert asked(SUM, prompted, "23")[0] == [["large"]]
    assert asked(SUM, planning({"plan": 0.1}, max_escalations=0), "23")[0] == [["large"]]


def test_where_no_plan_comes_the_question_is_asked_itself():
    waves, outcome = replay(solve_by_rule(SUM, planning(max_escalations=0)), [completion("no plan", "small"), "23"])
    assert [wave[0].purpose for wave in waves] == ["decompose", "solve"]
    assert (outcome.answer, outcome.failed_checks, outcome.plan and outcome.plan.is_direct) == (
        "23",
        ["plan_parse"],
        True,
    )


# The pool.


def test_the_order_of_the_pool_decides_nothing():
    for roster in (Roster(ROSTER.solvers), Roster(reversed(ROSTER.solvers))):
        assert asked(PROBLEM, rule(roster), "39", "39")[0] == [["small"], ["middle"]]


def test_the_strongest_entry_may_be_asked_to_think_though_the_pool_lists_it_without():
    direct = Roster([replace(card, prompt_mode="direct") for card in ROSTER.solvers])
    waves, _ = replay(solve_by_rule(PROBLEM, rule(direct, horizon=0, value_usd=10.0)), ["Think.\nAnswer: 39"])
    [call] = waves[0]
    assert (call.model, "step by step" in call.messages[0][1]) == ("large", True)


def test_decisions_are_stored_with_their_candidates():
    waves, outcome = replay(solve_by_rule(PROBLEM, rule()), ["39", "39"])
    done = tuple(tuple((call, completion("39", call.model)) for call in wave) for wave in waves)
    row, [subtask], calls = to_rows("run", "r2", Trajectory(PROBLEM, outcome, done), ROSTER)
    assert row.decisions is not None and '"arm":"small"' in row.decisions and '"reason":"worth_asking"' in row.decisions
    assert (row.plan, row.n_subtasks, subtask.allocated_model, subtask.is_escalated) == ("DIRECT", 0, "small", True)
    assert row.cost_usd == pytest.approx(sum(call.cost_usd for call in calls))


# What it is expected to ask.


def test_what_is_expected_follows_the_rule():
    once = expected_asks(PROBLEM, rule(max_escalations=0))
    assert (once.whole, once.plans, once.steps) == ({"large": pytest.approx(1)}, 0, {})
    whole = expected_asks(PROBLEM, rule()).whole
    assert whole["small"] == pytest.approx(1) and whole["middle"] == pytest.approx(1)
    assert 0 < whole["large"] < 1, "where the two disagree"


def test_a_plan_is_expected_with_the_steps_that_the_question_shows():
    expected = expected_asks(SUM, planning(max_escalations=0))
    assert (expected.whole, expected.plans, expected.steps) == ({}, 1, {"small": pytest.approx(3)})


# The settings.


def test_the_method_takes_the_rule_only_where_the_settings_say_so():
    run = method_named("r2").run
    assert next(run(PROBLEM, rule()))[0].purpose == "solve"
    assert next(run(PROBLEM, router()))[0].purpose == "decompose"


def test_settings_of_before_mean_the_allocator_and_their_identity_is_as_it_was():
    assert Reasoning().routing == "allocator"
    assert not {"routing", "value_usd", "horizon"} & Reasoning().identity().keys()
    assert Reasoning(routing="rule", value_usd=0.5).identity().items() >= {("routing", "rule"), ("value_usd", 0.5)}


def test_a_new_run_of_the_command_is_by_the_rule_unless_an_allocator_is_named():
    def routing(**settings: object) -> str:
        return routed(AnswerSettings.model_validate({"input": "q.jsonl", **settings})).reasoning.routing

    assert routing() == "rule"
    assert routing(reasoning={"b": 0.1, "min_confidence": 0.5}) == "rule"
    assert routing(reasoning={"allocator": "small"}) == "allocator"
    assert routing(reasoning={"routing": "allocator"}) == "allocator"
    assert routing(reasoning={"order_seed": 1}) == "allocator"
    assert routing(reasoning={"method": "cot"}) == "allocator"
    assert routing(target_accuracy=0.9) == "allocator"


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"value_usd": 1.0}, "--value-usd"),
        ({"horizon": 2}, "--horizon"),
        ({"method": "cot", "routing": "rule"}, "--routing"),
    ],
)
def test_settings_of_a_rule_that_does_not_route_are_refused(settings: dict[str, object], flag: str):
    with pytest.raises(ConfigError, match=flag):
        refuse_unused(Reasoning.model_validate(settings))
    refuse_unused(Reasoning(routing="rule", value_usd=1.0, horizon=2))


def test_the_rules_knob_needs_no_log_probabilities_of_an_allocator():
    method_named("r2").check(rule(b=1.0), "pool.toml")
    with pytest.raises(ConfigError, match="--b"):
        method_named("r2").check(router(b=1.0), "pool.toml")


def waits(usd: float, **settings: object) -> Router:
    """Waiting for any entry costs so much."""
    return replace(rule(**settings), wait_usd=dict.fromkeys(("small", "middle", "large"), usd))


def test_where_waiting_has_a_price_two_are_asked_in_the_first_wave():
    waves, outcome = asked(PROBLEM, waits(0.006), "39", "39")
    assert waves == [["small", "middle"]]
    assert (outcome.answer, outcome.n_escalations) == ("39", 1)
    assert reasons(outcome) == [
        ("ask", "small", "no_result_yet"),
        ("ask", "middle", "asked_beside"),
        ("accept", None, "not_worth_more"),
    ]


def test_two_in_a_wave_that_disagree_are_decided_by_a_third_where_that_is_worth_the_wait():
    waves, outcome = asked(PROBLEM, waits(0.004), "39", "40", "Think.\nAnswer: 39")
    assert (waves, outcome.answer) == ([["small", "middle"], ["large"]], "39")


def test_one_of_two_that_is_cut_is_asked_again_before_the_rule_goes_on():
    cut = replace(completion("thirty", finish_reason="length"))
    waves, outcome = asked(PROBLEM, waits(0.006), "39", cut, "39")
    assert waves[0] == ["small", "middle"]
    assert outcome.answer == "39"


def test_a_price_of_waiting_without_a_batch_lane_changes_nothing():
    assert asked(PROBLEM, rule(wait_usd_per_hour=5.0), "39", "39")[0] == [["small"], ["middle"]]


def test_where_waiting_is_dear_the_best_entry_is_asked_alone():
    assert asked(PROBLEM, waits(0.03), "Think.\nAnswer: 39")[0] == [["large"]]


def test_two_asks_stay_within_the_escalations_that_are_allowed():
    assert asked(PROBLEM, waits(0.006, max_escalations=0), "Think.\nAnswer: 39")[0][0] != ["small", "middle"]


def test_an_estimate_counts_both():
    expected = expected_asks(PROBLEM, waits(0.006))
    assert expected.whole["small"] == pytest.approx(1.0) and expected.whole["middle"] == pytest.approx(1.0)
