"""The answers of a run as a file in input order: JSONL, CSV or Parquet, or OpenAI Batch output with its error file.

Reads the frozen shards and the lake side by side, one shard at a time, so memory does not grow with the run. A run that
ended early gives the rows it settled; the rest come with status `deferred`.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from r2.answering.protocol import CUT_ANSWER
from r2.atomic import check_file
from r2.errors import ConfigError
from r2.problem import Problem
from storage.lake.lake import Lake
from storage.runs.answer_files import check_form, opened, write_rows
from storage.runs.plan import RunPlan
from storage.sources.questions import detect_format

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


def default_out(settings_input: str) -> Path:
    """`questions.jsonl` -> `questions.answers.jsonl`, beside it."""
    path = Path(settings_input.removesuffix(".gz"))
    return path.with_name(f"{path.stem}.answers{path.suffix}")


def check_out(out: str | None, source: Path) -> None:
    """ConfigError, before anything is paid, where the answers could not be written to the file that is named, or would
    be written over the questions."""
    path = Path(out) if out else default_out(str(source))
    if path.exists() and source.exists() and path.samefile(source):
        raise ConfigError(f"--out {path}: this is the file of the questions. Name another one.")
    check_file(path, "--out")
    check_form(path, "--out", is_batch=detect_format(source) == "openai-batch")


def write_answers(plan: RunPlan, lake: Lake, out: Path) -> list[Path]:
    """Writes the answers atomically and returns the files written (a Batch run has a second one, for its errors)."""
    if plan.input_format == "openai-batch":
        return _write_batch(plan, lake, out)
    further = (
        *_wanted(plan, lake),
        *(_CHECK_FIELDS if plan.settings.reasoning.check is not None else ()),
        *(_ASKED_FIELDS if plan.has_asking else ()),
    )
    columns = (*ANSWER_COLUMNS, *(name for name, _ in further))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_rows(out, (_merged(problem, row, columns) for problem, row in _settled_rows(plan, lake)), further)
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
        kept = name
        while kept in ours or (kept != name and kept in problem.extra):
            kept = f"input_{kept}"
        result[kept] = value
    result |= {column: (row or {}).get(column) for column in columns}
    result["target"] = problem.target
    if row is None:
        result["status"] = "deferred"
    return result


def _write_batch(plan: RunPlan, lake: Lake, out: Path) -> list[Path]:
    """OpenAI Batch output: answered rows in `out`, the others in `<out stem>.errors.jsonl`; `custom_id` kept."""
    name = out.name.removesuffix(".gz")
    errors = out.with_name(f"{Path(name).stem}.errors{Path(name).suffix}{out.name[len(name) :]}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        answered, failed = (stack.enter_context(opened(path)) for path in (out, errors))
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
