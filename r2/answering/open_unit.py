"""A unit before anybody was asked: who can be asked, what is believed of each, and what decomposing is expected to come
to; and the rule's decision in a state of it (docs/method.md, section 10; ours). Pure.

Used by r2/answering/sequential.py, which asks, and by r2/answering/worth.py, which works out what asking comes to.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from r2.answering.allocation import Choice
from r2.answering.attempts import Attempts
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
    eases_of,
    kappa_of,
    prior,
)
from r2.answering.expected_cost import PLAN_TOKENS, call_usd, reply_tokens
from r2.answering.lookahead import Decision, Waits, decide, on_outer_hulls
from r2.answering.prompts import decompose_messages
from r2.answering.protocol import Router, Step
from r2.answering.route import solver_call
from r2.answering.same_result import has_equality, n_choices
from r2.answering.unit import Unit
from r2.answering.wanted import is_whole
from r2.call import Call
from r2.plan import Subtask
from r2.problem import Problem
from r2.problems.kind import kind_of, steps_of
from r2.roster import PLAN_SKILL, ModelCard, PromptMode

if TYPE_CHECKING:
    from r2.answering.scored import ScoredBeliefs

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
_LEVELS: Final = {"cot": LONG_REPLIES, "bare": TRAINED_REPLIES}
NOTHING_GIVEN: Final[Mapping[int, str]] = {}
COST_GRID: Final = 0.1
"""Costs are rounded to steps of this, relative, so that like questions share their decisions."""


def open_step(subtask: Subtask, router: Router) -> Step:
    """A step that nobody was asked for yet; the middle solver stands in its row if nobody ever is."""
    return Step(subtask, Choice(router.roster.middle, {}), router.roster.middle)


def unit_of(
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
    cards = able(problem, router)
    profiled = _beliefs(problem, router, cards, kinds, task, v_usd, is_answer=is_answer)
    scored = _scored(problem, router, cards, kinds, task, given, profiled, v_usd, is_answer=is_answer)
    waits = waits_of(router, cards, v_usd)
    unit = Unit(problem, step, scored or profiled, cards, v_usd, subtask_index, is_answer, waits=waits)
    if subtask_index is None and (plan := _plan_arm(problem, router, v_usd)) is not None:
        unit.p_plan, arm = plan
        unit.plan_is(arm)
    return unit


def able(problem: Problem, router: Router) -> dict[str, ModelCard]:
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


def waits_of(router: Router, cards: Mapping[str, ModelCard], v_usd: float) -> Waits:
    """What waiting for each arm costs, in units of v."""
    if not router.wait_usd:
        return ()
    priced = ((arm, router.wait_usd.get(entry_of(arm), 0.0)) for arm in sorted(cards))
    return tuple((arm, on_grid(usd / v_usd)) for arm, usd in priced if usd)


def decided(
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
        cost = on_grid(call_usd(card, calls[name].messages, n_tokens) / v_usd)
        p_right = prior(card, kinds, steps, eases)
        if name.endswith(STEP_BY_STEP):
            p_right = 1 - (1 - p_right) * ERRORS_LEFT
        arms.append(Arm(name, p_right, cost, levels_of(problem, router, card, is_answer=is_answer), card.weights))
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
    said: dict[tuple[PromptMode, bool, tuple[tuple[str, str], ...]], Call] = {}
    found = {}
    for name, card in sorted(cards.items()):
        way = card.prompt_mode, card.guided, card.examples
        if way not in said:
            entry, mode = entry_of(name), card.prompt_mode
            said[way] = solver_call(problem, router, entry, task, given, "solve", mode=mode, is_answer=is_answer)
        found[name] = said[way]
    return found


def levels_of(problem: Problem, router: Router, card: ModelCard, *, is_answer: bool) -> tuple[Level, ...]:
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
    p_steps, cost = steps_worth(problem, router, v_usd)
    cost += call_usd(decomposer, messages, PLAN_TOKENS) / v_usd
    return p_plan, Arm(PLAN_ARM, odds_on_grid(p_plan * p_steps), on_grid(cost))


def steps_worth(problem: Problem, router: Router, v_usd: float) -> tuple[float, float]:
    """What the steps that the question's form shows are expected to come to: P(all are right), and their cost, of each
    step that of the entry that is asked first."""
    p_right, cost = 1.0, 0.0
    waits = waits_of(router, able(problem, router), v_usd)
    for n, beliefs in step_beliefs(problem, router, v_usd):
        first = decided(beliefs, (), router.settings.horizon, None, waits)
        p_right, cost = p_right * (first.value_usd + first.cost_usd) ** n, cost + n * first.cost_usd
    return p_right, cost


def step_beliefs(problem: Problem, router: Router, v_usd: float) -> list[tuple[int, ProfileBeliefs]]:
    """How many steps of each kind the question's form shows, with what is believed of one."""
    cards = able(problem, router)
    return [
        (n, _beliefs(problem, router, cards, [kind], problem.question, v_usd, is_answer=False))
        for kind, n in steps_of(problem.question).items()
    ]


def _p_plan(decomposer: ModelCard) -> float | None:
    if PLAN_SKILL in decomposer.skills:
        return prior(decomposer, [PLAN_SKILL])
    is_trained = decomposer.prompt_mode == "bare" and not decomposer.is_solver
    return P_TRAINED_PLAN if is_trained else None


def on_grid(ratio: float) -> float:
    """The next value of the grid, in steps of `COST_GRID` of itself."""
    return math.exp(COST_GRID * round(math.log(ratio) / COST_GRID)) if ratio > 0 else 0.0


def odds_on_grid(p: float) -> float:
    """A probability with its odds on that grid."""
    odds = on_grid(min(MOST, max(LEAST, p)) / (1 - min(MOST, max(LEAST, p))))
    return odds / (1 + odds)
