"""The method label: plans and allocations to train on (r2/labelling/label.py, where its run is). Here is its record.

Settings: `labelling`, `finalizer`, `seed`.
"""

from dataclasses import replace

from r2.answering.prompts import judge_messages, teach_messages
from r2.answering.protocol import Router
from r2.labelling.execution import STOCHASTIC_EXECUTIONS
from r2.labelling.label import label
from r2.methods.expected import (
    EMPTY,
    PLAN,
    ExpectedCalls,
    final_answer,
    judgements,
    one_step,
)
from r2.methods.record import Method
from r2.settings import Labelling

DISTINCT_SHARE = 0.5
"""Of a teacher's candidate plans, before anything is known about it."""
ALLOCATIONS_TRIED = 6


def _expects(router: Router) -> list[ExpectedCalls]:
    """The teacher's calls, M_eval's over the distinct plans, the judge's, and the search's on the middle solver, one
    new call per allocation tried."""
    chosen, roster, shape = router.settings.labelling or Labelling(), router.roster, router.shape
    n_plans = max(1.0, chosen.n_candidates * DISTINCT_SHARE)
    teacher = chosen.teacher or roster.strongest
    times = chosen.n_executions or STOCHASTIC_EXECUTIONS if router.settings.temperature > 0 else 1
    parts = [
        ExpectedCalls(
            "teach",
            teacher,
            chosen.n_candidates,
            teach_messages(EMPTY, ""),
            shape.plan_tokens,
            router.settings.plan_tokens,
        ),
        one_step(router, chosen.m_eval or roster.middle, times * n_plans * shape.steps),
        one_step(router, roster.middle, times * ALLOCATIONS_TRIED),
    ]
    parts += [
        replace(final, per_question=times * (n_plans + ALLOCATIONS_TRIED)) for final in final_answer(router, None)
    ]
    if chosen.judge in roster.by_name:
        n_pairs = n_plans * max(0.0, shape.steps - 1)
        parts.append(ExpectedCalls("judge", chosen.judge, n_pairs, judge_messages(EMPTY, PLAN, 1), 4))
    if router.check is not None and router.check.judge is not None:
        parts.append(judgements(router.check, times * (n_plans + ALLOCATIONS_TRIED)))
    return parts


METHOD = Method(
    name="label",
    summary="plans and allocations to train on",
    run=label,
    expects=_expects,
    assumes="half of the teacher's plans are distinct, and six allocations are tried",
    run_kind="label",
)
