"""JSON schemas in the form that each provider takes, and the answers that come back."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.answering.allocation import allocation_schema, parse_allocation
from r2.call import Call
from r2.ledger import Price
from r2.pool.client.client import PoolClient
from r2.pool.client.dialects import DIALECTS
from r2.pool.client.dialects.schemas import AskedSchema, for_json_object, for_strict, unwrapped
from r2.pool.client.ports import Address
from r2.pool.client.wire import answer_of, request_body
from r2.pool.file.config import load_pool
from r2.pool.file.tables import ModelTable
from r2.roster import ModelCard
from tests.support.loopback import Loopback, answers, says, write_pool
from tests.support.providers import chat
from tests.support.providers.anthropic import Anthropic
from tests.support.providers.imitation import Refused
from tests.support.providers.pool import ENTRIES, Providers

NAMES = {"type": "array", "items": {"type": "string"}}
TREE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "left": {"$ref": "#"}},
    "required": ["name", "left"],
    "additionalProperties": False,
}


def closed(properties: dict[str, Any], **words: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **words,
    }


def test_a_list_becomes_the_field_of_an_object_and_comes_back_as_a_list():
    asked = for_strict(NAMES)
    assert asked == AskedSchema(closed({"answer": NAMES}), is_strict=True, is_wrapped=True)
    assert unwrapped('{"answer": ["a", "b"]}') == '["a","b"]'
    assert [unwrapped(text) for text in ('["a"]', '{"answer": 1, "b": 2}', '{"answer": ["a"', "")] == [
        '["a"]',
        '{"answer": 1, "b": 2}',
        '{"answer": ["a"',
        "",
    ]


@pytest.mark.parametrize(
    ("schema", "sent", "is_strict"),
    [
        (closed({"a": {"type": "string"}}), closed({"a": {"type": "string"}}), True),
        (  # closing an object whose keys are all there changes no answer
            {"type": "object", "properties": {"a": NAMES}, "required": ["a"]},
            closed({"a": NAMES}),
            True,
        ),
        (  # what only forbids is checked here
            closed({"a": {**NAMES, "uniqueItems": True}}, minProperties=1),
            closed({"a": NAMES}),
            True,
        ),
        (
            closed({"a": {"oneOf": [{"type": "string"}, {"type": "null"}]}}),
            closed({"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}),
            True,
        ),
        (TREE, TREE, True),
        *(
            (schema, schema, False)
            for schema in (
                {"type": "object", "properties": {"a": NAMES}},  # a may be missing
                {"type": "object"},  # any keys
                {"type": "object", "properties": {"a": NAMES}, "required": ["a"], "additionalProperties": True},
                closed({"a": {}}),  # anything
                closed({"a": {"type": "array"}}),
                closed({"a": {"allOf": [NAMES]}}),
                closed({"a": True}),
            )
        ),
    ],
)
def test_strict_mode_is_asked_for_where_it_changes_no_answer(
    schema: dict[str, Any], sent: dict[str, Any], is_strict: bool
):
    assert for_strict(schema) == AskedSchema(sent, is_strict)


def test_definitions_stay_at_the_root_and_a_root_that_refers_to_itself_cannot_be_put_into_an_object():
    schema = {"type": "array", "items": {"$ref": "#/$defs/name"}, "$defs": {"name": {"type": "string"}}}
    asked = for_strict(schema)
    assert asked is not None and asked.is_strict
    assert asked.schema == closed(
        {"answer": {"type": "array", "items": {"$ref": "#/$defs/name"}}}, **{"$defs": {"name": {"type": "string"}}}
    )
    assert for_strict({"type": "array", "items": {"$ref": "#"}}) is None


def test_some_json_object_is_asked_for_only_where_the_answer_is_one():
    assert for_json_object(TREE) == AskedSchema(TREE, False)
    assert for_json_object(NAMES) is None


@pytest.mark.parametrize(
    ("schema", "sent"),
    [
        (NAMES, NAMES),
        (closed({"a": {"type": "integer", "minimum": 3, "const": 4}}), closed({"a": {"type": "integer", "const": 4}})),
        (
            {"type": "object", "properties": {"a": {"oneOf": [NAMES, {"type": "null"}]}}},
            {
                "type": "object",
                "properties": {"a": {"anyOf": [NAMES, {"type": "null"}]}},
                "additionalProperties": False,
            },
        ),
        ({"type": "object"}, None),
        ({"type": "object", "properties": {"a": NAMES}, "additionalProperties": {"type": "string"}}, None),
        (TREE, None),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}}}, None),
    ],
)
def test_anthropic_is_asked_for_what_stays_whole_in_its_form(schema: dict[str, Any], sent: dict[str, Any] | None):
    asked = DIALECTS["anthropic"].asks_schema(schema)
    assert (None if asked is None else asked.schema) == sent


def test_gemini_is_asked_in_the_words_that_it_knows():
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "definitions": {"kind": {"const": "city"}},
        "type": "object",
        "properties": {"kind": {"$ref": "#/definitions/kind"}, "n": {"type": "integer", "exclusiveMinimum": 0}},
        "required": ["kind"],
    }
    asked = DIALECTS["gemini"].asks_schema(schema)
    assert asked is not None and asked.schema == {
        "$defs": {"kind": {"enum": ["city"]}},
        "type": "object",
        "properties": {"kind": {"$ref": "#/$defs/kind"}, "n": {"type": "integer"}},
        "required": ["kind"],
    }


KINDS = st.sampled_from(
    [{"type": "string"}, {"type": "integer", "minimum": 1}, {"enum": ["a", "b"]}, {"const": 3}, {}, True]
)
SCHEMAS = st.recursive(
    KINDS,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("array")}, optional={"items": inner, "uniqueItems": st.just(True)}),
        st.fixed_dictionaries(
            {}, optional={"anyOf": st.lists(inner, min_size=1), "oneOf": st.lists(inner, min_size=1)}
        ),
        st.fixed_dictionaries(
            {"type": st.just("object")},
            optional={
                "properties": st.dictionaries(st.sampled_from("abc"), inner),
                "required": st.lists(st.sampled_from("abc"), unique=True),
                "additionalProperties": st.booleans() | inner,
                "not": inner,
                "allOf": st.lists(inner, min_size=1),
            },
        ),
    ),
    max_leaves=8,
).filter(lambda schema: isinstance(schema, dict))


@settings(deadline=None)
@given(SCHEMAS)
def test_what_is_sent_is_what_the_strict_providers_take(schema: dict[str, Any]):
    def refuse(message: str, param: str | None, code: str | None) -> NoReturn:
        raise AssertionError(message)

    strict = for_strict(schema)
    assert strict is not None and strict.schema.get("type") == "object"
    if strict.is_strict:
        chat.check_strict(strict.schema, "reply", refuse)
    anthropic = DIALECTS["anthropic"].asks_schema(schema)
    if anthropic is not None:
        try:
            Anthropic()._check_schema(anthropic.schema)
        except Refused as refused:
            raise AssertionError(refused) from None
    for name in ("gemini", "vllm", "deepseek"):
        asked = DIALECTS[name].asks_schema(schema)
        assert asked is None or isinstance(asked.schema, Mapping)


def table(**options: object) -> ModelTable:
    price = {"input": 1.0, "output": 2.0, "date": "2026-11-01", "source": "a test"}
    return ModelTable.model_validate(
        {"endpoint": "http://h/v1", "tier": "small", "price_usd_per_mtok": price, "guided": True, **options}
    )


def test_deepseek_is_asked_for_json_only_where_the_prompt_speaks_of_it():
    for text, is_asked in (("Give me JSON.", True), ("Give me a list.", False)):
        call = Call("m", (("user", text),), "solve", 16, json_schema=json.dumps(TREE))
        body = orjson.loads(request_body(call, table(), "m", dialect=DIALECTS["deepseek"]))
        assert (body.get("response_format") == {"type": "json_object"}) is is_asked


def test_our_own_allocation_is_asked_of_every_provider_and_read_from_each():
    schema = allocation_schema(2, 2)
    call = Call("m", (("user", "JSON"),), "allocate", 64, json_schema=schema)
    cards = [ModelCard(name, "small", Price(1, 1, 1, "2026-11-01", "x")) for name in ("a", "b")]
    pairs = [{"subtask": 1, "model": "B"}, {"subtask": 2, "model": "A"}]
    for name in ("openai", "azure", "openrouter", "mistral", "groq", "xai", "anthropic", "gemini", "vllm"):
        dialect = DIALECTS[name]
        body = request_body(call, table(), "m", dialect=dialect)
        assert b"subtask" in body, name
        asked = dialect.asks_schema(json.loads(schema))
        assert asked is not None and asked.is_strict
        text = json.dumps({"answer": pairs} if asked.is_wrapped else pairs)
        said = answer_of(text, call, table(), dialect)
        assert json.loads(said) == pairs
        assert parse_allocation(said, 2, cards) == ["b", "a"]


def test_a_list_is_had_from_every_imitated_provider(tmp_path: Path):
    schema = json.dumps(
        {"type": "array", "items": closed({"city": {"type": "string"}, "people": {"type": "integer"}}), "minItems": 1}
    )

    async def scenario() -> None:
        async with Providers() as providers:
            (tmp_path / "pool.toml").write_text(providers.pool_text(), "utf-8")
            pool = load_pool(tmp_path / "pool.toml")
            where = {name: Address(each.endpoint, each.served_model) for name, each in pool.models.items()}
            async with PoolClient(pool, where, state_dir=tmp_path, environ=providers.environment) as client:
                for number, (entry, *_) in enumerate(ENTRIES):
                    call = Call(entry, (("user", "City: Oslo. People: 700000."),), "solve", 4096, json_schema=schema)
                    done = await client.complete(call, problem_id=str(number))
                    assert (done.error_type, done.model, len(done.attempts)) == (None, entry, 1)
                    assert isinstance(json.loads(done.text), list), entry
                assert client.spent_usd == pytest.approx(float(providers.bill_usd), abs=1e-9)

    asyncio.run(scenario())


def test_a_schema_that_an_endpoint_refuses_is_asked_for_no_more(tmp_path: Path):
    refusal = {
        "error": {
            "message": "Invalid schema for response_format 'reply': too deep.",
            "type": "invalid_request_error",
            "param": "response_format",
            "code": None,
        }
    }

    async def scenario() -> None:
        said: list[str] = []
        async with Loopback(script=[says(400, refusal)], after=answers("[]")) as server:
            pool = write_pool(tmp_path, {"a": "guided = true"})
            where = {"a": Address(server.base_url, "a")}
            async with PoolClient(pool, where, state_dir=tmp_path / "state", say=said.append) as client:
                for number, schema in enumerate((NAMES, NAMES, TREE)):
                    call = Call("a", (("user", "x"),), "solve", 16, json_schema=json.dumps(schema))
                    assert (await client.complete(call, problem_id=str(number))).text == "[]"
            has_schema = ["response_format" in arrival.body for arrival in server.arrivals]
            assert has_schema == [True, False, False, True], "another schema is asked for still"
            assert len(said) == 1 and "does not take this JSON schema" in said[0]

    asyncio.run(scenario())
