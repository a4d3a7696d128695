"""The call journal: what was acknowledged is found again, whatever happens to the process or to the end of the file."""

import asyncio
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.call import Attempt, Completion
from r2.errors import LakeError, RunLockedError
from storage.runs.journal import Journal, drop_settled
from storage.runs.journal_mark import mark_of, read_mark, remove_journal
from storage.runs.paid import paid_beside_usd


def commit_all(path: Path, calls: dict[str, bytes]) -> None:
    """One session that begins and stores these calls, one after the other."""

    async def session() -> None:
        with Journal.open(path) as journal:
            for key, record in calls.items():
                journal.begin(key, 0.5)
                await journal.commit(key, record, 0.25)

    asyncio.run(session())


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(st.text(st.characters(exclude_categories=()), max_size=40), st.binary(max_size=6000), max_size=8)
)
def test_any_bytes_under_any_key_are_found_by_the_next_session(
    tmp_path_factory: pytest.TempPathFactory, calls: dict[str, bytes]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "calls.journal"
    commit_all(path, calls)
    with Journal.open(path) as journal:
        assert {key: journal.find(key) for key in calls} == calls
        assert list(journal.records()) == list(calls.items())
        assert len(journal) == len(calls)
        assert journal.lost_at_open == []
        assert journal.find("another key, longer than any of them by far, to be sure") is None


def test_the_newest_record_of_a_key_counts(tmp_path: Path) -> None:
    commit_all(tmp_path / "j", {"k": b"first"})
    commit_all(tmp_path / "j", {"k": b"second"})
    with Journal.open(tmp_path / "j") as journal:
        assert journal.find("k") == b"second"
        assert list(journal.records()) == [("k", b"second")]


def test_calls_that_were_begun_and_never_stored_are_known_to_later_sessions(tmp_path: Path) -> None:
    commit_all(tmp_path / "j", {"a": b"answer"})
    with Journal.open(tmp_path / "j") as journal:
        journal.begin("b", 0.25)
        journal.begin("c", 0.125)
    with Journal.open(tmp_path / "j") as journal:
        assert journal.lost_at_open == [("b", 0.25, b""), ("c", 0.125, b"")]
        assert journal.find("b") is None
    commit_all(tmp_path / "j", {"b": b"made again"})
    with Journal.open(tmp_path / "j") as journal:
        assert sorted(journal.lost_at_open) == [("b", 0.25, b""), ("c", 0.125, b"")], "b was paid for twice"
        assert journal.lost_usd("b") == 0.25
        assert journal.lost_usd("a") == 0


def test_a_call_sent_again_by_the_same_session_is_one_call_at_the_price_of_both(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j") as journal:
        journal.begin("a", 0.25, b"me")
        journal.hold("a", 0.5)
        journal.hold("a", 0.75)
    with Journal.open(tmp_path / "j") as journal:
        assert journal.lost_at_open == [("a", 0.75, b"me")]
        journal.begin("a", 0.25)
    with Journal.open(tmp_path / "j") as journal:
        assert sorted(usd for _, usd, _ in journal.lost_at_open) == [0.25, 0.75]


def test_what_the_other_processes_of_a_run_paid_is_read_while_they_write(tmp_path: Path) -> None:
    done = Completion("4", "m", (Attempt("m", 0, 200, 0.0, cost_usd=0.5),)).to_bytes()
    paths = [tmp_path / name for name in ("calls.journal", "calls-rank1.journal", "calls-rank2.journal")]

    async def session() -> list[float]:
        with Journal.open(paths[0]) as first, Journal.open(paths[1]) as second, Journal.open(paths[2]) as third:
            await first.commit("a", done)
            await second.commit("b", done)
            third.begin("c", 0.25)
            return [paid_beside_usd(path) for path in paths]

    assert asyncio.run(session()) == [0.75, 0.75, 1.0]


def test_what_is_settled_leaves_the_journal_and_what_is_not_stays_with_what_it_may_have_cost(tmp_path: Path) -> None:
    commit_all(tmp_path / "j", {"settled": b"1", "open": b"2"})
    with Journal.open(tmp_path / "j") as journal:
        journal.begin("settled", 0.5)
        journal.begin("open", 0.25)
        journal.begin("never stored", 0.125)
    drop_settled(tmp_path / "j", {"settled"})
    with Journal.open(tmp_path / "j") as journal:
        assert list(journal.records()) == [("open", b"2")]
        assert sorted(journal.lost_at_open) == [("never stored", 0.125, b""), ("open", 0.25, b"")]


def test_a_record_is_acknowledged_only_after_a_sync_that_began_when_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a slow disk: the first commit has the first sync for itself, the next 63 share the second one."""
    log: list[str] = []
    real = os.fsync

    def slow_fsync(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        time.sleep(0.05)
        real(descriptor)
        log.append(f"synced {size}")

    async def session() -> None:
        with Journal.open(tmp_path / "j") as journal:
            monkeypatch.setattr(os, "fsync", slow_fsync)

            async def commit(number: int) -> None:
                if number:
                    await asyncio.sleep(0.01)
                await journal.commit(f"{number:02d}", b"x")
                log.append("acknowledged")

            async with asyncio.TaskGroup() as group:
                for number in range(64):
                    group.create_task(commit(number))

    asyncio.run(session())
    size = (tmp_path / "j").stat().st_size
    assert log == [f"synced {size // 64}", "acknowledged", f"synced {size}", *["acknowledged"] * 63]


def test_a_torn_end_is_cut_off_wherever_it_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "j"
    commit_all(path, {"a": b"1" * 30, "b": b"2" * 30})
    whole = path.read_bytes()
    commit_all(path, {"c": b"3" * 30})
    longer = path.read_bytes()
    for length in range(len(whole), len(longer)):
        path.write_bytes(longer[:length])
        with Journal.open(path) as journal:
            assert [key for key, _ in journal.records()] == ["a", "b"]
        assert whole == path.read_bytes()[: len(whole)]
        commit_all(path, {"d": b"4"})
        with Journal.open(path) as journal:
            assert [key for key, _ in journal.records()] == ["a", "b", "d"]


def test_zeros_that_a_power_cut_left_at_the_end_are_cut_off(tmp_path: Path) -> None:
    commit_all(tmp_path / "j", {"a": b"1"})
    with (tmp_path / "j").open("ab") as file:
        file.write(bytes(4096))
    with Journal.open(tmp_path / "j") as journal:
        assert list(journal.records()) == [("a", b"1")]


def test_a_lost_page_among_records_that_were_never_acknowledged_is_a_torn_end(tmp_path: Path) -> None:
    """Written in one group, so no sync lay between them: the disk may keep the later one and lose the earlier."""
    path = tmp_path / "j"
    commit_all(path, {"a": b"1"})
    start = path.stat().st_size

    async def unsynced() -> None:
        with Journal.open(path) as journal:
            journal.begin("b", 1.0)
            journal.begin("c", 1.0)

    asyncio.run(unsynced())
    stored = bytearray(path.read_bytes())
    stored[start : start + 20] = bytes(20)
    path.write_bytes(stored)
    with Journal.open(path) as journal:
        assert list(journal.records()) == [("a", b"1")]
        assert [call.usd for call in journal.lost_at_open] == [1.0, 1.0], "what was on its way may have been paid"
        assert journal.n_missing_at_open == 0
    with Journal.open(path) as journal:
        assert sum(call.usd for call in journal.lost_at_open) == 2.0, "and no more is lost by looking at it"


def test_damage_to_a_record_that_was_acknowledged_is_an_error_and_cuts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j"
    commit_all(path, {"a": b"1" * 20})
    second = path.stat().st_size
    commit_all(path, {"b": b"2" * 20})
    third = path.stat().st_size
    commit_all(path, {"c": b"3" * 20})
    whole = path.read_bytes()
    for at in range(second, third):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        damaged = path.read_bytes()
        with pytest.raises(LakeError, match=r"the record at byte \d+ is damaged"):
            Journal.open(path)
        assert path.read_bytes() == damaged


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not yours")
    with pytest.raises(LakeError, match="not a call journal"):
        Journal.open(path)
    assert path.read_bytes() == b"not yours"


def test_a_record_that_changes_under_us_is_an_error_and_never_an_answer(tmp_path: Path) -> None:
    commit_all(tmp_path / "j", {"a": b"1" * 20})
    with Journal.open(tmp_path / "j") as journal:
        with (tmp_path / "j").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"2")
        with pytest.raises(LakeError, match="changed since it was written"):
            journal.find("a")


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j"), pytest.raises(RunLockedError, match="open in another process"):
        Journal.open(tmp_path / "j")


def test_a_disk_that_refuses_to_sync_fails_every_waiting_call_and_all_that_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    async def session() -> list[Any]:
        with Journal.open(tmp_path / "j") as journal:
            monkeypatch.setattr(os, "fsync", refuse)
            first = await asyncio.gather(*(journal.commit(f"{i}", b"x") for i in range(3)), return_exceptions=True)
            with pytest.raises(LakeError, match="cannot be synced"):
                journal.begin("later", 0.0)
            assert journal.find("0") is None
            return first

    assert [type(error) for error in asyncio.run(session())] == [LakeError] * 3


def test_a_call_that_cannot_be_noted_is_an_error_before_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, frame: bytes) -> int:
        raise OSError(28, "No space left on device")

    with Journal.open(tmp_path / "j") as journal:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(LakeError, match="No space left"):
            journal.begin("a", 1.0)
        monkeypatch.undo()
        assert len(journal) == 0


def test_a_full_disk_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    async def session() -> None:
        with Journal.open(tmp_path / "j") as journal:
            await journal.commit("a", b"1")
            monkeypatch.setattr(os, "write", lambda descriptor, frame: real(descriptor, frame[:10]))
            with pytest.raises(LakeError, match="10 of 35 bytes written"):
                await journal.commit("b", b"2")
            monkeypatch.undo()
            await journal.commit("c", b"3")

    asyncio.run(session())
    with Journal.open(tmp_path / "j") as journal:
        assert list(journal.records()) == [("a", b"1"), ("c", b"3")]


def test_a_caller_that_is_cancelled_while_it_waits_has_still_stored_its_call(tmp_path: Path) -> None:
    async def session() -> None:
        with Journal.open(tmp_path / "j") as journal:
            waiting = asyncio.create_task(journal.commit("a", b"paid"))
            await asyncio.sleep(0)
            waiting.cancel()
            await journal.commit("b", b"after")
            assert journal.find("a") == b"paid"

    asyncio.run(session())


def test_the_journal_serves_one_event_loop_after_another(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j") as journal:
        for number in range(3):
            asyncio.run(_one(journal.commit, str(number)))
        assert [key for key, _ in journal.records()] == ["0", "1", "2"]


async def _one(commit: Callable[[str, bytes], Awaitable[None]], key: str) -> None:
    await commit(key, b"x")


WRITE_UNTIL_KILLED = """
import asyncio, sys
from storage.runs.journal import Journal

async def main() -> None:
    journal = Journal.open(sys.argv[1])
    numbers = iter(range(10**9))
    async def worker() -> None:
        for number in numbers:
            key = f"{number:08d}"
            journal.begin(key, 0.001)
            await journal.commit(key, key.encode() * 50)
            sys.stdout.write(key + "\\n")
            sys.stdout.flush()
    async with asyncio.TaskGroup() as workers:
        for _ in range(16):
            workers.create_task(worker())

asyncio.run(main())
"""


def test_after_kill_9_everything_acknowledged_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "j"
    acknowledged: list[str] = []
    for n_lines in (5, 200, 1000):
        path.unlink(missing_ok=True)
        with subprocess.Popen(
            [sys.executable, "-c", WRITE_UNTIL_KILLED, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            acknowledged = [writer.stdout.readline().strip() for _ in range(n_lines)]
            writer.kill()
            acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
        with Journal.open(path) as journal:
            assert all(journal.find(key) == key.encode() * 50 for key in acknowledged)
            open_calls = {call.key for call in journal.lost_at_open}
            assert len(open_calls) <= 16
            assert not open_calls & set(acknowledged)
    assert len(acknowledged) >= 1000


def test_noting_and_storing_a_call_costs_little(tmp_path: Path) -> None:
    """64 in flight, as the pool client does. The bound is five times what one core of 2026 needs, to spare loaded
    machines."""

    async def session() -> float:
        with Journal.open(tmp_path / "j") as journal:
            numbers = iter(range(3000))
            body = b"x" * 1500

            async def worker() -> None:
                for number in numbers:
                    journal.begin(f"{number:032x}", 0.001)
                    await journal.commit(f"{number:032x}", body)

            began = time.process_time()
            async with asyncio.TaskGroup() as workers:
                for _ in range(64):
                    workers.create_task(worker())
            return (time.process_time() - began) / 3000

    assert asyncio.run(session()) < 100e-6


CALLS = {f"call-{i}": bytes([i]) * (10 + 40 * i) for i in range(8)}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2000))
def test_a_journal_that_was_cut_says_how_many_stored_calls_it_lost(
    tmp_path_factory: pytest.TempPathFactory, n_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    commit_all(path, CALLS)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with Journal.open(path) as journal:
        assert len(journal) + journal.n_missing_at_open == len(CALLS)
        assert (journal.n_missing_at_open > 0) == (len(journal) < len(CALLS))
        if journal.n_missing_at_open:
            assert f"{journal.n_missing_at_open} of the 8 answers" in journal.loss()
            assert str(path) in journal.loss()


def test_a_journal_that_was_taken_away_says_so_once(tmp_path: Path) -> None:
    path = tmp_path / "j"
    commit_all(path, CALLS)
    path.unlink()
    with Journal.open(path) as journal:
        assert journal.n_missing_at_open == 8
    commit_all(path, {"call-0": b"paid again"})
    with Journal.open(path) as journal:
        assert (len(journal), journal.n_missing_at_open) == (1, 0)


def paid_for(journal: Journal, usd_each: float) -> float:
    """What its stored calls cost, at so much each, and what the lost ones may have."""
    return len(journal) * usd_each + sum(call.usd for call in journal.lost_at_open)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2000), st.booleans())
def test_what_a_journal_lost_when_it_was_cut_stays_counted_as_paid_in_every_later_session(
    tmp_path_factory: pytest.TempPathFactory, n_bytes: int, is_gone: bool
) -> None:
    """Eight calls of 0.25 USD are stored and three of 0.5 USD on their way when the session is killed."""
    path = tmp_path_factory.mktemp("journal") / "j"

    async def killed() -> None:
        journal = Journal.open(path)
        for key, record in CALLS.items():
            journal.begin(key, 0.5)
            await journal.commit(key, record, 0.25)
        for key in ("x", "y", "z"):
            journal.begin(key, 0.5)
        left = path.read_bytes(), mark_of(path).read_bytes()
        journal.close()
        path.write_bytes(left[0])
        mark_of(path).write_bytes(left[1])

    asyncio.run(killed())
    whole = path.read_bytes()
    is_cut = is_gone or n_bytes < len(whole)
    path.unlink() if is_gone else path.write_bytes(whole[:n_bytes])
    for _ in range(2):
        with Journal.open(path) as journal:
            n_lost = len(journal.lost_at_open)
            assert n_lost >= len(CALLS) - len(journal) + 3 if is_cut else n_lost == 3
            assert paid_for(journal, 0.25) == pytest.approx(8 * 0.25 + 3 * 0.5)
    commit_all(path, dict.fromkeys(CALLS, b"paid again"))
    drop_settled(path, {"call-0"})
    with Journal.open(path) as journal:
        assert journal.n_missing_at_open == 0
        assert sum(call.usd for call in journal.lost_at_open if call.key == "missing") >= (2.0 if is_gone else 0.0)


def test_a_journal_that_is_gone_tells_its_loss_with_what_was_on_its_way(tmp_path: Path) -> None:
    path = tmp_path / "j"
    commit_all(path, CALLS)
    with Journal.open(path) as journal:
        for key in ("x", "y"):
            journal.begin(key, 0.5)
    path.unlink()
    with Journal.open(path) as journal:
        assert "8 of the 8 answers" in journal.loss()
        assert "up to 10 calls are paid twice" in journal.loss()
        assert paid_for(journal, 0.25) == pytest.approx(8 * 0.25 + 2 * 0.5)


def test_a_call_that_is_stored_again_counts_with_its_last_cost(tmp_path: Path) -> None:
    """A failure that was paid for is asked again: its new record has the cost of both."""
    path = tmp_path / "j"

    async def session(usd: float) -> None:
        with Journal.open(path) as journal:
            await journal.commit("a", b"x", usd)

    for usd in (0.25, 0.75):
        asyncio.run(session(usd))
    assert read_mark(path).most_usd == 0.75
    path.unlink()
    with Journal.open(path) as journal:
        assert journal.lost_at_open == [("missing", 0.75, b"")]


def test_the_mark_of_an_earlier_version_says_what_it_knew(tmp_path: Path) -> None:
    path = tmp_path / "j"
    commit_all(path, CALLS)
    packed = struct.pack("<4sQQ", b"R2M\x01", path.stat().st_size, 8)
    mark_of(path).write_bytes(packed + zlib.crc32(packed).to_bytes(4, "little"))
    path.write_bytes(path.read_bytes()[:200])
    with Journal.open(path) as journal:
        assert len(journal) + journal.n_missing_at_open == 8


def test_damage_to_the_last_stored_record_is_an_error_too_though_no_record_follows(tmp_path: Path) -> None:
    path = tmp_path / "j"
    commit_all(path, {"a": b"answer"})
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(LakeError, match=r"damaged|not a call journal"):
            Journal.open(path)
    mark_of(path).unlink()
    with Journal.open(path) as journal:
        assert len(journal) == 0, "without its mark, as of an earlier version, a bad end is a torn end"


def test_a_mark_that_is_damaged_or_a_link_says_nothing(tmp_path: Path) -> None:
    path, precious = tmp_path / "j", tmp_path / "precious"
    precious.write_bytes(b"somebody's")
    mark_of(path).symlink_to(precious)
    commit_all(path, CALLS)
    assert precious.read_bytes() == b"somebody's"
    for content in (b"", b"R2M", b"x" * 24):
        mark_of(path).unlink(missing_ok=True)
        mark_of(path).write_bytes(content)
        with Journal.open(path) as journal:
            assert (len(journal), journal.n_missing_at_open) == (8, 0)


def test_a_journal_that_keeps_what_is_needed_has_lost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j"
    commit_all(path, CALLS)
    drop_settled(path, set(CALLS) - {"call-1", "call-2"})
    assert read_mark(path).n_calls == 2
    with Journal.open(path) as journal:
        assert (len(journal), journal.n_missing_at_open) == (2, 0)
    remove_journal(path)
    assert list(tmp_path.iterdir()) == []


def test_a_crash_while_a_journal_is_shortened_is_not_taken_for_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j"
    commit_all(path, CALLS)
    monkeypatch.setattr(Path, "replace", _killed_where_a_journal_is_moved(Path.replace))
    with pytest.raises(KeyboardInterrupt):
        drop_settled(path, set(CALLS) - {"call-1"})
    with Journal.open(path) as journal:
        assert (len(journal), journal.n_missing_at_open) == (8, 0)


def _killed_where_a_journal_is_moved(real: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
    def replace(source: Path, target: Path) -> Path:
        if target.name == "j":
            raise KeyboardInterrupt
        return real(source, target)

    return replace
