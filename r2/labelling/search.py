"""Grouped search for the cheapest right allocation of a plan (paper, allocation data, Eq. 7; docs/method.md, section
3.1). A generator of waves.

Confidence in each subtask decides the tier it starts in; from there the search goes down while the answer stays right,
or up until it becomes right. Ours: M_eval's own right execution counts as one that was tried; it does not end the
search, also where it is the cheapest model's, because what is not tried teaches nothing; misses are counted per
subtask, not over the plan, so that one hard subtask does not keep the others dear; a climb is followed by a descent; a
subtask also steps past a model that is right but no cheaper in this plan.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace

from r2.answering.confidence import agreement, token_confidence
from r2.answering.protocol import Router, Wave
from r2.call import Completion
from r2.labelling.execution import Execution, Memory, execute_repeatedly, remembered
from r2.plan import Plan
from r2.problem import Problem
from r2.roster import TIERS, Roster
from r2.settings import Labelling


def start_models(confidences: Sequence[float], roster: Roster, settings: Labelling) -> list[str]:
    """The middle solver of each subtask's tier; where the pool has none of that tier, of the next one up, else down."""
    chosen = []
    for confidence in confidences:
        at = 0 if confidence >= settings.tau_easy else 1 if confidence >= settings.tau_medium else 2
        order = [*TIERS[at:], *reversed(TIERS[:at])]
        solvers = next(group for tier in order if (group := [s.name for s in roster.solvers if s.tier == tier]))
        chosen.append(solvers[(len(solvers) - 1) // 2])
    return chosen


Searching = Generator[Wave, list[Completion], list[Execution]]


def search_allocation(
    problem: Problem,
    plan: Plan,
    confidences: Sequence[float],
    router: Router,
    settings: Labelling,
    memory: Memory,
    known: Execution | None = None,
) -> Searching:
    """Every execution that was tried, in order; the target is the cheapest right one (`cheapest_right`).

    `known` is M_eval's execution of the plan, right or wrong. It is paid already; where it is right it is among the
    results, and after a failed climb the descent starts from it.
    """
    names = [card.name for card in router.roster.solvers]
    known = known if known is not None and set(known.models) <= set(names) else None
    at = [names.index(name) for name in start_models(confidences, router.roster, settings)]
    tried: dict[tuple[int, ...], Execution] = {}

    def attempt(places: Sequence[int]) -> Generator[Wave, list[Completion], Execution]:
        key = tuple(places)
        if key not in tried:
            executing = execute_repeatedly(problem, plan, [names[i] for i in key], router)
            tried[key] = yield from remembered(executing, memory)
        return tried[key]

    best = yield from attempt(at)
    climbing = sorted(range(len(at)), key=lambda i: confidences[i])
    while not best.is_correct and any(i < len(names) - 1 for i in at):
        for index in climbing:
            if at[index] < len(names) - 1:
                at[index] += 1
                best = yield from attempt(at)
                if best.is_correct:
                    break
    if known is not None and known.is_correct and not best.is_correct:
        at, best = [names.index(name) for name in known.models], known
    if not best.is_correct:
        return list(tried.values())
    for index in sorted(range(len(at)), key=lambda i: -confidences[i]):
        place, misses = at[index], 0
        while place > 0 and misses < settings.max_misses:
            place -= 1
            trial = yield from attempt([*at[:index], place, *at[index + 1 :]])
            if not trial.is_correct:
                misses += 1
                continue
            misses = 0
            if trial.cost_usd <= best.cost_usd:
                at[index], best = place, trial
    runs = list(tried.values())
    is_listed = known is None or not known.is_correct or any(run.models == known.models for run in runs)
    return runs if known is None or is_listed else [*runs, known]


def cheapest_right(tried: Sequence[Execution]) -> int | None:
    """Index of the target; None where nothing was right."""
    right = [i for i, run in enumerate(tried) if run.is_correct]
    return min(right, key=lambda i: tried[i].cost_usd, default=None)


def probe(
    problem: Problem, run: Execution, router: Router, settings: Labelling, memory: Memory
) -> Generator[Wave, list[Completion], tuple[tuple[float, ...], str]]:
    """Confidence in each subtask that M_eval's execution came to, and where it comes from: `logprobs`, or `agreement`
    over further answers."""
    listed = [token_confidence(completion, settings.alpha) for completion in run.completions]
    known = tuple(confidence for confidence in listed if confidence is not None)
    if len(known) == len(listed):
        return known, "logprobs"
    samples = [
        replace(call, top_logprobs=0, temperature=settings.temperature, seed=1 + router.settings.seed, sample_index=n)
        for call in run.calls
        for n in range(1, settings.n_agreement + 1)
    ]
    completions = yield from memory.ask(samples)
    n = settings.n_agreement
    return tuple(
        agreement([first.text, *(c.text for c in completions[i * n : i * n + n])], problem)
        for i, first in enumerate(run.completions)
    ), "agreement"
