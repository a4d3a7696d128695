"""What every way to answer shares: waves of calls, steps, outcome, trajectory, the router, and the question's budget.
No I/O."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from r2.answering.allocation import Choice
from r2.answering.lookahead import Decision
from r2.answering.programs import WORST_USD, asks_for_program, runs_of, with_results
from r2.answering.query_router import QueryRouter
from r2.answering.question_shape import ASSUMED, Shape
from r2.call import ROUTER_PURPOSES, Call, Completion
from r2.errors import failure
from r2.ledger import worst_cost_usd
from r2.plan import Plan, Subtask
from r2.problem import Problem
from r2.problems.benchmark import judge
from r2.problems.own_check import OwnCheck, Verdict
from r2.problems.schema import AnswerSchema
from r2.roster import LEAST_ROOM, UNBOUNDED, ModelCard, Roster
from r2.settings import Reasoning

if TYPE_CHECKING:  # it needs numpy, which only a run with a scorer waits for
    from r2.answering.scorer import Scorer

TrialKind = Literal["plan", "allocation"]


@dataclass(slots=True)
class Trial:
    """What was tried for one problem.

    A plan that was not executed (no plan in the teacher's text, or the same as an earlier candidate's) has `error_type`
    set and no scores. `models` names the pool entry of each subtask; `cost_usd` is what its execution costs by itself,
    also where its calls had been made by an earlier trial and were not paid again.
    """

    kind: TrialKind
    index: int
    plan: str
    n_subtasks: int = 0
    models: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    confidence_source: str | None = None
    conciseness: float | None = None
    practicality: float | None = None
    coherence: float | None = None
    score: float | None = None
    judge: str | None = None
    output_tokens: int = 0
    answer: str | None = None
    is_correct: bool | None = None
    cost_usd: float = 0.0
    is_target: bool = False
    error_type: str | None = None
    n_executions: int | None = None
    """How often it was executed, and how many of these were right: more than once where a model is stochastic."""
    n_right: int | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """One decision of a question. `subtask_index` None: about the question itself. `v_usd`: what a right result is
    worth; every amount of `decision` is in units of it. `arm`: who is asked; None: nobody. `reason`: the rule's, or
    what bound it: `escalations_spent` (the bound on further asks), `budget` (the question's cap), `unsure` (a result
    below `min_confidence`), `verified` (the user's verifier took it)."""

    subtask_index: int | None
    n_attempts: int
    v_usd: float
    decision: Decision
    arm: str | None
    reason: str


@dataclass(slots=True)
class Step:
    """One executed subtask. `text` is the accepted result, None if there is none; `is_cut`: it ends at its limit, and
    nobody stronger had a whole one."""

    subtask: Subtask
    choice: Choice
    model: str
    text: str | None = None
    n_asks: int = 0
    error_type: str | None = None
    is_cut: bool = False
    value: str | None = None
    """The JSON of a result that had to match a schema, in its shortest form."""
    misfit: str = ""
    """How what came last does not match its schema."""
    confidence: float | None = None
    """How sure the model was of its last reply; None where its token probabilities were not asked for."""


CUT_ANSWER = "cut_answer"
"""The failed check of an answer that ends at its limit and is the best there was."""
NO_LOGPROBS = "no_logprobs"
"""The failed check of a question whose log-probabilities, promised by the pool file, did not come."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the answers that a row asked for. `logprobs`, where it wants them: (token, natural-log probability,
    alternatives best first) of each token."""

    text: str
    finish: str
    logprobs: tuple[tuple[str, float, tuple[tuple[str, float], ...]], ...] = ()


@dataclass(slots=True)
class Outcome:
    """How a problem ended. `error_type` is None exactly when `answer` is not. `is_cut` is that of a final call's
    answer, None where there was none: then the last step's counts."""

    answer: str | None = None
    plan: Plan | None = None
    steps: list[Step] = field(default_factory=list)
    n_escalations: int = 0
    failed_checks: list[str] = field(default_factory=list)
    error_type: str | None = None
    error_message: str | None = None
    is_cut: bool | None = None
    trials: list[Trial] = field(default_factory=list)
    """What labelling tried, right or wrong; empty for every way to answer."""
    decisions: list[Decided] = field(default_factory=list)
    """Of the rule of sequential routing, in order; empty where it does not route."""
    verdict: Verdict | None = None
    """Of the user's own check; None where there is none, and the benchmark's check judges."""
    value: str | None = None
    """The JSON of an answer that had to match a schema, in its shortest form."""
    check_error: str | None = None
    """Why the user's own check, at run time or after it, gave no verdict."""
    answers: list[Answer] = field(default_factory=list)
    """Of a row that asks for several answers, or for log-probabilities; the first is `answer`."""
    notes: list[str] = field(default_factory=list)
    """What the row asked for and could not be given, in words."""

    @property
    def status(self) -> str:
        if self.error_type is None:
            return "answered"
        return "deferred" if failure(self.error_type).defers else "failed"


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One problem answered once: how it ended, and every wave of calls with their completions, in order."""

    problem: Problem
    outcome: Outcome
    waves: tuple[tuple[tuple[Call, Completion], ...], ...]

    @property
    def pairs(self) -> list[tuple[Call, Completion]]:
        """Every call with its completion, in the order of asking."""
        return [pair for wave in self.waves for pair in wave]

    @property
    def cost_usd(self) -> float:
        """Every attempt of every call, the router's own included."""
        return sum(completion.cost_usd for _, completion in self.pairs)

    @property
    def router_cost_usd(self) -> float:
        """Of it, the calls that decompose and allocate."""
        return sum(completion.cost_usd for call, completion in self.pairs if call.purpose in ROUTER_PURPOSES)

    @property
    def saved_usd(self) -> float:
        """What the calls would have cost that another run had paid for."""
        return sum(completion.saved_usd for _, completion in self.pairs)

    @property
    def answering_cost_usd(self) -> float:
        """Of it, what the answer cost: without the calls of whoever judged it."""
        return sum(completion.cost_usd for call, completion in self.pairs if call.purpose != "judge")

    @property
    def is_correct(self) -> bool | None:
        """The verdict of the user's own check, else the benchmark's; False where there is no answer, None where there
        is nothing to check against, or the own check failed."""
        if self.outcome.verdict is not None:
            return self.outcome.verdict.is_right
        return self.is_correct_by_gold

    @property
    def is_correct_by_gold(self) -> bool | None:
        """The benchmark's check, whatever an own check says."""
        if self.problem.target is None:
            return None
        return self.outcome.answer is not None and judge(self.problem, self.outcome.answer)

    @property
    def is_right(self) -> bool:
        """The answer passed the check."""
        return self.is_correct is True

    @property
    def right(self) -> float:
        """1 for a right answer, 0 for any other; of an own check the number it gave."""
        verdict = self.outcome.verdict
        return float(self.is_right) if verdict is None else verdict.score or 0.0


Wave = list[Call]


Solving = Generator[Wave, list[Completion], Outcome]


Answering = Generator[Wave, list[Completion], str]
"""A way to answer without its ending: what `concluded` turns into a Solving."""


@dataclass(frozen=True, slots=True)
class Router:
    """The pool's roster with the entries that play the router's parts. `finalizer` None: the last step is the answer.

    `query_router` is read from its file by whoever makes the router; only the method of that name needs it.
    """

    roster: Roster
    decomposer: str
    allocator: str
    finalizer: str | None
    settings: Reasoning
    query_router: QueryRouter | None = None
    second_decomposer: str | None = None
    """Who plans again where the first plan fails its check (r2/answering/plan_check.py); None: nobody, and plans are
    not checked."""
    check: OwnCheck | None = None
    """The user's own, which judges in place of the benchmark's."""
    verify: OwnCheck | None = None
    """The same at run time: what it refuses goes to a stronger model."""
    system: str = ""
    """The user's own system text, of the calls that answer the question."""
    schema: AnswerSchema | None = None
    """What every answer must match; a row's own goes before it."""
    composes: bool = True
    """A plan of a row without a benchmark ends with a final call, whoever the finalizer is."""
    expects_free: bool = False
    """Of an estimate: for rows without a benchmark. The next two are of estimates, too."""
    shape: Shape = ASSUMED
    """What the questions look like."""
    lost_share: Mapping[str, float] = field(default_factory=dict)
    """Pool entry -> attempts per answered call that are charged at the most they may cost, beside what the call costs;
    of entries that state it."""
    scorer: "Scorer | None" = None
    """What the rule believes, where it is trained; None: profiles."""
    wait_usd: Mapping[str, float] = field(default_factory=dict)
    """Pool entry -> what waiting for one batch job of it is worth to the user; empty: waiting is free."""
    cannot_run: str = ""
    """Which entries are left out because this machine cannot run programs, and why; "" where none is."""
    scorer_misfit: str = ""
    """Why a scorer that was asked for is not used."""

    @property
    def blocks(self) -> bool:
        """An own check may take seconds, and a scorer's look-ahead tenths of one: a generator with this router is run
        beside the event loop."""
        return self.scorer is not None or any(
            check is not None and check.is_slow for check in (self.check, self.verify)
        )


class Stop(Exception):
    """Ends a problem from anywhere below its generator, which turns it into an Outcome."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


def concluded(
    answering: "Callable[[Problem, Router, Outcome, QuestionBudget], Answering]", problem: Problem, router: Router
) -> Solving:
    """A way to answer with its ending: the text it returns is the answer, a `Stop` below it is why there is none."""
    outcome, budget = Outcome(), QuestionBudget(router)
    try:
        refuse_what_fits_nowhere(problem, router.roster)
        outcome.answer = yield from answering(problem, router, outcome, budget)
    except Stop as stop:
        outcome.error_type, outcome.error_message = stop.error_type, str(stop)
    if outcome.is_cut is None:
        outcome.is_cut = bool(outcome.steps) and outcome.steps[-1].is_cut
    if outcome.value is None and outcome.answer is not None and outcome.steps:
        outcome.value = outcome.steps[-1].value
    if outcome.is_cut and outcome.answer is not None:
        outcome.failed_checks.append(CUT_ANSWER)
    if budget.lacks_logprobs:
        outcome.failed_checks.append(NO_LOGPROBS)
    return outcome


class QuestionBudget:
    """The per-question budget: what was spent, which models a further call may still go to, and what each call may cost
    with all its attempts."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.cap_usd = router.settings.max_cost_per_question_usd
        self.spent_usd = 0.0
        self.lacks_logprobs = False
        """A completion came without the log-probabilities that its entry promises and the call asked for."""

    def fitting(self, wave: Wave) -> Wave:
        """The wave with calls that their model cannot hold sent to one that can: the next stronger solver, else the
        next weaker one; where none surely can, to the one with the longest context. A limit beyond the room that is
        left is cut to it. The router's own calls and judgements stay where they are. `Stop` where the call surely fits
        nowhere."""
        return [self._fitted(call) for call in wave]

    def _fitted(self, call: Call) -> Call:
        roster = self.router.roster
        card = roster[call.model]
        if card.room(call.messages) >= call.max_output_tokens and card.sent_output_limit is None:
            return call
        if not card.can_hold(call.messages, call.max_output_tokens) and call.purpose in ("solve", "final"):
            names = [each.name for each in roster.solvers]
            at = names.index(card.name) if card.name in names else -1
            others = [*roster.solvers[at + 1 :], *reversed(roster.solvers[: max(at, 0)])]
            holding = next((each for each in others if each.can_hold(call.messages, call.max_output_tokens)), None)
            card = holding or max([card, *others], key=lambda each: each.room(call.messages))
            if card.is_too_long(call.messages):
                raise Stop("context_length", too_long(call.messages, card))
        room = card.room(call.messages)
        limit = call.max_output_tokens if room < LEAST_ROOM else min(call.max_output_tokens, room)
        if card.name == call.model and limit == call.max_output_tokens:
            return call
        return replace(call, model=card.name, max_output_tokens=limit)

    def affordable(self, wave: Wave) -> Wave:
        """The wave with calls that could pass the cap sent to the strongest cheaper solver that cannot. `Stop` if there
        is none."""
        if self.cap_usd is None:
            return wave
        left = self.cap_usd - self.spent_usd
        kept: list[tuple[Call, float]] = []
        for call in wave:
            call, cost = self._within(call, left)
            left -= cost
            kept.append((call, cost))
        # What is left over may go into retries and fallbacks, an equal share for each call.
        return [replace(call, max_cost_usd=cost + left / len(kept)) for call, cost in kept]

    def _within(self, call: Call, left_usd: float) -> tuple[Call, float]:
        roster = self.router.roster
        cheaper = [
            c.name
            for c in reversed(roster.solvers)
            if c.blended_price < roster[call.model].blended_price and c.can_hold(call.messages, call.max_output_tokens)
        ]
        for name in [call.model, *cheaper]:
            cost = self._worst_usd(call, name)
            if cost <= left_usd:
                return replace(call, model=name), cost
        raise Stop(
            "question_budget",
            f"the next {call.purpose} call could pass the question's cap of {self.cap_usd} USD ({self.spent_usd:.6f} "
            f"spent) with its limit of {call.max_output_tokens} tokens; raise --max-cost-per-question-usd, lower "
            "--max-answer-tokens or add a cheaper model",
        )

    def is_too_long(self, call: Call) -> bool:
        """Whether the prompt surely does not fit the model that it is for: then it is not sent."""
        return self.router.roster[call.model].is_too_long(call.messages)

    def fits(self, call: Call) -> bool:
        """Whether the call can go to the model it names, and not to a cheaper one."""
        if self.cap_usd is None:
            return True
        return self._worst_usd(call, call.model) <= self.cap_usd - self.spent_usd

    def _worst_usd(self, call: Call, name: str) -> float:
        card = self.router.roster[name]
        return worst_cost_usd(card.price, card.worst_case(call.messages, call.max_output_tokens, call.json_schema))

    def pay(self, completions: Sequence[Completion]) -> None:
        self.spent_usd += sum(completion.cost_usd + completion.lost_usd for completion in completions)

    def hold_to_promises(self, answered: Sequence[tuple[Call, Completion]]) -> None:
        """Notes whether log-probabilities came where they were asked for."""
        for call, completion in answered:
            if call.top_logprobs and completion.text and not completion.token_logprobs:
                card = self.router.roster.by_name.get(completion.model or call.model)
                self.lacks_logprobs = self.lacks_logprobs or (card is not None and card.has_logprobs)


def too_long(messages: Sequence[tuple[str, str]], card: ModelCard) -> str:
    """What to say of a prompt that fits no model; `card` has the longest context."""
    n_bytes = sum(len(text.encode("utf-8", "replace")) for _, text in messages)
    return (
        f"the prompt of {n_bytes} bytes has more tokens than the longest context of the pool, {card.context_tokens} "
        f"({card.name}). Nothing was sent. Shorten it, or add a model that can hold it."
    )


def refuse_what_fits_nowhere(problem: Problem, roster: Roster) -> None:
    """`Stop`, before anything is paid, for a question that surely fits no solver's context."""
    said = (("user", problem.question + problem.context),)
    longest = max(roster.solvers, key=lambda card: card.context_tokens if card.states_context else UNBOUNDED)
    if longest.is_too_long(said):
        raise Stop("context_length", too_long(said, longest))


def unsent_call(call: Call, roster: Roster) -> Completion:
    """The outcome of a call that is not sent because its prompt surely does not fit."""
    message = too_long(call.messages, roster[call.model])
    return Completion("", call.model, (), "", error_type="context_length", error_message=message)


def ask(
    wave: Wave, budget: QuestionBudget, *, may_escalate: bool = False
) -> Generator[Wave, list[Completion], list[tuple[Call, Completion]]]:
    """Sends a wave within the budget. `Stop`, and the question is deferred, where a completion failed in a way that
    says nothing about the question (column `defers` of `CALL_FAILURES`).

    `may_escalate`: the caller asks a stronger model for a step that failed, or has a result of it already, so that
    failures which a stronger model may not have are returned as well.
    """
    wave = budget.affordable(budget.fitting(wave))
    unsent = {i: unsent_call(call, budget.router.roster) for i, call in enumerate(wave) if budget.is_too_long(call)}
    sent = [call for i, call in enumerate(wave) if i not in unsent]
    replies = iter((yield sent) if sent else [])
    completions = [unsent[i] if i in unsent else next(replies) for i in range(len(wave))]
    budget.pay(completions)
    answered = list(zip(wave, completions, strict=True))
    budget.hold_to_promises(answered)
    _stop_at_outages(completions, may_escalate=may_escalate)
    if not any(asks_for_program(call) for call in wave):
        return answered
    return (yield from _with_programs_run(answered, budget))


def _stop_at_outages(completions: Sequence[Completion], *, may_escalate: bool) -> None:
    for completion in completions:
        failed = failure(completion.error_type)
        if failed.defers and not (may_escalate and failed.stronger_model):
            raise Stop(completion.error_type or "", completion.error_message or "")


def _with_programs_run(
    answered: Sequence[tuple[Call, Completion]], budget: QuestionBudget
) -> Generator[Wave, list[Completion], list[tuple[Call, Completion]]]:
    """The same with what came of the programs among the replies, all run in one wave."""
    runs = runs_of(answered)
    wave = [run for run in runs if run is not None]
    if budget.cap_usd is not None and wave and budget.spent_usd + WORST_USD * len(wave) > budget.cap_usd:
        raise Stop(
            "question_budget",
            f"running the program that was written could pass the question's cap of {budget.cap_usd} USD "
            f"({budget.spent_usd:.6f} spent); raise --max-cost-per-question-usd",
        )
    ran = (yield wave) if wave else []
    budget.pay(ran)
    _stop_at_outages(ran, may_escalate=False)
    return [(call, got) for (call, _), got in zip(answered, with_results(answered, runs, ran), strict=True)]
