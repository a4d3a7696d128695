"""What a run over an evaluation's problems answered, word by word, read from the lake: for whatever is chosen from dev
problems without a call."""

from collections.abc import Sequence

import duckdb
import orjson


def answers_of(db: duckdb.DuckDBPyConnection, run_id: str, problem_ids: Sequence[str]) -> tuple[str | None, ...]:
    """Each problem's answer; None where it has none. A connection of `storage.sql.query.connect`."""
    rows = db.execute("select problem_id, answer from trajectories where run_id = ?", [run_id]).fetchall()
    found = dict(rows)
    return tuple(found.get(problem_id) for problem_id in problem_ids)


def confidences_of(db: duckdb.DuckDBPyConnection, run_id: str, problem_ids: Sequence[str]) -> tuple[float, ...]:
    """How sure the model was of each problem's answer; NaN where that is not known."""
    asked = "select problem_id, confidence from subtasks where run_id = ? and subtask_index = 0"
    found = {name: confidence for name, confidence in db.execute(asked, [run_id]).fetchall() if confidence is not None}
    return tuple(found.get(problem_id, float("nan")) for problem_id in problem_ids)


def replies_of(db: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, tuple[str, str]]:
    """By problem_id, what the model was asked last and its reply."""
    rows = db.execute(
        "select problem_id, input_messages, output_text from calls where run_id = ? and purpose = 'solve' and "
        "error_type is null order by problem_id, call_index, attempt",
        [run_id],
    )
    return {
        problem_id: (orjson.loads(messages)[-1][1], reply) for problem_id, messages, reply in rows.fetchall() if reply
    }
