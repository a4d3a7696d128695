"""The answers of a run as a file in input order: JSONL, CSV or Parquet, or OpenAI Batch output with its error file.

Reads the frozen shards and the lake side by side, one shard at a time, so memory does not grow with the run. A run that
ended early gives the rows it settled; the rest come with status `deferred`.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from r2.answering.protocol import CUT_ANSWER
from r2.atomic import replacing
from r2.problem import Problem
from storage.lake.lake import Lake
from storage.runs.plan import RunPlan

ANSWER_COLUMNS = (
    "status",
    "answer",
    "finish",
    "target",
    "is_correct",
    "cost_usd",
    "saved_usd",
    "n_calls",
    "error_type",
    "error_message",
)
"""`finish` is "stop" for a whole answer, "length" for one that ends at its limit and is the best there was. `saved_usd`
is what calls that earlier runs had paid for would have cost; it is no part of `cost_usd`."""
_CHECK_FIELDS = (("check_score", pa.float64()), ("check_error", pa.string()))
"""Further columns of a run with a check of the user's own."""
_WANTED_FIELDS = (("short_answer", pa.string()), ("value", pa.string()))
"""Further columns of a run that has them in some row: the part of a whole answer that was compared, and an answer that
had to match a schema as JSON. Neither is in the file of a run without."""
_ASKED_FIELDS = (("answers", pa.string()), ("logprobs", pa.string()), ("notes", pa.string()))
"""Further columns of a run with rows that ask for something themselves; the first two are JSON."""
_BATCH_CHARACTERS = 16 * 1024 * 1024
"""Of a Parquet row group that is held until it is written."""
_READ = [
    "problem_id",
    "input_index",
    "status",
    "answer",
    "is_correct",
    "cost_usd",
    "saved_usd",
    "n_calls",
    "input_tokens",
    "output_tokens",
    "error_type",
    "error_message",
    "failed_checks",
    *(name for name, _ in (*_CHECK_FIELDS, *_WANTED_FIELDS)),
    "answers",
    "notes",
]


_Writer = Callable[[BinaryIO, Iterable[dict[str, Any]]], None]


def default_out(settings_input: str) -> Path:
    """`questions.jsonl` -> `questions.answers.jsonl`, beside it."""
    path = Path(settings_input.removesuffix(".gz"))
    return path.with_name(f"{path.stem}.answers{path.suffix}")


def write_answers(plan: RunPlan, lake: Lake, out: Path) -> list[Path]:
    """Writes the answers atomically and returns the files written (a Batch run has a second one, for its errors)."""
    if plan.input_format == "openai-batch":
        return _write_batch(plan, lake, out)
    suffix = out.suffix.lower()
    further = (
        *_wanted(plan, lake),
        *(_CHECK_FIELDS if plan.settings.reasoning.check is not None else ()),
        *(_ASKED_FIELDS if plan.has_asking else ()),
    )
    writers: dict[str, _Writer] = {".csv": _write_csv, ".parquet": partial(_write_parquet, further=further)}
    names = [name for name, _ in further]
    writer = writers.get(suffix, partial(_write_jsonl, has_values="value" in names))
    columns = (*ANSWER_COLUMNS, *names)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        writer(file, (_merged(problem, row, columns) for problem, row in _settled_rows(plan, lake)))
    return [out]


def _wanted(plan: RunPlan, lake: Lake) -> list[tuple[str, pa.DataType]]:
    """Those of `_WANTED_FIELDS` that some row of the run has, or may get: the run has a schema."""
    names = [name for name, _ in _WANTED_FIELDS]
    found = {"value"} if plan.settings.reasoning.schema_file is not None else set()
    for batch in lake.iter_rows("trajectories", plan.run_id, names):
        found |= {name for name in names if batch.column(name).null_count < batch.num_rows}
        if len(found) == len(names):
            break
    return [(name, kind) for name, kind in _WANTED_FIELDS if name in found]


def _settled_rows(plan: RunPlan, lake: Lake) -> Iterator[tuple[Problem, dict[str, Any] | None]]:
    """Every row of the input with its trajectory, None where the run has not settled it. Both sides
    are in input order."""
    stored = (row for batch in lake.iter_rows("trajectories", plan.run_id, _READ) for row in batch.to_pylist())
    ahead = next(stored, None)
    for shard in plan.shards:
        for problem, bad in plan.rows(shard.index):
            shown = problem if bad is None or not bad.given_id else replace(problem, problem_id=bad.given_id)
            if ahead is not None and ahead["input_index"] == problem.input_index:
                yield shown, ahead | {"finish": _finish(ahead)} | _asked_columns(problem, ahead)
                ahead = next(stored, None)
            else:
                yield shown, None


def _finish(row: dict[str, Any]) -> str | None:
    if row["status"] != "answered":
        return None
    return "length" if CUT_ANSWER in row["failed_checks"].split(",") else "stop"


def _asked_columns(problem: Problem, row: dict[str, Any]) -> dict[str, Any]:
    """What a row that asks for itself gets: all its answers, where it wants several, and their log-probabilities."""
    stored = [] if row.get("answers") is None else orjson.loads(row["answers"])
    is_many = problem.asked is not None and (problem.asked.n or 1) > 1
    logprobs = [one["logprobs"] for one in stored]
    return {
        "choices": stored,
        "answers": [one["answer"] for one in stored] if is_many and stored else None,
        "logprobs": (logprobs if is_many else logprobs[0]) if any(logprobs) else None,
    }


def _merged(problem: Problem, row: dict[str, Any] | None, columns: Sequence[str]) -> dict[str, Any]:
    """The user's columns, then ours. A column of the user's that is called as one of ours is kept as `input_<name>`."""
    ours = {"id", "question", *columns}
    result: dict[str, Any] = {"id": problem.problem_id, "question": problem.question}
    for name, value in problem.extra.items():
        while name in ours:
            name = f"input_{name}"
        result[name] = value
    result |= {column: (row or {}).get(column) for column in columns}
    result["target"] = problem.target
    if row is None:
        result["status"] = "deferred"
    return result


def _write_jsonl(file: BinaryIO, rows: Iterable[dict[str, Any]], *, has_values: bool = False) -> None:
    """`has_values`: the column `value` is ours, and is written as the JSON value that it holds."""
    for row in rows:
        if has_values and row["value"] is not None:
            row["value"] = orjson.Fragment(row["value"].encode())
        file.write(orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE))


def _write_csv(file: BinaryIO, rows: Iterable[dict[str, Any]]) -> None:
    """Columns are those of the first good row: a CSV input has the same ones throughout; other extras go in as JSON
    text."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text)
    columns: list[str] = []
    for row in rows:
        if not columns:
            columns = list(row)
            writer.writerow(columns)
        writer.writerow(
            [value if isinstance(value := row.get(c), (str, int, float, type(None))) else _json(value) for c in columns]
        )
    text.detach()  # flushes, and leaves the file open


def _write_parquet(
    file: BinaryIO, rows: Iterable[dict[str, Any]], further: Sequence[tuple[str, pa.DataType]] = ()
) -> None:
    """Fixed columns; the user's other columns together as JSON text in `extra`."""
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("question", pa.string()),
            ("status", pa.string()),
            ("answer", pa.string()),
            ("finish", pa.string()),
            ("target", pa.string()),
            ("is_correct", pa.bool_()),
            ("cost_usd", pa.float64()),
            ("saved_usd", pa.float64()),
            ("n_calls", pa.int32()),
            ("error_type", pa.string()),
            ("error_message", pa.string()),
            *further,
            ("extra", pa.string()),
        ]
    )
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        n_characters = 0
        for row in rows:
            fixed = {name: row.get(name) for name in schema.names}
            fixed |= {name: _json(fixed[name]) for name in ("answers", "logprobs") if fixed.get(name) is not None}
            fixed["extra"] = _json({key: value for key, value in row.items() if key not in schema.names})
            batch.append(fixed)
            n_characters += sum(len(value) for value in fixed.values() if isinstance(value, str))
            if len(batch) == 4096 or n_characters >= _BATCH_CHARACTERS:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch.clear()
                n_characters = 0
        writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _write_batch(plan: RunPlan, lake: Lake, out: Path) -> list[Path]:
    """OpenAI Batch output: answered rows in `out`, the others in `<out stem>.errors.jsonl`; `custom_id` kept."""
    errors = out.with_name(f"{out.stem}.errors{out.suffix}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        answered, failed = (stack.enter_context(replacing(path)) for path in (out, errors))
        for problem, row in _settled_rows(plan, lake):
            is_answered = row is not None and row["status"] == "answered"
            line = _batch_line(plan.run_id, problem, row if row is not None else {"status": "deferred"})
            (answered if is_answered else failed).write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    return [out, errors]


def _batch_line(run_id: str, problem: Problem, row: dict[str, Any]) -> dict[str, Any]:
    request_id = f"{run_id}-{problem.input_index}"
    line: dict[str, Any] = {
        "id": f"batch_req_{request_id}",
        "custom_id": problem.problem_id,
        "response": None,
        "error": None,
    }
    if row["status"] != "answered":
        code = row.get("error_type") or row["status"]
        line["error"] = {"code": code, "message": row.get("error_message") or "not settled; run the same command again"}
        return line
    tokens_in, tokens_out = row["input_tokens"], row["output_tokens"]
    choices = row["choices"] or [{"answer": row["answer"], "finish": row["finish"], "logprobs": None}]
    body = {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "model": run_id,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": one["answer"]},
                "finish_reason": one["finish"],
                "logprobs": one["logprobs"],
            }
            for index, one in enumerate(choices)
        ],
        "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out},
    }
    if row["notes"] is not None:
        body["notes"] = row["notes"]
    line["response"] = {"status_code": 200, "request_id": request_id, "body": body}
    return line


def _json(value: object) -> str:
    return orjson.dumps(value, default=str).decode()
