"""The method r2: by the rule (r2/answering/sequential.py), or decompose, allocate, solve (r2/answering/route.py), as
`routing` says. Here is its record.

Settings: `routing`, `decomposer`, `second_decomposer`, `finalizer`, `b`, `min_confidence`, `max_escalations`; of the
rule `value_usd`, `horizon`; of the allocator `allocator`, `order_seed`.
"""

from dataclasses import replace

from r2.answering.allocation import allocation_tokens
from r2.answering.open_unit import entry_of
from r2.answering.prompts import allocate_messages
from r2.answering.protocol import Router, Solving
from r2.answering.question_shape import text_of
from r2.answering.route import solve
from r2.answering.sequential import solve_by_rule
from r2.answering.worth import expected_asks
from r2.errors import ConfigError
from r2.methods.expected import (
    EMPTY,
    STEPS_ASSUMED,
    UNSURE_SHARE,
    ExpectedCalls,
    final_answer,
    judgements,
    one_step,
    plans,
    routed_steps,
    whole_question,
)
from r2.methods.record import Method
from r2.plan import Plan, Subtask
from r2.problem import Problem

ALLOCATION_TOKENS_PER_SUBTASK = 12
BENCHMARK_ASSUMED = "arithmetic"
"""Of rows with a benchmark: their results are short and can be compared."""


def _run(problem: Problem, router: Router) -> Solving:
    """By the rule, or by the allocator, as the settings say."""
    return solve_by_rule(problem, router) if router.settings.routing == "rule" else solve(problem, router)


def _expects(router: Router) -> list[ExpectedCalls]:
    if router.settings.routing == "rule":
        return _expects_by_rule(router)
    plan = Plan((Subtask(text_of(router.shape.task_tokens)),) * max(1, round(router.shape.steps)))
    messages = allocate_messages(EMPTY, plan, router.roster.solvers, router.roster[router.allocator].prompt_mode)
    middle = router.roster.middle
    has_choice = len(router.roster.solvers) > 1  # the only solver is allocated without a call
    stronger = router.roster.stronger(middle) if router.settings.min_confidence else None
    n_tokens, limit = ALLOCATION_TOKENS_PER_SUBTASK * router.shape.steps, allocation_tokens(round(router.shape.steps))
    return [
        *plans(router),
        *([ExpectedCalls("allocate", router.allocator, 1, messages, n_tokens, limit)] if has_choice else []),
        *routed_steps(router),
        *([one_step(router, stronger, router.shape.steps * UNSURE_SHARE)] if stronger else []),
        *final_answer(router, router.finalizer),
        *([judgements(router.verify, 1, "verify")] if router.verify is not None and router.verify.judge else []),
    ]


def _expects_by_rule(router: Router) -> list[ExpectedCalls]:
    """What the rule makes of a question of each kind; of one that no profile speaks of, where the questions are not
    known."""
    unknown = EMPTY if router.expects_free else replace(EMPTY, benchmark=BENCHMARK_ASSUMED)
    whole: dict[str, float] = {}
    steps: dict[str, float] = {}
    n_plans = 0.0
    for share, problem in router.shape.examples or ((1.0, unknown),):
        expected = expected_asks(problem, router)
        n_plans += share * expected.plans
        for total, asks in ((whole, expected.whole), (steps, expected.steps)):
            for arm, n in asks.items():
                total[arm] = total.get(arm, 0.0) + share * n
    calls = [
        whole_question(router, entry_of(arm), n, mode="cot" if arm != entry_of(arm) else None)
        for arm, n in whole.items()
    ]
    if n_plans:
        calls += [replace(plan, per_question=plan.per_question * n_plans) for plan in plans(router)]
        calls += [one_step(router, entry_of(arm), n) for arm, n in steps.items()]
        calls += [replace(final, per_question=n_plans) for final in final_answer(router, router.finalizer)]
    if router.verify is not None and router.verify.judge is not None:
        calls.append(judgements(router.verify, sum(whole.values()), "verify"))
    return calls


def _check(router: Router, pool: str) -> None:
    """What the knobs need of the pool."""
    chosen, roster = router.settings, router.roster
    if chosen.routing == "allocator" and chosen.b and not roster[router.allocator].has_logprobs:
        raise ConfigError(
            f"--b {chosen.b}: the cost knob needs the allocator's log-probabilities, and {router.allocator!r} in "
            f"{pool} has logprobs = false. Choose another allocator with --allocator, or drop --b."
        )
    if chosen.min_confidence and not any(card.has_logprobs for card in roster.solvers):
        raise ConfigError(
            f"--min-confidence {chosen.min_confidence}: no solver of {pool} gives log-probabilities (logprobs = true), "
            "so nobody would be asked again. Say so for the endpoints that have them, or drop --min-confidence."
        )
    if chosen.min_confidence and not chosen.max_escalations:
        raise ConfigError(
            f"--min-confidence {chosen.min_confidence} with --max-escalations 0: nobody would be asked again. Allow "
            "some, or drop --min-confidence."
        )
    if chosen.verify is not None and not chosen.max_escalations:
        raise ConfigError(
            f"--verify {chosen.verify} with --max-escalations 0: nobody would be asked again. Allow some, or drop "
            "--verify."
        )


METHOD = Method(
    name="r2",
    summary="routed by the rule, or by plan and allocator",
    run=_run,
    expects=_expects,
    assumes=(
        f"{STEPS_ASSUMED}, each on the cheapest model that its profile calls sure of it, or half of them on the pool's "
        f"cheapest model and half on its middle one; with --min-confidence {UNSURE_SHARE:.0%} of them asked again of "
        "the next stronger one; by the rule, what it believes of models is "
        "true"
    ),
    family="ours",
    routes=True,
    escalates=True,
    knob="b",
    values=(0.0, 0.05, 0.1, 0.2, 0.4),
    by_default=True,
    takes_router=True,
    check=_check,
)
