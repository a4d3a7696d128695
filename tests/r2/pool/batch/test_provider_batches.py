"""Every provider's batch endpoint over loopback: a job from its lines to its rows, and whatever can happen to it."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from r2.errors import (
    BatchGoneError,
    BatchLaneDownError,
    BatchQueueFullError,
    BatchRefusedError,
    BatchUnclearError,
)
from r2.pool.batch.prices import BATCH_DIALECTS
from r2.pool.batch.protocol import BatchLine
from r2.pool.batch.providers import open_provider
from r2.pool.client.dialects import DIALECTS
from r2.pool.client.refusals import refusal
from tests.support.providers.anthropic import Anthropic
from tests.support.providers.azure import Azure, AzureWithBatches
from tests.support.providers.bill import cost
from tests.support.providers.gemini import Gemini
from tests.support.providers.groq import Groq
from tests.support.providers.imitation import Imitation
from tests.support.providers.mistral import Mistral
from tests.support.providers.openai import OpenAI
from tests.support.providers.together import Together
from tests.support.sent_batches import KEY_ENV, Opened, job_of, opened, text_of

EVERY: tuple[type[Imitation], ...] = (OpenAI, AzureWithBatches, Groq, Together, Mistral, Anthropic, Gemini)
FILES = (OpenAI, AzureWithBatches, Groq, Together, Mistral)
"""Those that take a file of lines in a form."""
SUMS = [f"What is {n} + 25?" for n in range(6)]


def run(make: type[Imitation], folder: Path, use: Callable[[Opened], Awaitable[Any]], **how: Any) -> Any:
    async def whole() -> Any:
        async with opened(make(), folder, **how) as at:
            return await use(at)

    return asyncio.run(whole())


@pytest.mark.parametrize("make", EVERY)
def test_a_job_brings_the_answers_of_live_calls_at_half_the_price(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        job = job_of(len(SUMS))
        lines = at.lines(job, SUMS)
        provider_id = await at.provider.submit(job, lines)
        status = await at.finished(provider_id)
        assert (status.provider_id, status.state) == (provider_id, "ended")
        if make is not Together:
            assert (status.n_rows, status.n_done, status.n_failed) == (6, 6, 0)
        assert status.created_at is not None and status.ended_at is not None
        rows = {row.custom_id: row for row in await at.rows(provider_id)}
        assert [text_of(rows[line.custom_id]) for line in lines] == [str(n + 25) for n in range(6)]
        live = sum(cost(at.server.models[at.model].prices, tokens) for _, tokens, _ in at.server.bill.charges)
        assert at.server.bill_usd == at.batches.billed_usd == live / 2 > 0
        assert at.batches.paid_twice() == []
        assert {charge.custom_id for charge in at.batches.ledger} == set(rows)

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_a_row_that_is_refused_costs_nothing_and_leaves_the_others(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        job = job_of(3)
        lines = at.lines(job, ["What is 1 + 1?", "[[fault:context]] What is 2 + 2?", "What is 3 + 3?"])
        provider_id = await at.provider.submit(job, lines)
        assert (await at.finished(provider_id)).state == "ended"
        rows = {row.custom_id: row for row in await at.rows(provider_id)}
        refused = rows[lines[1].custom_id]
        found = refusal(refused.status, refused.body, {})
        assert found is not None and found.error_type == "context_length"
        assert [text_of(rows[lines[place].custom_id]) for place in (0, 2)] == ["2", "6"]
        assert len(at.batches.ledger) == 2

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_a_job_whose_every_row_is_refused_still_has_its_rows(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        job = job_of(2)
        lines = at.lines(job, ["[[fault:context]] a", "[[fault:context]] b"])
        provider_id = await at.provider.submit(job, lines)
        status = await at.finished(provider_id)
        assert status.state == "ended"
        assert sorted(row.status for row in await at.rows(provider_id)) == [400, 400]
        assert at.server.bill_usd == 0

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_a_parameter_that_the_model_refuses_live_is_refused_in_every_row(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        job = job_of(2)
        lines = [BatchLine(line.custom_id, _with_unknown(line.body)) for line in at.lines(job, SUMS[:2])]
        provider_id = await at.provider.submit(job, lines)
        await at.finished(provider_id)
        rows = await at.rows(provider_id)
        assert {row.custom_id for row in rows} == {line.custom_id for line in lines}
        assert {400 <= row.status < 500 for row in rows} == {True}
        assert all(b"best_of_all" in row.body for row in rows)

    run(make, tmp_path, use)


def _with_unknown(body: bytes) -> bytes:
    return body[:-1] + b',"best_of_all":true}'


@pytest.mark.parametrize("make", FILES)
def test_a_file_with_one_bad_line_is_refused_whole_and_says_which(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        job = job_of(3)
        lines = at.lines(job, SUMS[:3])
        lines[2] = BatchLine(lines[0].custom_id, lines[2].body)
        provider_id = await at.provider.submit(job, lines)
        status = await at.finished(provider_id)
        assert status.state == "failed" and status.error_code
        assert "line 3" in status.error_text.lower() or make is Together
        assert await at.rows(provider_id) == [] and at.server.bill_usd == 0

    run(make, tmp_path, use)


def test_anthropic_refuses_the_whole_and_names_the_request(tmp_path: Path):
    async def use(at: Opened) -> None:
        job = job_of(3)
        lines = at.lines(job, SUMS[:3])
        lines[2] = BatchLine("no spaces please", lines[2].body)
        with pytest.raises(BatchRefusedError, match="should match pattern") as refused:
            await at.provider.submit(job, lines)
        assert (refused.value.code, refused.value.line) == ("invalid_request_error", 3)
        assert at.batches.jobs == {}

    run(Anthropic, tmp_path, use)


def test_gemini_fails_a_file_that_it_cannot_read(tmp_path: Path):
    async def use(at: Opened) -> None:
        job = job_of(2)
        lines = at.lines(job, SUMS[:2])
        lines[1] = BatchLine(lines[1].custom_id, b"[]")
        provider_id = await at.provider.submit(job, lines)
        status = await at.finished(provider_id)
        assert (status.state, status.error_code) == ("failed", "code 3")
        assert "line 2" in status.error_text

    run(Gemini, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_a_job_that_fails_has_run_nothing(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        at.batches.fail_job("fails")
        job = job_of(len(SUMS))
        provider_id = await at.provider.submit(job, at.lines(job, SUMS))
        status = await at.finished(provider_id)
        rows = await at.rows(provider_id)
        if make is Anthropic:  # no batch fails there: all its requests do
            assert status.state == "ended" and {row.status for row in rows} == {500}
        else:
            assert status.state == "failed" and status.error_text and rows == []
        assert at.server.bill_usd == 0

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", [make for make in EVERY if make is not AzureWithBatches])
def test_a_job_that_expires_keeps_what_was_done(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        at.batches.fail_job("expires")
        job = job_of(len(SUMS))
        provider_id = await at.provider.submit(job, at.lines(job, SUMS))
        status = await at.finished(provider_id)
        assert status.state == "expired"
        rows = await at.rows(provider_id)
        assert len(at.batches.ledger) == 3
        if make is Gemini:  # which keeps nothing of an expired job, though it bills it
            assert rows == []
            return
        done = [row for row in rows if row.status == 200]
        assert {row.custom_id for row in done} == {charge.custom_id for charge in at.batches.ledger}
        assert [row.error for row in rows if row.status == 0] == ["expired"] * 3

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("by_us", [True, False])
def test_a_job_that_is_cancelled_keeps_what_was_done(make: type[Imitation], by_us: bool, tmp_path: Path):
    async def use(at: Opened) -> None:
        now = [1_800_000_000.0]
        at.batches.terms.clock = lambda: now[0]
        at.batches.terms.run_s = 60.0
        job = job_of(len(SUMS), created_at=now[0])
        provider_id = await at.provider.submit(job, at.lines(job, SUMS))
        now[0] += 30.0
        assert (await at.provider.status(provider_id)).state == "running"
        if by_us:
            await at.provider.cancel(provider_id)
        else:
            at.batches.cancel_from_outside(provider_id)
        status = await at.finished(provider_id)
        assert status.state == "cancelled"
        rows = await at.rows(provider_id)
        assert len([row for row in rows if row.status == 200]) == len(at.batches.ledger) == 3
        assert {row.error for row in rows if row.status == 0} <= {"cancelled"}
        await at.provider.cancel(provider_id)  # over already, which is no error
        assert (await at.provider.status(provider_id)).state == "cancelled"

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_a_job_that_never_ends_goes_on_running(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        now = [1_800_000_000.0]
        at.batches.terms.clock = lambda: now[0]
        at.batches.terms.window_s = None
        at.batches.fail_job("never_ends")
        job = job_of(len(SUMS), created_at=now[0])
        provider_id = await at.provider.submit(job, at.lines(job, SUMS))
        for _ in range(3):
            now[0] += 3600.0
            if make is Mistral:
                at.batches.jobs[provider_id].expires_at = None
            assert (await at.provider.status(provider_id)).state == "running"

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_rows_come_twice_in_any_order_and_from_other_jobs(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        at.batches.fail_job("twice", "shuffled", "foreign")
        job = job_of(len(SUMS))
        lines = at.lines(job, SUMS)
        provider_id = await at.provider.submit(job, lines)
        await at.finished(provider_id)
        rows = await at.rows(provider_id)
        ours = [row for row in rows if row.custom_id.startswith(job.id[:16])]
        assert (len(rows), len(ours)) == (12, 9)
        assert {row.custom_id: text_of(row) for row in ours} == {
            line.custom_id: str(n + 25) for n, line in enumerate(lines)
        }

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_results_that_end_in_the_middle_of_a_line_lose_that_row_alone(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        at.batches.fail_job("cut")
        job = job_of(len(SUMS))
        provider_id = await at.provider.submit(job, at.lines(job, SUMS))
        await at.finished(provider_id)
        rows = await at.rows(provider_id)
        assert [row.status for row in rows] == [200] * 5 + [0]
        assert rows[-1].custom_id == "" and rows[-1].body and rows[-1].error

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_a_download_that_breaks_gives_its_whole_lines_and_can_be_asked_again(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        job = job_of(len(SUMS))
        provider_id = await at.provider.submit(job, at.lines(job, SUMS))
        await at.finished(provider_id)
        at.batches.fail_request("download_breaks")
        given = []
        with pytest.raises(BatchUnclearError):
            async for row in at.provider.results(provider_id):
                given.append(row)
        assert len(given) < 6 and all(row.status == 200 for row in given)
        assert len(await at.rows(provider_id)) == 6

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_an_upload_that_breaks_leaves_no_job(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        at.batches.fail_request("upload_breaks")
        job = job_of(len(SUMS))
        lines = at.lines(job, SUMS)
        with pytest.raises(BatchUnclearError) as broken:
            await at.provider.submit(job, lines)
        assert broken.value.may_exist is (make is Anthropic)  # whose upload is the create
        assert await at.provider.find(job, [line.custom_id for line in lines]) is None
        provider_id = await at.provider.submit(job, lines)
        await at.finished(provider_id)
        assert len(await at.rows(provider_id)) == 6 and len(at.batches.jobs) == 1

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_a_job_whose_id_was_lost_is_found_again(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        other = job_of(6, name="a job of somebody else")
        await at.provider.submit(other, at.lines(other, SUMS))
        at.batches.fail_request("create_reset")
        job = job_of(6)
        lines = at.lines(job, SUMS)
        with pytest.raises(BatchUnclearError) as lost:
            await at.provider.submit(job, lines)
        assert lost.value.may_exist
        found = await at.provider.find(job, [line.custom_id for line in lines])
        assert found == list(at.batches.jobs)[1]
        await at.finished(found)
        assert {row.custom_id for row in await at.rows(found)} == {line.custom_id for line in lines}
        never_sent = job_of(6, name="never sent")
        assert await at.provider.find(never_sent, []) is None

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_a_lost_job_is_found_behind_hundreds_of_others_and_with_a_clock_that_is_days_off(
    make: type[Imitation], tmp_path: Path
):
    async def use(at: Opened) -> None:
        now = [1_800_000_000.0]
        at.batches.terms.clock = lambda: now[0]
        job = job_of(2, created_at=now[0] + 3 * 86_400.0)
        lines = at.lines(job, SUMS[:2])
        provider_id = await at.provider.submit(job, lines)
        other = job_of(2, name="of somebody else")
        made = at.batches.jobs[await at.provider.submit(other, at.lines(other, SUMS[2:4]))]
        for _ in range(230):
            at.batches.look(at.batches.create("job-", made.request, made.rows[:1], model=made.model))
        assert await at.provider.find(job, [line.custom_id for line in lines]) == provider_id

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_a_create_that_fails_may_exist_and_is_looked_for(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        at.batches.fail_request("create_5xx")
        job = job_of(len(SUMS))
        lines = at.lines(job, SUMS)
        with pytest.raises(BatchUnclearError) as failed:
            await at.provider.submit(job, lines)
        assert failed.value.may_exist
        at.batches.fail_request("list_5xx")
        with pytest.raises(BatchUnclearError):
            await at.provider.find(job, [])
        assert await at.provider.find(job, []) is None

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", [make for make in EVERY if make is not Anthropic])
def test_a_file_is_sent_once_though_its_job_is_put_off(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        at.batches.fail_request("create_rate", 2)
        job = job_of(len(SUMS))
        lines = at.lines(job, SUMS)
        for _ in range(2):
            with pytest.raises(BatchUnclearError) as put_off:
                await at.provider.submit(job, lines)
            assert not put_off.value.may_exist
        provider_id = await at.provider.submit(job, lines)
        await at.finished(provider_id)
        assert len(await at.rows(provider_id)) == 6
        uploads = [path for method, path, _ in at.batches.calls if method == "POST" and "files" in path]
        assert len(uploads) == (2 if make is Gemini else 1)  # Gemini's has two steps

    run(make, tmp_path, use)


def test_a_batch_of_anthropic_that_may_be_ours_is_waited_for(tmp_path: Path):
    async def use(at: Opened) -> None:
        at.batches.terms.run_s = 3600.0
        stranger = job_of(6, name="somebody else's")
        provider_id = await at.provider.submit(stranger, at.lines(stranger, SUMS))
        job = job_of(6)
        with pytest.raises(BatchUnclearError, match="is not over yet"):
            await at.provider.find(job, [])
        assert await at.provider.find(job_of(5, name="of another size"), []) is None
        await at.provider.cancel(provider_id)
        await at.finished(provider_id)
        assert await at.provider.find(job, []) is None

    run(Anthropic, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_polling_goes_on_through_failures(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        job = job_of(len(SUMS))
        provider_id = await at.provider.submit(job, at.lines(job, SUMS))
        at.batches.fail_request("poll_5xx", 2)
        for _ in range(2):
            with pytest.raises(BatchUnclearError):
                await at.provider.status(provider_id)
        assert (await at.finished(provider_id)).state == "ended"
        at.batches.fail_request("rate")
        with pytest.raises(BatchUnclearError):
            await at.provider.status(provider_id)

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_results_that_are_late_are_asked_for_again_and_those_that_are_gone_are_gone(
    make: type[Imitation], tmp_path: Path
):
    async def use(at: Opened) -> None:
        now = [1_800_000_000.0]
        at.batches.terms.clock = lambda: now[0]
        job = job_of(len(SUMS), created_at=now[0])
        provider_id = await at.provider.submit(job, at.lines(job, SUMS))
        await at.finished(provider_id)
        at.batches.fail_request("late_file")
        with pytest.raises(BatchUnclearError):
            await at.rows(provider_id)
        assert len(await at.rows(provider_id)) == 6
        now[0] += at.batches.terms.retention_s + 1
        with pytest.raises(BatchGoneError):
            await at.rows(provider_id)

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_a_job_that_the_provider_does_not_know_is_gone(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        name = "batches/nobody" if make is Gemini else "nobody"
        for ask in (at.provider.status(name), at.provider.cancel(name), at.rows(name)):
            with pytest.raises(BatchGoneError):
                await ask

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_too_many_requests_are_no_refusal_of_the_job(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        at.batches.fail_request("rate")
        job = job_of(len(SUMS))
        with pytest.raises(BatchUnclearError) as limited:
            await at.provider.submit(job, at.lines(job, SUMS))
        assert not limited.value.may_exist and at.batches.jobs == {}

    run(make, tmp_path, use)


@pytest.mark.parametrize("make", [OpenAI, AzureWithBatches, Groq])
def test_a_full_queue_is_seen_when_the_job_is_looked_at(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        at.batches.terms.enqueued_tokens = 100
        at.batches.terms.run_s = 3600.0
        first, second = job_of(6, name="first"), job_of(6, name="second")
        ids = [await at.provider.submit(job, at.lines(job, SUMS)) for job in (first, second)]
        assert (await at.provider.status(ids[0])).state == "running"
        status = await at.provider.status(ids[1])
        assert (status.state, status.error_code) == ("failed", "queue_full")
        assert "enqueued tokens" in status.error_text and len(at.batches.ledger) < 6

    run(make, tmp_path, use)


def test_gemini_says_at_once_that_the_queue_is_full(tmp_path: Path):
    async def use(at: Opened) -> None:
        at.batches.terms.enqueued_tokens = 10
        job = job_of(6)
        with pytest.raises(BatchQueueFullError, match="enqueued"):
            await at.provider.submit(job, at.lines(job, SUMS))
        assert at.batches.jobs == {}

    run(Gemini, tmp_path, use)


@pytest.mark.parametrize("make", EVERY)
def test_a_bad_key_takes_no_job_and_ends_none_and_is_never_shown(make: type[Imitation], tmp_path: Path):
    bad = "sk-imitation-but-another-9876543210"

    async def use(at: Opened) -> None:
        job = job_of(1)
        with pytest.raises(BatchLaneDownError) as down:
            await at.provider.submit(job, at.lines(job, SUMS[:1]))
        assert down.value.error_type == "auth" and KEY_ENV in str(down.value) and bad not in str(down.value)
        with pytest.raises(BatchUnclearError) as unclear:
            await at.provider.status("batches/any" if make is Gemini else "any")
        assert bad not in str(unclear.value)

    run(make, tmp_path, use, key=bad)


@pytest.mark.parametrize("make", EVERY)
def test_a_key_that_is_not_set_asks_nobody(make: type[Imitation], tmp_path: Path):
    async def use(at: Opened) -> None:
        job = job_of(1)
        with pytest.raises(BatchLaneDownError, match=f"{KEY_ENV} is not set"):
            await at.provider.submit(job, at.lines(job, SUMS[:1]))
        with pytest.raises(BatchUnclearError, match=f"{KEY_ENV} is not set"):
            await at.provider.status("any")
        assert at.batches.calls == []

    run(make, tmp_path, use, key="")


def test_a_model_that_the_provider_does_not_know(tmp_path: Path):
    async def use(at: Opened) -> Any:
        body = at.lines(job_of(1), SUMS[:1])[0].body.replace(at.model.encode(), b"gpt-99")
        other = open_provider(
            DIALECTS[at.server.name],
            at.server.base_url,
            "gpt-99",
            KEY_ENV,
            session=at.provider._http._session,  # type: ignore[attr-defined]
            environ={KEY_ENV: at.server.key},
        )
        assert other is not None
        job = job_of(1)
        try:
            provider_id = await other.submit(job, [BatchLine(job.id[:16] + "0" * 32, body)])
        except (BatchLaneDownError, BatchRefusedError) as error:
            return type(error)
        status = await at.finished(provider_id)
        return status.error_code or [row.status for row in await at.rows(provider_id)]

    found = {make.__name__: run(make, tmp_path, use) for make in EVERY}
    assert found == {
        "OpenAI": "model_not_found",
        "AzureWithBatches": "model_not_found",
        "Groq": "model_not_found",
        "Together": "failed",
        "Mistral": BatchRefusedError,
        "Anthropic": [404],
        "Gemini": BatchLaneDownError,
    }


def test_a_deployment_of_azure_that_takes_live_calls_takes_no_batches(tmp_path: Path):
    async def use(at: Opened) -> None:
        job = job_of(1)
        provider_id = await at.provider.submit(job, at.lines(job, SUMS[:1]))
        status = await at.finished(provider_id)
        assert (status.state, status.error_code) == ("failed", "invalid_deployment")

    run(AzureWithBatches, tmp_path, use, model="our-mini")


def test_a_job_goes_to_the_deployment_for_batches_and_its_lines_are_those_of_the_live_one(tmp_path: Path):
    async def use(at: Opened) -> None:
        job = job_of(2)
        live = at.lines(job, SUMS[:2])[0].body.replace(b'"our-mini-batch"', b'"our-mini"')
        assert b'"model":"our-mini"' in live
        provider_id = await at.provider.submit(job, [BatchLine(job.id[:16] + "0" * 32, live)])
        await at.finished(provider_id)
        assert [text_of(row) for row in await at.rows(provider_id)] == ["25"]
        assert at.batches.jobs[provider_id].model == "our-mini-batch"

    run(AzureWithBatches, tmp_path, use)


def test_the_older_address_of_azure_takes_a_job_with_its_version(tmp_path: Path):
    async def use(at: Opened) -> None:
        assert isinstance(at.server, Azure)
        async with aiohttp.ClientSession() as session:
            classic = open_provider(
                DIALECTS["azure"],
                at.server.classic_url,
                at.model,
                KEY_ENV,
                session=session,
                environ={KEY_ENV: at.server.key},
            )
            assert classic is not None
            job = job_of(2)
            provider_id = await classic.submit(job, at.lines(job, SUMS[:2]))
            assert (await classic.status(provider_id)).state == "ended"
            assert len([row async for row in classic.results(provider_id)]) == 2
            assert await classic.find(job, []) == provider_id
        assert {path.rpartition("/")[0].split("/batch_")[0] for _, path, _ in at.batches.calls} >= {
            "/openai",
            "/openai/batches",
        }
        assert not any("/v1/" in path for _, path, _ in at.batches.calls)

    run(AzureWithBatches, tmp_path, use)


def test_what_is_paid_for_half_a_job_is_half_of_it(tmp_path: Path):
    async def use(at: Opened) -> Decimal:
        at.batches.fail_job("cancelled")
        job = job_of(6)
        await at.finished(await at.provider.submit(job, at.lines(job, ["What is 1 + 1?"] * 6)))
        assert len(at.batches.paid_twice()) == 1  # the ledger sees that one thing was asked six times
        return at.batches.billed_usd

    async def whole(at: Opened) -> Decimal:
        job = job_of(6)
        await at.finished(await at.provider.submit(job, at.lines(job, ["What is 1 + 1?"] * 6)))
        return at.batches.billed_usd

    assert run(OpenAI, tmp_path, use) * 2 == run(OpenAI, tmp_path, whole)


def test_a_dialect_without_batches_has_no_provider():
    for name, dialect in DIALECTS.items():
        session: Any = None  # nothing is asked
        provider = open_provider(dialect, "http://127.0.0.1:9/v1", "m", None, session=session, environ={})
        assert (provider is not None) is (name in BATCH_DIALECTS)
        assert name not in BATCH_DIALECTS or "batch" in dialect.features
