"""Steps of plans, and plans, as trials for a scorer: who was right, read off questions whose final answer was checked.

Nobody checks a step. But where a question was answered right, the results that its steps were settled with count as
right; the same step of the same question, shown the same earlier results, then tells right from wrong for whoever else
was asked. Steps that no right answer went through are left out: of them nothing is known. A wrong result may by luck
lead to a right answer; such luck is rare, and counts as right.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from r2.answering.scored_plan import no_plan
from r2.answering.scored_unit import is_plan, plan_kind, question_kind, step_kind, step_unit
from r2.plan import Plan, format_plan
from r2.problem import Problem
from r2.problems.benchmark import checked_part
from r2.problems.result_keys import result_key
from r2.training.scorer.trials import Trial, Trials


@dataclass(frozen=True, slots=True)
class AskedStep:
    """One arm asked for one step. `given`: the earlier results that the step was shown. `text` None: no result came.
    `is_settled`: the step was settled with this result; `is_answer`: it is the question's answer; `was_right`: the
    question was answered right."""

    problem: Problem
    task: str
    given: tuple[str, ...]
    arm: str
    text: str | None
    is_settled: bool
    is_answer: bool
    was_right: bool
    cost_usd: float
    output_tokens: int
    confidence: float | None = None


def step_trials(asked: Iterable[AskedStep]) -> Iterator[Trial]:
    """A trial for each ask of which it is known whether it was right."""
    units: dict[tuple[str, str, tuple[str, ...]], list[AskedStep]] = defaultdict(list)
    for one in asked:
        units[one.problem.problem_id, one.task, tuple(map(step_key, one.given))].append(one)
    for its in units.values():
        keys = [None if one.text is None else _key(one, one.text) for one in its]
        right = {
            key for one, key in zip(its, keys, strict=True) if one.is_settled and one.was_right and key is not None
        }
        if not right:
            continue
        for one, key in zip(its, keys, strict=True):
            yield Trial(
                step_unit(one.problem, one.task, one.given),
                step_kind(one.task),
                one.arm,
                key in right,
                key,
                one.cost_usd,
                one.output_tokens,
                one.confidence,
                within=one.problem.problem_id,
            )


@dataclass(frozen=True, slots=True)
class AskedPlan:
    """One decomposer asked for a question's plan. `plan` None: its text held none. `executed`: the plan that the
    question was answered by; `was_right`: it was answered right."""

    problem: Problem
    arm: str
    plan: Plan | None
    executed: Plan | None
    was_right: bool
    cost_usd: float
    output_tokens: int


def plan_trials(asked: Iterable[AskedPlan]) -> Iterator[Trial]:
    """A trial for each plan that was executed, or that is known by another's execution: right where a right answer
    came of it, wrong where only wrong ones did. A text without a plan, a direct one and one that fails its check have
    no result."""
    by_question: dict[str, list[AskedPlan]] = defaultdict(list)
    for one in asked:
        by_question[one.problem.problem_id].append(one)
    for its in by_question.values():
        ends: dict[str, bool] = {}
        for one in its:
            if one.executed is not None:
                text = format_plan(one.executed)
                ends[text] = ends.get(text, False) or one.was_right
        for one in its:
            defect = one.plan is None or no_plan(one.problem, one.plan, is_last_step_answer=True)
            key = None if defect or one.plan is None else format_plan(one.plan)
            if key is not None and key not in ends:
                continue
            yield Trial(
                replace(one.problem, target=None, aliases=()),
                plan_kind(question_kind(one.problem)),
                one.arm,
                key is not None and ends[key],
                key,
                one.cost_usd,
                one.output_tokens,
            )


def step_key(text: str) -> str:
    """Equal for results of a step that are the same: numbers by value, everything else by its words."""
    try:
        return f"{float(text.replace(',', '')):.7g}"
    except ValueError:
        return " ".join(text.casefold().split())


def _key(one: AskedStep, text: str) -> str | None:
    if not one.is_answer:
        return step_key(text)
    part = checked_part(one.problem, text)
    return result_key(one.problem.benchmark, text if part is None else part)


def mean_steps(trials: Trials) -> dict[str, dict[str, float]]:
    """Kind of question -> how many steps of each kind its plans have, on average over questions with steps among the
    trials."""
    texts = {p.problem_id: (p.question, k) for p, k in zip(trials.problems, trials.kinds, strict=True) if is_plan(k)}
    found: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for problem, kind in zip(trials.problems, trials.kinds, strict=True):
        question, its = texts.get(problem.problem_id, (problem.question, ""))
        if not is_plan(kind) and problem.question != question:
            found[its][problem.problem_id][kind] += 1
    return {
        its: {kind: n / len(counts) for kind, n in sum(counts.values(), Counter[str]()).items()}
        for its, counts in found.items()
    }
