"""Child servers that end with their parent, and the embedded llama.cpp server where its weights are."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import psutil
import pytest

from r2.errors import PoolFileError
from r2.pool.servers.fetch import find_weights, is_fetched
from r2.pool.servers.local import open_local
from tests.support.paths import ROOT

MODELS = Path(os.environ.get("R2_MODELS_DIR", ROOT / "models"))

CHILD = (
    "from r2.lifeline import die_with_parent; die_with_parent(); print('up', flush=True); import time; time.sleep(300)"
)
PARENT = f"""
import os, subprocess, sys, time
from r2.lifeline import spawn
child = spawn([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE)
assert child.stdout.readline() == b"up\\n"
print(child.pid, flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_its_parent_whatever_kills_it(number: signal.Signals):
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.is_running()
    parent.send_signal(number)
    parent.wait(10)
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_module_started_by_hand_is_nobodys_child():
    done = subprocess.run(
        [sys.executable, "-c", "from r2.lifeline import die_with_parent; die_with_parent(); print('alone')"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout == "alone\n"


def test_missing_weights_name_the_command_that_fetches_them(tmp_path: Path):
    async def open_it() -> None:
        async with open_local("smollm2-135m-instruct", models_dir=tmp_path, log_dir=tmp_path, context_tokens=512):
            pass

    with pytest.raises(PoolFileError, match="r2 pool fetch smollm2-135m-instruct"):
        asyncio.run(open_it())


@pytest.mark.skipif(
    not is_fetched(find_weights("smollm2-135m-instruct"), MODELS),
    reason="weights not fetched: r2 pool fetch smollm2-135m-instruct",
)
def test_an_embedded_server_answers_with_usage_logprobs_and_a_prefix_cache(tmp_path: Path):
    body = {
        "messages": [
            {"role": "system", "content": "Reply with one word. " * 20},
            {"role": "user", "content": "Say yes."},
        ],
        "max_tokens": 4,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 3,
    }

    async def ask_twice() -> list[dict]:
        name = "smollm2-135m-instruct"
        async with (
            open_local(name, models_dir=MODELS, log_dir=tmp_path, context_tokens=1024) as url,
            aiohttp.ClientSession() as session,
        ):
            replies = []
            for _ in range(2):
                async with session.post(f"{url}/chat/completions", json=body) as reply:
                    replies.append(await reply.json())
            return replies

    first, second = asyncio.run(ask_twice())
    assert first["usage"]["completion_tokens"] <= 4
    assert len(first["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 3
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 50
