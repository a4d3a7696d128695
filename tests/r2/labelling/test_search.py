"""Allocation search on models whose right and wrong are known, driven without a pool."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2.answering.confidence import agreement, token_confidence
from r2.call import Call, Completion, TokenLogprob
from r2.labelling.execution import Execution, Memory, execute, execute_repeatedly, remembered, side_by_side
from r2.labelling.search import cheapest_right, probe, search_allocation, start_models
from r2.plan import DIRECT, Plan, Subtask
from r2.problem import Problem
from r2.roster import Roster
from r2.settings import Labelling
from tests.support.scripted import ROSTER, completion, router

PROBLEM = Problem("p", "What is 2 * 3 + 4?", target="10", benchmark="arithmetic")
PLAN = Plan((Subtask("Compute 2 * 3"), Subtask("Add 4 to the result of step 1", (0,))))
SETTINGS = Labelling()


def drive(generator, reply: Callable[[Call], str | Completion]):
    """The generator's value, and every call it asked for."""
    asked: list[Call] = []
    try:
        wave = next(generator)
        while True:
            asked += wave
            answers = [reply(call) for call in wave]
            wave = generator.send(
                [completion(a, c.model) if isinstance(a, str) else a for a, c in zip(answers, wave, strict=True)]
            )
    except StopIteration as end:
        return end.value, asked


def needs(*least: str) -> Callable[[Call], str]:
    """Subtask i is answered rightly by `least[i]` and whatever is stronger; a wrong first result spoils the second."""
    names = [card.name for card in ROSTER.solvers]

    def reply(call: Call) -> str:
        index = call.subtask_index or 0
        is_able = names.index(call.model) >= names.index(least[index])
        if index == 0:
            return "6" if is_able else "7"
        first = int(call.messages[-1][1].split("Result of step 1: ")[1].split()[0])
        return str(first + 4) if is_able else "0"

    return reply


def logprobs(*probabilities: float) -> Completion:
    tokens = tuple(TokenLogprob(f"t{i}", math.log(p)) for i, p in enumerate(probabilities))
    return Completion("6", "small", token_logprobs=tokens)


def test_confidence_is_the_quantile_of_token_probabilities_position_by_position():
    # 0.4 * 3 = 1.2: between the second and the third of 0.1 0.5 0.5 0.9, repeated tokens kept
    assert token_confidence(logprobs(0.9, 0.5, 0.1, 0.5), 0.4) == pytest.approx(0.5)
    assert token_confidence(logprobs(0.2, 0.4, 1.0), 0.4) == pytest.approx(0.2 + 0.8 * 0.2)
    assert token_confidence(Completion("6", "small"), 0.4) is None


def test_white_space_tokens_say_nothing_of_confidence():
    tokens = (TokenLogprob(" ", 0.0), TokenLogprob("6", math.log(0.3)), TokenLogprob("\n", 0.0))
    assert token_confidence(Completion(" 6", "small", token_logprobs=tokens), 0.4) == pytest.approx(0.3)


def test_agreement_is_the_share_of_the_commonest_answer():
    assert agreement(["6", "Answer: 6", " 6 ", "7"]) == 0.75


def test_confidence_decides_the_tier_and_its_middle_solver_starts():
    assert start_models([0.95, 0.6, 0.2], ROSTER, SETTINGS) == ["small", "middle", "large"]


def test_a_right_start_goes_down_until_each_step_has_its_cheapest_model():
    tried, _ = drive(
        search_allocation(PROBLEM, PLAN, [0.6, 0.2], router(), SETTINGS, Memory()), needs("small", "middle")
    )
    assert tried[0].models == ("middle", "large")
    target = cheapest_right(tried)
    assert target is not None
    assert tried[target].models == ("small", "middle")
    assert [run.models for run in tried] == [
        ("middle", "large"),
        ("small", "large"),
        ("small", "middle"),
        ("small", "small"),
    ]


def test_a_wrong_start_goes_up_least_confident_first_and_then_down_again():
    tried, _ = drive(
        search_allocation(PROBLEM, PLAN, [0.95, 0.92], router(), SETTINGS, Memory()), needs("middle", "small")
    )
    assert [run.models for run in tried] == [
        ("small", "small"),
        ("small", "middle"),
        ("middle", "middle"),
        ("middle", "small"),
    ]
    assert tried[cheapest_right(tried) or 0].models == ("middle", "small")


def test_a_plan_that_stays_wrong_at_the_top_has_no_target():
    tried, _ = drive(search_allocation(PROBLEM, PLAN, [0.95, 0.95], router(), SETTINGS, Memory()), lambda call: "wrong")
    assert tried[-1].models == ("large", "large")
    assert cheapest_right(tried) is None


def test_a_climb_that_fails_goes_down_from_m_evals_own_right_execution():
    # Only (middle, middle) and (small, middle) are right; the climb passes by both on its way to (large, large).
    def reply(call: Call) -> str:
        if call.subtask_index == 0:
            return "7" if call.model == "large" else "6"
        return "10" if call.model == "middle" and "step 1: 6" in call.messages[-1][1] else "0"

    memory = Memory()
    known, _ = drive(remembered(execute(PROBLEM, PLAN, ["middle", "middle"], router()), memory), reply)
    tried, _ = drive(search_allocation(PROBLEM, PLAN, [0.2, 0.1], router(), SETTINGS, memory, known), reply)
    assert tried[0].models == ("large", "large")
    assert tried[-1].models == ("middle", "middle")
    assert tried[cheapest_right(tried) or 0].models == ("small", "middle")


def test_what_the_cheapest_model_got_right_throughout_is_searched_all_the_same_because_the_others_teach_too():
    memory = Memory()
    known, _ = drive(remembered(execute(PROBLEM, PLAN, ["small", "small"], router()), memory), needs("small", "small"))
    tried, _ = drive(
        search_allocation(PROBLEM, PLAN, [0.2, 0.1], router(), SETTINGS, memory, known), needs("small", "small")
    )
    assert {("large", "large"), ("small", "small")} < {run.models for run in tried}
    assert tried[cheapest_right(tried) or 0].models == ("small", "small")


def test_m_evals_wrong_execution_is_no_place_to_come_down_from():
    memory = Memory()
    known, _ = drive(remembered(execute(PROBLEM, PLAN, ["small", "small"], router()), memory), lambda call: "wrong")
    tried, _ = drive(search_allocation(PROBLEM, PLAN, [0.2, 0.1], router(), SETTINGS, memory, known), lambda c: "wrong")
    assert [run.models for run in tried] == [("large", "large")]
    assert cheapest_right(tried) is None


def drawn(*wrong: int) -> Callable[[Call], str]:
    """The small model's first step is wrong in these draws."""

    def reply(call: Call) -> str:
        if call.subtask_index == 0:
            return "7" if call.model == "small" and call.sample_index in wrong else "6"
        return "10" if "step 1: 6" in call.messages[-1][1] else "11"

    return reply


def repeated(*wrong: int, **labelling: object) -> tuple[Execution, list[Call]]:
    asking = router(method="label", temperature=0.7, labelling=labelling)
    return drive(remembered(execute_repeatedly(PROBLEM, PLAN, ["small", "large"], asking), Memory()), drawn(*wrong))


def test_a_stochastic_plan_is_executed_until_it_is_decided_and_one_lucky_success_is_no_label():
    lucky, _ = repeated(1, 2)
    assert (lucky.n_right, lucky.n_executions, lucky.is_correct) == (1, 3, False)
    assert lucky.answer == "11", "an answer of those that decided"
    unlucky, _ = repeated(0)
    assert (unlucky.n_right, unlucky.n_executions, unlucky.is_correct) == (2, 3, True)
    assert unlucky.answer == "10"
    sure, asked = repeated()
    assert (sure.n_right, sure.n_executions, sure.is_correct) == (2, 2, True), "two of three are enough"
    assert {call.sample_index for call in asked} == {0, 1}
    hopeless, _ = repeated(0, 1, 2)
    assert (hopeless.n_right, hopeless.n_executions) == (0, 2)


def test_how_often_and_what_share_are_settings_and_the_cost_is_that_of_one_execution():
    strict, _ = repeated(3, n_executions=4, min_right_share=1.0)
    assert (strict.n_right, strict.n_executions, strict.is_correct) == (3, 4, False)
    once, _ = repeated(0, n_executions=1)
    assert (once.n_right, once.n_executions, once.is_correct) == (0, 1, False)
    assert strict.cost_usd == pytest.approx(once.cost_usd)
    assert strict.total_tokens == once.total_tokens


def test_what_is_deterministic_is_executed_once_and_a_model_that_takes_no_temperature_is_not():
    plain, _ = drive(remembered(execute_repeatedly(PROBLEM, PLAN, ["small", "large"], router()), Memory()), drawn(0))
    assert (plain.n_executions, plain.is_correct) == (1, False)
    cards = [replace(card, takes_temperature=card.name != "small") for card in ROSTER.solvers]
    asking = replace(router(), roster=Roster(cards))
    executing = execute_repeatedly(PROBLEM, PLAN, ["small", "large"], asking)
    run, asked = drive(remembered(executing, Memory()), drawn(0))
    assert (run.n_executions, run.is_correct) == (3, True)
    assert {call.sample_index for call in asked if call.model == "large"} == {0}, "the same request is asked once"


@pytest.mark.parametrize(
    ("fields", "off"),
    [
        ({}, ()),
        ({"n_candidates": 1}, ("Eq. 1 (one candidate plan: its score chooses nothing)",)),
        ({"weights": (0, 0, 0)}, ("Eq. 1 (all weights are 0)",)),
        (
            {"tau_easy": 1.0, "tau_medium": 1.0},
            ("Eq. 7's probe (tau_medium = 1: every subtask starts with a large model)",),
        ),
        ({"tau_easy": 0.0}, ("Eq. 7's probe (tau_easy = 0: every subtask starts with a small model)",)),
    ],
)
def test_settings_say_which_of_the_papers_equations_they_switch_off(fields: dict[str, object], off: tuple[str, ...]):
    assert Labelling.model_validate(fields).switched_off() == off


def test_no_request_is_asked_twice_for_one_problem():
    _, asked = drive(
        search_allocation(PROBLEM, PLAN, [0.95, 0.92], router(), SETTINGS, Memory()), needs("middle", "small")
    )
    keys = [call.request_sha() for call in asked]
    assert len(keys) == len(set(keys))


def test_an_execution_answered_from_memory_keeps_its_price():
    memory = Memory()
    first, _ = drive(remembered(execute(PROBLEM, PLAN, ["small", "small"], router()), memory), needs("small", "small"))
    again, asked = drive(
        remembered(execute(PROBLEM, PLAN, ["small", "small"], router()), memory), needs("small", "small")
    )
    assert asked == []
    assert again.cost_usd == first.cost_usd > 0
    assert (again.answer, again.is_correct) == ("10", True)


def test_executions_side_by_side_share_their_waves():
    memory = Memory()
    pair = [execute(PROBLEM, PLAN, [name, name], router()) for name in ("small", "large")]
    waves: list[int] = []
    generator = side_by_side([*pair, execute(PROBLEM, DIRECT, ["large"], router())], memory)
    wave = next(generator)
    reply = needs("small", "small")
    try:
        while True:
            waves.append(len(wave))
            wave = generator.send([completion(reply(c), c.model) for c in wave])
    except StopIteration as end:
        runs: list[Execution] = end.value
    assert waves == [3, 2]
    assert [run.is_correct for run in runs] == [True, True, False]


def test_a_step_without_a_result_ends_the_execution_and_says_why():
    failed = completion("", "small", error_type="bad_request")
    run, asked = drive(execute(PROBLEM, PLAN, ["small", "small"], router()), lambda call: failed)
    assert (run.answer, run.is_correct, run.error_type) == (None, False, "bad_request")
    assert len(asked) == 1


def test_without_logprobs_confidence_comes_from_further_answers_and_says_so():
    def reply(call: Call) -> str:
        if call.sample_index:
            return "6" if call.sample_index % 2 else "5"
        return "6" if call.subtask_index == 0 else "10"

    def probing():
        memory = Memory()
        [run] = yield from side_by_side(
            [execute(PROBLEM, PLAN, ["large", "large"], router(), with_logprobs=True)], memory
        )
        return (yield from probe(PROBLEM, run, router(), Labelling(n_agreement=4), memory))

    (confidences, source), asked = drive(probing(), reply)
    assert source == "agreement"
    assert confidences == (0.6, 0.4)
    assert len(asked) == 2 + 8


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.data())
def test_a_search_ends_and_its_target_is_right_whatever_the_models_do(confidences: list[float], data: st.DataObject):
    plan = Plan(tuple(Subtask(f"Step {i}") for i in range(len(confidences)))) if len(confidences) > 1 else DIRECT
    answers: dict[tuple[str, int | None], str] = {}

    def reply(call: Call) -> str:
        key = (call.model, call.subtask_index)
        return answers.setdefault(key, data.draw(st.sampled_from(["10", "11"])))

    tried, _ = drive(search_allocation(PROBLEM, plan, confidences, router(), SETTINGS, Memory()), reply)
    models = [run.models for run in tried]
    assert len(models) == len(set(models)) <= 2 * len(ROSTER.solvers) * len(confidences) + 1
    target = cheapest_right(tried)
    top = ROSTER.strongest
    if target is None:
        assert models[-1] == (top,) * len(confidences)
    else:
        assert tried[target].is_correct
        assert tried[target].cost_usd == min(run.cost_usd for run in tried if run.is_correct)
