"""A money cap through real kills: what the server bills over all processes, the killed ones too, stays within it."""

import asyncio
import json
import random
import signal
import sys
from pathlib import Path

from aiohttp import web

from storage.runs.journal import Journal
from storage.runs.paid import paid_usd
from tests.support.loopback import Loopback, reply_json, write_pool
from tests.support.paths import ROOT

RUN = """
import asyncio, sys
from pathlib import Path
from r2.call import Call
from r2.pool.client.client import PoolClient
from r2.pool.client.ports import Address
from r2.pool.file.config import load_pool
from storage.runs.journal import Journal
from storage.runs.paid import paid_usd

async def main(pool, url, folder, cap_usd):
    folder = Path(folder)
    with Journal.open(folder / "calls.journal") as journal:
        client = PoolClient(
            load_pool(pool), {"a": Address(url, "a")}, state_dir=folder / "state", run_account="run:x",
            max_cost_usd=float(cap_usd), already_spent_usd=paid_usd(journal),
        )
        async with client:
            numbers = iter(range(2000))
            async def work():
                for number in numbers:
                    call = Call("a", (("user", f"What is {number} + {number}?"),), "solve", 16)
                    done = await client.complete(call, problem_id=str(number), journal=journal)
                    if done.error_type == "budget_exhausted":
                        return
            print("begins", flush=True)
            await asyncio.gather(*(work() for _ in range(8)))

asyncio.run(main(*sys.argv[1:]))
"""
CAP_USD = 0.04


def test_what_is_billed_over_six_kills_stays_within_the_cap(tmp_path: Path):
    chance = random.Random(0)
    bill_usd = 0.0

    async def behave(request: web.Request) -> web.StreamResponse:
        nonlocal bill_usd
        body = await request.json()
        n_input = len(body["messages"][0]["content"].encode())
        bill_usd += (n_input * 1.0 + 16 * 2.0) / 1e6  # billed when it is computed, whoever is left to hear it
        await asyncio.sleep(chance.uniform(0.01, 0.05))
        return web.Response(text=json.dumps(reply_json(usage=(n_input, 16))), content_type="application/json")

    async def scenario() -> list[int]:
        async with Loopback(after=behave) as server:
            args = [
                sys.executable,
                "-c",
                RUN,
                str(write_pool(tmp_path, {"a": ""}).path),
                server.base_url,
                str(tmp_path),
            ]
            codes = []
            for life_s in [*(chance.uniform(0.05, 0.5) for _ in range(6)), None]:
                running = await asyncio.create_subprocess_exec(
                    *args, str(CAP_USD), cwd=ROOT, stdout=asyncio.subprocess.PIPE
                )
                assert running.stdout is not None
                assert await running.stdout.readline() == b"begins\n"
                if life_s is not None:
                    await asyncio.sleep(life_s)
                    running.send_signal(signal.SIGKILL)
                codes.append(await running.wait())
            return codes

    codes = asyncio.run(scenario())
    assert codes == [-signal.SIGKILL] * 6 + [0]
    assert bill_usd <= CAP_USD
    assert bill_usd >= 0.8 * CAP_USD, "the cap is used: what kills cost is counted once"
    with Journal.open(tmp_path / "calls.journal") as journal:
        assert journal.lost_at_open, "the kills hit calls that were on their way"
        assert bill_usd <= paid_usd(journal) <= CAP_USD + 1e-9
