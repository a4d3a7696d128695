"""A model drawn at random, for the question or for each subtask: what a router of the same model shares gets without
looking.

With `mix` at the shares another method ended with, this is "random at matched cost". The draw depends on `seed`, the
problem's id and the subtask alone, so that a resumed run draws the same. Its probabilities are stored as propensities,
which makes its runs a log for off-policy estimates. Settings: `mix`, `random_level`, `seed`, and at the level of
subtasks `decomposer`.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from r2.answering.allocation import Choice
from r2.answering.prompts import DIRECT_STEP
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, Step, concluded
from r2.answering.route import decompose, execute_steps, finalize, solver_call
from r2.errors import ConfigError
from r2.methods.direct_step import answer_once
from r2.methods.expected import (
    ExpectedCalls,
    final_answer,
    one_step,
    plans,
    whole_question,
)
from r2.methods.record import Method
from r2.plan import Subtask
from r2.problem import Problem
from r2.roster import Roster
from r2.settings import Reasoning


def random_model(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """One call to the drawn model; at the level of subtasks a decompose call, then one per subtask. No escalation."""
    shares = probabilities(router.settings, router.roster)
    if router.settings.random_level == "query":
        choice = _draw(problem, 0, router.settings.seed, shares)
        call = replace(solver_call(problem, router, choice.model, None, {}, "solve"), subtask_index=0)
        return (yield from answer_once(problem, call, choice, outcome, budget))
    outcome.plan = plan = yield from decompose(problem, router, outcome, budget)
    for index, subtask in enumerate(plan.subtasks or (Subtask(DIRECT_STEP),)):
        choice = _draw(problem, index, router.settings.seed, shares)
        outcome.steps.append(Step(subtask, choice, choice.model))
    yield from execute_steps(problem, plan, router, outcome, budget, max_escalations=0)
    return (yield from finalize(problem, plan, router, outcome, budget))


def probabilities(settings: Reasoning, roster: Roster) -> dict[str, float]:
    """Model -> probability, without models that are never drawn. ConfigError where all weights are 0."""
    weights = settings.mix if settings.mix is not None else {card.name: 1.0 for card in roster.solvers}
    total = sum(weights.values())
    if not 0 < total < math.inf:
        raise ConfigError(f"--mix: the weights add up to {total:g}; give at least one model a finite weight above 0.")
    return {name: weight / total for name, weight in weights.items() if weight > 0}


def _draw(problem: Problem, index: int, seed: int, shares: Mapping[str, float]) -> Choice:
    chance = random.Random(f"{seed}\x1f{index}\x1f{problem.problem_id}".encode("utf-8", "surrogatepass"))
    [model] = chance.choices(list(shares), list(shares.values()))
    return Choice(model, {name: math.log(share) for name, share in shares.items()})


def _expects(router: Router) -> list[ExpectedCalls]:
    shares = probabilities(router.settings, router.roster)
    if router.settings.random_level == "query":
        return [whole_question(router, model, share) for model, share in shares.items()]
    steps = [one_step(router, model, share * router.shape.steps) for model, share in shares.items()]
    return [*plans(router), *steps, *final_answer(router, router.finalizer)]


def _check(router: Router, pool: str) -> None:
    probabilities(router.settings, router.roster)


METHOD = Method(
    name="random",
    summary="a model drawn for the question or each step",
    run=partial(concluded, random_model),
    expects=_expects,
    family="bound",
    by_default=True,
    matches_judged=True,
    check=_check,
)
