"""A real vLLM server behind our client: one chat completion with log-probabilities. Only where `.venv-vllm` is there
(docs/gpu.md makes it)."""

import asyncio
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from r2.call import Call, Completion
from r2.pool.client.client import PoolClient
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.servers.endpoints import open_endpoints
from tests.support.paths import ROOT

PYTHON = ROOT / ".venv-vllm/bin/python"
WEIGHTS = ROOT / "models/smollm2-135m-instruct/hf"
START_S = 300.0
ENTRY = """
[router]
decomposer = "smollm2"
allocator = "smollm2"

[models.smollm2]
endpoint = "{endpoint}"
tier = "small"
logprobs = true
price_usd_per_mtok = {{input = 0.05, output = 0.2, date = "2026-11-24", source = "made up for tests"}}
"""


async def asked(pool: PoolConfig, folder: Path) -> Completion:
    """The answer to one question, with the alternatives of each token."""
    call = Call("smollm2", (("user", "What is 2 + 2?"),), "solve", 8, top_logprobs=5)
    async with (
        open_endpoints(pool, models_dir=folder, log_dir=folder) as addresses,
        PoolClient(pool, addresses, state_dir=folder, run_account="run:vllm") as client,
    ):
        return await client.complete(call, problem_id="one")


@pytest.mark.slow
@pytest.mark.skipif(not (PYTHON.exists() and WEIGHTS.exists()), reason="needs .venv-vllm and fetched weights")
def test_vllm_answers_our_client_with_log_probabilities(tmp_path: Path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [
        str(PYTHON),
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(WEIGHTS),
        "--served-model-name",
        "smollm2",
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        "2048",
        "--max-num-seqs",
        "16",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    path = tmp_path / "pool.toml"
    path.write_text(ENTRY.format(endpoint=f"http://127.0.0.1:{port}/v1"), "utf-8")
    with (tmp_path / "vllm.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            _wait_until_healthy(server, port, tmp_path / "vllm.log")
            answer = asyncio.run(asked(load_pool(path), tmp_path))
        finally:
            server.terminate()
            server.wait(60)
    assert answer.is_ok
    assert answer.text
    assert answer.usage.output_tokens == len(answer.token_logprobs)
    assert all(token.logprob <= 0 and len(token.alternatives) == 5 for token in answer.token_logprobs)


def _wait_until_healthy(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Importing vLLM proves nothing: the server's health does."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text("utf-8", "replace")[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1.0)
    raise AssertionError(f"vLLM was not up after {START_S:.0f} s:\n{log.read_text('utf-8', 'replace')[-3000:]}")
