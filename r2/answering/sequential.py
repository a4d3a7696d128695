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
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from r2.answering.allocation import Choice
from r2.answering.attempts import Attempt, Attempts
from r2.answering.beliefs import (
    LEAST,
    LONG_REPLIES,
    MOST,
    NO_STEPS,
    SHORT_REPLIES,
    SPREAD,
    TRAINED_REPLIES,
    Arm,
    Level,
    ProfileBeliefs,
    after_plan,
    eases_of,
    kappa_of,
    prior,
)
from r2.answering.confidence import token_confidence, with_logprobs
from r2.answering.expected_cost import PLAN_TOKENS, call_usd, cost_ref_usd, reply_tokens
from r2.answering.lookahead import Decision, Waits, decide, on_outer_hulls
from r2.answering.prompts import DIRECT_STEP, decompose_messages
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
from r2.answering.route import accept, answer_step, decompose, finalize, refused, solver_call, step_call, why_none
from r2.answering.same_result import has_equality, n_choices
from r2.answering.unit import Unit
from r2.answering.wanted import is_whole, schema_of
from r2.call import Call, Completion
from r2.plan import DIRECT, Plan, Subtask
from r2.problem import Problem
from r2.problems.kind import kind_of, steps_of
from r2.roster import PLAN_SKILL, ModelCard, PromptMode

if TYPE_CHECKING:
    from r2.answering.scored import ScoredBeliefs
    from r2.answering.scored_plan import Planning

VALUE_IN_REFS: Final = 50.0
"""What a right answer is worth by default, in costs of the question on the largest model thinking step by step."""
P_TRAINED_PLAN: Final = 0.95
"""P(a plan is right) of a decomposer that was fine-tuned for it, where nothing was measured."""
PLAN_ARM: Final = "(plan)"
"""Stands among a question's arms for decomposing it and answering its steps."""
STEP_BY_STEP: Final = " step by step"
"""Ends the name of an arm that asks an entry for a chain of thought, though its own prompt mode is another."""
ERRORS_LEFT: Final = 0.5
"""Of the errors of an entry, when it thinks step by step and was not measured so."""
LEAST_GAIN: Final = 0.001
"""Of P(right), net of cost: the priors do not know smaller differences."""
LEAST_SHARE: Final = 0.01
"""Of questions: what happens to fewer is left out of an expectation."""
_LEVELS: Final = {"cot": LONG_REPLIES, "bare": TRAINED_REPLIES}
NOTHING_GIVEN: Final[Mapping[int, str]] = {}
COST_GRID: Final = 0.1
"""Costs are rounded to steps of this, relative, so that like questions share their decisions."""


def solve_by_rule(problem: Problem, router: Router) -> Solving:
    """One trajectory. Whatever the models write, it ends with an Outcome; only bugs raise."""
    return concluded(_by_rule, problem, router)


def value_usd(problem: Problem, router: Router) -> float:
    """What a right answer is worth, v: `value_usd` of the settings, else `VALUE_IN_REFS` times the cost of the question
    on the largest model; times exp(-b)."""
    chosen = router.settings
    worth = chosen.value_usd if chosen.value_usd is not None else VALUE_IN_REFS * cost_ref_usd(problem, router)
    return worth * math.exp(-chosen.b)


@dataclass(slots=True)
class ExpectedAsks:
    """How often a question is expected to be asked of each arm, to be decomposed, and its steps of each arm."""

    whole: dict[str, float] = field(default_factory=dict)
    plans: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)


def expected_asks(problem: Problem, router: Router) -> ExpectedAsks:
    """What the rule is expected to do with such a question, if what it believes is true and every call succeeds."""
    v_usd, expected = value_usd(problem, router), ExpectedAsks()
    unit = _unit(problem, router, _open_step(Subtask(DIRECT_STEP), router), v_usd, None, is_answer=True)
    expected.plans = _add_asks(expected.whole, 1.0, unit.beliefs, unit.decompose, router, unit.waits)
    if expected.plans:
        waits = _waits(router, _able(problem, router), v_usd)
        for n, beliefs in _step_beliefs(problem, router, v_usd):
            _add_asks(expected.steps, expected.plans * n, beliefs, None, router, waits)
    return expected


def _add_asks(
    asks: dict[str, float],
    weight: float,
    beliefs: "ProfileBeliefs | ScoredBeliefs",
    decompose: float | None,
    router: Router,
    waits: Waits = (),
) -> float:
    """Adds what a unit is expected to ask, times `weight`; returns the share that is decomposed."""
    n_further = router.settings.max_escalations
    decomposed, ahead = 0.0, [(1.0, tuple[Attempt, ...](), n_further + 1)]
    while ahead:
        further: list[tuple[float, Attempts, int]] = []
        for share, attempts, n_left in ahead:
            horizon = min(router.settings.horizon, max(n_left, 1))
            decision = _decided(_left(beliefs, n_left), attempts, horizon, decompose, waits)
            decomposed += share if decision.action == "decompose" else 0.0
            is_plan = decision.action == "decompose" and PLAN_ARM in beliefs.arms
            asked = [PLAN_ARM] if is_plan else [arm for arm in (decision.arm, decision.beside) if arm is not None]
            reached = [(share, attempts)]
            for arm in asked:
                if not is_plan:
                    asks[arm] = asks.get(arm, 0.0) + weight * share
                reached = [
                    (p_before * p, (*before, attempt))
                    for p_before, before in reached
                    for p, attempt in beliefs.outcomes(before, arm)
                    if p_before * p > LEAST_SHARE
                ]
            n_then = n_left if is_plan else n_left - len(asked)
            further += [(p, reaching, n_then) for p, reaching in reached if asked]
        ahead = further
    return decomposed


def _left(beliefs: "ProfileBeliefs | ScoredBeliefs", n_left: int) -> "ProfileBeliefs | ScoredBeliefs":
    """With the arms that may still be asked: none but the plan where the bound on further asks is reached."""
    return beliefs if n_left > 0 else beliefs.without(set(beliefs.arms) - {PLAN_ARM})


def _by_rule(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    v_usd = value_usd(problem, router)
    step = _open_step(Subtask(DIRECT_STEP), router)
    unit = _unit(problem, router, step, v_usd, None, is_answer=True)
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
    unit.plan_is(Arm(PLAN_ARM, _odds_on_grid(unit.p_plan * p_right), 0.0))
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
    p_steps, cost = _steps_worth(unit.problem, router, unit.v_usd)
    unit.plan_is(Arm(PLAN_ARM, _odds_on_grid(unit.p_plan * p_steps), _on_grid(cost)))
    decision = _decided(unit.beliefs, unit.attempts(), router.settings.horizon, None, unit.waits)
    return decision.action == "decompose"


def _by_plan(
    problem: Problem, plan: Plan, v_usd: float, router: Router, outcome: Outcome, budget: QuestionBudget
) -> Generator[Wave, list[Completion], tuple[str, float]]:
    """The plan's answer, and P(all its steps are right). The steps are asked wave by wave, each a unit; a wrong step
    makes the answer wrong, so that a right one is worth as much as the answer."""
    outcome.plan, outcome.steps = plan, [_open_step(subtask, router) for subtask in plan.subtasks]
    last, p_right = answer_step(problem, plan, router), 1.0
    for wave in plan.waves():
        units = {
            index: _unit(
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


def _open_step(subtask: Subtask, router: Router) -> Step:
    """A step that nobody was asked for yet; the middle solver stands in its row if nobody ever is."""
    return Step(subtask, Choice(router.roster.middle, {}), router.roster.middle)


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
        is_heard = _levels(problem, router, card, is_answer=unit.is_answer) or _floor(router)
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
        decision = _decided(beliefs, unit.attempts(), horizon, unit.decompose, unit.waits)
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
        _note(unit, _decided(nobody_else, unit.attempts(), 0, None), outcome, "verified")
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


def _decided(
    beliefs: "ProfileBeliefs | ScoredBeliefs",
    attempts: Attempts,
    horizon: int,
    decompose: float | None,
    waits: Waits = (),
) -> Decision:
    """The rule's decision, a right answer taken as 1."""
    if isinstance(beliefs, ProfileBeliefs):
        return _shared(beliefs, attempts, horizon, decompose, waits)
    from r2.answering.scored_unit import decided

    return decided(beliefs, attempts, horizon, decompose, waits)


@lru_cache(maxsize=65536)
def _shared(
    beliefs: ProfileBeliefs, attempts: Attempts, horizon: int, decompose: float | None, waits: Waits
) -> Decision:
    """Questions of one kind and of like length share their decisions."""
    made = decide(beliefs, attempts, 1.0, horizon, decompose, LEAST_GAIN, waits, on_outer_hulls)
    if made.arm == PLAN_ARM:
        return replace(made, action="decompose", arm=None, result=None, reason="plan_worth_more", beside=None)
    return replace(made, beside=None) if made.beside == PLAN_ARM else made  # a plan is no call beside another


def _waits(router: Router, cards: Mapping[str, ModelCard], v_usd: float) -> Waits:
    """What waiting for each arm costs, in units of v."""
    if not router.wait_usd:
        return ()
    priced = ((arm, router.wait_usd.get(entry_of(arm), 0.0)) for arm in sorted(cards))
    return tuple((arm, _on_grid(usd / v_usd)) for arm, usd in priced if usd)


def _unit(
    problem: Problem,
    router: Router,
    step: Step,
    v_usd: float,
    subtask_index: int | None,
    *,
    is_answer: bool,
    given: Mapping[int, str] = NOTHING_GIVEN,
) -> Unit:
    """`given`: of a step, the earlier results that it is shown, by the number of their step."""
    task = None if subtask_index is None else step.subtask.text
    kinds = [kind_of(problem.question), problem.benchmark] if task is None else [kind_of(task)]
    cards = _able(problem, router)
    profiled = _beliefs(problem, router, cards, kinds, task, v_usd, is_answer=is_answer)
    scored = _scored(problem, router, cards, kinds, task, given, profiled, v_usd, is_answer=is_answer)
    waits = _waits(router, cards, v_usd)
    unit = Unit(problem, step, scored or profiled, cards, v_usd, subtask_index, is_answer, waits=waits)
    if subtask_index is None and (plan := _plan_arm(problem, router, v_usd)) is not None:
        unit.p_plan, arm = plan
        unit.plan_is(arm)
    return unit


def _scored(
    problem: Problem,
    router: Router,
    cards: Mapping[str, ModelCard],
    kinds: Sequence[str],
    task: str | None,
    given: Mapping[int, str],
    profiled: ProfileBeliefs,
    v_usd: float,
    *,
    is_answer: bool,
) -> "ScoredBeliefs | None":
    """What the router's scorer believes of the unit; None without one, for kinds that it was not trained on, and where
    nobody can say which results are the same."""
    scorer = router.scorer
    if scorer is None or not profiled.has_equality:
        return None
    # Here, because numpy takes a while to load.
    from r2.answering.scored_unit import ANY_STEP, kind_for, scored_beliefs, step_unit

    kind = kind_for(scorer, kinds if task is None else [*kinds, ANY_STEP], is_question=task is None)
    if kind is None:
        return None
    calls = _calls(problem, router, cards, task, given, is_answer=is_answer)
    prompts = {name: call.messages for name, call in calls.items()}
    shown = problem if task is None else step_unit(problem, task, tuple(given.values()))
    return scored_beliefs(scorer, shown, kind, profiled.known, cards, prompts, v_usd)


def _beliefs(
    problem: Problem,
    router: Router,
    cards: Mapping[str, ModelCard],
    kinds: Sequence[str],
    task: str | None,
    v_usd: float,
    *,
    is_answer: bool,
) -> ProfileBeliefs:
    """What is believed of the question (`task` None), or of a step, before anybody was asked."""
    calls = _calls(problem, router, cards, task, is_answer=is_answer)
    steps = steps_of(problem.question) if task is None else NO_STEPS
    eases = eases_of(cards.values(), (*kinds, *steps))
    arms = []
    for name, card in sorted(cards.items()):
        n_tokens = reply_tokens(problem, router, card.prompt_mode, is_answer=is_answer)
        cost = _on_grid(call_usd(card, calls[name].messages, n_tokens) / v_usd)
        p_right = prior(card, kinds, steps, eases)
        if name.endswith(STEP_BY_STEP):
            p_right = 1 - (1 - p_right) * ERRORS_LEFT
        arms.append(Arm(name, p_right, cost, _levels(problem, router, card, is_answer=is_answer), card.weights))
    return ProfileBeliefs(
        tuple(arms),
        kappa_of(n_choices(problem, is_answer=is_answer)),
        has_equality(problem, router, is_answer=is_answer),
        SPREAD,
    )


def _calls(
    problem: Problem,
    router: Router,
    cards: Mapping[str, ModelCard],
    task: str | None,
    given: Mapping[int, str] = NOTHING_GIVEN,
    *,
    is_answer: bool,
) -> dict[str, Call]:
    """The call that would ask each arm, as far as its prompt goes: arms that are asked in one way share it."""
    said: dict[tuple[PromptMode, bool], Call] = {}
    found = {}
    for name, card in sorted(cards.items()):
        way = card.prompt_mode, card.guided
        if way not in said:
            entry, mode = entry_of(name), card.prompt_mode
            said[way] = solver_call(problem, router, entry, task, given, "solve", mode=mode, is_answer=is_answer)
        found[name] = said[way]
    return found


def _able(problem: Problem, router: Router) -> dict[str, ModelCard]:
    """Who can be asked, by the arm's name: the solvers, and the strongest one thinking step by step, which a right
    answer's worth is measured by. Of them those that can hold the question, all where none can; those that give
    log-probabilities where the row wants them."""
    roster = router.roster
    cards = {card.name: card for card in roster.solvers}
    reference = roster[roster.step_by_step(roster.strongest)]
    if reference.prompt_mode == "cot":
        cards[reference.name] = reference
    elif reference.prompt_mode == "direct":
        cards[reference.name + STEP_BY_STEP] = replace(reference, prompt_mode="cot")
    if is_whole(problem, router):  # what a program prints is a result, and no text
        cards = {name: card for name, card in cards.items() if card.prompt_mode != "program"} or cards
    if problem.asked is not None and problem.asked.logprobs:
        cards = {name: card for name, card in cards.items() if card.has_logprobs} or cards
    said = (("user", problem.question + problem.context),)
    n_wanted = router.settings.max_answer_tokens if is_whole(problem, router) else router.settings.cot_tokens
    return {name: card for name, card in cards.items() if card.can_hold(said, n_wanted)} or cards


def entry_of(arm: str) -> str:
    """The pool entry that an arm asks."""
    return arm.removesuffix(STEP_BY_STEP)


def _on_grid(ratio: float) -> float:
    """The next value of the grid, in steps of `COST_GRID` of itself."""
    return math.exp(COST_GRID * round(math.log(ratio) / COST_GRID)) if ratio > 0 else 0.0


def _odds_on_grid(p: float) -> float:
    """A probability with its odds on that grid."""
    odds = _on_grid(min(MOST, max(LEAST, p)) / (1 - min(MOST, max(LEAST, p))))
    return odds / (1 + odds)


def _levels(problem: Problem, router: Router, card: ModelCard, *, is_answer: bool) -> tuple[Level, ...]:
    """How confidence tells, of this entry at this unit; () where its endpoint does not say how sure it is, and for
    answers in full, whose tokens say little and weigh much."""
    if not card.has_logprobs or (is_answer and is_whole(problem, router)):
        return ()
    return _LEVELS.get(card.prompt_mode, SHORT_REPLIES)


def _plan_arm(problem: Problem, router: Router, v_usd: float) -> tuple[float, Arm] | None:
    """Decomposing the question as one more arm: P(the plan is right), and what it all is expected to come to, cost in
    units of v. None where nothing is known of the decomposer, or of the steps that such a question has."""
    decomposer = router.roster[router.decomposer]
    p_plan = _p_plan(decomposer)
    if p_plan is None or not steps_of(problem.question):
        return None
    messages = decompose_messages(problem, decomposer.prompt_mode)
    p_steps, cost = _steps_worth(problem, router, v_usd)
    cost += call_usd(decomposer, messages, PLAN_TOKENS) / v_usd
    return p_plan, Arm(PLAN_ARM, _odds_on_grid(p_plan * p_steps), _on_grid(cost))


def _steps_worth(problem: Problem, router: Router, v_usd: float) -> tuple[float, float]:
    """What the steps that the question's form shows are expected to come to: P(all are right), and their cost, of each
    step that of the entry that is asked first."""
    p_right, cost = 1.0, 0.0
    waits = _waits(router, _able(problem, router), v_usd)
    for n, beliefs in _step_beliefs(problem, router, v_usd):
        first = _decided(beliefs, (), router.settings.horizon, None, waits)
        p_right, cost = p_right * (first.value_usd + first.cost_usd) ** n, cost + n * first.cost_usd
    return p_right, cost


def _step_beliefs(problem: Problem, router: Router, v_usd: float) -> list[tuple[int, ProfileBeliefs]]:
    """How many steps of each kind the question's form shows, with what is believed of one."""
    cards = _able(problem, router)
    return [
        (n, _beliefs(problem, router, cards, [kind], problem.question, v_usd, is_answer=False))
        for kind, n in steps_of(problem.question).items()
    ]


def _p_plan(decomposer: ModelCard) -> float | None:
    if PLAN_SKILL in decomposer.skills:
        return prior(decomposer, [PLAN_SKILL])
    is_trained = decomposer.prompt_mode == "bare" and not decomposer.is_solver
    return P_TRAINED_PLAN if is_trained else None
