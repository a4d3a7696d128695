"""The API that is started beside a run: reached whatever the environment says of proxies, and started again if it is
lost."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.support.embedded_api import embedded_api
from flows.support.environment import without_proxy
from r2.errors import EndpointError
from tests.support.paths import ROOT
from tests.support.prefect_sockets import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS
NOWHERE = "http://127.0.0.1:9"
RUN = """
import psutil
from prefect import flow, task
from flows.support.embedded_api import embedded_api

@task
def work():
    return 1

@flow
def job():
    [api] = [p for p in psutil.Process().children() if "flows.support.embedded_api" in p.cmdline()]
    api.kill()
    return work()

with embedded_api():
    print("returned", job())
"""


def test_a_run_goes_through_a_lost_api_and_past_a_proxy_that_is_not_there(tmp_path: Path):
    env = os.environ | {"PREFECT_HOME": str(tmp_path), "http_proxy": NOWHERE, "HTTP_PROXY": NOWHERE}
    env |= {"HTTPS_PROXY": NOWHERE, "ALL_PROXY": NOWHERE, "NO_PROXY": "example.com"}
    done = subprocess.run([sys.executable, "-c", RUN], env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "returned 1\n"), done.stderr
    assert "nanobind" not in done.stderr


def test_an_api_that_the_user_named_and_that_is_not_there_is_said_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("PREFECT_API_URL", f"{NOWHERE}/api")
    said, before = r"127\.0\.0\.1:9/api \(PREFECT_API_URL\) cannot be reached", psutil.Process().children()
    with pytest.raises(EndpointError, match=said), embedded_api():
        raise AssertionError("opened")
    assert set(psutil.Process().children()) <= set(before)


@pytest.mark.parametrize(
    ("listed", "becomes"),
    [
        ("", "127.0.0.1,localhost,::1"),
        ("example.com, localhost", "example.com,localhost,127.0.0.1,::1"),
        ("*", "*"),
    ],
)
def test_this_machine_is_added_to_the_addresses_that_need_no_proxy(listed: str, becomes: str):
    assert without_proxy(listed) == becomes
    assert "127.0.0.1" in os.environ["NO_PROXY"]
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"]
