"""What a run over an evaluation's problems answered, word by word, read from the lake: for whatever is chosen from dev
problems without a call."""

from collections.abc import Sequence

import duckdb
import orjson

from r2.answering.confidence import token_confidence
from storage.runs.stored_call import COLUMNS, completion_of


def answers_of(db: duckdb.DuckDBPyConnection, run_id: str, problem_ids: Sequence[str]) -> tuple[str | None, ...]:
    """Each problem's answer; None where it has none. A connection of `storage.sql.query.connect`."""
    rows = db.execute("select problem_id, answer from trajectories where run_id = ?", [run_id]).fetchall()
    found = dict(rows)
    return tuple(found.get(problem_id) for problem_id in problem_ids)


def confidences_of(
    db: duckdb.DuckDBPyConnection, run_id: str, problem_ids: Sequence[str], quantile: float
) -> tuple[float, ...]:
    """How sure the model was of each problem's last reply, by its token probabilities, read again from the stored body;
    NaN where there are none."""
    named = ("problem_id", *COLUMNS)
    rows = db.execute(f"select {', '.join(named)} from calls where {_SOLVED}", [run_id]).fetchall()
    found: dict[str, float] = {}
    for row in rows:
        call = dict(zip(named, row, strict=True))
        confidence = token_confidence(completion_of([call]), quantile)
        found[call["problem_id"]] = float("nan") if confidence is None else confidence
    return tuple(found.get(problem_id, float("nan")) for problem_id in problem_ids)


def replies_of(db: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, tuple[str, str]]:
    """By problem_id, what the model was asked last and its reply."""
    rows = db.execute(f"select problem_id, input_messages, output_text from calls where {_SOLVED}", [run_id])
    return {
        problem_id: (orjson.loads(messages)[-1][1], reply) for problem_id, messages, reply in rows.fetchall() if reply
    }


_SOLVED = "run_id = ? and purpose = 'solve' and error_type is null order by problem_id, call_index, attempt"
