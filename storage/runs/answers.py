"""The answers of a run as a file in input order: JSONL, CSV or Parquet, or OpenAI Batch output with its error file.

Reads the frozen shards and the lake side by side, one shard at a time, so memory does not grow with the run. A run that
ended early gives the rows it settled; the rest come with status `deferred`.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from r2.answering.protocol import CUT_ANSWER
from r2.atomic import check_file, write_atomically
from r2.errors import ConfigError
from r2.problem import Problem
from storage.lake.lake import Lake
from storage.runs.answer_columns import (
    ANSWER_COLUMNS,
    ASKED_FIELDS,
    CHECK_FIELDS,
    MORE_FIELDS,
    WANTED_FIELDS,
    check_more,
    merged,
    shown_names,
    taken_names,
)
from storage.runs.answer_files import check_form, opened, write_rows
from storage.runs.plan import FORGOTTEN_ROW, RunPlan
from storage.sources.questions import detect_format

_NOTE = "answers_file.txt"
"""In a run's folder: where its answers were written last."""
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
    *(name for name, _ in (*CHECK_FIELDS, *WANTED_FIELDS)),
    "answers",
    "notes",
]


def default_out(settings_input: str, method: str = "") -> Path:
    """`questions.jsonl` -> `questions.answers.jsonl`, beside it; with a method `questions.answers.<method>.jsonl`."""
    path = Path(settings_input.removesuffix(".gz"))
    return path.with_name(f"{path.stem}.answers{method and '.'}{method}{path.suffix}")


def out_of(plan: RunPlan, out: str | None) -> Path:
    """Where the run's answers go: `out`, else beside the input. The answers that another method of the same lake wrote
    there are left alone; the method's name is added then."""
    if out is not None:
        return Path(out)
    plain = default_out(plan.settings.input)
    theirs = plan.run_dir.parent.glob(f"*/{_NOTE}")
    others = (path for path in theirs if path.parent.name.rpartition("-")[0] != plan.settings.reasoning.method)
    is_taken = plain.exists() and any(path.read_text("utf-8") == str(plain.absolute()) for path in others)
    return default_out(plan.settings.input, plan.settings.reasoning.method) if is_taken else plain


def note_out(plan: RunPlan, out: Path) -> None:
    """Notes in the run's folder where its answers were written."""
    write_atomically(plan.run_dir / _NOTE, str(out.absolute()).encode())


def check_out(out: str | None, source: Path, more: Sequence[str] = ()) -> None:
    """ConfigError, before anything is paid, where the answers could not be written to the file that is named, or would
    be written over the questions, or could not have the columns that are asked for."""
    path = Path(out) if out else default_out(str(source))
    if path.exists() and source.exists() and path.samefile(source):
        raise ConfigError(f"--out {path}: this is the file of the questions. Name another one.")
    check_file(path, "--out")
    check_form(path, "--out", is_batch=detect_format(source) == "openai-batch")
    check_more(more)


def noted_out(plan: RunPlan) -> Path | None:
    """Where the run's answers were written last; None where that was never noted."""
    note = plan.run_dir / _NOTE
    return Path(note.read_text("utf-8")) if note.exists() else None


def write_answers(
    plan: RunPlan, lake: Lake, out: Path, more: Sequence[str] = (), leaving: Collection[str] = ()
) -> list[Path]:
    """Writes the answers atomically and returns the files written (a Batch run has a second one, for its errors).
    `more` are further columns (`MORE_FIELDS`); `leaving` are ids whose rows are left out, as rows that were forgotten
    are."""
    if plan.input_format == "openai-batch":
        return _write_batch(plan, lake, out, leaving)
    further = (
        *_wanted(plan, lake),
        *(CHECK_FIELDS if plan.settings.reasoning.check is not None else ()),
        *(ASKED_FIELDS if plan.has_asking else ()),
        *((name, MORE_FIELDS[name]) for name in dict.fromkeys(more)),
    )
    shown = shown_names((*ANSWER_COLUMNS, *(name for name, _ in further)), _taken(plan))
    out.parent.mkdir(parents=True, exist_ok=True)
    gold = plan.settings.columns.answer
    rows = (merged(problem, row, shown, gold) for problem, row in _settled_rows(plan, lake, more, leaving))
    write_rows(out, rows, further, shown)
    return [out]


def _taken(plan: RunPlan) -> set[str]:
    """The user's own names that ours must keep clear of. A plan of an earlier version does not have them noted."""
    if plan.taken_names is not None:
        return set(plan.taken_names)
    rows = (problem for shard in plan.shards for problem, _ in plan.rows(shard.index))
    return set().union(*(taken_names(problem.extra) for problem in rows))


def _wanted(plan: RunPlan, lake: Lake) -> list[tuple[str, pa.DataType]]:
    """Those of `WANTED_FIELDS` that some row of the run has, or may get: the run has a schema."""
    names = [name for name, _ in WANTED_FIELDS]
    found = {"value"} if plan.settings.reasoning.schema_file is not None else set()
    for batch in lake.iter_rows("trajectories", plan.run_id, names):
        found |= {name for name in names if batch.column(name).null_count < batch.num_rows}
        if len(found) == len(names):
            break
    return [(name, kind) for name, kind in WANTED_FIELDS if name in found]


def _settled_rows(
    plan: RunPlan, lake: Lake, more: Sequence[str] = (), leaving: Collection[str] = ()
) -> Iterator[tuple[Problem, dict[str, Any] | None]]:
    """Every row of the input with its trajectory, None where the run has not settled it; without those that are
    leaving or were forgotten. Both sides are in input order."""
    read = list(dict.fromkeys([*_READ, *(name for name in more if name != "models")]))
    batches = lake.iter_rows("trajectories", plan.run_id, read)
    stored: Iterator[dict[str, Any]] = (row for batch in batches for row in batch.to_pylist())
    if "models" in more:
        stored = _with_models(stored, plan, lake)
    ahead = next(stored, None)
    for shard in plan.shards:
        for problem, bad in plan.rows(shard.index):
            shown = problem if bad is None or not bad.given_id else replace(problem, problem_id=bad.given_id)
            is_gone = shown.problem_id in leaving or (bad is not None and bad.error_type == FORGOTTEN_ROW)
            row = None
            if ahead is not None and ahead["input_index"] == problem.input_index:
                row, ahead = ahead | {"finish": _finish(ahead)} | _asked_columns(problem, ahead), next(stored, None)
            if not is_gone:
                yield shown, row


def _with_models(rows: Iterator[dict[str, Any]], plan: RunPlan, lake: Lake) -> Iterator[dict[str, Any]]:
    """The rows with the model of each of their subtasks; both tables are in input order."""
    named = lake.iter_rows("subtasks", plan.run_id, ["problem_id", "model"])
    subtasks = (subtask for batch in named for subtask in batch.to_pylist())
    ahead = next(subtasks, None)
    for row in rows:
        models = []
        while ahead is not None and ahead["problem_id"] == row["problem_id"]:
            models.append(ahead["model"])
            ahead = next(subtasks, None)
        yield row | {"models": models}


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


def _write_batch(plan: RunPlan, lake: Lake, out: Path, leaving: Collection[str]) -> list[Path]:
    """OpenAI Batch output: answered rows in `out`, the others in `<out stem>.errors.jsonl`; `custom_id` kept."""
    name = out.name.removesuffix(".gz")
    errors = out.with_name(f"{Path(name).stem}.errors{Path(name).suffix}{out.name[len(name) :]}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        answered, failed = (stack.enter_context(opened(path)) for path in (out, errors))
        for problem, row in _settled_rows(plan, lake, leaving=leaving):
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
