"""Answers judged by a check of the user's own, and steps that the user's verifier refuses: the generators, with
scripted models. 10 prompt and 5 generated tokens cost 20e-6 USD on `small`, 60e-6 on `middle`, 200e-6 on `large`."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from r2.answering.drive import drive
from r2.answering.judging import judged
from r2.answering.prompts import GRADE_SYSTEM, PROPOSED_MARK
from r2.answering.protocol import Router, Trajectory
from r2.answering.route import solve
from r2.call import Call, Completion
from r2.labelling.label import label
from r2.methods.cot import chain_of_thought
from r2.problem import Problem
from r2.problems.own_check import OwnCheck, Verdict
from r2.records.rows import to_rows
from tests.support.scripted import ROSTER, completion, replay, router

PROBLEM = Problem("p1", "What is 3 * 4 + 2?", 0, "14", "arithmetic")
PLAN = "1. Compute 3 * 4\n2. Add 2 to the result of step 1 (needs: 1)"
CHEAP = '[{"subtask":1,"model":"A"},{"subtask":2,"model":"A"}]'
JUDGE = OwnCheck(name="judge:large", judge="large", rubric="The number must be right.")


def refusing(*texts: str, takes_step: bool = False, score: float | None = 0.0) -> OwnCheck:
    """Refuses these texts, or fails on them with `score` None."""

    def says(problem: Problem, answer: str, step: str | None) -> Verdict:
        return Verdict(score, "ValueError: odd" if score is None else None) if answer in texts else Verdict(1.0)

    return OwnCheck(name="grade.py:ok", says=says, takes_step=takes_step)


def verifying(verify: OwnCheck, **settings: object) -> Router:
    return replace(router(**settings), verify=verify)


def answered(problem: Problem, check: OwnCheck, *replies: str | Completion) -> Trajectory:
    """By one call to `large` and the check."""
    left = list(replies)

    async def complete(call: Call) -> Completion:
        reply = left.pop(0)
        return completion(reply, call.model) if isinstance(reply, str) else reply

    solving = judged(problem, chain_of_thought(problem, router(), "large"), check)
    trajectory = asyncio.run(drive(problem, solving, complete))
    assert left == []
    return trajectory


# The verdict on the answer.


def test_the_users_check_judges_in_place_of_the_benchmarks_and_both_are_stored():
    trajectory = answered(PROBLEM, refusing("14"), "Answer: 14")
    row, _, _ = to_rows("run", "cot", trajectory, ROSTER)
    assert (row.is_correct, row.check_score, row.check_error, row.is_correct_by_gold) == (False, 0.0, None, True)
    assert not trajectory.is_right and trajectory.right == 0.0


def test_a_check_that_fails_leaves_the_row_answered_and_unjudged_with_the_reason():
    row, _, _ = to_rows("run", "cot", answered(PROBLEM, refusing("14", score=None), "Answer: 14"), ROSTER)
    assert (row.status, row.answer) == ("answered", "14")
    assert (row.is_correct, row.check_score, row.check_error) == (None, None, "ValueError: odd")


def test_without_an_answer_the_row_is_wrong_and_nobody_is_asked():
    row, _, _ = to_rows("run", "cot", answered(PROBLEM, JUDGE, ""), ROSTER)
    assert (row.status, row.is_correct, row.check_score, row.n_calls) == ("failed", False, 0.0, 1)


def test_a_row_without_a_gold_answer_is_not_judged_by_a_check_that_needs_one():
    exact = OwnCheck(name="exact", says=lambda problem, answer, step: Verdict(1.0), needs_gold=True)
    row, _, _ = to_rows("run", "cot", answered(replace(PROBLEM, target=None), exact, "Answer: 14"), ROSTER)
    assert (row.is_correct, row.check_score, row.check_error) == (None, None, None)


def test_a_judge_is_asked_with_the_rubric_and_never_shown_the_gold_answer():
    trajectory = answered(PROBLEM, JUDGE, "Answer: 15", "Off by one.\nScore: 0.2")
    [_, [(call, _)]] = trajectory.waves
    assert call.model == "large" and call.purpose == "judge"
    assert call.messages[0][1] == f"{GRADE_SYSTEM}The number must be right."
    assert call.messages[1][1].endswith(f"What is 3 * 4 + 2?\n{PROPOSED_MARK}15")
    assert "14" not in call.messages[1][1]
    assert trajectory.outcome.verdict == Verdict(0.2)


def test_a_judges_call_is_in_the_ledger_and_not_in_what_the_answer_cost():
    trajectory = answered(PROBLEM, JUDGE, "Answer: 14", "Right.\nScore: 1")
    row, _, calls = to_rows("run", "cot", trajectory, ROSTER)
    assert [call.purpose for call in calls] == ["solve", "judge"]
    assert row.cost_usd == pytest.approx(400e-6) and row.n_calls == 2
    assert trajectory.answering_cost_usd == pytest.approx(200e-6)
    assert row.latency_s == pytest.approx(0.6), "of the answer: a call takes 0.5 s, after 0.1 s in the queue"


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 1", 1.0),
        ("It is fine. score = .5", 0.5),
        ("**Score:** 0.75", 0.75),
        ('{"reason": "no", "score": 0}', 0.0),
        ("Score: 0.1 at first; on reflection\nScore: 0.9", 0.9),
        ("Score: 7", None),
        ("I would say it is right.", None),
    ],
)
def test_the_last_score_of_a_judges_reply_counts(reply: str, score: float | None):
    outcome = answered(PROBLEM, JUDGE, "Answer: 14", reply).outcome
    assert outcome.verdict is not None and outcome.verdict.score == score
    assert (outcome.check_error is None) == (score is not None)
    assert score is not None or "judge large: no score from 0 to 1 in its reply" in (outcome.check_error or "")


def test_a_judge_that_cannot_be_reached_defers_the_question():
    outcome = answered(PROBLEM, JUDGE, "Answer: 14", completion("", "large", error_type="timeout")).outcome
    assert (outcome.status, outcome.error_type, outcome.answer) == ("deferred", "timeout", None)


def test_a_judge_that_refuses_the_question_is_the_checks_failure():
    row, _, _ = to_rows(
        "run",
        "cot",
        answered(PROBLEM, JUDGE, "Answer: 14", completion("", "large", error_type="context_length")),
        ROSTER,
    )
    assert (row.status, row.is_correct, row.check_error) == ("answered", None, "judge large: context_length")


# The verifier while a question is answered.


def test_an_answer_that_the_verifier_refuses_goes_to_the_next_stronger_model():
    waves, outcome = replay(solve(PROBLEM, verifying(refusing("13"))), [PLAN, CHEAP, "12", "13", "14"])
    assert [call.model for call in waves[-1]] == ["middle"]
    assert (outcome.answer, outcome.n_escalations, outcome.failed_checks) == ("14", 1, ["verify"])


def test_results_of_single_steps_are_verified_only_by_a_function_that_takes_the_step():
    _, outcome = replay(solve(PROBLEM, verifying(refusing("11"))), [PLAN, CHEAP, "11", "13"])
    assert (outcome.answer, outcome.failed_checks) == ("13", [])
    asked = verifying(refusing("11", takes_step=True))
    _, outcome = replay(solve(PROBLEM, asked), [PLAN, CHEAP, "11", "12", "14"])
    assert (outcome.answer, outcome.failed_checks, outcome.steps[0].model) == ("14", ["verify"], "middle")


def test_a_refused_answer_stands_where_nobody_is_left_to_ask():
    asked = verifying(refusing("13", "15"), max_escalations=1)
    _, outcome = replay(solve(PROBLEM, asked), [PLAN, CHEAP, "12", "13", "15"])
    assert (outcome.answer, outcome.failed_checks) == ("15", ["verify", "verify"])


def test_a_verifier_that_fails_escalates_nothing_and_says_why():
    asked = verifying(refusing("14", score=None))
    _, outcome = replay(solve(PROBLEM, asked), [PLAN, CHEAP, "12", "14"])
    assert (outcome.answer, outcome.failed_checks, outcome.n_escalations) == ("14", ["verify_error"], 0)
    assert outcome.check_error == "ValueError: odd"


def test_the_finalizers_answer_is_verified_and_not_the_last_steps():
    asked = replace(verifying(refusing("wrong", "14")), finalizer="small")
    waves, outcome = replay(solve(PROBLEM, asked), [PLAN, CHEAP, "12", "14", "wrong", "right"])
    assert [(wave[0].purpose, wave[0].model) for wave in waves[-2:]] == [("final", "small"), ("final", "middle")]
    assert (outcome.answer, outcome.failed_checks, outcome.n_escalations) == ("right", ["verify"], 1)


def test_a_judge_may_verify_and_is_paid_as_part_of_the_answer():
    asked = verifying(JUDGE)
    replies = [PLAN, CHEAP, "12", "13", "No.\nScore: 0", "14", "Yes.\nScore: 1"]
    waves, outcome = replay(solve(PROBLEM, asked), replies)
    assert [wave[0].purpose for wave in waves[3:]] == ["solve", "verify", "solve", "verify"]
    assert (outcome.answer, outcome.failed_checks) == ("14", ["verify"])


# Labelling.


def test_labels_are_right_by_the_users_check_and_need_no_gold_answer(tmp_path: Path):
    grade = tmp_path / "grade.py"
    grade.write_text("def ok(row, answer):\n    return answer == '14'\n", "utf-8")
    asked = router(method="label", check=f"{grade}:ok", labelling={"n_candidates": 1, "n_agreement": 1})
    problem = replace(PROBLEM, target=None)
    wave = next(solving := judged(problem, label(problem, asked), asked.check))
    try:
        while True:
            said = {"teach": "DIRECT", "solve": "14"}
            wave = solving.send([completion(said[call.purpose], call.model) for call in wave])
    except StopIteration as end:
        outcome = end.value
    assert (outcome.error_type, outcome.answer, outcome.verdict) == (None, "14", Verdict(1.0))
    assert {trial.is_correct for trial in outcome.trials} == {True}
