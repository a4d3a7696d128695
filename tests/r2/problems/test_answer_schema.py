"""A user's JSON Schema: refused with its place, never fetched for, and what of an answer matches it."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.errors import ConfigError
from r2.problems.schema import AnswerSchema, load_schema, parse_schema

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}, "born": {"format": "date"}},
    "required": ["name"],
    "additionalProperties": False,
}


def person() -> AnswerSchema:
    return parse_schema(json.dumps(PERSON))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"type":\n "object"', "not JSON: Expecting ',' delimiter at line 2, column 10"),
        ("[]", "not a JSON Schema: expected an object"),
        ("true", "not a JSON Schema: expected an object"),
        ('{"properties": {"age": {"type": "integr"}}}', "$.properties.age.type: 'integr' is not valid"),
        ('{"properties": {"age": {"pattern": "("}}}', "$.properties.age.pattern"),
        ('{"$schema": "https://example.com/mine"}', "$.$schema"),
        (
            '{"properties": {"a": {"$ref": "#/$defs/none"}}}',
            "$.properties.a.$ref: '#/$defs/none' is not in this schema",
        ),
        ('{"items": {"$ref": "http://127.0.0.1:9/s.json"}}', "nothing is fetched"),
        ('{"items": {"$ref": "file:///etc/hostname"}}', "nothing is fetched"),
        ('{"$ref": "#"}', "leads back to itself"),
        ('{"not": ' * 70 + "{}" + "}" * 70, "nested more than 64 deep"),
        ("[" * 100_000, "nested more than 64 deep"),
        ('{"const": NaN}', "NaN is not JSON"),
    ],
)
def test_a_file_that_is_no_schema_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str
):
    def fetched(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "create_connection", fetched)
    monkeypatch.setattr(socket.socket, "connect", fetched)
    path = tmp_path / "schema.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as error:
        load_schema(str(path))
    assert str(error.value).startswith(f"--schema {path}: ")
    assert why in str(error.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_schema(str(tmp_path / "none.json"))
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_schema(str(tmp_path / "bytes.json"))


def test_references_within_the_schema_and_older_drafts_are_known():
    inner = {"$id": "http://e.x/s", "$defs": {"n": {"type": "integer"}}, "items": {"$ref": "http://e.x/s#/$defs/n"}}
    assert parse_schema(json.dumps(inner)).find("[1, 2]").value == "[1,2]"
    assert parse_schema(json.dumps(inner)).find('["a"]').error == "at $[0]: 'a' is not of type 'integer'"
    old = {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"n": {"type": "null"}}}
    assert parse_schema(json.dumps(old | {"$ref": "#/definitions/n"})).find("null").value == "null"


@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "Ann", "age": 31}',
        '```json\n{"name": "Ann", "age": 31}\n```',
        'Here it is:\n\n~~~\n{"name": "Ann", "age": 31}\n~~~\nAnything else?',
        'As in [1], Ann is {"name": "Ann", "age": 31}, I think.',
        '```json\n{"name": 7}\n```\nNo, rather:\n```json\n{"name": "Ann", "age": 31}\n```',
    ],
)
def test_the_json_of_an_answer_is_found(answer: str):
    found = person().find(answer)
    assert (found.text, found.value, found.error) == ('{"name": "Ann", "age": 31}', '{"name":"Ann","age":31}', None)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ('{"name": 3, "x": 1}', "at $.name: 3 is not of type 'string'"),
        ('{"age": 31}', "at $: 'name' is a required property"),
        ('{"name": "Ann", "born": "2020-13-01"}', "at $.born: '2020-13-01' is not a 'date'"),
        ("Ann is 31.", "not JSON: Expecting value at line 1, column 1"),
        ('{"name": "Ann", "age": 1e999}', "1e999 is out of range"),
        ('{"name": "\\ud800"}', "half of a surrogate pair"),
        ("", "the answer is empty"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_does_not_match_says_where_and_why(answer: str, error: str):
    found = person().find(answer)
    assert (found.text, found.value) == (None, None)
    assert error in (found.error or "")


def test_a_piece_of_an_answer_that_was_cut_is_no_answer():
    schema = parse_schema('{"type": "object"}')
    assert schema.find('[{"a": 1}, {"b": ').text == '{"a": 1}'
    assert schema.find('[{"a": 1}, {"b": ', is_cut=True).text is None
    assert schema.find('{"a": 1}\n\n', is_cut=True).text == '{"a": 1}'


def test_a_schema_is_identified_by_what_it_says():
    assert parse_schema('{ "type":  "object" }').digest == parse_schema('{"type":"object"}').digest
    assert parse_schema('{"type":"array"}').digest != parse_schema('{"type":"object"}').digest


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_value_comes_back_as_it_was(value: object):
    found = parse_schema("{}").find(json.dumps(value))
    assert found.error is None and json.loads(found.value or "") == value
