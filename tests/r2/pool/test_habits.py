"""What an endpoint does not take is left out from then on: in this process, in the next, and in two at a time."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from r2.call import Call, Completion
from r2.pool.client.client import PoolClient
from r2.pool.client.habits import EQUAL_REFUSALS, KEPT_DAYS, MOST_OMITTED, HabitFile, Habits, Kept, is_same_model
from r2.pool.client.ports import Address
from r2.pool.file.config import load_pool
from tests.support.loopback import Loopback, answers, says, write_pool
from tests.support.providers.pool import ENTRIES, Providers

TODAY = datetime.now(UTC).date().isoformat()


def refusal(name: str, code: str = "unsupported_parameter") -> bytes:
    said = f"Unsupported parameter: '{name}' is not supported with this model."
    return orjson.dumps({"error": {"message": said, "param": name, "code": code}})


def habits(folder: Path, lines: str = "", **options: Any) -> Habits:
    return Habits("a", write_pool(folder, {"a": lines}).models["a"], pool_path=Path("pool.toml"), **options)


BODY = orjson.dumps({"model": "m", "messages": [], "max_tokens": 9, "temperature": 0.0, "stop": ["x"]})


def test_a_refused_field_is_left_out_and_said_and_kept_once(tmp_path: Path):
    said: list[str] = []
    kept: list[Kept] = []
    own = habits(tmp_path, 'omit = ["seed"]', say=said.append, keep=kept.append)
    assert own.omitted == {"seed"}
    assert own.learns(400, refusal("stop"), BODY, "HTTP 400: no")
    assert own.learns(400, refusal("stop"), BODY, "HTTP 400: no"), "a call that was on its way may be sent again"
    assert own.omitted == {"seed", "stop"}
    assert kept == [Kept(frozenset({"stop"}), None, TODAY)]
    assert said == [
        "a: the endpoint refuses stop (HTTP 400: no). From now on stop is left out. In the pool file: "
        'omit = ["seed", "stop"] in [models.a] of pool.toml.'
    ]


def test_the_output_limit_changes_its_name_once_and_is_never_left_out(tmp_path: Path):
    own = habits(tmp_path)
    assert own.learns(400, refusal("max_tokens"), BODY, "")
    assert own.limit_field == "max_completion_tokens"
    renamed = BODY.replace(b"max_tokens", b"max_completion_tokens")
    assert not own.learns(400, refusal("max_completion_tokens"), renamed, ""), "it would go round in a circle"
    assert (own.limit_field, own.omitted) == ("max_completion_tokens", frozenset())


def test_a_limit_that_the_pool_file_sends_in_place_of_a_call_s_own_is_not_renamed(tmp_path: Path):
    own = habits(tmp_path, "extra_body = {max_tokens = 9}")
    assert not own.learns(400, refusal("max_tokens"), BODY, "")


def test_an_entry_leaves_out_no_more_than_a_few_fields(tmp_path: Path):
    many = Kept(frozenset(f"f{i}" for i in range(MOST_OMITTED)), None, TODAY)
    own = habits(tmp_path, kept=many)
    assert not own.learns(400, refusal("stop"), BODY, "")


def test_equal_refusals_close_an_entry_and_name_the_field_and_its_key(tmp_path: Path):
    own = habits(tmp_path)
    body = orjson.dumps({"model": "m", "max_tokens": 9, "reasoning_effort": "minimal"})
    said = refusal("reasoning_effort", "unsupported_value")
    assert [own.refused(said, body, "no") for _ in range(EQUAL_REFUSALS)] == [*[False] * (EQUAL_REFUSALS - 1), True]
    assert "It names reasoning_effort: see reasoning_effort in [models.a] of pool.toml." in own.why_closed


def test_refusals_with_answers_between_them_or_of_other_words_close_nothing(tmp_path: Path):
    own = habits(tmp_path)
    for number in range(3 * EQUAL_REFUSALS):
        assert not own.refused(b"", BODY, f"row {number} is bad")
        assert not own.refused(b"", BODY, "this one is empty")
        own.answered(BODY, "m")
    assert own.why_closed == ""


def test_the_file_adds_to_what_another_process_has_kept(tmp_path: Path):
    one, other = HabitFile(tmp_path / "state"), HabitFile(tmp_path / "state")
    one.add("key", Kept(frozenset({"stop"}), None, TODAY))
    other.add("key", Kept(frozenset({"seed"}), "max_tokens", TODAY))
    other.add("second", Kept(frozenset({"temperature"}), None, TODAY))
    assert one.read() == {
        "key": Kept(frozenset({"stop", "seed"}), "max_tokens", TODAY),
        "second": Kept(frozenset({"temperature"}), None, TODAY),
    }


def test_what_is_old_or_unknown_or_broken_in_the_file_is_not_there(tmp_path: Path):
    old = (datetime.now(UTC).date() - timedelta(days=KEPT_DAYS + 1)).isoformat()
    file = HabitFile(tmp_path)
    assert file.read() == {}
    document = {
        "old": {"omit": ["stop"], "limit_field": None, "on": old},
        "odd": {"omit": ["stop", "messages", "max_tokens"], "limit_field": "messages", "on": TODAY},
        "no date": {"omit": ["stop"]},
        "no table": 3,
        "no list": {"omit": "stop", "on": TODAY},
    }
    file.path.write_text(json.dumps(document))
    assert file.read() == {"odd": Kept(frozenset({"stop"}), None, TODAY), "no list": Kept(frozenset(), None, TODAY)}
    file.path.write_text("{")
    assert file.read() == {}


async def ask(
    folder: Path, server: Loopback, calls: list[Call], said: list[str], lines: str = ""
) -> tuple[list[Completion], list[dict[str, Any]]]:
    """(outcomes, bodies that the server saw)."""
    pool = write_pool(folder, {"a": lines})
    n_before = len(server.arrivals)
    where = {"a": Address(server.base_url, "a")}
    async with PoolClient(pool, where, state_dir=folder / "state", say=said.append) as client:
        done = await asyncio.gather(*(client.complete(c, problem_id=f"p{i}") for i, c in enumerate(calls)))
        assert client.spent_usd == pytest.approx(sum(c.cost_usd for c in done))
    return list(done), [arrival.body for arrival in server.arrivals[n_before:]]


def question(text: str = "2 + 2?") -> Call:
    return Call("a", (("user", text),), "solve", 16)


def test_the_same_call_is_sent_again_without_the_field_and_the_next_session_knows(tmp_path: Path):
    async def scenario() -> None:
        said: list[str] = []
        async with Loopback(script=[says(400, json.loads(refusal("temperature", "unsupported_value")))]) as server:
            [done], bodies = await ask(tmp_path, server, [question()], said)
            assert (done.text, [a.error_type for a in done.attempts]) == ("4", ["bad_request", None])
            assert done.cost_usd == pytest.approx(20e-6), "a refusal costs nothing"
            assert ["temperature" in body for body in bodies] == [True, False]
            assert len(said) == 1 and "sampling = false in [models.a]" in said[0]
            [again], [body] = await ask(tmp_path, server, [question("3 + 3?")], said)
            assert again.is_ok and "temperature" not in body
            assert len(said) == 1
            stored = (tmp_path / "state" / "habits.json").read_text()
            assert "temperature" in stored and "sk-" not in stored
            _, [body] = await ask(tmp_path, server, [question()], said, 'reasoning_effort = "none"')
            assert "temperature" in body, "with another effort it is another entry"

    asyncio.run(scenario())


def test_calls_at_the_same_time_learn_it_together(tmp_path: Path):
    async def behave(request: Any) -> Any:
        body = await request.json()
        named = next((name for name in ("max_tokens", "temperature") if name in body), None)
        return await (says(400, json.loads(refusal(named))) if named else answers())(request)

    async def scenario() -> None:
        said: list[str] = []
        async with Loopback(after=behave) as server:
            done, bodies = await ask(tmp_path, server, [question(str(i)) for i in range(20)], said)
            assert {c.text for c in done} == {"4"}
            assert len(said) == 2, "one line for each field, not for each call"
            assert all(("max_tokens" in body) != ("max_completion_tokens" in body) for body in bodies)

    asyncio.run(scenario())


def test_a_refusal_that_nothing_heals_closes_the_entry_and_defers_the_rest(tmp_path: Path):
    async def scenario() -> None:
        said: list[str] = []
        effort = says(400, json.loads(refusal("reasoning_effort", "unsupported_value")))
        async with Loopback(after=effort) as server:
            pool = write_pool(tmp_path, {"a": 'reasoning_effort = "minimal"'})
            where = {"a": Address(server.base_url, "a")}
            async with PoolClient(pool, where, state_dir=tmp_path / "state", say=said.append) as client:
                done = [await client.complete(question(), problem_id=f"p{i}") for i in range(EQUAL_REFUSALS + 2)]
            types = [completion.error_type for completion in done]
            assert types == [*["bad_request"] * (EQUAL_REFUSALS - 1), *["misconfigured"] * 3]
            assert "reasoning_effort" in (done[-1].error_message or "")
            assert len(server.arrivals) == EQUAL_REFUSALS
            assert said == []

    asyncio.run(scenario())


def test_a_state_folder_that_cannot_be_written_costs_no_call(tmp_path: Path):
    async def scenario() -> None:
        (tmp_path / "state").write_text("a file")
        said: list[str] = []
        async with Loopback(script=[says(400, json.loads(refusal("temperature")))]) as server:
            [done], _ = await ask(tmp_path, server, [question()], said)
            assert done.is_ok
            assert len(said) == 2 and "could not be kept for the next session" in said[1]

    asyncio.run(scenario())


def test_a_pool_that_says_nothing_of_what_its_models_take_answers_everything(tmp_path: Path):
    async def scenario() -> None:
        said: list[str] = []
        async with Providers() as providers:
            text = providers.pool_text(is_plain=True)
            text += providers.openai.entry(
                "gateway",
                "gpt-5-mini",
                tier="medium",
                key_env="IMITATED_OPENAI_KEY",
                is_plain=True,
                dialect='"compatible"',
            )
            (tmp_path / "pool.toml").write_text(text, "utf-8")
            pool = load_pool(tmp_path / "pool.toml")
            where = {name: Address(table.endpoint, table.served_model) for name, table in pool.models.items()}
            entries = [*(entry for entry, *_ in ENTRIES), "gateway"]
            calls = [
                Call(entry, (("system", "Be short."), ("user", f"What is {n} + 25?")), "solve", 4096)
                for entry in entries
                for n in (16, 17)
            ]
            options = {"state_dir": tmp_path, "environ": providers.environment, "say": said.append}
            async with PoolClient(pool, where, **options) as client:  # type: ignore[arg-type]
                done = await asyncio.gather(*(client.complete(c, problem_id=str(i)) for i, c in enumerate(calls)))
                spent_usd = client.spent_usd
            assert [(c.model, c.text) for c in done] == [(e, t) for e in entries for t in ("41", "42")]
            assert spent_usd == pytest.approx(float(providers.bill_usd), abs=1e-9)
            assert any("gateway" in line and "max_completion_tokens" in line for line in said)
            assert {line.partition(":")[0] for line in said} == {"luna", "haiku", "opus", "thinker", "gateway"}
            n_lines = len(said)
            async with PoolClient(pool, where, **options) as client:  # type: ignore[arg-type]
                again = await asyncio.gather(*(client.complete(c, problem_id=str(i)) for i, c in enumerate(calls)))
            assert all(len(c.attempts) == 1 and c.is_ok for c in again), "the next session asks right from the first"
            assert len(said) == n_lines

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("asked", "served", "is_same"),
    [
        ("gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", True),
        ("claude-sonnet-5-latest", "claude-sonnet-5-20261008", True),
        ("models/gemini-3.8-flash", "gemini-3.8-flash", True),
        ("gemini-2.5-flash", "gemini-2.5-flash-preview-05-20", True),
        ("mistralai/mistral-small-3.2", "mistralai/mistral-small-3.2-24b-instruct", True),
        ("grok-4", "grok-4.3", False),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-5", "gpt-5.5-2026-08-01", False),
    ],
)
def test_a_dated_version_is_the_same_model_and_a_successor_is_not(asked: str, served: str, is_same: bool):
    assert is_same_model(asked, served) is is_same


def test_a_successor_that_answers_is_said_once(tmp_path: Path):
    said: list[str] = []
    own = habits(tmp_path, model="grok-4", dialect="xai", say=said.append)
    for served in ("grok-4-0709", "grok-4.3", "grok-4", "grok-4.3"):
        own.answered(BODY, served)
    assert said == [
        "a: 'grok-4' was asked for, and 'grok-4.3' answers. What is charged goes by the price of [models.a] in "
        "pool.toml: check it, or ask for 'grok-4.3'."
    ]
    deployment = habits(tmp_path, model="our-thinker", dialect="azure", say=said.append)
    deployment.answered(BODY, "gpt-5-mini-2025-08-07")
    assert len(said) == 1, "a deployment has a name of its own"


def test_a_model_that_is_not_there_closes_the_entry_with_the_nearest_names(tmp_path: Path):
    own = habits(tmp_path, model="gpt-6-lunar", url="https://api.openai.com/v1/chat/completions", dialect="openai")
    why = own.does_not_know("HTTP 404: The model `gpt-6-lunar` does not exist")
    assert (own.why_closed, own.closed_as) == (why, "unknown_model")
    assert "see served_model and endpoint in [models.a] of pool.toml. Nearest names: gpt-6-luna" in why
