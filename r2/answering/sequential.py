"""Answering one problem by the rule of sequential routing (docs/method.md, section 10; ours). A generator without I/O,
as r2/answering/route.py, whose place it takes where `routing` is `rule`.

The question is a unit of work, and so is each step of a plan. Each unit asks one entry after the other until the rule
(r2/answering/lookahead.py) says that what there is is enough, or for the question that decomposing is worth more. All
open units of a wave ask side by side. Forms are checked, cut answers asked for again, and caps kept as by the other
way.

What is believed comes from a trained scorer (r2/answering/scored.py) where the router has one that knows the kind of
unit; else from profiles, agreement and confidence (r2/answering/beliefs.py).
"""

import math
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from r2.answering.allocation import Choice
from r2.answering.beliefs import Arm, ProfileBeliefs, after_plan
from r2.answering.confidence import token_confidence, with_logprobs
from r2.answering.lookahead import Decision
from r2.answering.open_unit import (
    PLAN_ARM,
    decided,
    entry_of,
    levels_of,
    odds_on_grid,
    on_grid,
    open_step,
    steps_worth,
    unit_of,
)
from r2.answering.prompts import DIRECT_STEP
from r2.answering.protocol import (
    Answering,
    Decided,
    Outcome,
    QuestionBudget,
    Router,
    Solving,
    Step,
    Stop,
    Wave,
    ask,
    concluded,
)
from r2.answering.route import accept, answer_step, decompose, finalize, refused, step_call, why_none
from r2.answering.unit import Unit
from r2.answering.wanted import schema_of
from r2.answering.worth import value_usd
from r2.call import Call, Completion
from r2.plan import DIRECT, Plan, Subtask
from r2.problem import Problem
from r2.problems.kind import kind_of, steps_of

if TYPE_CHECKING:
    from r2.answering.scored_plan import Planning


def solve_by_rule(problem: Problem, router: Router) -> Solving:
    """One trajectory. Whatever the models write, it ends with an Outcome; only bugs raise."""
    return concluded(_by_rule, problem, router)


def _by_rule(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    v_usd = value_usd(problem, router)
    step = open_step(Subtask(DIRECT_STEP), router)
    unit = unit_of(problem, router, step, v_usd, None, is_answer=True)
    planning = _planning(problem, router, v_usd)
    if planning is not None:
        unit.decompose = planning.worth
        unit.closed.add(PLAN_ARM)
    outcome.plan, outcome.steps = DIRECT, [step]
    yield from _settle(problem, DIRECT, {0: unit}, router, outcome, budget)
    if not unit.wants_plan:
        return step.text or ""
    unit.wants_plan, unit.decompose = False, None
    if planning is None:
        plan = yield from decompose(problem, router, outcome, budget)
    else:
        from r2.answering.scored_plan import plan_by_scorer

        plan = yield from plan_by_scorer(problem, router, planning, v_usd, outcome, budget)
    is_one_attempt = planning is None and isinstance(unit.beliefs, ProfileBeliefs)
    if plan.is_direct or (is_one_attempt and not _is_followed(unit, plan, router)):
        unit.closed.add(PLAN_ARM)
        yield from _settle(problem, DIRECT, {0: unit}, router, outcome, budget)
        return step.text or ""
    answer, p_right = yield from _by_plan(problem, plan, v_usd, router, outcome, budget)
    if router.verify is not None or not is_one_attempt:
        return answer
    planned = Step(step.subtask, step.choice, outcome.steps[-1].model, answer)
    steps, outcome.plan, outcome.steps = outcome.steps, DIRECT, [step]
    unit.plan_is(Arm(PLAN_ARM, odds_on_grid(unit.p_plan * p_right), 0.0))
    unit.keep(PLAN_ARM, PLAN_ARM, planned, is_result=bool(answer), confidence=None)
    yield from _settle(problem, DIRECT, {0: unit}, router, outcome, budget)
    if step.text == answer:
        outcome.plan, outcome.steps = plan, steps
    return step.text or ""


def _planning(problem: Problem, router: Router, v_usd: float) -> "Planning | None":
    """What the router's scorer knows of planning for such a question; None without one, or where it knows nothing."""
    if router.scorer is None:
        return None
    from r2.answering.scored_plan import planning  # here, because numpy takes a while to load

    return planning(problem, router, router.scorer, v_usd)


def _is_followed(unit: Unit, plan: Plan, router: Router) -> bool:
    """Whether the plan's steps are worth executing now that it is there: it may not have the steps that the question's
    form shows."""
    is_as_shown = Counter(kind_of(subtask.text) for subtask in plan.subtasks) == steps_of(unit.problem.question)
    unit.p_plan = after_plan(unit.p_plan, is_as_shown=is_as_shown)
    p_steps, cost = steps_worth(unit.problem, router, unit.v_usd)
    unit.plan_is(Arm(PLAN_ARM, odds_on_grid(unit.p_plan * p_steps), on_grid(cost)))
    decision = decided(unit.beliefs, unit.attempts(), router.settings.horizon, None, unit.waits)
    return decision.action == "decompose"


def _by_plan(
    problem: Problem, plan: Plan, v_usd: float, router: Router, outcome: Outcome, budget: QuestionBudget
) -> Generator[Wave, list[Completion], tuple[str, float]]:
    """The plan's answer, and P(all its steps are right). The steps are asked wave by wave, each a unit; a wrong step
    makes the answer wrong, so that a right one is worth as much as the answer."""
    outcome.plan, outcome.steps = plan, [open_step(subtask, router) for subtask in plan.subtasks]
    last, p_right = answer_step(problem, plan, router), 1.0
    for wave in plan.waves():
        units = {
            index: unit_of(
                problem,
                router,
                outcome.steps[index],
                v_usd,
                index,
                is_answer=index == last,
                given={need + 1: outcome.steps[need].text or "" for need in plan.subtasks[index].needs},
            )
            for index in wave
        }
        yield from _settle(problem, plan, units, router, outcome, budget)
        p_right *= math.prod(unit.q for unit in units.values())
    answer = yield from finalize(
        problem, plan, router, outcome, budget, max_escalations=router.settings.max_escalations
    )
    return answer, p_right


def _settle(
    problem: Problem,
    plan: Plan,
    units: Mapping[int, Unit],
    router: Router,
    outcome: Outcome,
    budget: QuestionBudget,
) -> Generator[Wave, list[Completion], None]:
    """Asks side by side until each unit has a result that is accepted, or wants a plan. `Stop` for one that gets
    none."""

    def call_of(index: int, arm: str) -> Call:
        unit = units[index]
        card = unit.cards[arm]
        unit.step.model, mode = entry_of(arm), card.prompt_mode
        is_doubled = unit.again.is_doubled
        call = step_call(problem, plan, index, router, outcome.steps, is_doubled=is_doubled, mode=mode)
        is_heard = levels_of(problem, router, card, is_answer=unit.is_answer) or _floor(router)
        return with_logprobs(call, router.roster) if is_heard and not call.top_logprobs else call

    open_calls: dict[int, list[tuple[str, Call]]] = {}
    for index, unit in units.items():
        open_calls[index] = _next_calls(unit, index, call_of, router, outcome, budget)
    while any(open_calls.values()):
        calls = [call for asked in open_calls.values() for _, call in asked]
        answers = iter((yield from ask(calls, budget, may_escalate=True)))
        asked_before, open_calls = open_calls, {}
        for index, asked in asked_before.items():
            unit, is_verified = units[index], False
            open_calls[index] = again = []
            for arm, planned in asked:
                sent, completion = next(answers)
                unit.closed.add(arm)
                answering = arm if sent.model == planned.model else sent.model  # a cap, or the context, sent it there
                once_more = _received(unit, answering, sent, completion, router, outcome, budget)
                if once_more is not None:
                    again.append((answering, once_more))
                elif not is_verified:
                    is_verified = yield from _is_verified(unit, router, outcome, budget)
            if is_verified:
                again.clear()
            elif asked and not again:
                open_calls[index] = _next_calls(unit, index, call_of, router, outcome, budget)


def _received(
    unit: Unit, arm: str, call: Call, completion: Completion, router: Router, outcome: Outcome, budget: QuestionBudget
) -> Call | None:
    """Keeps what came; the call that asks the same entry once more where its answer was cut or did not match."""
    problem = unit.problem
    schema = schema_of(problem, router) if unit.is_answer else None
    unit.step.n_asks += 1
    answering = completion.model or call.model
    if unit.step.n_asks == 1:
        unit.step.choice = Choice(call.model, {})
    got = Step(unit.step.subtask, unit.step.choice, answering)
    check = accept(problem, got, completion, schema=schema, purpose=call.purpose)
    unit.step.model = answering
    if check is not None:
        outcome.failed_checks.append(check)
        unit.last_check, unit.last_completion = check, completion
        unit.step.error_type, unit.step.misfit = got.error_type, got.misfit
        again = unit.again.call(problem, check, call, completion, schema, router, budget)
        if again is not None:
            return replace(again, sample_index=unit.step.n_asks)
    confidence = token_confidence(completion, router.settings.confidence_quantile)
    unit.keep(
        arm,
        arm if answering == call.model else answering,
        got,
        is_result=check is None,
        confidence=confidence,
        output_tokens=completion.usage.output_tokens,
    )
    return None


def _next_calls(
    unit: Unit,
    index: int,
    call_of: Callable[[int, str], Call],
    router: Router,
    outcome: Outcome,
    budget: QuestionBudget,
) -> list[tuple[str, Call]]:
    """Whom the rule asks next, and how: two side by side where waiting costs more; nobody where the unit is settled, or
    wants a plan."""
    n_further = router.settings.max_escalations
    while True:
        asked = {one.arm for one in unit.tried}
        is_spent = unit.n_asked > n_further
        spent = set(unit.beliefs.arms) - {PLAN_ARM} if is_spent else set()
        beliefs = unit.beliefs.without((spent | unit.closed) - asked)
        horizon = max(1, min(router.settings.horizon, 1 + n_further - unit.n_asked)) if router.settings.horizon else 0
        decision = decided(beliefs, unit.attempts(), horizon, unit.decompose, unit.waits)
        if _is_in_vain(unit, decision):
            decision = replace(decision, action="accept", arm=None, beside=None, cost_usd=0.0, reason="not_worth_more")
        arm = decision.arm
        number = None if decision.result is None else unit.number_of(decision.result)
        if number is not None:
            arm = _better_asked(unit, number, decision, router, outcome)
        if arm is not None and arm != PLAN_ARM:
            call = call_of(index, arm)
            if not budget.fits(call) and (unit.tried or len(beliefs.arms) > 1):
                unit.closed.add(arm)
                continue
            _note(unit, decision, outcome, decision.reason if number is None else "unsure", arm)
            outcome.n_escalations += unit.n_asked > 0
            unit.n_asked += 1
            calls = [(arm, call)]
            if decision.beside is not None and budget.fits(further := call_of(index, decision.beside)):
                _note(unit, decision, outcome, "asked_beside", decision.beside)
                outcome.n_escalations += 1
                unit.n_asked += 1
                calls.append((decision.beside, further))
            return calls
        unit.wants_plan, unit.q = decision.action == "decompose", decision.q
        _note(unit, decision, outcome, (not unit.wants_plan and _bound(unit, is_spent)) or decision.reason)
        if unit.wants_plan:
            return []
        if number is not None:
            unit.settle(unit.supporters(number)[0].step)
        else:
            _settle_for_less(unit, index)
        return []


def _is_in_vain(unit: Unit, decision: Decision) -> bool:
    """Whether somebody would be asked at a loss although there is a text, one that failed a check: better than none."""
    return decision.action == "ask" and decision.value_usd < 0 and unit.doubtful is not None


def _bound(unit: Unit, is_spent: bool) -> str | None:
    """What kept the rule from asking further, where something did."""
    return (
        "escalations_spent"
        if is_spent
        else "budget"
        if unit.closed - {PLAN_ARM, *(one.arm for one in unit.tried)}
        else None
    )


def _better_asked(unit: Unit, number: int, decision: Decision, router: Router, outcome: Outcome) -> str | None:
    """Whom to ask because nobody who gave this result was sure of it: the candidate of most value; None where the
    result may stand, or nobody is left."""
    sure = [one.confidence for one in unit.supporters(number)]
    if len(sure) > 1 or sure[0] is None or sure[0] >= _floor(router):
        return None
    if number not in unit.unsure:
        unit.unsure.add(number)
        outcome.failed_checks.append("unsure")
    left = [one for one in decision.candidates if one.arm != PLAN_ARM]
    best = max(left, key=lambda one: (one.p_right - one.cost_usd, one.arm), default=None)
    return None if best is None else best.arm


def _is_verified(
    unit: Unit, router: Router, outcome: Outcome, budget: QuestionBudget
) -> Generator[Wave, list[Completion], bool]:
    """Whether the user's verifier takes the result that has just come: then the unit is settled with it. One that it
    refuses is no result any more. Where it has no verdict, the rule goes on."""
    verify, newest = router.verify, unit.tried[-1].number if unit.tried else None
    if verify is None or not router.settings.max_escalations or not (unit.is_answer or verify.takes_step):
        return False
    if newest is None or newest in unit.refused or len(unit.supporters(newest)) > 1:
        return False
    text = unit.tried[-1].step.text or ""
    subtask = None if unit.is_answer else unit.step.subtask.text
    n_failed = len(outcome.failed_checks)
    check = yield from refused(unit.problem, text, verify, subtask, outcome, budget)
    if check is not None:
        outcome.failed_checks.append(check)
        unit.refused.add(newest)
    elif len(outcome.failed_checks) == n_failed:
        nobody_else = unit.beliefs.without(set(unit.beliefs.arms))
        _note(unit, decided(nobody_else, unit.attempts(), 0, None), outcome, "verified")
        unit.settle(unit.tried[-1].step)
        return True
    return False


def _settle_for_less(unit: Unit, index: int) -> None:
    """A text that failed a check is better than none. `Stop` where there is not even that."""
    if (doubtful := unit.doubtful) is not None:
        unit.settle(doubtful)
        return
    step, completion = unit.step, unit.last_completion or Completion("", unit.step.model, (), "")
    why = why_none(step, index, unit.last_check, completion, is_answer=unit.is_answer)
    raise Stop(step.error_type or unit.last_check, why)


def _floor(router: Router) -> float:
    """The confidence below which a single result does not stand."""
    return router.settings.min_confidence if router.settings.max_escalations else 0.0


def _note(unit: Unit, decision: Decision, outcome: Outcome, reason: str, arm: str | None = None) -> None:
    outcome.decisions.append(Decided(unit.subtask_index, len(unit.tried), unit.v_usd, decision, arm, reason))
