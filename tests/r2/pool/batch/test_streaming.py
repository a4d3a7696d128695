"""A large job goes out and comes back piece by piece: what it has in memory does not grow with it."""

import subprocess
import sys

from tests.support.paths import ROOT

PROGRAM = """
import asyncio, re, sys
from collections.abc import Collection
import aiohttp
from aiohttp import web
from r2.pool.batch.protocol import BatchJob, BatchLine
from r2.pool.batch.providers import open_provider
from r2.pool.client.dialects import DIALECTS

N = int(sys.argv[1])
BODY = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 900 + b'"}]}'
REPLY = (b'{"id":"r","custom_id":"%048x","response":{"status_code":200,"body":{"choices":[{"message":{"content":"'
         + b"y" * 900 + b'"}}]}},"error":null}' + bytes([10]))

class Lines(Collection):
    def __len__(self): return N
    def __contains__(self, line): return False
    def __iter__(self): return (BatchLine("%048x" % i, BODY) for i in range(N))

async def upload(request):
    n = 0
    async for piece in request.content.iter_any():
        n += len(piece)
    assert n == request.content_length
    return web.json_response({"id": "file-1", "bytes": n})

async def content(request):
    response = web.StreamResponse()
    await response.prepare(request)
    for i in range(0, N, 100):
        await response.write(b"".join(REPLY % j for j in range(i, min(N, i + 100))))
    return response

async def create(request): return web.json_response({"id": "batch-1", "status": "validating"})
async def told(request):
    return web.json_response({"id": "batch-1", "status": "completed", "output_file_id": "file-2"})

def peak_kb():  # getrusage would count the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

async def main():
    app = web.Application()
    app.router.add_post("/v1/files", upload)
    app.router.add_post("/v1/batches", create)
    app.router.add_get("/v1/batches/batch-1", told)
    app.router.add_get("/v1/files/file-2/content", content)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    async with aiohttp.ClientSession() as session:
        provider = open_provider(DIALECTS["openai"], base, "m", None, session=session, environ={})
        before = peak_kb()
        job = BatchJob("0" * 32, "run", "one", N, 0, 0, 1.0, 0.0)
        assert await provider.submit(job, Lines()) == "batch-1"
        seen = 0
        async for row in provider.results("batch-1"):
            assert row.custom_id == "%048x" % seen and row.status == 200
            seen += 1
        assert seen == N
        print(peak_kb() - before)
    await runner.cleanup()

asyncio.run(main())
"""


def grown_mb(n_rows: int) -> float:
    """What client and server together add to their memory for a job of so many lines of 1 KB."""
    command = [sys.executable, "-c", PROGRAM, str(n_rows)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024


def test_a_job_of_20_mb_adds_less_than_8_mb():
    assert grown_mb(20_000) < 8
