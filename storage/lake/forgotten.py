"""A person's rows without a word of what was asked and answered: what `r2 lake forget` leaves in their place.

A problem becomes a row named `forgotten-<input index>`: its place, method, status, verdict, tokens, USD and times stay,
so that every count and every sum of the run is what it was. Its calls become one for each model, purpose, price and
ending, with their sums. Steps, candidates, rewards and feedback go. What stays is named here, column by column; every
other column is emptied, and so is one that is added to the tables later.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from storage.lake.schema import TABLES

FORGOTTEN: Final = "forgotten-"
"""Before the input index: the name of a problem that was forgotten."""
NO_REQUEST: Final = "0" * 64
"""`request_sha` of its calls."""
GONE: Final = ("subtasks", "candidates", "rewards", "feedback")
"""Tables that have no row of it."""
_KEPT: Final[Mapping[str, frozenset[str]]] = {
    "trajectories": frozenset(
        (
            *("run_id", "rollout", "input_index", "method", "benchmark", "status", "is_correct", "n_escalations"),
            *("input_tokens", "cached_input_tokens", "output_tokens", "cost_usd", "router_cost_usd", "latency_s"),
            *("error_type", "started_at", "phase", "round", "step", "policy", "check_score", "is_correct_by_gold"),
            *("saved_usd", "n_calls"),
        )
    ),
    "calls": frozenset(
        (
            *("run_id", "rollout", "benchmark", "purpose", "request_model", "response_model", "status"),
            *("finish_reason", "temperature", "max_output_tokens", "usage_source", "price_version", "is_replayed"),
            *("error_type", "started_at", "reused_from", "latency_s", "queue_s"),
        )
    ),
}
_SUMMED: Final = (
    *("input_tokens", "cached_input_tokens", "output_tokens", "cost_usd"),
    *("cache_write_tokens", "reasoning_tokens", "saved_usd"),
)
_ALIKE: Final = ("problem_id", "rollout", "purpose", "request_model", "price_version", "error_type", "reused_from")
"""Calls that are the same in these become one, which has the times of the first."""


def forget_in(window: Mapping[str, pa.Table], problem_ids: Collection[str]) -> dict[str, pa.Table]:
    """The window (storage/lake/ordered.py), whole rows of all tables, without the words of these problems; as it was
    where it has none of them."""
    leaving = pa.array(sorted(problem_ids), pa.string())
    theirs = {name: pc.is_in(rows["problem_id"], leaving) for name, rows in window.items()}
    if not any(pc.any(mask).as_py() for mask in theirs.values()):
        return dict(window)
    staying = {name: rows.filter(pc.invert(theirs[name])) for name, rows in window.items()}
    trajectories = window["trajectories"].filter(theirs["trajectories"]).to_pylist()
    names = {row["problem_id"]: f"{FORGOTTEN}{row['input_index']}" for row in trajectories}
    calls = window["calls"].filter(theirs["calls"]).to_pylist() if "calls" in window else []
    sums = [emptied("calls", row) | {"problem_id": names[row["problem_id"]]} for row in _summed(calls)]
    n_calls: dict[tuple[str, int], int] = {}
    for row in sums:
        at = row["problem_id"], row["rollout"]
        row["call_index"] = n_calls[at] = n_calls.get(at, -1) + 1
    nameless = []
    for row in trajectories:
        name = names[row["problem_id"]]
        n = n_calls.get((name, row["rollout"]), -1) + 1
        nameless.append(
            emptied("trajectories", row)
            | {"problem_id": name, "n_attempts": n, "n_calls": max(n, row["n_calls"]), "n_subtasks": 0}
        )
    return _in_order(staying, {"trajectories": nameless, "calls": sums})


def emptied(table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with nothing but what stays of it, and its sums."""
    schema, kept = TABLES[table].schema, _KEPT[table] | (set(_SUMMED) if table == "calls" else set())
    return {field.name: row[field.name] if field.name in kept else _nothing(field) for field in schema}


def _summed(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for the calls that are alike, in the order of the first of each."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for call in calls:
        sum_ = found.setdefault(tuple(call[name] for name in _ALIKE), call)
        if sum_ is call:
            continue
        for name in _SUMMED:
            if call[name] is not None:
                sum_[name] = call[name] + (sum_[name] or 0)
    return list(found.values())


def _nothing(field: pa.Field) -> Any:
    """What an emptied column holds."""
    if field.name == "request_sha":
        return NO_REQUEST
    if field.name == "input_messages":
        return "[]"
    if field.nullable:
        return None
    if pa.types.is_string(field.type):
        return ""
    return b"" if pa.types.is_binary(field.type) else [] if pa.types.is_list(field.type) else 0


def _in_order(staying: Mapping[str, pa.Table], nameless: Mapping[str, list[dict[str, Any]]]) -> dict[str, pa.Table]:
    """Both together, in the order that a window has."""
    window = {}
    for name, rows in staying.items():
        more = pa.Table.from_pylist(nameless.get(name, []), schema=rows.schema)
        window[name] = pa.concat_tables([rows, more])
    by_place = [("input_index", "ascending"), ("rollout", "ascending")]
    window["trajectories"] = window["trajectories"].sort_by(by_place)
    problem_ids = window["trajectories"]["problem_id"].combine_chunks()
    for name, rows in window.items():
        if name != "trajectories":
            keys = {column: rows[column] for column in TABLES[name].order}
            order = pa.table({"place": pc.index_in(rows["problem_id"], value_set=problem_ids), **keys})
            window[name] = rows.take(pc.sort_indices(order, [(column, "ascending") for column in order.column_names]))
    return {name: rows for name, rows in window.items() if rows.num_rows}
