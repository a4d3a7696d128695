"""Calls with the same long instructions to an embedded server: few at once, until reading them again pays."""

import asyncio
from pathlib import Path

import pytest

from r2.call import Call
from r2.pool.client.client import PoolClient
from r2.pool.client.instructions import InstructionTurns
from r2.pool.client.ports import Address
from tests.support.loopback import Loopback, answers, write_pool

LONG = "x" * 300  # 100 tokens


def call(system: str = LONG, question: str = "2 + 2?", model: str = "a") -> Call:
    return Call(model, (("system", system), ("user", question)), "solve", 16)


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_second_call_waits_until_reading_the_instructions_again_is_a_tenth_of_the_work():
    async def scenario() -> None:
        turns = InstructionTurns()
        entered: list[int] = []

        async def one(i: int) -> None:
            assert await turns.enter(call()) is not None
            entered.append(i)

        first = await turns.enter(call())
        assert first is not None
        waiting = [asyncio.create_task(one(i)) for i in range(4)]
        await _settle()
        assert entered == []
        turns.leave(first, 600)  # 500 of its own: half of what a second slot takes
        await _settle()
        assert entered == [0]
        turns.leave(first, 599)  # 999 in all
        await _settle()
        assert entered == [0, 1]
        turns.leave(first, 101)  # 1,000: now there are two at once
        await _settle()
        assert entered == [0, 1, 2, 3]
        await asyncio.gather(*waiting)

    asyncio.run(scenario())


def test_a_call_that_was_not_answered_makes_room_and_pays_for_no_further_slot():
    async def scenario() -> None:
        turns = InstructionTurns()
        first = await turns.enter(call())
        assert first is not None
        turns.leave(first, 0)
        again = await turns.enter(call())
        assert again is first
        assert (first.n_inside, first.own_tokens, first.most_inside) == (1, 0.0, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("free", [call("Reply with the result."), Call("a", (("user", LONG),), "solve", 16)])
def test_short_instructions_and_a_users_own_text_are_not_waited_for(free: Call):
    assert asyncio.run(InstructionTurns().enter(free)) is None


def test_other_instructions_do_not_wait_for_these():
    async def scenario() -> None:
        turns = InstructionTurns()
        assert await turns.enter(call()) is not await turns.enter(call("y" * 300))

    asyncio.run(scenario())


def test_whoever_gives_up_waiting_keeps_nobody_out():
    async def scenario() -> None:
        turns = InstructionTurns()
        first = await turns.enter(call())
        assert first is not None
        tasks = [asyncio.create_task(turns.enter(call())) for _ in range(3)]
        await _settle()
        tasks[0].cancel()  # while it waits
        await _settle()
        turns.leave(first, 0)
        tasks[1].cancel()  # as its turn comes
        await _settle()
        assert (tasks[0].cancelled(), tasks[1].cancelled(), tasks[2].done()) == (True, True, True)
        assert first.n_inside == 1
        with pytest.raises(TimeoutError):
            await turns.enter(call(), asyncio.get_running_loop().time() + 0.01)
        assert not first.waiting

    asyncio.run(scenario())


def test_texts_that_nobody_asks_with_any_more_are_forgotten():
    async def scenario() -> None:
        turns = InstructionTurns()
        held = await turns.enter(call())
        for i in range(1000):
            one = await turns.enter(call(f"{i:0300}"))
            assert one is not None
            turns.leave(one, 0)
        assert len(turns._by_text) <= 257
        assert turns._of(LONG) is held

    asyncio.run(scenario())


@pytest.mark.parametrize(("reads_by_slot", "most"), [(True, 1), (False, 3)])
def test_an_embedded_server_is_asked_with_long_instructions_one_at_a_time_at_first(
    tmp_path: Path, reads_by_slot: bool, most: int
):
    async def scenario() -> int:
        async with Loopback(after=answers(after_s=0.05)) as server:
            pool = write_pool(tmp_path, {"a": "", "b": ""})  # two entries, the same weights
            where = {name: Address(server.base_url, name, reads_by_slot=reads_by_slot) for name in pool.models}
            async with PoolClient(pool, where, state_dir=tmp_path / "state") as client:
                calls = [call(question=f"{i} + 2?", model=model) for i, model in enumerate("aba")]
                done = await asyncio.gather(*(client.complete(one, problem_id="p") for one in calls))
            assert [one.text for one in done] == ["4", "4", "4"]
            return server.max_together

    assert asyncio.run(scenario()) == most
