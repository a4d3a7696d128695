"""Plans for the questions of the proof that policies learn to choose, a teacher's among them, and what a plan with its
models comes to.

Three forms of plan. The whole question at once; the same and then a check, which is as right and dearer; and for a SCAN
command small steps (the gold plan), which cost more than one call of a model that can do the command at once, and less
than the only one that can do a hard one. So the form must be chosen by kind and by difficulty, as the model must.
Played out by `r2.answering.route`, with the simulated models of pools/learning_kinds.toml in this process.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import orjson

from benchmarks.learning_world import LAM, POOL, SPECIALIST, Outcomes, level_of
from r2.answering.allocation import format_allocation
from r2.answering.prompts import DIRECT_STEP, MODEL_LETTERS, allocate_messages, decompose_messages
from r2.answering.protocol import Router, Trajectory
from r2.answering.scorer import FloatArray
from r2.call import Call, Completion, Purpose
from r2.plan import DIRECT, Plan, Subtask, format_plan
from r2.pool.client import wire
from r2.pool.file.config import load_pool
from r2.pool.simulated.server import Conditions, SimulatedServer
from r2.problem import Problem
from r2.problems.benchmark import benchmark_of
from r2.training.data import ChatRow, chat_row
from r2.training.grpo.reward import rollout
from r2.training.grpo.settings import Role
from r2.training.sampled import SampledText, completion_of

CHECKED = Plan((Subtask(DIRECT_STEP), Subtask("Check the result of step 1", (0,))))
"""The whole question at once, and then a check of the result: right as often as without, and dearer."""
SHOWN_DEAR = 0.6
"""Share of the teacher's plans that are the dearer ones."""
SAFE, FITTING = 0.5, 0.25
"""Shares of the teacher's models that are a size too large, and that are of the right size."""

Texts = Mapping[Purpose, SampledText]
"""What a decomposer and an allocator wrote for one question."""


def gold_plan(problem: Problem) -> Plan:
    """Its benchmark's small steps; DIRECT for a single operation."""
    plan = benchmark_of(problem).gold_plan
    assert plan is not None
    return plan(problem.question)[0]


def teachers_plan(problem: Problem, chance: random.Random) -> Plan:
    """Mostly the dear way: small steps for any SCAN command, a check for any other question. Else all at once."""
    if chance.random() >= SHOWN_DEAR:
        return DIRECT
    return gold_plan(problem) if problem.benchmark == "scan" else CHECKED


def teachers_models(problem: Problem, plan: Plan, chance: random.Random) -> list[str]:
    """A letter for each step, for half of them that of a model a size too large. A quarter have the right size, and a
    quarter is drawn at random, which is what leaves GRPO something to explore."""
    arms = _arms()
    chosen = []
    for right, safe in _sizes(problem, plan):
        draw = chance.random()
        chosen.append(safe if draw < SAFE else right if draw < SAFE + FITTING else chance.choice(arms))
    return [MODEL_LETTERS[arms.index(arm)] for arm in chosen]


def _sizes(problem: Problem, plan: Plan) -> list[tuple[str, str]]:
    """Of each step: the cheapest model that is up to it, and one a size larger."""
    specialist = SPECIALIST[problem.benchmark]
    whole = {"easy": ("small", specialist), "medium": (specialist, "large"), "hard": ("large", "large")}
    if plan.is_direct:
        return [whole[level_of(problem)]]
    if plan == CHECKED:
        return [whole[level_of(problem)], ("small", whole[level_of(problem)][1])]
    is_hard = ["Translate" in subtask.text for subtask in plan.subtasks]
    return [(specialist, specialist) if hard else ("small", specialist) for hard in is_hard]


@cache
def _arms() -> tuple[str, ...]:
    return tuple(card.name for card in load_pool(POOL).roster().solvers)


def teachers_rows(problems: Sequence[Problem], seed: int) -> dict[Role, list[ChatRow]]:
    """What the teacher shows both policies, in the bare mode of the prompts."""
    chance, models = random.Random(f"teacher:{seed}"), load_pool(POOL).roster().solvers
    rows: dict[Role, list[ChatRow]] = {"decomposer": [], "allocator": []}
    for problem in problems:
        plan = teachers_plan(problem, chance)
        rows["decomposer"].append(chat_row(decompose_messages(problem, "bare"), format_plan(plan)))
        letters = teachers_models(problem, plan, chance)
        rows["allocator"].append(chat_row(allocate_messages(problem, plan, models, "bare"), format_allocation(letters)))
    return rows


def played(problems: Sequence[Problem], texts: Sequence[Texts], router: Router) -> list[Trajectory]:
    """Each question answered with its texts, by the router's own code, each model asked without HTTP."""
    pool = load_pool(POOL)
    server = SimulatedServer(pool, Conditions())

    async def complete(call: Call) -> Completion:
        served = pool.models[call.model].endpoint.partition(":")[2]
        _, body = server.complete(orjson.loads(wire.request_body(call, pool.models[call.model], served)))
        usage, said = body["usage"], str(body["choices"][0]["message"]["content"])
        return completion_of(SampledText(said, usage["prompt_tokens"], usage["completion_tokens"]), call, router.roster)

    async def every() -> list[Trajectory]:
        return [await rollout(p, written, router, complete) for p, written in zip(problems, texts, strict=True)]

    return asyncio.run(every())


def utility_of(trajectories: Sequence[Trajectory], outcomes: Outcomes) -> FloatArray:
    """Of each question: 1[right] - lambda * cost / cost_ref, the policies' own tokens charged."""
    right = np.array([trajectory.right for trajectory in trajectories])
    cost = np.array([trajectory.answering_cost_usd for trajectory in trajectories])
    return np.asarray(right - LAM * cost / outcomes.cost_ref_usd)


def dearest(trajectory: Trajectory, outcomes: Outcomes) -> int:
    """Number of the dearest model that the plan's steps were given to: who the question was trusted to."""
    mean_usd = outcomes.cost_usd_AQ.mean(axis=1)
    return max((outcomes.arms.index(step.choice.model) for step in trajectory.outcome.steps), key=lambda a: mean_usd[a])


def steps_by_one_model(outcomes: Outcomes, router: Router) -> dict[str, FloatArray]:
    """Utilities of the questions where their gold plans are made by one model alone, by "steps by ARM". Plans and
    allocations cost nothing here."""
    found: dict[str, FloatArray] = {}
    plans = [gold_plan(problem) for problem in outcomes.problems]
    for number, arm in enumerate(outcomes.arms):
        texts: list[Texts] = [
            {
                "decompose": SampledText(format_plan(plan), 0, 0),
                "allocate": SampledText(format_allocation(MODEL_LETTERS[number] * max(1, len(plan.subtasks))), 0, 0),
            }
            for plan in plans
        ]
        found[f"steps by {arm}"] = utility_of(played(outcomes.problems, texts, router), outcomes)
    return found
