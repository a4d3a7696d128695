"""Held-out problems answered with a policy in the router's place."""

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("torch")

from r2.methods.router import make_router
from r2.problem import Problem
from r2.settings import AnswerSettings, Reasoning
from r2.training.drive_policy import HeldOutAnswers, execute
from storage.runs.journal import Journal
from storage.runs.paid import paid_usd
from tests.support.loopback import Loopback, answers, write_pool


def test_answers_that_are_paid_for_are_not_asked_again(tmp_path: Path):
    problems = [Problem(str(n), f"What is {n} + {n}?", n, str(n + n), "arithmetic") for n in (2, 3)]

    async def scenario() -> tuple[list[HeldOutAnswers], list[int]]:
        found, n_asked = [], []
        async with Loopback(after=answers("1. Compute the whole\n\nAnswer: 4")) as server:
            pool = write_pool(tmp_path, {"a": f'endpoint = "{server.base_url}"'})
            router = make_router(pool, AnswerSettings(input="", reasoning=Reasoning()))
            for _ in range(2):
                with Journal.open(tmp_path / "held_out.journal") as journal:
                    done = await execute(
                        problems,
                        {},
                        "direct",
                        pool,
                        router,
                        models_dir=tmp_path,
                        state_dir=tmp_path,
                        log_dir=tmp_path / "logs",
                        journal=journal,
                        already_paid_usd=paid_usd(journal),
                    )
                found.append(done)
                n_asked.append(len(server.arrivals))
        return found, n_asked

    (first, again), (n_first, n_again) = asyncio.run(scenario())
    assert n_first == n_again > 0
    assert first.accuracy == again.accuracy == 0.5
    assert first.paid_usd == pytest.approx(n_first * (10 * 1.0 + 5 * 2.0) / 1e6)
    assert again == first
