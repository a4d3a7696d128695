"""Driving the reasoning: a generator of waves on one side, something that completes calls on the other.

`drive` answers one problem, `drive_all` many with a bounded number in flight, from an iterator and without a task per
row.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from r2.answering.protocol import Outcome, Solving, Trajectory, Wave
from r2.call import Call, Completion
from r2.problem import Problem

Complete = Callable[[Call], Coroutine[Any, Any, Completion]]
CompleteAll = Callable[[Wave], Coroutine[Any, Any, list[Completion]]]


@dataclass(frozen=True, slots=True)
class _Ended:
    outcome: Outcome


class Beside(Protocol):
    """Runs what may block away from the event loop, and gives back what it returns (`tasks/blocking.py`)."""

    def __call__(
        self, work: Callable[[Solving, list[Completion] | None], Wave | _Ended], /, *args: Any
    ) -> Coroutine[Any, Any, Wave | _Ended]: ...


async def drive(
    problem: Problem,
    solving: Solving,
    complete: Complete,
    beside: Beside | None = None,
    complete_all: CompleteAll | None = None,
) -> Trajectory:
    """Runs one generator to its end; the calls of a wave are made at the same time: by `complete_all` where it is
    given, which takes several at once.

    `beside` is for a generator that blocks between its waves, as labelling does where it checks answers.
    """
    waves: list[tuple[tuple[Call, Completion], ...]] = []
    completions: list[Completion] | None = None
    while True:
        wave = _next(solving, completions) if beside is None else await beside(_next, solving, completions)
        if isinstance(wave, _Ended):
            return Trajectory(problem, wave.outcome, tuple(waves))
        if len(wave) == 1:
            completions = [await complete(wave[0])]
        elif complete_all is not None:
            completions = await complete_all(wave)
        else:
            completions = await _together([complete(call) for call in wave])
        waves.append(tuple(zip(wave, completions, strict=True)))


def _next(solving: Solving, completions: list[Completion] | None) -> Wave | _Ended:
    """The next wave, or how the problem ended. None for the first step."""
    try:
        return next(solving) if completions is None else solving.send(completions)
    except StopIteration as end:
        return _Ended(end.value)


async def drive_all(
    problems: Iterable[Problem],
    answer: Callable[[Problem], Coroutine[Any, Any, None]],
    *,
    slots: asyncio.Semaphore,
    max_workers: int,
) -> None:
    """Calls `answer` for each problem, at most `max_workers` here and as many as `slots` allows over all callers that
    share it.

    `problems` is read only as workers become free, so memory does not grow with the input. The first exception (a bug
    or a full disk; failed calls are data) cancels the rest and is raised.
    """
    pending = iter(problems)

    async def worker() -> None:
        while True:
            async with slots:
                problem = next(pending, None)
                if problem is None:
                    return
                await answer(problem)

    async with asyncio.TaskGroup() as workers:
        for _ in range(max_workers):
            workers.create_task(worker())


async def _together(coroutines: list[Coroutine[Any, Any, Completion]]) -> list[Completion]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
    return [task.result() for task in tasks]
