"""Runs the programs that models write (r2/answering/programs.py), as the pool client answers a call: within the money
caps, as many at once as there are cores, in threads beside the event loop."""

import asyncio
import os
import threading
import time

from r2.answering.programs import LIMITS, WORST_USD, code_of, ran_program
from r2.call import Attempt, Call, Completion
from r2.pool.client.ports import CallJournal
from r2.pool.limits.ports import Money
from r2.problems.sandbox import CheckStopped, ProgramResult, run_program, stop_of_checks


class Programs:
    """The runs of one client."""

    def __init__(self, money: Money | None) -> None:
        self.spent_usd = 0.0
        """What the runs of this process cost."""
        self._money = money
        self._turns = asyncio.Semaphore(os.cpu_count() or 1)
        self._stopping = threading.Event()
        self._is_stopped = False

    async def run(self, call: Call, key: str, journal: CallJournal, problem_id: str = "") -> Completion:
        """The run as a completion, durable in the journal. `stopped` and `budget_exhausted` where it was not run.
        ConfigError where there is no sandbox."""
        if self._money is not None and not await self._money.reserve(WORST_USD):
            return _not_run(call, "budget_exhausted", f"USD {WORST_USD:.6f} that a program may cost pass a money cap")
        cost_usd = 0.0
        try:
            async with self._turns:
                if self._is_stopped:
                    return _not_run(call, "stopped", "the run was stopped before the program began")
                noted = journal.begin(key, WORST_USD)
                if noted is not None:
                    await noted
                cost_usd = WORST_USD  # what it is if it ends without a word from here on
                started_at, began = time.time(), time.monotonic()
                try:
                    found = await asyncio.to_thread(self._in_thread, code_of(call.messages))
                except CheckStopped:
                    return _not_run(call, "stopped", "the run was stopped while the program was running")
            completion = ran_program(call, found, started_at, time.monotonic() - began)
            cost_usd = completion.cost_usd
        finally:
            self.spent_usd += cost_usd
            if self._money is not None:
                self._money.settle(WORST_USD, cost_usd)
        await journal.commit(key, completion.to_bytes(call.request_sha(), problem_id), completion.cost_usd)
        return completion

    def stop(self) -> None:
        """No program is begun from now on; those that run are waited for."""
        self._is_stopped = True

    def give_up(self) -> None:
        """Ends those that run."""
        self._is_stopped = True
        self._stopping.set()

    def _in_thread(self, code: str) -> ProgramResult:
        stop_of_checks.set(self._stopping)  # of this thread's copy of the context
        return run_program(code, LIMITS)


def _not_run(call: Call, error_type: str, message: str) -> Completion:
    row = Attempt(call.model, 0, 0, time.time(), error_type=error_type, error_message=message)
    return Completion("", call.model, (row,), "", error_type=error_type, error_message=message)
