"""What rows ask for themselves, in every form of input: honoured, or refused by the field's name."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2.errors import InputFileError
from r2.problem import Asked, Problem
from r2.settings import Columns
from storage.runs.plan import _row_of, _shard_line
from storage.sources.questions import BadRow, detect_format, read_questions

TURNS = [
    {"role": "developer", "content": "Be short."},
    {"role": "user", "content": "My name is Ann."},
    {"role": "assistant", "content": "Hello Ann."},
    {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "my name?"}]},
]
MESSAGES = (
    ("system", "Be short."),
    ("user", "My name is Ann."),
    ("assistant", "Hello Ann."),
    ("user", "What is\nmy name?"),
)
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def rows_of(path: Path, columns: Columns | None = None) -> list[Problem | BadRow]:
    return list(read_questions(path, columns or Columns()))


def written(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def batch_line(custom_id: str = "r1", /, **body: object) -> dict[str, object]:
    line = {"model": "gpt-x", "messages": TURNS, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": line}


def asked_by(tmp_path: Path, **body: object) -> Asked:
    [row] = rows_of(written(tmp_path, batch_line(**body)))
    assert isinstance(row, Problem), row
    assert row.asked is not None
    return row.asked


def test_a_batch_line_keeps_its_turns_in_their_roles_and_its_model_beside(tmp_path: Path):
    [row] = rows_of(written(tmp_path, batch_line(metadata={"k": "v"}, user="u")))
    assert isinstance(row, Problem)
    assert row.asked == Asked(MESSAGES)
    assert (row.problem_id, row.question) == ("r1", "What is\nmy name?")
    assert row.context == "Be short.\nuser: My name is Ann.\nassistant: Hello Ann."
    assert row.extra == {"body": {"model": "gpt-x", "metadata": {"k": "v"}, "user": "u"}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_tokens": 7}, {"max_output_tokens": 7}),
        ({"max_completion_tokens": 7, "max_tokens": 7}, {"max_output_tokens": 7}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"top_p": 0.5, "seed": 0, "n": 3}, {"top_p": 0.5, "seed": 0, "n": 3}),
        ({"stop": "END"}, {"stop": ("END",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"reasoning_effort": "low"}, {"effort": "low"}),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "who", "schema": SCHEMA}}},
            {"schema": json.dumps(SCHEMA, separators=(",", ":"))},
        ),
        # These ask for what is done anyway.
        ({"response_format": {"type": "text"}, "stream": False, "store": False, "tools": [], "n": None}, {}),
        ({"service_tier": "auto", "modalities": ["text"], "presence_penalty": 0, "logprobs": False}, {}),
    ],
)
def test_each_field_of_a_batch_line_is_read(tmp_path: Path, body: dict[str, object], expected: dict[str, object]):
    assert asked_by(tmp_path, **body) == Asked(MESSAGES, **expected)  # type: ignore[arg-type]


IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]


@pytest.mark.parametrize(
    ("body", "error_type", "named"),
    [
        ({"tools": [{"type": "function"}]}, "unsupported_field", "body.tools"),
        ({"tool_choice": "auto"}, "unsupported_field", "body.tool_choice"),
        ({"functions": [{}]}, "unsupported_field", "body.functions"),
        ({"stream": True}, "unsupported_field", "body.stream"),
        ({"store": True}, "unsupported_field", "body.store"),
        ({"service_tier": "flex"}, "unsupported_field", "body.service_tier"),
        ({"modalities": ["text", "audio"]}, "unsupported_field", "body.modalities"),
        ({"frequency_penalty": 0.5}, "unsupported_field", "body.frequency_penalty"),
        ({"temprature": 0.5}, "unsupported_field", "body.temprature"),
        ({"max_tokens": 0}, "bad_value", "body.max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "bad_value", "body.max_completion_tokens"),
        ({"temperature": "hot"}, "bad_value", "body.temperature"),
        ({"temperature": 2.5}, "bad_value", "body.temperature"),
        ({"top_p": 0}, "bad_value", "body.top_p"),
        ({"n": 1.5}, "bad_value", "body.n"),
        ({"seed": True}, "bad_value", "body.seed"),
        ({"stop": [""]}, "bad_value", "body.stop"),
        ({"reasoning_effort": "huge"}, "bad_value", "body.reasoning_effort"),
        ({"top_logprobs": 3}, "bad_value", "body.top_logprobs"),
        ({"response_format": {"type": "xml"}}, "bad_value", "body.response_format"),
        ({"response_format": {"type": "json_schema"}}, "bad_value", "body.response_format.json_schema.schema"),
        ({"messages": IMAGE}, "bad_message", "body.messages[0].content[0] is a 'image_url' part"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "bad_message", "body.messages[0].role"),
        ({"messages": [{"role": "user", "name": "Ann", "content": "x"}]}, "unsupported_field", "body.messages[0].name"),
        ({"messages": [*TURNS, {"role": "assistant", "content": "It is"}]}, "missing_question", "body.messages"),
        ({"messages": []}, "missing_question", "body.messages"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name_and_the_line_keeps_its_id(
    tmp_path: Path, body: dict[str, object], error_type: str, named: str
):
    bad, good = rows_of(written(tmp_path, batch_line("img-1", **body), batch_line("r2")))
    assert isinstance(bad, BadRow) and isinstance(good, Problem)
    assert (bad.error_type, bad.given_id) == (error_type, "img-1")
    assert named in bad.message and "line 1: " in bad.message and "(id 'img-1')" in bad.message
    stub, stored = _row_of(_shard_line(bad)[0])
    assert stored is not None and stored.given_id == "img-1"
    assert stub.problem_id == "bad-line-1", "its own id may be another row's, too"


@pytest.mark.parametrize("url", ["/v1/embeddings", "/v1/responses"])
def test_a_line_for_another_address_is_refused(tmp_path: Path, url: str):
    other, azure = rows_of(
        written(tmp_path, batch_line("r1") | {"url": url}, batch_line("r2") | {"url": "/chat/completions"})
    )
    assert isinstance(other, BadRow) and (other.error_type, other.given_id) == ("unsupported_url", "r1")
    assert isinstance(azure, Problem)


def test_anthropics_lines_are_read(tmp_path: Path):
    params = {
        "model": "claude",
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}],
        "messages": TURNS[1:],
        "stop_sequences": ["END"],
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    }
    good = {"custom_id": "a1", "params": params}
    bad = {"custom_id": "a2", "params": {**params, "top_k": 5}}
    path = written(tmp_path, good, bad)
    assert detect_format(path) == "anthropic-batch"
    row, refused = rows_of(path)
    assert isinstance(row, Problem) and isinstance(refused, BadRow)
    assert row.asked == Asked(
        MESSAGES,
        max_output_tokens=50,
        stop=("END",),
        effort="low",
        schema=json.dumps(SCHEMA, separators=(",", ":")),
    )
    assert (refused.given_id, refused.error_type) == ("a2", "unsupported_field")
    assert "params.top_k" in refused.message


def test_geminis_lines_are_read(tmp_path: Path):
    request = {
        "systemInstruction": {"parts": [{"text": "Be short."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "My name is Ann."}]},
            {"role": "model", "parts": [{"text": "Hello Ann."}]},
            {"role": "user", "parts": [{"text": "What is"}, {"text": "my name?"}]},
        ],
        "generationConfig": {
            "maxOutputTokens": 50,
            "topP": 0.5,
            "candidateCount": 2,
            "responseMimeType": "application/json",
            "thinkingConfig": {"thinkingLevel": "LOW"},
        },
    }
    config = {**request["generationConfig"], "topK": 5}  # type: ignore[dict-item]
    path = written(
        tmp_path,
        {"key": "g1", "request": request},
        {"key": "g2", "request": {**request, "generationConfig": config}},
        {"key": "g3", "request": {**request, "tools": [{}]}},
    )
    assert detect_format(path) == "gemini-batch"
    row, top_k, tools = rows_of(path)
    assert isinstance(row, Problem) and isinstance(top_k, BadRow) and isinstance(tools, BadRow)
    assert row.asked == Asked(MESSAGES, max_output_tokens=50, top_p=0.5, n=2, json_object=True, effort="low")
    assert (top_k.given_id, tools.given_id) == ("g2", "g3")
    assert "request.generationConfig.topK" in top_k.message and "request.tools" in tools.message


def test_a_row_with_messages_has_its_parameters_in_columns_and_keeps_the_users_others(tmp_path: Path):
    row = {"id": "m1", "messages": TURNS[1:], "system": "Be short.", "temperature": 0.3, "n": 2, "source": "crm"}
    [problem] = rows_of(written(tmp_path, row))
    assert isinstance(problem, Problem)
    assert problem.asked == Asked(MESSAGES, temperature=0.3, n=2)
    assert problem.extra == {"system": "Be short.", "temperature": 0.3, "n": 2, "source": "crm"}
    [refused] = rows_of(written(tmp_path, {"id": "m2", "messages": TURNS, "tools": [{}]}))
    assert isinstance(refused, BadRow) and "tools" in refused.message and refused.given_id == "m2"
    [refused] = rows_of(written(tmp_path, {"id": "m3", "messages": TURNS, "context": "more"}))
    assert isinstance(refused, BadRow) and "context" in refused.message


def test_the_cells_of_a_csv_are_read_as_what_they_are(tmp_path: Path):
    path = tmp_path / "q.csv"
    turns = json.dumps(TURNS[1:]).replace('"', '""')
    path.write_text(
        "id,messages,system,temperature,max_tokens,stop,logprobs,seed,reasoning_effort\n"
        f'c1,"{turns}",Be short.,0.3,7,END,True,5,low\n'
        f'c2,"{turns}",Be short.,,,,,,\n',
        "utf-8",
    )
    full, bare = rows_of(path)
    assert isinstance(full, Problem) and isinstance(bare, Problem)
    assert full.asked == Asked(
        MESSAGES, max_output_tokens=7, temperature=0.3, seed=5, stop=("END",), effort="low", logprobs=True
    )
    assert bare.asked == Asked(MESSAGES)


def test_parquet_turns_with_empty_fields_are_turns(tmp_path: Path):
    path = tmp_path / "q.parquet"
    turns = [{"role": "user", "content": "Hello", "name": None}]
    pq.write_table(pa.table({"id": ["p1"], "messages": [turns], "seed": [None]}), path)
    [row] = rows_of(path)
    assert isinstance(row, Problem) and row.asked == Asked((("user", "Hello"),))


def test_a_table_that_happens_to_have_such_columns_keeps_them_as_its_own(tmp_path: Path):
    weather = {"id": "w", "question": "Is it warm?", "temperature": 31, "seed": "wheat", "n": -4, "messages": ["log"]}
    [row] = rows_of(written(tmp_path, weather))
    assert isinstance(row, Problem) and row.asked is None
    assert row.extra == {"temperature": 31, "seed": "wheat", "n": -4, "messages": ["log"]}


def test_a_question_asks_for_itself_in_the_column_that_is_named_for_it(tmp_path: Path):
    columns = Columns(request="ask")
    own = {"system": "Be short.", "temperature": 0.3, "stop": "END"}
    full, plain, wrong = rows_of(
        written(
            tmp_path,
            {"id": "a", "question": "Why?", "ask": own},
            {"id": "b", "question": "Why?"},
            {"id": "c", "question": "Why?", "ask": {"temprature": 0.3}},
        ),
        columns,
    )
    assert isinstance(full, Problem) and isinstance(plain, Problem) and isinstance(wrong, BadRow)
    assert full.asked == Asked(system="Be short.", temperature=0.3, stop=("END",))
    assert plain.asked is None
    assert "ask.temprature" in wrong.message


def test_a_bad_row_keeps_its_id_and_its_other_columns(tmp_path: Path):
    [bad] = rows_of(written(tmp_path, {"id": "u7", "question": " ", "shade": "red"}))
    assert isinstance(bad, BadRow)
    assert (bad.given_id, bad.extra) == ("u7", {"shade": "red"})
    stub, stored = _row_of(_shard_line(bad)[0])
    assert stub.extra == {"shade": "red"} and stored is not None and stored.given_id == "u7"


@pytest.mark.parametrize(
    ("gold", "target", "aliases"),
    [
        (True, "true", ("yes",)),
        (["Ann", "A. Lee"], "Ann", ("A. Lee",)),
        ([3, 4.5], "3", ("4.5",)),
        ([], None, ()),
        ({"a": [1]}, '{"a":[1]}', ()),
        ([[1, 2]], "[[1,2]]", ()),
        (7, "7", ()),
    ],
)
def test_a_gold_answer_of_any_type_leaves_the_row_a_question(
    tmp_path: Path, gold: object, target: str | None, aliases: tuple[str, ...]
):
    [row] = rows_of(written(tmp_path, {"id": "a", "question": "Who?", "answer": gold}))
    assert isinstance(row, Problem)
    assert (row.target, row.aliases) == (target, aliases)


def test_choices_may_come_with_labels_and_the_gold_answer_is_one_of_them(tmp_path: Path):
    listed = {"label": ["1", "2"], "text": ["red", "blue"]}
    pairs = [{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}]
    rows = rows_of(
        written(
            tmp_path,
            {"id": "a", "question": "?", "choices": listed, "answer": "2"},
            {"id": "b", "question": "?", "choices": pairs, "answer": "B"},
        )
    )
    assert [(row.choices, row.target) for row in rows if isinstance(row, Problem)] == [(("red", "blue"), "B")] * 2


def test_a_header_that_names_a_column_twice_stops_before_the_first_call(tmp_path: Path):
    path = tmp_path / "q.csv"
    path.write_text("id, question ,question\n1,a,b\n", "utf-8")
    with pytest.raises(InputFileError, match=r"line 1: the header names 'question' 2 times"):
        rows_of(path)
    path.write_text("id, question \n1,a\n", "utf-8")
    assert rows_of(path) == [Problem("1", "a", 0)]


def test_a_bad_byte_in_any_column_spoils_its_row_alone(tmp_path: Path):
    path = tmp_path / "q.csv"
    path.write_bytes(b"id,question,category\n1,a,food\n2,b,caf\xe9\n3,c,food\n")
    first, bad, third = rows_of(path)
    assert isinstance(first, Problem) and isinstance(third, Problem) and isinstance(bad, BadRow)
    assert bad.error_type == "bad_encoding" and "'category'" in bad.message and "iconv" in bad.message
    assert (bad.given_id, bad.extra) == ("2", {})
    assert _shard_line(bad)[1]
