"""vLLM servers that the product starts, on a strict imitation of vLLM: found, shared, started again, ended with us."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil
import pytest

from r2.call import Call, Completion
from r2.errors import EndpointError, PoolFileError
from r2.pool.client.client import PoolClient
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.opening import open_client
from r2.pool.servers.vllm import adapter_name
from tests.support.paths import ROOT
from tests.support.vllm_pool import VllmPool


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VllmPool:
    return VllmPool(tmp_path, monkeypatch)


@asynccontextmanager
async def opened(place: VllmPool, pool: PoolConfig) -> AsyncIterator[PoolClient]:
    async with open_client(
        pool, models_dir=place.folder, log_dir=place.folder / "logs", state_dir=place.state_dir
    ) as client:
        yield client


async def started(place: VllmPool, n: int) -> None:
    """Waits until the imitation has been started so often."""
    for _ in range(600):
        if len(place.seen("start")) >= n:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{len(place.seen('start'))} starts")


async def asked(client: PoolClient, calls: Sequence[Call]) -> list[Completion]:
    return list(
        await asyncio.gather(*(client.complete(call, problem_id=str(number)) for number, call in enumerate(calls)))
    )


def call(entry: str, text: str = "What is 2 + 2?", **fields: object) -> Call:
    return Call(entry, (("user", text),), "solve", 16, **fields)  # type: ignore[arg-type]


def run(place: VllmPool, pool: PoolConfig, calls: Sequence[Call]) -> list[Completion]:
    async def go() -> list[Completion]:
        async with opened(place, pool) as client:
            return await asked(client, calls)

    return asyncio.run(go())


def test_entries_of_one_model_share_a_server_and_each_asks_its_own_adapter(place: VllmPool):
    place.adapter("1. 2 + 2")
    place.adapter("allocate it", name="allocator", kind="allocator")
    pool = place.write(
        {
            "base": "",
            "decomposer": 'adapter = "decomposer@v1"\nprompt_mode = "bare"',
            "allocator": 'adapter = "allocator@v1"\nprompt_mode = "bare"',
        }
    )
    done = run(place, pool, [call("base"), call("decomposer"), call("allocator")])
    assert [one.error_type for one in done] == [None] * 3
    assert [one.text for one in done] == ["4", "1. 2 + 2", "allocate it"]
    [start] = place.seen("start")
    given = start["args"]
    assert given[given.index("--max-loras") + 1] == "2"
    assert [one["inplace"] for one in place.seen("load")] == [False, False]
    assert place.left_after(5) == []


def test_the_entries_of_a_server_together_have_as_many_in_flight_as_it_works_on(
    place: VllmPool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("VLLM_IMITATION_LATENCY_S", "0.05")
    pool = place.write({"one": "", "two": ""}, "max_num_seqs = 3")
    done = run(place, pool, [call(name, f"What is {n} + 1?") for n in range(20) for name in ("one", "two")])
    assert {one.error_type for one in done} == {None}
    [start] = place.seen("start")
    assert start["args"][start["args"].index("--max-num-seqs") + 1] == "3"
    assert max(chat["running"] for chat in place.seen("chat")) == 3
    assert not any(chat["waiting"] for chat in place.seen("chat"))
    assert pool.limits_of("one") == pool.limits_of("two")
    assert pool.limits_of("one")[1].max_in_flight == 3


def test_a_limit_of_its_own_wins_over_the_servers(place: VllmPool):
    pool = place.write({"one": "max_in_flight = 200", "two": ""}, "max_num_seqs = 3")
    assert pool.limits_of("one")[1].max_in_flight == 200
    assert pool.limits_of("one")[0] != pool.limits_of("two")[0]


def test_nothing_is_sent_while_the_server_has_a_queue(place: VllmPool, monkeypatch: pytest.MonkeyPatch):
    """Its cache holds two requests at once, and the pool file promises 32: what waits is not added to."""
    monkeypatch.setenv("VLLM_IMITATION_LATENCY_S", "0.4")
    monkeypatch.setenv("VLLM_IMITATION_CAPACITY", "2")
    pool = place.write({"one": ""}, "max_num_seqs = 32")
    calls = [call("one", f"What is {n} + 1?") for n in range(26)]

    async def go() -> list[Completion]:
        async with opened(place, pool) as client:
            first = asyncio.create_task(asked(client, calls[:10]))
            await asyncio.sleep(1.5)  # two looks with a queue
            assert client.gate_gauge("one").in_flight < 10, "the rest of them are under way"
            before = client.gate_gauge("one").starts
            second = asyncio.create_task(asked(client, calls[10:]))
            await asyncio.sleep(0.2)
            assert client.gate_gauge("one").starts == before == 10
            assert not first.done()
            done = await first
            return done + await second

    assert {one.error_type for one in asyncio.run(go())} == {None}
    looks = place.seen("metrics")
    assert max(look["waiting"] for look in looks) > 0
    assert looks[-1]["waiting"] == 0 or len(place.seen("chat")) == 26


@pytest.mark.parametrize("what", ["server", "engine"])
def test_a_server_that_died_is_started_again_with_its_adapters_and_no_call_is_lost(
    place: VllmPool, monkeypatch: pytest.MonkeyPatch, what: str
):
    monkeypatch.setenv("VLLM_IMITATION_LATENCY_S", "0.1")
    place.adapter("1. 2 + 2")
    entries = {"base": "", "decomposer": 'adapter = "decomposer@v1"\nprompt_mode = "bare"'}
    pool = place.write(entries, "max_num_seqs = 4")
    calls = [call(name, f"What is {n} + 1?") for n in range(30) for name in ("base", "decomposer")]

    async def go() -> list[Completion]:
        async with opened(place, pool) as client:
            answers = asyncio.create_task(asked(client, calls))
            await asyncio.sleep(0.6)
            server = psutil.Process(place.seen("start")[0]["pid"])
            (server if what == "server" else server.children()[0]).kill()
            return await answers

    done = asyncio.run(go())
    assert [one.error_type for one in done] == [None] * 60
    assert [one.model for one in done] == ["base", "decomposer"] * 30, "nobody stood in"
    assert [one.text for one in done[1::2]] == ["1. 2 + 2"] * 30
    first, second = place.seen("start")
    assert first["adapters"] == {}
    assert list(second["adapters"]) == [adapter_name(pool.policies["decomposer"])]
    assert any(len(one.attempts) > 1 for one in done), "what was in flight was sent again"
    assert bool(place.seen("dead")) == (what == "engine")
    assert place.left_after(5) == []


def test_a_server_that_dies_again_and_again_is_given_up(place: VllmPool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("r2.pool.servers.vllm.RESTARTS", 1)
    monkeypatch.setenv("VLLM_IMITATION_LATENCY_S", "0.2")
    pool = place.write({"one": ""})

    async def go() -> Completion:
        async with opened(place, pool) as client:
            for n in (1, 2):
                await started(place, n)
                assert (await client.complete(call("one"), problem_id=f"{n}")).is_ok
                await asyncio.sleep(0.5)  # the keeper has seen it healthy, too
                os.kill(place.seen("start")[-1]["pid"], signal.SIGKILL)
                await asyncio.sleep(0.3)
            return await client.complete(call("one"), problem_id="last")

    last = asyncio.run(go())
    assert last.error_type == "disconnected"
    assert len(place.seen("start")) == 2
    assert place.left_after(5) == []


HOLDS = """
import asyncio, sys
from pathlib import Path
from r2.pool.file.config import load_pool
from r2.pool.opening import open_client

async def main():
    folder = Path(sys.argv[1])
    pool = load_pool(folder / "pool.toml")
    async with open_client(pool, models_dir=folder, log_dir=folder / "logs", state_dir=folder / "state"):
        print("up", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("when", ["up", "starting"])
def test_killing_us_leaves_nothing_of_vllm(
    place: VllmPool, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, when: str
):
    monkeypatch.setenv("VLLM_IMITATION_START_S", "0" if when == "up" else "600")
    place.write({"one": ""})
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(place.folder)], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        if when == "up":
            assert parent.stdout.readline() == b"up\n"
        until = time.monotonic() + 30
        while len(place.processes()) < 5 and time.monotonic() < until:  # us, keeper, server, engine, worker
            time.sleep(0.05)
        groups = {os.getsid(process.pid) for process in place.processes()}
        assert len(place.processes()) == 5
        assert len(groups) >= 3, "the worker has left the server's session, as no kill of a group reaches it"
        parent.send_signal(number)
        parent.wait(10)
        assert place.left_after(10) == []


def test_the_keeper_takes_the_engine_along_when_the_server_alone_is_killed(place: VllmPool):
    """The one after the first death is another process, and nothing of the first is left."""
    pool = place.write({"one": ""})

    async def go() -> set[int]:
        async with opened(place, pool) as client:
            before = {process.pid for process in place.processes()}
            await asyncio.sleep(0.5)  # the keeper has seen it healthy, too
            os.kill(place.seen("start")[0]["pid"], signal.SIGKILL)
            await started(place, 2)
            assert (await client.complete(call("one"), problem_id="1")).is_ok
            return before & {process.pid for process in place.processes()}

    [kept] = asyncio.run(go())
    assert kept and not psutil.pid_exists(kept), "the keeper alone, and it has ended by now"


def test_a_keeper_that_is_killed_leaves_nothing_either(place: VllmPool):
    """The server is asked to end by the kernel, and takes its engine and its worker along."""
    pool = place.write({"one": ""})

    async def go() -> None:
        async with opened(place, pool):
            await asyncio.sleep(1.5)  # the worker comes last
            assert len(place.processes()) == 4
            [keeper] = [one for one in place.processes() if "r2.pool.servers.keeper" in one.cmdline()]
            keeper.kill()
            assert await asyncio.to_thread(place.left_after, 10) == []

    asyncio.run(go())


def test_a_server_that_ends_at_its_start_is_said_at_once_with_its_log(place: VllmPool):
    pool = place.write({"one": ""}, 'args = ["--no-such-argument"]')
    with pytest.raises(EndpointError, match=r"ended at start.*weights\.log"):
        run(place, pool, [call("one")])
    [log] = (place.folder / "logs").glob("*.log")
    assert "unrecognized arguments: --no-such-argument" in log.read_text("utf-8")
    assert place.left_after(5) == []


def test_a_server_that_does_not_come_up_is_given_up_after_its_time(place: VllmPool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_IMITATION_START_S", "600")
    pool = place.write({"one": ""}, "start_timeout_s = 1.5")
    with pytest.raises(EndpointError, match=r"not healthy within 1\.5 s"):
        run(place, pool, [call("one")])
    assert place.left_after(5) == []


def test_without_vllm_the_command_that_installs_it_is_named(place: VllmPool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R2_VLLM_VENV", str(place.folder / "nowhere"))
    pool = place.write({"one": ""})
    with pytest.raises(PoolFileError, match=r"make vllm-cpu .*make vllm\).*R2_VLLM_VENV"):
        run(place, pool, [call("one")])


def test_an_adapter_of_too_high_a_rank_is_refused_before_anything_is_started(place: VllmPool):
    place.adapter("x", rank=32)
    pool = place.write({"one": 'adapter = "decomposer@v1"\nprompt_mode = "bare"'})
    with pytest.raises(PoolFileError, match=r"has rank 32, and the server takes 16.*max_lora_rank = 32"):
        run(place, pool, [call("one")])
    assert place.seen("start") == []


def test_a_schema_goes_as_response_format_and_never_as_guided_json(place: VllmPool):
    pool = place.write({"one": "guided = true"})
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    [done] = run(place, pool, [call("one", json_schema=json.dumps(schema))])
    assert done.is_ok
    [chat] = place.seen("chat")
    assert chat["body"]["response_format"]["type"] == "json_schema"
    assert not [name for name in chat["body"] if name.startswith("guided")]


@contextmanager
def kept(place: VllmPool) -> Iterator["subprocess.Popen[bytes]"]:
    """`r2 pool serve` of the pool file, once its server can be asked."""
    command = [sys.executable, "-m", "flows.cli", "pool", "serve", "--pool", str(place.folder / "pool.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as serving:
        assert serving.stdout is not None
        try:
            assert b" listening http://127.0.0.1:" in serving.stdout.readline()
            yield serving
        finally:
            serving.terminate()
            serving.wait(30)


def test_a_promotion_is_served_by_the_server_that_is_kept_and_earlier_runs_keep_their_version(place: VllmPool):
    entries = {"base": "", "decomposer": 'adapter = "decomposer"\nprompt_mode = "bare"'}
    place.adapter("the first")
    place.registry.promote("decomposer", "v1", "trained")
    before = place.write(entries)
    with kept(place):
        assert run(place, before, [call("decomposer")])[0].text == "the first"
        place.adapter("the second")
        place.registry.promote("decomposer", "v2", "better")
        after = load_pool(before.path)
        assert run(place, after, [call("decomposer")])[0].text == "the second"
        assert run(place, before, [call("decomposer")])[0].text == "the first"
        assert before.digest != after.digest, "another run"
        [start] = place.seen("start")
        assert {chat["pid"] for chat in place.seen("chat")} == {start["pid"]}
        assert [one["name"].partition("-")[0] for one in place.seen("load")] == ["decomposer@v1", "decomposer@v2"]
    assert place.left_after(10) == []


def test_a_server_that_is_kept_and_dies_comes_back_with_what_was_loaded_since(place: VllmPool):
    entries = {"base": "", "decomposer": 'adapter = "decomposer@v2"\nprompt_mode = "bare"'}
    place.adapter("the first")
    place.adapter("the second")
    pool = place.write(entries)
    with kept(place):

        async def go() -> list[Completion]:
            async with opened(place, pool) as client:
                first = await asked(client, [call("decomposer")])
                await asyncio.sleep(0.5)
                os.kill(place.seen("start")[0]["pid"], signal.SIGKILL)
                await started(place, 2)
                return first + await asked(client, [call("decomposer", f"{n}") for n in range(8)])

        assert [one.text for one in asyncio.run(go())] == ["the second"] * 9
    assert place.left_after(10) == []


def test_a_version_that_was_moved_is_loaded_in_place(place: VllmPool):
    """The same weights from another folder: the server is told, or it would look for them where they were."""
    policy = place.adapter("the same")
    pool = place.write({"decomposer": 'adapter = "decomposer@v1"\nprompt_mode = "bare"'})
    with kept(place):
        assert run(place, pool, [call("decomposer")])[0].text == "the same"
        moved = place.folder / "moved"
        shutil.copytree(policy.path.parent.parent, moved)
        shutil.rmtree(policy.path)
        assert run(place, load_pool(pool.path, moved), [call("decomposer")])[0].text == "the same"
    assert [one["inplace"] for one in place.seen("load")] == [False, True]


def test_a_killed_keeper_of_servers_leaves_nothing_and_the_next_run_starts_its_own(place: VllmPool):
    pool = place.write({"one": ""})
    with kept(place) as serving:
        serving.kill()
        serving.wait(10)
        assert place.left_after(10) == []
        assert run(place, pool, [call("one")])[0].is_ok
    assert len(place.seen("start")) == 2


def test_a_pool_file_is_kept_by_one_process(place: VllmPool):
    place.write({"one": ""})
    with kept(place):
        again = subprocess.run(
            [sys.executable, "-m", "flows.cli", "pool", "serve", "--pool", str(place.folder / "pool.toml")],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert again.returncode == 1
    assert "another process serves it already" in again.stderr
