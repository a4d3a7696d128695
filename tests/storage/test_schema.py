"""What is stored: columns, types, and that every value comes back as it went in."""

import datetime
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2.errors import LakeError
from r2.records.tables import SCHEMA_VERSION, Candidate, SubtaskRow, TrajectoryRow
from storage.lake.schema import TABLES, conform, table_from_rows
from tests.support.lake_rows import CALL, FEEDBACK, NOON, RUN, SUBTASK, TRAJECTORY

UTC = datetime.UTC
COLUMNS = {
    "runs": "run_id string, session int16, flow_run_id string, kind string, method string, input_path string, "
    "pool_path string, "
    "config string, code_version string, status string, n_requested int64, n_answered int64, n_failed int64, "
    "n_deferred int64, "
    "n_calls_lost int64, cost_usd double, session_cost_usd double, wall_s double, started_at timestamp[us, tz=UTC], "
    "ended_at timestamp[us, tz=UTC], tags string?",
    "trajectories": "run_id string, problem_id string, rollout int16, input_index int64, method string, benchmark "
    "string, status string, "
    "input string, target string?, answer string?, is_correct bool?, plan string, n_subtasks int16, n_calls int16, "
    "n_attempts int16, "
    "n_escalations int16, input_tokens int64, cached_input_tokens int64, output_tokens int64, cost_usd double, "
    "router_cost_usd double, "
    "latency_s double, failed_checks string, error_type string?, error_message string?, started_at timestamp[us, "
    "tz=UTC], "
    "phase string?, round int16?, step int32?, policy string?, check_score double?, check_error string?, "
    "is_correct_by_gold bool?, short_answer string?, value string?, answers string?, notes string?, saved_usd double?, "
    "decisions string?",
    "subtasks": "run_id string, problem_id string, rollout int16, subtask_index int16, benchmark string, depends_on "
    "list<item: int16>, "
    "subtask_text string, output_text string?, allocated_model string, model string, tier string, candidates "
    "list<item: struct<model: "
    "string not null, score: double, propensity: double, expected_cost_usd: double not null>>, is_escalated bool, "
    "is_fallback bool, "
    "input_tokens int64, output_tokens int64, cost_usd double, latency_s double, error_type string?, started_at "
    "timestamp[us, tz=UTC], confidence double?",
    "calls": "run_id string, problem_id string, rollout int16, call_index int16, attempt int16, subtask_index "
    "int16?, benchmark string, "
    "purpose string, request_sha string, request_model string, response_model string, response_id string, status "
    "int16, "
    "finish_reason string, temperature double, max_output_tokens int32, input_tokens int64, cached_input_tokens int64, "
    "output_tokens int64, usage_source string, cost_usd double, price_version string, latency_s double, queue_s "
    "double, "
    "retry_after_s double?, is_replayed bool, error_type string?, error_message string?, input_messages string, "
    "output_text string?, "
    "raw_body binary, started_at timestamp[us, tz=UTC], cache_write_tokens int64?, reasoning_tokens int64?, "
    "thinking string?, reused_from string?, saved_usd double?",
    "jobs": "run_id string, job_id string, request_model string, provider_id string?, state string, reason string?, "
    "is_rescued bool, n_rows int64, n_answered int64, n_failed int64, n_again int64, n_live int64, n_unused int64, "
    "n_absent int64, n_twice int64, n_foreign int64, worst_usd double, cost_usd double, live_usd double, "
    "submitted_at timestamp[us, tz=UTC], ended_at timestamp[us, tz=UTC]?",
    "feedback": "run_id string, problem_id string, rollout int16, is_right bool, given_by string, source string, "
    "given_at timestamp[us, tz=UTC], note string?",
    "rewards": "run_id string, problem_id string, rollout int16, term string, weight double, value double?",
    "curves": "run_id string, phase string, policy string, round int16, step int32, metric string, value double, "
    "logged_at timestamp[us, tz=UTC]",
}
"""The stored columns spelled out, `?` for nullable. Only ever add to it: a rename or a new type breaks every lake there
is."""


@pytest.mark.parametrize("table", COLUMNS)
def test_the_stored_columns_are_these(table: str) -> None:
    columns = [f"{f.name} {f.type}{'?' if f.nullable else ''}" for f in TABLES[table].schema]
    assert ", ".join(columns) == COLUMNS[table]


def test_a_file_says_what_its_columns_mean(tmp_path: Path) -> None:
    pq.write_table(table_from_rows("calls", [CALL]), tmp_path / "calls.parquet")
    schema = pq.read_schema(tmp_path / "calls.parquet")
    assert schema.metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()
    field = schema.field("cached_input_tokens")
    assert field.metadata[b"otel"] == b"gen_ai.usage.cache_read.input_tokens"
    assert field.metadata[b"unit"] == b"tokens"
    assert field.metadata[b"doc"] == b"of them, read from the provider's cache"


@pytest.mark.parametrize(
    ("table", "row"),
    [("runs", RUN), ("trajectories", TRAJECTORY), ("subtasks", SUBTASK), ("calls", CALL), ("feedback", FEEDBACK)],
)
def test_every_column_comes_back_as_it_went_in(table: str, row: Any, tmp_path: Path) -> None:
    pq.write_table(table_from_rows(table, [row]), tmp_path / "t.parquet")
    [stored] = pq.read_table(tmp_path / "t.parquet").to_pylist()
    for field in fields(row):
        assert stored[field.name] == as_stored(field.name, getattr(row, field.name)), field.name


def as_stored(name: str, value: Any) -> Any:
    """What Arrow gives back for a dataclass value: UTC datetimes for epoch seconds, lists for tuples, dicts for
    candidates."""
    if name in ("started_at", "ended_at", "given_at"):
        return datetime.datetime.fromtimestamp(value, UTC)
    if name == "candidates":
        return [{f.name: getattr(c, f.name) for f in fields(c)} for c in value]
    return list(value) if isinstance(value, tuple) else value


text = st.text()
maybe = st.none() | text
finite = st.floats(allow_nan=False)
int16 = st.integers(-(2**15), 2**15 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)
candidates = st.lists(st.builds(Candidate, text, st.none() | finite, st.none() | finite, finite), max_size=3).map(tuple)
subtask_rows = st.builds(
    SubtaskRow,
    text,
    text,
    int16,
    int16,
    text,
    st.lists(int16, max_size=3).map(tuple),
    text,
    maybe,
    text,
    text,
    text,
    candidates,
    st.booleans(),
    st.booleans(),
    int64,
    int64,
    finite,
    finite,
    maybe,
    st.just(NOON),
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # drawing a row of so many fields is slow on a busy machine
@given(st.lists(subtask_rows, max_size=5))
def test_any_row_the_dataclass_can_hold_is_stored(rows: list[SubtaskRow]) -> None:
    stored = table_from_rows("subtasks", rows).to_pylist()
    assert stored == [{f.name: as_stored(f.name, getattr(row, f.name)) for f in fields(row)} for row in rows]


def test_no_rows_make_an_empty_table_with_every_column() -> None:
    assert table_from_rows("runs", []).schema == TABLES["runs"].schema


def test_times_are_kept_to_the_microsecond() -> None:
    row = replace(TRAJECTORY, started_at=1_780_000_000.123456)
    stored = table_from_rows("trajectories", [row])["started_at"][0].as_py()
    assert stored == datetime.datetime(2026, 5, 28, 20, 26, 40, 123456, UTC)


def test_text_that_utf8_cannot_hold_does_not_stop_a_commit() -> None:
    broken = replace(TRAJECTORY, answer="\ud83d half an emoji", input="nul \0 stays")
    subtask = replace(SUBTASK, candidates=(Candidate("m\udc00", None, None, 0.0),))
    table = table_from_rows("trajectories", [broken, TRAJECTORY])
    assert table["answer"].to_pylist() == ["\ufffd half an emoji", "9"]
    assert table["input"][0].as_py() == "nul \0 stays"
    assert table_from_rows("subtasks", [subtask])["candidates"][0].as_py()[0]["model"] == "m\ufffd"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": 7}, "column answer"),
        ({"input": None}, "column input: None in row 1"),
        ({"n_calls": 40_000}, "column n_calls"),
        ({"started_at": float("nan")}, "column started_at"),
    ],
)
def test_a_value_that_does_not_fit_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(LakeError, match=said):
        table_from_rows("trajectories", [TRAJECTORY, replace(TRAJECTORY, **changes)])


def test_a_row_of_another_table_is_refused() -> None:
    with pytest.raises(LakeError, match=r"trajectories: got a CallRow; its rows are TrajectoryRow"):
        table_from_rows("trajectories", [CALL])


def test_a_column_added_later_is_null_in_older_parts_and_a_changed_type_is_refused() -> None:
    schema = TABLES["trajectories"].schema
    table = table_from_rows("trajectories", [TRAJECTORY])
    assert conform(table.drop_columns(["target"]), schema)["target"].to_pylist() == [None]
    with pytest.raises(LakeError, match="input is missing"):
        conform(table.drop_columns(["input"]), schema)
    retyped = table.set_column(table.schema.get_field_index("input"), "input", pa.array([1]))
    with pytest.raises(LakeError, match="input is stored as int64, expected string"):
        conform(retyped, schema)


def test_labels_name_columns_that_exist() -> None:
    for table in TABLES.values():
        assert {label.split(".")[0] for label in table.labels} <= set(table.schema.names)
    assert "candidates.list.element.model" in TABLES["subtasks"].labels
    assert TABLES["trajectories"].row is TrajectoryRow
