"""The lanes of a run as they are opened: where their requests go."""

import asyncio
from pathlib import Path

import pytest

from r2.errors import BatchGoneError
from r2.pool.batch.choosing import batch_choices
from r2.pool.batch.opening import open_lanes
from r2.pool.client.client import PoolClient
from r2.pool.client.ports import Address
from storage.runs.job_files import JobFiles
from tests.support.providers.azure import AzureWithBatches
from tests.support.sent_batches import ENTRY, KEY_ENV, pool_of


def test_a_proxy_and_the_users_netrc_are_not_asked_for_an_address_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The live client's rule, and its key alone: with `api-key` another Authorization header would be refused."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n", "utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    async def run() -> None:
        async with AzureWithBatches() as server:
            pool = pool_of(server, "our-mini", tmp_path)
            chosen, _ = batch_choices(pool, "batch", None)
            environ = {KEY_ENV: server.key}
            addresses = {ENTRY: Address(server.base_url, "our-mini")}
            with JobFiles(tmp_path / "jobs") as store:
                async with (
                    PoolClient(pool, addresses, state_dir=tmp_path / "state", environ=environ) as client,
                    open_lanes(
                        client, pool, chosen, store, "run", deadline_s=None, say=print, environ=environ
                    ) as lanes,
                ):
                    with pytest.raises(BatchGoneError, match="No batch found"):
                        await lanes.lanes[ENTRY].provider.status("nobody")
            assert server.batches is not None
            assert [path for _, path, _ in server.batches.calls] == ["/openai/v1/batches/nobody"]

    asyncio.run(run())
