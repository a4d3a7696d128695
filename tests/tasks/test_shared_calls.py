"""Answers that the evaluations of a lake share: at today's prices, also those of earlier runs, kept apart if asked."""

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r2.call import Call, Completion
from r2.pool.file.identity import entry_digest
from storage.lake.lake import Lake
from storage.runs.journal import Journal
from storage.runs.lineage import PaidRun
from storage.runs.plan import PlannedEntry
from tasks.answering.paid_before import PaidBefore, open_paid_before
from tasks.answering.plan_file import planned_entries
from tasks.evaluation.shared_calls import Kin, SharedCalls, paid
from tests.support.lake_rows import CALL, TRAJECTORY
from tests.support.loopback import write_pool
from tests.support.scripted import completion

CALLS = [Call("small", (("user", text),), "solve", 16) for text in "ab"]
EACH_USD = 20e-6  # 10 prompt tokens at 1 USD per million, 5 generated at 2


class Scripted:
    """Answers every call and counts what it sent."""

    spent_usd = 0.0

    def __init__(self) -> None:
        self.n_sent = 0

    async def complete(self, call: Call, *, problem_id: str, journal: Any) -> Completion:
        self.n_sent += 1
        answer = completion(f"answer {self.n_sent}")
        await journal.commit("its own key", answer.to_bytes(call.request_sha()))
        return answer


def pool(folder: Path, output_usd: float = 2.0) -> Any:
    price = f'{{input = 1.0, output = {output_usd}, date = "2026-11-01", source = "made up for tests"}}'
    return write_pool(folder, {"small": f"price_usd_per_mtok = {price}\n"})


def asked(
    folder: Path, payer: str, *, output_usd: float = 2.0, before: PaidBefore | None = None, kin: Kin | None = None
) -> tuple[list[Completion], int]:
    """Both calls asked by an evaluation, and how many were sent."""
    client = Scripted()

    async def scenario() -> list[Completion]:
        with Journal.open(folder / "calls.journal") as journal:
            today = pool(folder, output_usd)
            shared = SharedCalls(client, today, journal, payer, before, kin)  # type: ignore[arg-type]
            return [await shared.complete(call, problem_id="p") for call in CALLS]

    return asyncio.run(scenario()), client.n_sent


def paid_by(folder: Path, payer: str) -> tuple[float, int]:
    with Journal.open(folder / "calls.journal") as journal:
        return paid(journal, payer)


def test_another_price_asks_nothing_and_charges_the_stored_tokens_anew(tmp_path: Path):
    first, n_sent = asked(tmp_path, "evaluation-a")
    assert (n_sent, [one.cost_usd for one in first]) == (2, [pytest.approx(EACH_USD)] * 2)
    dearer, n_sent = asked(tmp_path, "evaluation-b", output_usd=10.0)
    assert (n_sent, [one.text for one in dearer]) == (0, ["answer 1", "answer 2"])
    assert [one.cost_usd for one in dearer] == [pytest.approx(60e-6)] * 2
    assert {(one.reused_from, one.saved_usd) for one in dearer} == {("evaluation-a", 0)}
    assert paid_by(tmp_path, "evaluation-b") == (0, 0)
    assert {one.reused_from for one in asked(tmp_path, "evaluation-a")[0]} == {""}, "who paid reuses nobody's"


def test_answers_that_an_earlier_version_kept_under_their_price_are_found(tmp_path: Path):
    digest = f"{entry_digest(pool(tmp_path), 'small')}{CALLS[0].request_sha()}".encode()
    key = hashlib.blake2b(digest, digest_size=16).hexdigest()

    async def write() -> None:
        with Journal.open(tmp_path / "calls.journal") as journal:
            await journal.commit(key, b"evaluation-old".ljust(32) + completion("as then").to_bytes())

    asyncio.run(write())
    answers, n_sent = asked(tmp_path, "evaluation-a")
    assert ([one.text for one in answers], n_sent) == (["as then", "answer 1"], 1)


def test_what_another_run_of_the_lake_paid_for_is_charged_and_not_paid(tmp_path: Path):
    row = replace(CALL, run_id="run-a", request_sha=CALLS[0].request_sha(), output_text="of a run", raw_body=b"")
    row = replace(row, input_tokens=10, cached_input_tokens=0, output_tokens=5, cost_usd=1.0)
    assert Lake(tmp_path).commit("run-a", "00000-0", {"trajectories": [TRAJECTORY], "calls": [row]})
    entries = planned_entries(pool(tmp_path))
    run = PaidRun("run-a", tmp_path / "_runs" / "run-a", entries, False, "digest", 1, 1.0, {})
    before = open_paid_before(tmp_path, pool(tmp_path), [run])
    answers, n_sent = asked(tmp_path, "evaluation-a", before=before)
    assert ([one.text for one in answers], n_sent) == (["of a run", "answer 1"], 1)
    assert [one.cost_usd for one in answers] == [pytest.approx(EACH_USD)] * 2
    assert [(one.reused_from, one.saved_usd) for one in answers] == [("run-a", 0), ("", 0)]
    assert paid_by(tmp_path, "evaluation-a") == (pytest.approx(EACH_USD), 1)
    again, n_sent = asked(tmp_path, "evaluation-a", output_usd=10.0)
    assert (n_sent, [(one.reused_from, one.cost_usd) for one in again]) == (
        0,
        [("run-a", pytest.approx(60e-6)), ("", pytest.approx(60e-6))],
    )
    changed = {"small": PlannedEntry("another model", entries["small"].price)}
    assert open_paid_before(tmp_path, pool(tmp_path), [replace(run, entries=changed)]) is None


def test_without_reuse_an_evaluation_uses_its_own_answers_and_those_of_its_kin_alone(tmp_path: Path):
    asked(tmp_path, "evaluation-other")
    alone = Kin("these problems", frozenset())
    assert asked(tmp_path, "evaluation-a", kin=alone)[1] == 2
    assert asked(tmp_path, "evaluation-a", kin=alone)[1] == 0
    assert asked(tmp_path, "evaluation-b", kin=alone)[1] == 0, "the same problems with another pool or another check"
    assert asked(tmp_path, "evaluation-c", kin=Kin("other problems", frozenset()))[1] == 2
    assert asked(tmp_path, "evaluation-d", kin=Kin("others", frozenset({"evaluation-other"})))[1] == 0
    assert asked(tmp_path, "evaluation-other", kin=Kin("still others", frozenset()))[1] == 0, "its own, kept before"
    assert paid_by(tmp_path, "evaluation-a") == (pytest.approx(2 * EACH_USD), 2)
