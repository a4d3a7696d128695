"""Rows without a benchmark: asked in the user's own words, answered in full, cut and unfit answers asked for again."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from r2.answering.prompts import COMPOSE_SYSTEM, FREE_COT, JSON_FORM, SCHEMA_MARK, STEP_SYSTEM
from r2.answering.protocol import Outcome, Router, Trajectory
from r2.answering.route import solve
from r2.answering.wanted import load_wanted, wanted_digest
from r2.call import Call, Completion
from r2.errors import ConfigError
from r2.methods import method_named
from r2.methods.estimate import Rows, estimate_calls, guessed_usd, rows_of
from r2.problem import Asked, Problem
from r2.problems.schema import parse_schema
from r2.records.rows import to_rows
from r2.roster import ModelCard, Roster
from r2.settings import Reasoning
from tests.support.scripted import CHEAP, LOGPROBS, ROSTER, completion, replay, router, sure

FREE = Problem("p1", "Write three lines about\nrivers, please.")
DIRECT_SMALL = ["DIRECT", '[{"subtask": 1, "model": "small"}]']
PLAN = "1. List rivers\n2. Describe them (needs: 1)"
BY_NAME = '[{"subtask": 1, "model": "small"}, {"subtask": 2, "model": "middle"}]'
LIST = "- Rhine\n- Nile\n\n- Amur"
PERSON = '{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}'
ANN = '{"name": "Ann"}'


def cut(text: str, model: str = "small") -> Completion:
    return replace(completion(text, model), finish_reason="length")


def with_schema(**settings: object) -> Router:
    return replace(router(**settings), schema=parse_schema(PERSON))


def ask(problem: Problem, chosen: Router, replies: Sequence[str | Completion]) -> tuple[list[Call], Outcome]:
    """The calls that answer, and the outcome."""
    waves, outcome = replay(solve(problem, chosen), replies)
    return [call for wave in waves for call in wave if call.purpose in ("solve", "final")], outcome


@pytest.mark.parametrize("text", [LIST, '{\n  "name": "Ann"\n}', "```python\nx = 1\n```", "One.\n\nTwo."])
def test_a_plain_question_goes_to_the_model_as_it_is_and_its_answer_comes_back_whole(text: str):
    [call], outcome = ask(FREE, router(), [*DIRECT_SMALL, text])
    assert call.messages == (("user", "Write three lines about\nrivers, please."),)
    assert (outcome.answer, outcome.failed_checks) == (text, [])


def test_a_row_with_a_benchmark_is_asked_and_read_as_before():
    problem = Problem("p", "What is 2 + 2?", benchmark="arithmetic")
    [call], outcome = ask(problem, router(max_answer_tokens=777), [*DIRECT_SMALL, "Two and two.\n4"])
    assert call.messages == (
        ("system", "Reply with only the result, nothing else."),
        ("user", "Question: What is 2 + 2?"),
    )
    assert (call.max_output_tokens, outcome.answer) == (24, "4")


def test_own_choices_and_context_stand_beside_the_question():
    problem = Problem("p", "Which?", context="It purrs.", choices=("a dog", "a cat"), target="B")
    [call], outcome = ask(problem, router(), [*DIRECT_SMALL, "(B) a cat\n\nDogs do not purr."])
    assert call.messages == (("user", "Context: It purrs.\nQuestion: Which?\nChoices: (A) a dog (B) a cat"),)
    row, _, _ = to_rows("run", "r2", Trajectory(problem, outcome, ()), ROSTER)
    assert (row.answer, row.short_answer, row.is_correct) == ("(B) a cat\n\nDogs do not purr.", "B", True)


def test_the_limit_is_the_settings_within_what_the_entry_can_generate_and_hold():
    def limit(card: ModelCard, n: int) -> int:
        chosen = replace(router(max_answer_tokens=n), roster=Roster([card]))
        waves, _ = replay(solve(FREE, chosen), ["DIRECT", "ok"])
        return waves[-1][0].max_output_tokens

    roomy = ModelCard("small", "small", CHEAP, context_tokens=100_000, states_context=True)
    assert limit(roomy, 4096) == 4096
    assert limit(roomy, 50) == 50
    assert limit(replace(roomy, max_output_tokens=1000), 4096) == 1000
    # 39 bytes / 4 + 8 = 17 tokens, counted double.
    assert limit(replace(roomy, context_tokens=2048), 4096) == 2048 - 34
    assert limit(replace(roomy, context_tokens=530), 4096) == 512, "that much is asked for where it may fit"
    assert limit(replace(roomy, context_tokens=2048, states_context=False), 4096) == 4096, "a context nobody stated"


# Cut at the limit.


def test_a_cut_answer_is_asked_for_once_more_at_double_then_of_a_stronger_model_then_marked():
    wide = replace(router(max_answer_tokens=100, max_escalations=1), roster=_wide())
    calls, outcome = ask(FREE, wide, [*DIRECT_SMALL, cut("a"), "a whole one"])
    assert [(call.model, call.max_output_tokens) for call in calls] == [("small", 100), ("small", 200)]
    assert (outcome.answer, outcome.n_escalations, outcome.failed_checks) == ("a whole one", 0, ["truncated"])
    calls, outcome = ask(FREE, wide, [*DIRECT_SMALL, cut("a"), cut("a b"), cut("a b c", "middle")])
    assert [(call.model, call.max_output_tokens) for call in calls] == [("small", 100), ("small", 200), ("middle", 200)]
    assert (outcome.answer, outcome.n_escalations, outcome.is_cut) == ("a b c", 1, True)
    assert outcome.failed_checks == ["truncated", "truncated", "truncated", "cut_answer"]


def _wide() -> Roster:
    return Roster([replace(card, context_tokens=100_000) for card in ROSTER.solvers])


def test_a_limit_that_cannot_be_doubled_escalates_at_once():
    tight = replace(
        router(max_escalations=1), roster=Roster([replace(c, max_output_tokens=64) for c in ROSTER.solvers])
    )
    calls, outcome = ask(FREE, tight, [*DIRECT_SMALL, cut("a"), "whole"])
    assert [(call.model, call.max_output_tokens) for call in calls] == [("small", 64), ("middle", 64)]
    assert (outcome.answer, outcome.is_cut) == ("whole", False)


def test_what_the_questions_cap_has_no_room_for_is_not_asked_and_the_cut_answer_stands():
    # small: 100 tokens at 2 USD/M = 0.0002; the router's two calls reserve more but cost 20e-6 each.
    chosen = replace(router(max_answer_tokens=100, max_cost_per_question_usd=0.0025), roster=_wide())
    long = Problem("p", "x" * 40)
    small = replace(chosen, settings=replace_setting(chosen, max_answer_tokens=1000))
    calls, outcome = ask(long, small, [*DIRECT_SMALL, cut("a")])
    assert [(call.model, call.max_output_tokens) for call in calls] == [("small", 1000)]
    assert (outcome.answer, outcome.status, outcome.is_cut) == ("a", "answered", True)


def replace_setting(chosen: Router, **fields: object) -> Reasoning:
    return chosen.settings.model_copy(update=fields)


def test_a_limit_that_the_row_sets_itself_is_not_raised():
    own = replace(FREE, asked=Asked(max_output_tokens=20))
    calls, outcome = ask(own, router(), [*DIRECT_SMALL, cut("a few words")])
    assert len(calls) == 1
    assert (outcome.answer, outcome.is_cut) == ("a few words", True)


@pytest.mark.parametrize("method", ["cot", "tot", "datashunt", "automix", "random"])
def test_the_other_ways_to_answer_double_a_cut_answer_too(method: str):
    def is_answer(call: Call) -> bool:
        return call.purpose == "solve" and "next thought" not in call.messages[0][1]

    limits = []
    chosen = replace(router(method=method, max_answer_tokens=100), roster=_wide())
    solving = method_named(method).run(FREE, chosen)
    wave = next(solving)
    try:
        while True:
            replies = []
            for call in wave:
                limits += [(call.model, call.max_output_tokens)] if is_answer(call) and not call.sample_index else []
                short = is_answer(call) and call.max_output_tokens == 100
                replies.append(cut("a", call.model) if short else completion("correct", call.model))
                limits += [(call.model, call.max_output_tokens)] if is_answer(call) and not short else []
            wave = solving.send(replies)
    except StopIteration as end:
        outcome: Outcome = end.value
    assert (outcome.answer, outcome.is_cut) == ("correct", False)
    assert limits[0][1] == 100
    assert limits[-1] == (limits[0][0], 200)


# Plans.


def test_a_plan_ends_with_a_final_call_to_the_strongest_model_of_its_steps():
    calls, outcome = ask(FREE, router(), [PLAN, BY_NAME, LIST, "Long ones.", "The whole\n\nanswer."])
    assert [(call.purpose, call.model) for call in calls] == [
        ("solve", "small"),
        ("solve", "middle"),
        ("final", "middle"),
    ]
    assert calls[0].messages[0] == ("system", STEP_SYSTEM)
    assert f"Result of step 1: {LIST}\nTask: Describe them" in calls[1].messages[-1][1]
    assert calls[2].messages[0] == ("system", COMPOSE_SYSTEM)
    assert f"Result of step 1: {LIST}\nResult of step 2: Long ones.\nTask: " in calls[2].messages[-1][1]
    assert outcome.answer == "The whole\n\nanswer."


def test_the_pools_finalizer_composes_and_last_step_means_no_final_call():
    with_final = replace(router(), finalizer="large")
    calls, _ = ask(FREE, with_final, [PLAN, BY_NAME, LIST, "Long ones.", "whole"])
    assert calls[-1].model == "large"
    calls, outcome = ask(FREE, replace(router(), composes=False), [PLAN, BY_NAME, LIST, "Long ones."])
    assert (len(calls), outcome.answer) == (2, "Long ones.")


def test_a_final_answer_that_is_cut_or_failed_escalates_and_never_becomes_a_steps_result():
    wide = replace(router(max_answer_tokens=100, max_escalations=1), roster=_wide())
    calls, outcome = ask(FREE, wide, [PLAN, BY_NAME, "a", "b", cut("c"), cut("c d"), "whole"])
    assert [(call.model, call.max_output_tokens) for call in calls[2:]] == [
        ("middle", 100),
        ("middle", 200),
        ("large", 200),
    ]
    assert (outcome.answer, outcome.is_cut) == ("whole", False)
    refused = completion("", error_type="content_filter")
    _, outcome = ask(FREE, wide, [PLAN, BY_NAME, "a", "b", refused, refused])
    assert (outcome.answer, outcome.error_type) == (None, "content_filter")
    assert outcome.failed_checks == ["final_content_filter", "final_content_filter"]


def test_a_row_with_a_benchmark_ends_with_its_last_step():
    problem = Problem("p", "A box holds 12 pens. Ann has 4 boxes.", benchmark="word_problem")
    calls, outcome = ask(problem, router(), ["1. Compute 12 * 4\n2. Compute 5 + 1", BY_NAME, "48", "6"])
    assert [call.purpose for call in calls] == ["solve", "solve"]
    assert outcome.answer == "6"


# Chains of thought, confidence.


def test_an_entry_that_thinks_step_by_step_keeps_its_thoughts_apart():
    waves, outcome = replay(method_named("cot").run(FREE, router(method="cot")), [LIST])
    assert waves[0][0].messages == (("system", FREE_COT), ("user", FREE.question))
    assert outcome.answer == LIST


def test_answers_that_end_alike_do_not_agree():
    replies = ["{\n1\n}", "{\n1\n}", "{\n2\n}", "{\n3\n}", "{\n4\n}", "done"]
    waves, outcome = replay(method_named("datashunt").run(FREE, router(method="datashunt", threshold=0.5)), replies)
    assert waves[-1][0].model == "large", "two of five answers are equal"
    assert outcome.answer == "done"


# A schema.


def test_a_schema_is_asked_of_servers_that_can_and_written_into_the_prompt_of_the_others():
    [call], outcome = ask(FREE, with_schema(), [*DIRECT_SMALL, f"Here:\n```json\n{ANN}\n```"])
    assert call.messages == (("system", f"{JSON_FORM} {SCHEMA_MARK}\n{PERSON}"), ("user", FREE.question))
    assert (call.json_schema, outcome.answer, outcome.value) == (None, ANN, '{"name":"Ann"}')
    guided = replace(with_schema(), roster=Roster([replace(card, guided=True) for card in ROSTER.solvers]))
    [call], outcome = ask(FREE, guided, [*DIRECT_SMALL, ANN])
    assert (call.json_schema, call.messages[0]) == (PERSON, ("system", JSON_FORM))
    row, _, _ = to_rows("run", "r2", Trajectory(FREE, outcome, ()), ROSTER)
    assert (row.answer, row.value) == (ANN, '{"name":"Ann"}')


def test_what_does_not_match_is_shown_its_error_once_then_escalates_then_fails():
    calls, outcome = ask(FREE, with_schema(), [*DIRECT_SMALL, '{"name": 7}', ANN])
    assert [call.model for call in calls] == ["small", "small"]
    *before, (mine, reply), (_, said) = calls[1].messages
    assert (tuple(before), mine, reply) == (calls[0].messages, "assistant", '{"name": 7}')
    assert "at $.name: 7 is not of type 'string'" in said
    assert (outcome.value, outcome.n_escalations, outcome.failed_checks) == ('{"name":"Ann"}', 0, ["schema"])

    calls, outcome = ask(FREE, with_schema(max_escalations=1), [*DIRECT_SMALL, "no", "no", "no", ANN])
    assert [call.model for call in calls] == ["small", "small", "middle", "middle"]
    assert (outcome.value, outcome.n_escalations) == ('{"name":"Ann"}', 1)

    _, outcome = ask(FREE, with_schema(max_escalations=1), [*DIRECT_SMALL, "no", "no", "no", '{"name": 7}'])
    assert (outcome.answer, outcome.value, outcome.status, outcome.error_type) == (None, None, "failed", "schema")
    assert "at $.name: 7 is not of type 'string'" in (outcome.error_message or "")


@pytest.mark.parametrize("method", ["cot", "datashunt", "automix"])
def test_no_way_to_answer_returns_what_does_not_match(method: str):
    chosen = with_schema(method=method, small_model="large", large_model="large", chain=("large",), threshold=0)
    replies = ["no", "no"] if method != "datashunt" else ["no", "no", *["no"] * 4]
    _, outcome = replay(method_named(method).run(FREE, chosen), replies)
    assert (outcome.answer, outcome.error_type) == (None, "schema")
    assert "not JSON" in (outcome.error_message or "")


def test_the_rows_own_schema_goes_before_the_runs():
    own = replace(FREE, asked=Asked(schema='{"type":"integer"}'))
    _, outcome = ask(own, with_schema(), [*DIRECT_SMALL, "7"])
    assert (outcome.answer, outcome.value) == ("7", "7")


def test_a_row_that_wants_any_object_gets_one():
    own = replace(FREE, asked=Asked(json_object=True))
    calls, outcome = ask(own, router(), [*DIRECT_SMALL, "[1, 2]", '{"a": 1}'])
    assert len(calls) == 2
    assert outcome.value == '{"a":1}'


def test_of_a_plan_the_final_call_must_match_and_no_step():
    replies = [PLAN, BY_NAME, "Ann", "31", "Ann, 31", ANN]
    calls, outcome = ask(FREE, with_schema(), replies)
    assert [SCHEMA_MARK in call.messages[0][1] for call in calls] == [False, False, True, True]
    assert outcome.value == '{"name":"Ann"}'
    _, outcome = ask(FREE, replace(with_schema(), composes=False), [PLAN, BY_NAME, "Ann", "31", ANN])
    assert outcome.value == '{"name":"Ann"}', "where the last step is the answer, it must match"


def test_a_row_with_a_benchmark_and_a_schema_is_asked_for_json_and_judged_by_its_benchmark():
    problem = Problem("p", "What is 2 + 2?", target="4", benchmark="arithmetic")
    chosen = replace(router(), schema=parse_schema('{"type": "object"}'))
    [call], outcome = ask(problem, chosen, [*DIRECT_SMALL, '{"result": 4}'])
    assert JSON_FORM in call.messages[0][1]
    trajectory = Trajectory(problem, outcome, ())
    assert (outcome.value, trajectory.is_correct) == ('{"result":4}', True)


# A system text.


def test_the_system_text_comes_first_in_the_calls_that_answer_and_in_no_other():
    chosen = replace(router(), system="You are a clerk.")
    waves, _ = replay(solve(FREE, chosen), [PLAN, BY_NAME, "a", "b", "c"])
    has_it = [(call.purpose, call.messages[0][1].startswith("You are a clerk.")) for wave in waves for call in wave]
    assert has_it == [("decompose", False), ("allocate", False), ("solve", True), ("solve", True), ("final", True)]
    [call], _ = ask(FREE, chosen, [*DIRECT_SMALL, "a"])
    assert call.messages == (("system", "You are a clerk."), ("user", FREE.question))
    benchmark = Problem("p", "What is 2 + 2?", benchmark="arithmetic")
    [call], _ = ask(benchmark, chosen, [*DIRECT_SMALL, "4"])
    assert call.messages[0] == ("system", "You are a clerk.\n\nReply with only the result, nothing else.")


def test_files_that_cannot_be_used_are_refused_and_what_they_hold_is_identity(tmp_path: Path):
    system, schema = tmp_path / "clerk.txt", tmp_path / "person.json"
    system.write_text(" \n", "utf-8")
    with pytest.raises(ConfigError, match=r"--system .*clerk.txt: the file is empty"):
        load_wanted(Reasoning(system_file=str(system)))
    with pytest.raises(ConfigError, match=r"--system .*none.txt: cannot be read"):
        load_wanted(Reasoning(system_file=str(tmp_path / "none.txt")))
    system.write_text("You are a clerk.\n", "utf-8")
    schema.write_text(PERSON, "utf-8")
    both = Reasoning(system_file=str(system), schema_file=str(schema))
    first = wanted_digest(both)
    assert wanted_digest(Reasoning()) == ""
    assert both.identity() == Reasoning().identity(), "by content, wherever they lie"
    assert first != wanted_digest(Reasoning(system_file=str(system)))
    schema.write_text(json.dumps(json.loads(PERSON), indent=2), "utf-8")
    assert wanted_digest(both) == first
    system.write_text("You are a judge.\n", "utf-8")
    assert wanted_digest(both) != first
    assert Reasoning(max_answer_tokens=100).identity() != Reasoning().identity()


# What it is expected to cost.


SHORT, WHOLE = Rows(100, 1400), Rows(100, 4000, is_free=True)


def test_an_estimate_counts_long_answers_and_the_final_call():
    chosen = router()
    prices = {name: card.price for name, card in ROSTER.by_name.items()}
    rows = rows_of([FREE, Problem("p", "What is 2 + 2?", benchmark="arithmetic")], chosen)
    assert [(part.n, part.n_bytes, part.is_free) for part in rows] == [(1, 14, False), (1, len(FREE.question), True)]
    asked = {(e.purpose, e.model): e for e in estimate_calls(chosen, prices, [SHORT, WHOLE])}
    assert asked["solve", "middle"].n_calls == asked["solve", "small"].n_calls == 250, "half of the steps each"
    assert asked["solve", "middle"].output_tokens == 125 * 12 + 125 * 150
    assert (asked["final", "middle"].n_calls, asked["final", "middle"].output_tokens) == (100, 100 * 300)
    assert asked["allocate", chosen.allocator].n_calls == 200
    alone = replace(chosen, roster=Roster(ROSTER.solvers[:1]))
    assert [
        e.purpose for e in estimate_calls(replace(alone, decomposer="small", allocator="small"), prices, [Rows(9, 90)])
    ] == [
        "decompose",
        "solve",
    ], "nothing to allocate among one"
    without = {(e.purpose, e.model): e for e in estimate_calls(chosen, prices, [SHORT])}
    assert ("final", "middle") not in without
    bounded = router(max_answer_tokens=16)
    [final] = [e for e in estimate_calls(bounded, prices, [WHOLE]) if e.purpose == "final"]
    assert final.output_tokens == 1600
    assert guessed_usd(chosen, prices, is_free=True) > 3 * guessed_usd(chosen, prices)


def test_an_unsure_model_is_asked_for_again_as_before():
    careful = replace(router(min_confidence=0.9), roster=LOGPROBS)
    replies = ["DIRECT", sure('[{"subtask": 1, "model": "small"}]', 0.9), sure("a\nb", 0.5), sure("c\nd", 0.95)]
    calls, outcome = ask(FREE, careful, replies)
    assert [call.model for call in calls] == ["small", "middle"]
    assert outcome.answer == "c\nd"
