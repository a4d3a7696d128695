"""No reply, however long, packed or malformed, takes more memory than a reply may, and none hangs or crashes the
client."""

import asyncio
import subprocess
import sys

import pytest

from tests.support.hostile import MODES, HostileServer
from tests.support.paths import ROOT

ASK = """
import asyncio, re, sys
from r2.pool.client.body import most_bytes
from r2.pool.client.http import Endpoint, HttpSession
from r2.pool.client.wire import parse_body

async def main():
    async with HttpSession({}) as session:
        reply = await session.post(Endpoint.at(sys.argv[1], None, 5.0), b"{}", 20.0, most_bytes(16_000, 20))
        parsed = reply.refusal or parse_body(reply.body)
        status = open("/proc/self/status").read()  # ru_maxrss would count the process that we were forked from
        peak_mib = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) >> 10
        print(type(parsed).__name__, getattr(parsed, "error_type", "bad_body"), reply.billing, peak_mib)

asyncio.run(main())
"""
EXPECTED = {
    "sized": ("bad_body", "worst"),
    "endless": ("bad_body", "worst"),
    "endless_refusal": ("server_error", "nothing"),
    "gzip": ("bad_body", "worst"),
    "gzip_twice": ("bad_body", "usage"),
    "one_header": ("bad_body", "worst"),
    "many_headers": ("bad_body", "worst"),
    "early_hints": ("timeout", "worst"),
    "bad_chunk": ("bad_body", "worst"),
    "cut_chunk": ("disconnected", "worst"),
    "nested": ("bad_body", "usage"),
    "many_values": ("bad_body", "usage"),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_hostile_reply_is_an_error_of_a_bounded_size(mode: str):
    async def scenario() -> list[str]:
        async with HostileServer() as server:
            asking = await asyncio.create_subprocess_exec(
                sys.executable, "-c", ASK, server.url(mode), cwd=ROOT, stdout=subprocess.PIPE
            )
            said, _ = await asking.communicate()
            assert asking.returncode == 0
            return said.decode().split()

    kind, error_type, billing, peak_mib = asyncio.run(scenario())
    assert kind in ("Refusal", "BadBody")
    assert (error_type, billing) == EXPECTED[mode]
    assert int(peak_mib) < 1000
