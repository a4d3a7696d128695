"""Labelling one problem with scripted models: what is asked, what is kept, what is paid for, and
how each fault ends."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from r2.answering.protocol import Outcome, Router
from r2.call import Call, Completion, TokenLogprob
from r2.errors import CALL_FAILURES
from r2.labelling.label import DROPPED, label
from r2.plan import format_plan
from r2.problem import Problem
from r2.roster import Roster
from r2.settings import LabelSettings
from tests.support.scripted import ROSTER, completion, router

PROBLEM = Problem("p", "What is 2 * 3 + 4?", target="10", benchmark="arithmetic")
GOOD = "1. Compute 2 * 3\n2. Add 4 to the result of step 1"
LONG = "1. Compute 2 * 3\n2. Add 4 to the result of step 1\n3. Add 0 to the result of step 2"
WRONG = "1. Compute 2 + 3\n2. Add 4 to the result of step 1"


def run(
    teacher: list[str | Completion],
    solve: Callable[[Call], str | Completion] | None = None,
    problem: Problem = PROBLEM,
    roster: Roster = ROSTER,
    judge: str | None = None,
    **labelling: object,
) -> tuple[Outcome, list[Call]]:
    """The outcome, and every call; the teacher's k-th candidate is `teacher[k]`, solvers compute unless `solve` says
    otherwise."""
    chosen = {"n_candidates": len(teacher), **({"judge": "middle"} if judge is not None else {}), **labelling}
    asked: list[Call] = []

    def reply(call: Call) -> str | Completion:
        if call.purpose == "teach":
            return teacher[call.sample_index]
        if call.purpose == "judge":
            return judge or ""
        return (solve or compute)(call)

    settings = replace(router(method="label", labelling=chosen), roster=roster)
    solving = label(problem, Router(roster, "small", "small", None, settings.settings))
    try:
        wave = next(solving)
        while True:
            asked += wave
            answers = [reply(call) for call in wave]
            wave = solving.send(
                [completion(a, c.model) if isinstance(a, str) else a for a, c in zip(answers, wave, strict=True)]
            )
    except StopIteration as end:
        return end.value, asked


def compute(call: Call) -> str:
    """What each of these plans' steps comes to; DIRECT asks for everything at once."""
    text = call.messages[-1][1]
    first = next(
        (line.split(": ")[1] for line in reversed(text.splitlines()) if line.startswith("Result of step")), "0"
    )
    task = text.splitlines()[-1].removeprefix("Task: ")
    return (
        {"Compute 2 * 3": "6", "Compute 2 + 3": "5"}.get(task) or str(int(first) + int(task.split()[1]))
        if "Add" in task or "Compute" in task
        else "10"
    )


def test_the_best_scoring_right_plan_is_the_target_and_the_cheapest_right_models_its_allocation():
    outcome, asked = run([LONG, WRONG, GOOD])
    plans = [t for t in outcome.trials if t.kind == "plan"]
    assert [t.is_correct for t in plans] == [True, False, True]
    assert [t.is_target for t in plans] == [False, False, True]
    assert outcome.status == "answered"
    assert outcome.answer == "10"
    assert outcome.plan is not None
    assert format_plan(outcome.plan) == plans[2].plan
    [target] = [t for t in outcome.trials if t.kind == "allocation" and t.is_target]
    assert target.models == ("small", "small")
    assert {call.purpose for call in asked} == {"teach", "solve"}


def test_scores_are_those_of_equation_one_over_the_executed_candidates():
    outcome, _ = run([LONG, GOOD], weights=(0.3, 0.4, 0.3))
    long, good = (t for t in outcome.trials if t.kind == "plan")
    # every call costs 15 tokens: 3 steps against 2
    assert (long.conciseness, good.conciseness) == (1.0, pytest.approx(2 / 3))
    assert (long.practicality, good.practicality) == (1.0, pytest.approx(2 / 3))
    assert (long.coherence, good.coherence, good.judge) == (0.0, 0.0, "lexical")
    assert good.score == pytest.approx(0.7 * 2 / 3)


def test_candidates_that_say_the_same_are_executed_once():
    outcome, asked = run([GOOD, GOOD.lower(), f"Here is a plan:\n{GOOD}"])
    assert [t.error_type for t in outcome.trials if t.kind == "plan"] == [None, "duplicate", "duplicate"]
    m_eval = [c for c in asked if (c.model, c.purpose, c.top_logprobs, c.temperature) == ("middle", "solve", 0, 0.0)]
    assert len(m_eval) == 2


def test_no_request_is_paid_twice():
    _, asked = run([GOOD, LONG, WRONG])
    keys = [replace(call, top_logprobs=0).request_sha() for call in asked]
    assert len(keys) == len(set(keys))


def test_rubbish_of_the_teacher_costs_one_candidate():
    failed = completion("", "large", error_type="moderated")
    outcome, _ = run(["I would rather not.", failed, "", GOOD])
    assert [t.error_type for t in outcome.trials if t.kind == "plan"] == ["plan_parse", "moderated", "plan_parse", None]
    assert outcome.status == "answered"


@pytest.mark.parametrize(
    ("teacher", "solve", "problem", "error_type"),
    [
        (["no plan", "none"], None, PROBLEM, "label_no_plan"),
        ([WRONG], None, PROBLEM, "label_no_right_plan"),
        ([GOOD], None, replace(PROBLEM, target=None), "label_no_target"),
    ],
)
def test_a_problem_without_a_label_is_dropped_with_its_reason(teacher, solve, problem, error_type):
    outcome, asked = run(teacher, solve, problem)
    assert (outcome.status, outcome.error_type) == ("failed", error_type)
    assert outcome.error_message == DROPPED[error_type]
    assert outcome.answer is None
    if error_type == "label_no_target":
        assert asked == [], "nothing is paid for what cannot be checked"


def too_hard_for(*weak: str) -> Callable[[Call], str]:
    """These models get every sum wrong."""
    return lambda call: "0" if call.model in weak and "Add" in call.messages[-1][1].splitlines()[-1] else compute(call)


def test_what_m_eval_cannot_do_is_searched_upward_on_the_best_scored_plan():
    outcome, _ = run([LONG, GOOD], too_hard_for("small", "middle"))
    plans = [t for t in outcome.trials if t.kind == "plan"]
    assert [t.is_correct for t in plans] == [False, False], "executed with the middle model"
    assert [t.is_target for t in plans] == [False, True], "the shorter one scores better"
    assert outcome.status == "answered"
    assert outcome.answer == "10"
    [target] = [t for t in outcome.trials if t.kind == "allocation" and t.is_target]
    assert target.models == ("small", "large")


def test_what_the_strongest_models_cannot_do_either_is_dropped_with_all_that_was_tried():
    outcome, _ = run([GOOD], too_hard_for("small", "middle", "large"))
    assert (outcome.status, outcome.error_type) == ("failed", "label_no_right_plan")
    assert not [t for t in outcome.trials if t.is_target]
    tried = [t.models for t in outcome.trials if t.kind == "allocation"]
    assert ("large", "large") in tried


def test_m_eval_at_the_bottom_of_the_pool_does_not_end_the_search():
    right, _ = run([GOOD], m_eval="small")
    allocations = [t for t in right.trials if t.kind == "allocation"]
    assert len(allocations) >= 1
    assert [t.models for t in allocations if t.is_target] == [("small", "small")]
    wrong, _ = run([GOOD], too_hard_for("small"), m_eval="small")
    assert [t.models for t in wrong.trials if t.kind == "allocation" and t.is_target] == [("small", "middle")]


def test_steps_that_m_eval_did_not_come_to_count_as_the_least_sure():
    def solve(call: Call) -> str | Completion:
        if call.model == "middle":
            return completion("", call.model, error_type="context_length")
        return compute(call)

    outcome, _ = run([GOOD], solve)
    trial = next(t for t in outcome.trials if t.kind == "allocation")
    assert len(trial.confidences) == 2
    assert trial.confidences[1] == 0.0
    assert outcome.status == "answered"


def test_a_label_says_how_often_it_was_executed_and_how_many_were_right():
    outcome, _ = run([GOOD])
    assert {(t.n_executions, t.n_right) for t in outcome.trials if t.is_correct} == {(1, 1)}


def test_labellings_of_before_keep_their_identity_and_another_temperature_is_another_one():
    usual = LabelSettings(problems="scan").answering("scan.jsonl").reasoning
    assert not {"solve_temperature", "n_executions", "min_right_share"} & usual.identity()["labelling"].keys()
    hot = LabelSettings.model_validate({"problems": "scan", "labelling": {"solve_temperature": 0.7}})
    assert hot.answering("scan.jsonl").reasoning.temperature == 0.7
    assert hot.answering("scan.jsonl").run_id("a", "b") != LabelSettings(problems="scan").answering(
        "scan.jsonl"
    ).run_id("a", "b")


def test_a_judge_gives_coherence_and_is_named():
    outcome, asked = run([GOOD], judge="0.6")
    [plan] = [t for t in outcome.trials if t.kind == "plan"]
    assert (plan.coherence, plan.judge) == (pytest.approx(0.4), "middle")
    assert sum(call.purpose == "judge" for call in asked) == 1


def test_a_judge_that_refuses_leaves_the_words_to_judge():
    outcome, _ = run([GOOD], judge="I cannot judge this.")
    [plan] = [t for t in outcome.trials if t.kind == "plan"]
    assert (plan.coherence, plan.judge) == (0.0, "lexical")


def test_confidence_comes_from_logprobs_where_there_are_some_and_the_row_says_so():
    cards = [replace(card, has_logprobs=True) for card in ROSTER.by_name.values()]

    def solve(call: Call) -> Completion:
        probability = 0.95 if call.subtask_index == 0 else 0.3
        tokens = (TokenLogprob("x", math.log(probability)),) if call.top_logprobs else ()
        return replace(completion(compute(call), call.model), token_logprobs=tokens)

    outcome, _ = run([GOOD], solve, roster=Roster(cards))
    trial = next(t for t in outcome.trials if t.kind == "allocation")
    assert (trial.confidences, trial.confidence_source) == (pytest.approx((0.95, 0.3)), "logprobs")
    assert trial.models == ("small", "large")


def test_confidence_comes_from_agreement_where_there_are_no_logprobs():
    outcome, asked = run([GOOD], n_agreement=3)
    trial = next(t for t in outcome.trials if t.kind == "allocation")
    assert (trial.confidences, trial.confidence_source) == ((1.0, 1.0), "agreement")
    assert sum(call.temperature > 0 and call.purpose == "solve" for call in asked) == 6


@pytest.mark.parametrize("error_type", [name for name, failed in CALL_FAILURES.items() if failed.defers])
@pytest.mark.parametrize("purpose", ["teach", "solve"])
def test_what_says_nothing_of_the_problem_defers_it(error_type: str, purpose: str):
    gone = completion("", "large", error_type=error_type)
    outcome, _ = run([gone if purpose == "teach" else GOOD], (lambda call: gone) if purpose == "solve" else None)
    assert (outcome.status, outcome.error_type) == ("deferred", error_type)


def test_an_execution_that_fails_is_a_wrong_candidate_not_the_end():
    def solve(call: Call) -> str | Completion:
        is_long = "Add 0" in call.messages[-1][1]
        return completion("", call.model, error_type="context_length") if is_long else compute(call)

    outcome, _ = run([LONG, GOOD], solve)
    assert [(t.is_correct, t.error_type) for t in outcome.trials if t.kind == "plan"] == [
        (False, "context_length"),
        (True, None),
    ]
    assert outcome.status == "answered"


def test_a_trained_decomposer_as_teacher_is_asked_as_it_was_trained():
    trained = Roster([replace(card, prompt_mode="bare") if card.name == "large" else card for card in ROSTER.solvers])
    _, calls = run([GOOD], roster=trained)
    assert calls[0].messages == (("system", "plan"), ("user", f"Question: {PROBLEM.question}"))
    _, calls = run([GOOD])
    assert calls[0].messages[0][1].startswith("Split a question")


def test_the_limit_of_whole_answers_is_the_runs_own_and_the_usual_one_changes_no_identity():
    usual = LabelSettings(problems="file:own.csv").answering("own.csv").reasoning
    short = LabelSettings(problems="file:own.csv", max_answer_tokens=64).answering("own.csv").reasoning
    assert (usual.max_answer_tokens, short.max_answer_tokens) == (4096, 64)
    assert "max_answer_tokens" not in usual.identity() and short.identity()["max_answer_tokens"] == 64
