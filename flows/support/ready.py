"""A command that is about to ask models: what takes long at its start goes on side by side.

Prefect's API, which a run waits for, needs one core for about two seconds. Meanwhile this process imports the flow, and
then starts the server of the pool's simulated models, if it has any, which loads while the API still does.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from flows.support.embedded_api import embedded_api
from r2.pool.collector import collect_seldom
from r2.pool.file.config import PoolConfig


@contextmanager
def api_and_models(pool: PoolConfig, importing: str) -> Iterator[None]:
    """`embedded_api`, with what the run of a flow on `pool` needs soon after. `importing` is the flow's module."""
    with ExitStack() as stack:

        def get_ready() -> None:
            # Here and not above: the API's start need not wait for them.
            from r2.pool.simulated.process import started_ahead
            from storage.lake.schema import table_from_rows

            stack.enter_context(started_ahead(pool))
            table_from_rows("runs", ())  # Arrow's first array looks for pandas, and imports it where it is installed
            collect_seldom()

        with embedded_api(importing=importing, meanwhile=get_ready):
            yield
