"""A calibration that was stopped goes on, and pays for no answer twice."""

import asyncio
from pathlib import Path

import pytest

from tasks.evaluation.calibrate_once import FOLDER, calibrate_once
from tests.support.loopback import Loopback, answers, hangs, write_pool


def test_what_was_answered_before_it_was_stopped_is_not_asked_again(tmp_path: Path):
    said: list[str] = []

    async def scenario() -> tuple[int, int]:
        async with Loopback(script=[answers("7"), answers("7"), answers("7")], after=hangs()) as server:
            pool = write_pool(tmp_path, {"a": f'endpoint = "{server.base_url}"'})

            def calibration() -> asyncio.Task[object]:
                return asyncio.create_task(calibrate_once(pool, tmp_path, tmp_path, 5, 0, ["add"], said.append))

            first = calibration()
            await asyncio.sleep(0.05)
            for _ in range(200):
                if len(server.arrivals) == 5:
                    break
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)  # the three answers are on disk
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            n_before, server.after = len(server.arrivals), answers("7")
            await calibration()
            n_resumed = len(server.arrivals)
            await calibration()
            assert len(server.arrivals) == n_resumed + 5, "a calibration that is finished is no longer known"
            return n_before, n_resumed

    n_before, n_resumed = asyncio.run(scenario())
    assert (n_before, n_resumed) == (5, 7)
    assert said[0].startswith("3 answers are there from before this calibration was stopped")
    assert said[1] == "a, add: 0 of 5 right, 0.000100 USD so far", "five times 10 tokens in and 5 out, at 1 and 2 USD"
    assert not list((tmp_path / FOLDER).iterdir())


def test_past_its_cap_nothing_is_measured_and_what_was_answered_is_kept(tmp_path: Path):
    async def scenario() -> list[int]:
        n_asked = []
        async with Loopback(after=answers("7")) as server:
            pool = write_pool(tmp_path, {"a": f'endpoint = "{server.base_url}"'})
            for cap in (0.0002, 0.0002, None):
                await calibrate_once(pool, tmp_path, tmp_path, 20, 0, ["add"], said.append, cap)
                n_asked.append(len(server.arrivals))
        return n_asked

    said: list[str] = []
    first, again, whole = asyncio.run(scenario())
    assert 0 < first < 20, "a call costs 0.00002 USD, and may cost more: at most ten of them fit"
    assert first <= again <= 10
    assert whole == 20
    assert "not measured" in said[0]
    assert said[-1] == "a, add: 0 of 20 right, 0.000400 USD so far"


def test_after_an_outage_what_was_answered_is_kept(tmp_path: Path):
    pool = write_pool(tmp_path, {"a": 'endpoint = "http://127.0.0.1:9/v1"'})
    measured = asyncio.run(calibrate_once(pool, tmp_path, tmp_path, 1, 0, ["add"], lambda _: None))
    assert measured[0].why_unmeasured is not None
    assert len(list((tmp_path / FOLDER).iterdir())) == 1
