"""Simulated models and questions of the user's own: they know only the kinds of questions that are generated here.

What they do not know they say so of, and that is no answer. The user is told before the run and after it.
"""

from typing import Final

from r2.answering.protocol import Solving
from r2.pool.file.config import PoolConfig, endpoint_kind, load_pool
from r2.pool.simulated.mind import UNSURE
from r2.problem import Problem
from r2.problems import arithmetic, scan, words
from storage.runs.plan import RunPlan

NOT_KNOWN: Final = "not_known"
"""The error type of a row that a simulated model has no answer to."""
_KINDS: Final = tuple(kind.BENCHMARK.name for kind in (arithmetic, scan, words))


def is_simulated(pool: PoolConfig) -> bool:
    return any(endpoint_kind(table.endpoint) == "simulated" for table in pool.models.values())


def warning(plan: RunPlan) -> str:
    """What to say of a run that asks simulated models questions of the user's own; "" of any other."""
    if not is_simulated(load_pool(plan.settings.pool)):
        return ""
    rows = (row for shard in plan.shards for row in plan.rows(shard.index))
    if not any(bad is None and _is_own(problem) for problem, bad in rows):
        return ""
    return (
        f"{plan.settings.pool} has simulated models, which know only the generated kinds of questions "
        f"({', '.join(_KINDS)}). The file has others: what comes back says nothing about them. --pool names real models"
    )


def if_known(problem: Problem, solving: Solving) -> Solving:
    """The same way to answer, where a question of the user's own that nobody understood ends without an answer."""
    outcome = yield from solving
    if outcome.answer is not None and outcome.answer.strip() == UNSURE and _is_own(problem):
        outcome.answer, outcome.value, outcome.error_type = None, None, NOT_KNOWN
        outcome.error_message = "simulated models know only the generated kinds of questions. Ask real ones (--pool)"
    return outcome


def _is_own(problem: Problem) -> bool:
    return problem.benchmark not in _KINDS
