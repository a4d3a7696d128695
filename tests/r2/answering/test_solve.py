from dataclasses import replace

import pytest

from r2.answering.protocol import Trajectory
from r2.answering.route import shown_models, solve
from r2.errors import CALL_FAILURES
from r2.methods import method_named
from r2.problem import Problem
from r2.records.rows import to_rows
from tests.support.scripted import LOGPROBS, ROSTER, completion, replay, router, sure

PROBLEM = Problem(
    "p1",
    "A box holds 12 pens. Ann has 4 boxes and gives away 9 pens. How many are left?",
    target="39",
    benchmark="word_problem",
)
PLAN = "1. Compute 12 * 4\n2. Subtract 9 from the result of step 1 (needs: 1)"
BY_NAME = '[{"subtask": 1, "model": "small"}, {"subtask": 2, "model": "middle"}]'


def test_a_problem_is_decomposed_allocated_and_solved_in_order():
    waves, outcome = replay(solve(PROBLEM, router()), [PLAN, BY_NAME, "48", "39"])
    assert [[(c.purpose, c.model) for c in wave] for wave in waves] == [
        [("decompose", "small")],
        [("allocate", "small")],
        [("solve", "small")],
        [("solve", "middle")],
    ]
    assert outcome.answer == "39"
    assert outcome.status == "answered"


def test_a_step_sees_the_results_it_needs_and_no_others():
    plan = "1. Compute 2 + 3\n2. Compute 4 + 5\n3. Double the result of step 2 (needs: 2)"
    names = '[{"subtask": 1, "model": "small"}, {"subtask": 2, "model": "small"}, {"subtask": 3, "model": "small"}]'
    waves, _ = replay(solve(PROBLEM, router()), [plan, names, "5", "9", "18"])
    assert len(waves[2]) == 2, "independent steps run in one wave"
    prompt = waves[3][0].messages[-1][1]
    assert "Result of step 2: 9" in prompt
    assert "Result of step 1" not in prompt


def test_a_direct_plan_costs_one_solver_call():
    waves, outcome = replay(
        solve(PROBLEM, router()), ["DIRECT", '[{"subtask": 1, "model": "large"}]', "Think.\nAnswer: 39"]
    )
    assert len(waves) == 3
    assert outcome.plan is not None
    assert outcome.plan.is_direct
    assert outcome.answer == "39"


def test_rubbish_from_the_decomposer_means_a_direct_answer_and_is_noted():
    _, outcome = replay(solve(PROBLEM, router()), ["I am a teapot", '[{"subtask": 1, "model": "small"}]', "39"])
    assert outcome.answer == "39"
    assert outcome.failed_checks == ["plan_parse"]


def test_rubbish_from_the_allocator_means_the_middle_model_and_is_noted():
    waves, outcome = replay(solve(PROBLEM, router()), ["DIRECT", "whatever", "39"])
    assert waves[2][0].model == "middle"
    assert outcome.failed_checks == ["allocation_parse"]


def test_a_failed_check_asks_the_next_stronger_model():
    waves, outcome = replay(solve(PROBLEM, router()), ["DIRECT", '[{"subtask": 1, "model": "small"}]', "no idea", "39"])
    assert [w[0].model for w in waves[2:]] == ["small", "middle"]
    assert (outcome.answer, outcome.n_escalations, outcome.failed_checks) == ("39", 1, ["no_number"])


def test_a_step_whose_model_is_not_sure_goes_to_the_next_stronger_one():
    careful = replace(router(min_confidence=0.9), roster=LOGPROBS)
    waves, outcome = replay(
        solve(PROBLEM, careful),
        ["DIRECT", sure('[{"subtask": 1, "model": "small"}]', 0.9), sure("38", 0.89), sure("39", 0.91)],
    )
    assert [(w[0].model, w[0].top_logprobs) for w in waves[2:]] == [("small", 1), ("middle", 1)]
    assert (outcome.answer, outcome.n_escalations, outcome.failed_checks) == ("39", 1, ["unsure"])


def test_an_unsure_result_stands_where_nobody_is_left_to_ask():
    careful = replace(router(min_confidence=0.9), roster=LOGPROBS)
    waves, outcome = replay(
        solve(PROBLEM, careful), ["DIRECT", sure('[{"subtask": 1, "model": "large"}]', 0.9), sure("Answer: 39", 0.2)]
    )
    assert (len(waves), outcome.answer, outcome.status) == (3, "39", "answered")
    failed = completion("", error_type="server_error")
    replies = ["DIRECT", sure('[{"subtask": 1, "model": "small"}]', 0.9), sure("39", 0.2), failed, failed]
    _, outcome = replay(solve(PROBLEM, careful), replies)
    assert (outcome.answer, outcome.failed_checks) == ("39", ["unsure", "solve_server_error", "solve_server_error"])


def test_log_probabilities_that_were_promised_and_did_not_come_are_said():
    careful = replace(router(min_confidence=0.9), roster=LOGPROBS)
    _, outcome = replay(solve(PROBLEM, careful), ["DIRECT", sure('[{"subtask": 1, "model": "small"}]', 0.9), "39"])
    assert (outcome.answer, outcome.failed_checks) == ("39", ["no_logprobs"])


def test_a_cut_answer_stands_only_where_nobody_stronger_has_a_whole_one_and_is_marked():
    cut = replace(completion("39"), finish_reason="length")
    small = ["DIRECT", '[{"subtask": 1, "model": "small"}]']
    _, outcome = replay(solve(PROBLEM, router(max_escalations=1)), [*small, cut, "39"])
    assert (outcome.answer, outcome.failed_checks, outcome.is_cut) == ("39", ["truncated"], False)
    _, outcome = replay(solve(PROBLEM, router(max_escalations=1)), [*small, cut, cut])
    assert (outcome.answer, outcome.failed_checks) == ("39", ["truncated", "truncated", "cut_answer"])
    assert outcome.status == "answered"


def test_a_filtered_answer_goes_to_a_stronger_model_and_fails_where_nobody_is_left():
    filtered = completion("", error_type="content_filter")
    small = ["DIRECT", '[{"subtask": 1, "model": "small"}]']
    _, outcome = replay(solve(PROBLEM, router(max_escalations=1)), [*small, filtered, "39"])
    assert (outcome.answer, outcome.failed_checks) == ("39", ["solve_content_filter"])
    _, outcome = replay(solve(PROBLEM, router(max_escalations=1)), [*small, filtered, filtered])
    assert (outcome.answer, outcome.status, outcome.error_type) == (None, "failed", "content_filter")


def test_results_without_log_probabilities_are_checked_by_their_form():
    waves, outcome = replay(
        solve(PROBLEM, router(min_confidence=0.9)), ["DIRECT", '[{"subtask": 1, "model": "small"}]', "39"]
    )
    assert waves[2][0].top_logprobs == 0
    assert (outcome.answer, outcome.failed_checks) == ("39", [])


def test_escalations_are_bounded_and_a_doubtful_text_is_better_than_none():
    waves, outcome = replay(
        solve(PROBLEM, router(max_escalations=1)), ["DIRECT", '[{"subtask": 1, "model": "small"}]', "hm", "well"]
    )
    assert len(waves) == 4
    assert outcome.answer == "well"
    assert outcome.n_escalations == 1


SMALL = ["DIRECT", '[{"subtask": 1, "model": "small"}]']


@pytest.mark.parametrize("error_type", [name for name, failed in CALL_FAILURES.items() if failed.stronger_model])
def test_a_step_whose_call_failed_goes_to_a_stronger_model(error_type: str):
    bad = completion("", error_type=error_type)
    waves, outcome = replay(solve(PROBLEM, router()), [*SMALL, bad, "39"])
    assert [wave[0].model for wave in waves[2:]] == ["small", "middle"]
    assert (outcome.answer, outcome.failed_checks) == ("39", [f"solve_{error_type}"])


@pytest.mark.parametrize("error_type", CALL_FAILURES)
def test_a_step_that_nobody_else_is_asked_for_ends_the_question_with_its_error_type(error_type: str):
    bad = completion("", error_type=error_type)
    _, outcome = replay(solve(PROBLEM, router(max_escalations=0)), [*SMALL, bad])
    status = "deferred" if CALL_FAILURES[error_type].defers else "failed"
    assert (outcome.status, outcome.error_type, outcome.answer) == (status, error_type, None)


def test_what_is_final_is_short_everything_else_defers_the_question():
    final = {name for name, failed in CALL_FAILURES.items() if not failed.defers}
    assert final == {
        "moderated",
        "content_filter",
        "bad_end",
        "context_length",
        "bad_request",
        "question_budget",
        "not_recorded",
        "no_program",
        "program_crashed",
        "program_timeout",
        "program_silent",
    }


@pytest.mark.parametrize("error_type", [name for name, failed in CALL_FAILURES.items() if failed.defers])
@pytest.mark.parametrize("before", [[], ["DIRECT"]], ids=["decompose", "allocate"])
def test_a_routers_call_that_says_nothing_about_the_question_defers_it(before: list[str], error_type: str):
    _, outcome = replay(solve(PROBLEM, router()), [*before, completion("", error_type=error_type)])
    assert (outcome.status, outcome.error_type) == ("deferred", error_type)


def test_a_final_call_that_says_nothing_about_the_question_defers_it():
    with_final = replace(router(), finalizer="large")
    lost = completion("", error_type="disconnected")
    _, outcome = replay(solve(PROBLEM, with_final), [PLAN, BY_NAME, "48", "39", lost])
    assert (outcome.status, outcome.error_type) == ("deferred", "disconnected")


def test_a_routers_call_that_is_refused_for_its_input_is_replaced_by_the_simple_way():
    refused = completion("", error_type="moderated")
    waves, outcome = replay(solve(PROBLEM, router()), [refused, refused, "39"])
    assert waves[-1][0].model == "middle"
    assert (outcome.answer, outcome.failed_checks) == ("39", ["decompose_moderated", "allocate_moderated"])


def test_a_call_that_could_pass_the_questions_cap_goes_to_a_cheaper_model():
    # large: about 60 prompt tokens at 10 and 320 at 20 USD/M = 0.007 USD; small: 24 tokens at 2 USD/M, well below.
    waves, outcome = replay(
        solve(PROBLEM, router(max_cost_per_question_usd=0.003)), ["DIRECT", '[{"subtask": 1, "model": "large"}]', "39"]
    )
    assert waves[2][0].model in ("small", "middle")
    assert outcome.answer == "39"


def test_a_cap_below_every_model_fails_the_question_without_a_call():
    waves, outcome = replay(solve(PROBLEM, router(max_cost_per_question_usd=1e-9)), [])
    assert waves == []
    assert outcome.error_type == "question_budget"


def test_chain_of_thought_is_one_call_to_the_strongest_model():
    waves, outcome = replay(
        method_named("cot").run(PROBLEM, router(method="cot")), ["12 * 4 = 48. 48 - 9 = 39.\nAnswer: 39"]
    )
    assert [(c.model, c.purpose) for c in waves[0]] == [("large", "solve")]
    assert outcome.answer == "39"


def test_a_final_call_reads_all_results_where_the_pool_names_a_finalizer():
    chosen = router()
    with_final = type(chosen)(ROSTER, "small", "small", "large", chosen.settings)
    waves, outcome = replay(solve(PROBLEM, with_final), [PLAN, BY_NAME, "48", "39", "Answer: 39 pens"])
    assert waves[-1][0].purpose == "final"
    assert "Result of step 1: 48\nResult of step 2: 39" in waves[-1][0].messages[-1][1]
    assert outcome.answer == "39 pens"


def test_rows_sum_to_their_trajectory_and_never_leave_out_the_router():
    waves, outcome = replay(solve(PROBLEM, router()), [PLAN, BY_NAME, "48", "39"])
    pairs = tuple(tuple((call, completion("x", call.model)) for call in wave) for wave in waves)
    row, subtasks, calls = to_rows("run", "r2", Trajectory(PROBLEM, outcome, pairs), ROSTER)
    # small: 10 * 1 + 5 * 2 = 20 per M, three calls; middle: 10 * 3 + 5 * 6 = 60 per M, one call.
    assert row.cost_usd == pytest.approx(120e-6)
    assert row.router_cost_usd == pytest.approx(40e-6)
    assert sum(c.cost_usd for c in calls) == pytest.approx(row.cost_usd)
    assert sum(s.cost_usd for s in subtasks) == pytest.approx(80e-6)
    assert (row.n_calls, row.input_tokens, row.output_tokens, row.is_correct) == (4, 40, 20, True)
    assert row.latency_s == pytest.approx(4 * 0.6)
    assert [(s.subtask_index, s.depends_on, s.model, s.tier) for s in subtasks] == [
        (0, (), "small", "small"),
        (1, (0,), "middle", "medium"),
    ]
    assert next(c.candidates for c in subtasks)[0].model == "small"


def test_the_models_can_be_shown_in_an_order_of_each_question_and_letters_mean_that_order():
    orders = set()
    for number in range(20):
        problem = Problem(f"q{number}", "What is 17 + 25?")
        asking = router(order_seed=5)
        shown = [card.name for card in shown_models(problem, asking)]
        waves, _ = replay(solve(problem, asking), ["DIRECT", '[{"subtask": 1, "model": "A"}]', "42"])
        assert waves[2][0].model == shown[0]
        assert sorted(shown) == ["large", "middle", "small"]
        orders.add(tuple(shown))
    assert len(orders) == 6
    assert [card.name for card in shown_models(problem, router())] == ["small", "middle", "large"]
