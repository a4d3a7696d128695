"""What a row asks for itself reaches the calls, and what cannot be given is said."""

from dataclasses import replace

import orjson
import pytest

from r2.answering.asked import NO_ENTRY, as_asked
from r2.answering.protocol import Outcome, Router, Trajectory
from r2.answering.route import solve
from r2.call import Call, Completion, TokenLogprob
from r2.methods import method_named
from r2.problem import Asked, Problem
from r2.records.rows import to_rows
from tests.support.scripted import LOGPROBS, completion, replay, router, sure

TURNS = (("system", "Be short."), ("user", "I am Ann."), ("assistant", "Hello."), ("user", "Who am I?"))
DIRECT = ["DIRECT", '[{"subtask": 1, "model": "small"}]']


def row(**own: object) -> Problem:
    return Problem("p", "Who am I?", context="Be short.\nuser: I am Ann.", asked=Asked(**own))  # type: ignore[arg-type]


def run(problem: Problem, chosen: Router, replies: list[str | Completion]) -> tuple[list[list[Call]], Outcome]:
    method = method_named(chosen.settings.method)
    return replay(as_asked(problem, method.run(problem, chosen), chosen), replies)


def test_a_conversation_goes_to_whoever_answers_as_the_row_has_it():
    waves, outcome = run(row(messages=TURNS), router(), [*DIRECT, "Ann"])
    assert waves[2][0].messages == TURNS
    assert "user: I am Ann." in waves[0][0].messages[-1][1], "who plans sees it as a text"
    assert outcome.answer == "Ann"


@pytest.mark.parametrize(("method", "n_replies"), [("cot", 1), ("random", 1), ("automix", 5), ("decompose_one", 2)])
def test_every_way_to_answer_gives_the_model_the_rows_own_turns(method: str, n_replies: int):
    replies: list[str | Completion] = ["Ann", *["correct"] * (n_replies - 1)]
    if method == "decompose_one":
        replies = ["DIRECT", "Ann"]
    waves, outcome = run(row(messages=TURNS), router(method=method), replies)
    assert [call.messages for wave in waves for call in wave if call.purpose == "solve"] == [TURNS]
    assert outcome.answer == "Ann"


def test_the_results_of_steps_stand_behind_the_last_turn_of_the_final_call():
    plan, names = "1. Find the name\n2. Say it (needs: 1)", '[{"subtask": 1, "model": "small"}]'
    chosen = replace(router(), finalizer="large")
    waves, _ = run(row(messages=TURNS, max_output_tokens=9), chosen, [plan, names, "Ann", "It is Ann", "You are Ann"])
    *before, (role, last) = waves[-1][0].messages
    assert (tuple(before), role) == (TURNS[:-1], "user")
    assert last.startswith("Who am I?\n\nResult of step 1: Ann\nResult of step 2: It is Ann\nTask: ")
    assert [wave[0].max_output_tokens == 9 for wave in waves] == [False, False, False, False, True]


def test_each_parameter_is_in_the_call_that_answers_and_none_in_those_that_plan():
    own = row(messages=TURNS, max_output_tokens=7, temperature=0.3, top_p=0.5, seed=0, stop=("END",), effort="low", n=1)
    waves, _ = run(own, router(), [*DIRECT, "Ann"])
    call = waves[2][0]
    assert (call.max_output_tokens, call.temperature, call.top_p, call.seed) == (7, 0.3, 0.5, 0)
    assert (call.stop, call.effort) == (("END",), "low")
    assert call.asked_for == {"max_tokens", "temperature", "top_p", "seed", "stop", "reasoning_effort"}
    for wave in waves[:2]:
        assert (wave[0].temperature, wave[0].top_p, wave[0].stop, wave[0].effort) == (0.0, None, (), None)


def test_top_p_alone_draws_at_temperature_one():
    waves, _ = run(row(top_p=0.5), router(), [*DIRECT, "Ann"])
    assert (waves[2][0].temperature, waves[2][0].top_p) == (1.0, 0.5)
    assert waves[2][0].asked_for == {"top_p"}


def test_n_answers_come_from_the_model_that_gave_the_first():
    problem = row(messages=TURNS, n=3)
    waves, outcome = run(problem, router(), [*DIRECT, "Ann", "You", "Ann Lee"])
    assert [(call.model, call.sample_index) for call in waves[-1]] == [("small", 1), ("small", 2)]
    assert waves[2][0].temperature == 1.0, "or all three would be the same"
    assert (outcome.answer, [one.text for one in outcome.answers]) == ("Ann", ["Ann", "You", "Ann Lee"])
    trajectory = Trajectory(problem, outcome, ())
    stored, _, _ = to_rows("run", "r2", trajectory, router().roster)
    assert [one["answer"] for one in orjson.loads(stored.answers or "")] == ["Ann", "You", "Ann Lee"]


def test_an_answer_that_fails_for_good_is_left_out_and_said():
    _, outcome = run(row(n=3), router(), [*DIRECT, "Ann", completion("", error_type="bad_request"), "You"])
    assert [one.text for one in outcome.answers] == ["Ann", "You"]
    assert outcome.notes == ["n: 2 of 3 answers came (bad_request)"]
    _, outcome = run(row(n=2), router(), [*DIRECT, "Ann", completion("", error_type="timeout")])
    assert (outcome.status, outcome.error_type) == ("deferred", "timeout")


def test_log_probabilities_come_back_as_many_as_were_asked_for():
    token = TokenLogprob("Ann", -0.1, (("Ann", -0.1), ("You", -2.5)))
    reply = replace(completion("Ann"), token_logprobs=(token,))
    chosen = replace(router(), roster=LOGPROBS)
    waves, outcome = run(row(logprobs=True, top_logprobs=1), chosen, [*DIRECT, reply])
    assert waves[2][0].top_logprobs == 1
    assert outcome.answers[0].logprobs == (("Ann", -0.1, (("Ann", -0.1),)),)
    _, outcome = run(row(logprobs=True), chosen, [*DIRECT, reply])
    assert outcome.answers[0].logprobs == (("Ann", -0.1, ()),)


def test_log_probabilities_that_nobody_gives_fail_the_row_before_a_call():
    waves, outcome = run(row(logprobs=True), router(), [])
    assert waves == []
    assert (outcome.status, outcome.error_type, outcome.error_message) == ("failed", "unsupported_field", NO_ENTRY)


def test_log_probabilities_that_did_not_come_fail_the_row_by_name():
    chosen = replace(router(), roster=LOGPROBS)
    _, outcome = run(row(logprobs=True), chosen, [*DIRECT, "Ann"])
    assert (outcome.status, outcome.error_type, outcome.answer) == ("failed", "unsupported_field", None)
    assert "logprobs: the reply of small came without" in (outcome.error_message or "")


def test_what_could_not_be_sent_is_said_and_stop_texts_are_cut_here():
    reply = replace(completion("Ann END and more"), not_sent=("stop", "temperature"))
    _, outcome = run(row(temperature=0.3, stop=("END",)), router(), [*DIRECT, reply])
    assert outcome.answer == "Ann"
    assert outcome.notes == [
        "stop: not sent, small does not take it; its text ends before the first stop text all the same",
        "temperature: not sent, small does not take it",
    ]
    stored, _, _ = to_rows("run", "r2", Trajectory(row(), outcome, ()), router().roster)
    assert stored.notes == "; ".join(outcome.notes)


def test_a_plain_question_is_answered_as_before():
    plain = Problem("p", "Who am I?")
    waves, outcome = replay(as_asked(plain, solve(plain, router()), router()), [*DIRECT, "Ann"])
    assert (outcome.answers, outcome.notes) == ([], [])
    assert waves == replay(solve(plain, router()), [*DIRECT, "Ann"])[0]


def test_an_entry_that_gives_log_probabilities_answers_in_place_of_one_that_does_not():
    cards = [replace(card, has_logprobs=card.name == "middle") for card in LOGPROBS.by_name.values()]
    chosen = replace(router(), roster=type(LOGPROBS)(cards))
    waves, outcome = run(row(logprobs=True), chosen, [*DIRECT, sure("Ann", 0.9)])
    assert waves[2][0].model == "middle"
    assert outcome.answer == "Ann"


SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'


def test_a_rows_schema_is_in_the_prompt_of_a_server_that_cannot_be_held_to_it_and_checks_every_answer():
    waves, outcome = run(row(messages=TURNS, schema=SCHEMA, n=3), router(), [*DIRECT, '{"a": 1}', '{"a": 2}', "no"])
    first, *others = waves[2][0].messages
    assert first == ("system", f"Be short.\n\nReply with JSON only. It must match this JSON Schema:\n{SCHEMA}")
    assert tuple(others) == TURNS[1:]
    assert (outcome.value, [one.text for one in outcome.answers]) == ('{"a":1}', ['{"a": 1}', '{"a": 2}'])
    assert outcome.notes == ["n: 2 of 3 answers came (a reply without an answer)"]


def test_a_server_that_is_held_to_the_form_gets_the_turns_alone():
    guided = replace(router(), roster=type(LOGPROBS)([replace(c, guided=True) for c in LOGPROBS.by_name.values()]))
    told = (*TURNS[:-1], ("user", "Who am I? As JSON."))
    waves, _ = run(row(messages=told, json_object=True), guided, [*DIRECT, '{"a": 1}'])
    call = waves[2][0]
    assert (call.messages, call.json_object, call.json_schema) == (told, True, None)
    waves, outcome = run(row(messages=TURNS, json_object=True), guided, [*DIRECT, '{"a": 1}'])
    assert waves[2][0].messages[0] == ("system", "Be short.\n\nReply with JSON only.")
    assert outcome.value == '{"a":1}'
    waves, _ = run(row(messages=TURNS, schema=SCHEMA), guided, [*DIRECT, '{"a": 1}'])
    assert (waves[2][0].messages, waves[2][0].json_schema, waves[2][0].json_object) == (TURNS, SCHEMA, False)


def test_an_answer_that_is_no_object_is_asked_for_again_and_fails():
    _, outcome = run(row(messages=TURNS, json_object=True), router(method="cot"), ["[1]", "Ann"])
    assert (outcome.status, outcome.error_type) == ("failed", "schema")


def test_a_rows_system_text_goes_before_the_runs():
    chosen = replace(router(), system="Of the run.")
    waves, _ = run(row(system="Of the row."), chosen, [*DIRECT, "Ann"])
    assert waves[2][0].messages[0][1].startswith("Of the row.")
    assert "Of the run." not in waves[2][0].messages[0][1]
    waves, _ = run(row(messages=TURNS), chosen, [*DIRECT, "Ann"])
    assert waves[2][0].messages == TURNS
    waves, _ = run(row(messages=TURNS[1:]), chosen, [*DIRECT, "Ann"])
    assert waves[2][0].messages == (("system", "Of the run."), *TURNS[1:])


def test_a_rows_own_limit_is_kept_within_what_the_entry_can_write_and_a_cut_answer_stands():
    small = replace(router(), roster=type(LOGPROBS)([replace(c, max_output_tokens=50) for c in LOGPROBS.solvers]))
    waves, _ = run(row(messages=TURNS, max_output_tokens=900), small, [*DIRECT, "Ann"])
    assert waves[2][0].max_output_tokens == 50
    cut = completion("Ann and so", finish_reason="length")
    waves, outcome = run(row(messages=TURNS, max_output_tokens=3), router(), [*DIRECT, cut])
    assert (len(waves), outcome.answer, outcome.is_cut) == (3, "Ann and so", True)
