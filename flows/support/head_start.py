"""A command that answers questions asks models while Prefect still loads and its embedded API starts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from flows.support.embedded_api import Api, api_starting
from r2.pool.file.config import PoolConfig
from r2.settings import AnswerSettings
from storage.lake.address import lake_folder

if TYPE_CHECKING:
    from storage.runs.plan import RunPlan
    from tasks.answering.finished import RunResult
    from tasks.answering.session import RunSession

_LOOK_S = 0.1
_FIRST_S = 2.0
"""So long the first call is waited for at most."""


@asynccontextmanager
async def head_start(settings: AnswerSettings, pool: PoolConfig, importing: str) -> AsyncIterator["RunResult | None"]:
    """`embedded_api` for the flow of one run, whose first shards are under way by then (`run_open.py`).

    `importing` is the flow's module. Gives the run's result where Ctrl-C ended the run before the API was there: then
    there is nothing for a flow to do. Raises what planning and opening the run raise, and EndpointError where the API
    does not come: what was paid until then is in the run's journals.
    """
    with ExitStack() as stack:
        # Here and not above: neither start need wait for what is imported after it.
        from r2.pool.simulated.process import started_ahead

        stack.enter_context(started_ahead(pool))  # first: the first question waits for it
        api = stack.enter_context(api_starting())
        from flows.support.run_open import begun_ahead
        from storage.runs.plan import read_plan
        from tasks.answering.plan_file import plan_file, said_before

        plan = read_plan(plan_file(settings), settings)
        async with begun_ahead(plan, said_before(settings, plan)) as session:
            # Not before: Prefect's import would hold up the first questions, and is done before the API is there.
            await _first_asked(session)
            loading = asyncio.create_task(asyncio.to_thread(_load, api, importing))
            try:
                while not loading.done() and session.progress.stop_reason != "interrupted":
                    await asyncio.wait((loading,), timeout=_LOOK_S)
                if loading.done():
                    await loading
                    with api.reached():
                        yield None
                else:
                    yield await _summed_up(plan, settings)
            finally:
                api.close()  # so that the thread has nothing to wait for
                await asyncio.gather(loading, return_exceptions=True)


async def _first_asked(session: "RunSession") -> None:
    """Until a call is on its way: whom to ask is decided for all questions in one go before that."""
    begun = list(session.begun.values())
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + _FIRST_S
    while loop.time() < give_up_at and not all(one.done() for one in begun):
        if any(gauge.in_flight for gauge in session.client.gauges()):
            return
        await asyncio.sleep(0)


def _load(api: Api, importing: str) -> None:
    from storage.lake.schema import table_from_rows

    api.load(importing)
    table_from_rows("runs", ())  # Arrow's first array looks for pandas, and imports it where it is installed
    api.wait()


async def _summed_up(plan: "RunPlan", settings: AnswerSettings) -> "RunResult":
    """What the flow does with a run that was stopped in its first shards: the others have nothing but what is left."""
    from flows.support.run_open import run_held, run_open
    from tasks.answering.answer_rows import answer_rows
    from tasks.answering.finish_run import finish_run
    from tasks.answering.finished import RunResult
    from tasks.answering.simulated import warning

    with run_held(plan):
        async with run_open(plan) as session:
            for index in session.left():
                await (session.begun.pop(index, None) or answer_rows(session, index))
        progress = session.progress
        summary, written = finish_run(plan.run_dir, progress, settings.out, settings.more_columns)
    return RunResult(summary, progress, lake_folder(settings.lake), written, progress.wall_s, warning=warning(plan))
