"""Planning with a trained scorer: who is asked for the plan, what a second plan is worth, and what becomes of it."""

from dataclasses import replace
from functools import cache

import numpy as np

from r2.answering.beliefs import Arm
from r2.answering.protocol import Outcome, Router, Solving
from r2.answering.scored_plan import planning
from r2.answering.scored_unit import shared_beliefs
from r2.answering.scorer import Scorer
from r2.answering.sequential import solve_by_rule
from r2.call import Call
from r2.problem import Problem
from r2.training.scorer.fit import fit_scorer
from r2.training.scorer.trials import Trial, trials_from
from tests.support.scripted import ROSTER, completion, router

QUESTION = Problem("new", "What is 12 * 3 + 8?", target="44", benchmark="arithmetic")
PLAN = "1. Compute 12 * 3\n2. Compute the result of step 1 + 8"
RATES = {
    "expression": {"small": 0.05, "middle": 0.1, "large": 0.3},
    "multiply": {"small": 0.97, "middle": 0.99, "large": 0.99},
    "add": {"small": 0.99, "middle": 0.99, "large": 0.99},
    "plan of expression": {"small": 0.6, "middle": 0.97},
}
TEXTS = {
    "expression": "What is {n} * 3 + 8?",
    "multiply": "Compute {n} * 3",
    "add": "Compute the result of step 1 + {n}",
    "plan of expression": "What is {n} * 3 + 8?",
}


@cache
def trained(kinds: tuple[str, ...] = tuple(RATES)) -> Scorer:
    """On expressions that nobody can do at once, whose steps everybody can; the middle entry plans better."""
    draw = np.random.default_rng(0)
    trials = []
    for number in range(80):
        for kind in kinds:
            problem = Problem(f"q{number}", TEXTS[kind].format(n=number + 10), benchmark="arithmetic")
            for arm, p in RATES[kind].items():
                is_right = bool(draw.random() < p)
                result = "right" if is_right else f"wrong {draw.integers(9)}"
                cost = {"small": 1e-5, "middle": 3e-5, "large": 1e-4}[arm]
                trials.append(Trial(problem, kind, arm, is_right, result, cost, 5, within=problem.problem_id))
    return fit_scorer(trials_from(trials))[0]


def by_scorer(scorer: Scorer | None = None, **settings: object) -> Router:
    chosen = {"value_usd": 0.02, "max_escalations": 8, "horizon": 2, **settings}
    return replace(router(routing="rule", **chosen), scorer=scorer or trained())


def answered(solving: Solving, plans: list[str], results: dict[int, str]) -> tuple[list[Call], Outcome]:
    """All calls, and how it ended, where decomposers write these plans in order, and steps come to these results."""
    calls: list[Call] = []
    left = list(plans)
    try:
        wave = next(solving)
        while True:
            calls += wave
            texts = [left.pop(0) if call.purpose == "decompose" else results[call.subtask_index or 0] for call in wave]
            wave = solving.send([completion(text, call.model) for text, call in zip(texts, wave, strict=True)])
    except StopIteration as end:
        assert left == []
        outcome: Outcome = end.value
        return calls, outcome


def test_a_plan_is_worth_what_its_parts_are_and_more_than_asking_at_once():
    its = planning(QUESTION, by_scorer(), trained(), 0.02)
    assert its is not None
    assert set(its.beliefs.arms) == {"small", "middle"}
    assert 0.8 < its.worth < 1
    dear = planning(QUESTION, by_scorer(), trained(), 0.0002)
    assert dear is not None
    assert dear.worth < its.worth


def test_without_plans_among_its_trials_the_untrained_worth_stands():
    scorer = trained(("expression", "multiply", "add"))
    assert planning(QUESTION, by_scorer(scorer), scorer, 0.02) is None


def test_the_better_planner_is_asked_and_its_steps_are_units_of_their_own():
    calls, outcome = answered(solve_by_rule(QUESTION, by_scorer()), [PLAN], {0: "36", 1: "44"})
    assert [(call.purpose, call.model) for call in calls if call.purpose != "solve"] == [("decompose", "middle")]
    assert {call.subtask_index for call in calls if call.purpose == "solve"} == {0, 1}
    assert outcome.answer == "44"
    first = outcome.decisions[1]
    assert (first.arm, first.reason) == ("middle", "planning_no_result_yet")


def test_a_text_without_a_plan_is_no_result_and_the_other_planner_is_asked():
    calls, outcome = answered(solve_by_rule(QUESTION, by_scorer()), ["I wonder.", PLAN], {0: "36", 1: "44"})
    assert [call.model for call in calls if call.purpose == "decompose"] == ["middle", "small"]
    assert "plan_parse" in outcome.failed_checks
    assert [step.subtask.text for step in outcome.steps] == ["Compute 12 * 3", "Compute the result of step 1 + 8"]


def test_where_nobody_has_a_plan_the_question_is_asked_at_once():
    calls, outcome = answered(solve_by_rule(QUESTION, by_scorer()), ["DIRECT", "DIRECT"], {0: "44"})
    assert [call.purpose for call in calls[:3]] == ["decompose", "decompose", "solve"]
    assert outcome.failed_checks[:2] == ["plan_direct", "plan_direct"]
    assert outcome.answer == "44"


def test_steps_that_are_alike_share_what_was_worked_out():
    scorer = replace(trained())
    arms = [card for card in ROSTER.solvers if card.name in scorer.arms]
    shown = [Arm(card.name, 0.9, 0.0) for card in arms]
    costs = {card.name: 0.001 for card in arms}
    one = shared_beliefs(scorer, "add", shown, costs, 0.1)
    assert shared_beliefs(scorer, "add", shown, dict.fromkeys(costs, 0.00099), 0.0) is one
    dearer = shared_beliefs(scorer, "add", shown, dict.fromkeys(costs, 0.01), 0.0)
    assert dearer is not one
    assert dearer.cost_usd("small", ()) > one.cost_usd("small", ())
    assert dearer.p_right(()) == one.p_right(())


def test_the_steps_of_a_kind_are_kept_in_its_file():
    stored = Scorer.from_json(trained().to_json())
    assert stored.kind("expression").steps == {"multiply": 1.0, "add": 1.0}
    assert planning(QUESTION, by_scorer(stored), stored, 0.02) is not None
