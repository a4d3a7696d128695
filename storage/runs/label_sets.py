"""The two supervised sets of a labelling run, in TRL's conversational prompt-completion format, with their card.

`decomposer.parquet` and `allocator.parquet` have `prompt` and `completion` (lists of {role, content}), `problem_id`,
`split`. The prompts are the very ones the router will be asked with. Reads frozen shards and stored candidates side by
side, in input order.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from r2.answering.allocation import format_allocation
from r2.answering.prompts import MODEL_LETTERS, allocate_messages, decompose_messages
from r2.atomic import replacing, write_atomically
from r2.call import Message
from r2.errors import InputFileError
from r2.plan import parse_plan
from r2.problem import Problem
from r2.problems.leakage import Leakage, leakage
from r2.problems.split import split_of
from r2.roster import Roster
from storage.lake.lake import Lake
from storage.runs.plan import RunPlan
from storage.runs.summary import reused_of
from storage.sql.query import connect

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA = pa.schema(
    [("prompt", MESSAGES), ("completion", MESSAGES), ("problem_id", pa.string()), ("split", pa.string())]
)
_READ = ["problem_id", "kind", "trial_index", "plan", "models", "is_target"]


@dataclass(slots=True)
class LabelSets:
    """What was written: rows by split of each set, and the training questions for the leakage check."""

    out: Path
    decomposer: Counter[str] = field(default_factory=Counter)
    allocator: Counter[str] = field(default_factory=Counter)
    train_questions: list[str] = field(default_factory=list)


def write_label_sets(
    plan: RunPlan, lake: Lake, roster: Roster, out: Path, *, split_seed: int, test_share: float
) -> LabelSets:
    """Writes both sets, each in one move. A problem has a decomposer row if a plan was right, an allocator row if an
    allocation was."""
    out.mkdir(parents=True, exist_ok=True)
    sets = LabelSets(out)
    shown = roster.solvers[: len(MODEL_LETTERS)]
    letters = {card.name: letter for card, letter in zip(shown, MODEL_LETTERS, strict=False)}
    with ExitStack() as stack:
        files = {name: stack.enter_context(_row_file(out / f"{name}.parquet")) for name in ("decomposer", "allocator")}
        for problem, targets in _targets(plan, lake):
            split = split_of(problem.question, split_seed, test_share)
            if "plan" not in targets:
                continue
            sets.decomposer[split] += 1
            if split == "train":
                sets.train_questions.append(problem.question)
            text = targets["plan"]["plan"]
            files["decomposer"].add(decompose_messages(problem), text, problem.problem_id, split)
            models = targets.get("allocation", {}).get("models", [])
            if models and all(model in letters for model in models):
                sets.allocator[split] += 1
                prompt = allocate_messages(problem, parse_plan(text), shown)
                completion = format_allocation([letters[model] for model in models])
                files["allocator"].add(prompt, completion, problem.problem_id, split)
    return sets


def _targets(plan: RunPlan, lake: Lake) -> Iterator[tuple[Problem, dict[str, dict[str, Any]]]]:
    """Problems with a target plan, and their target trials by kind."""
    rows = (row for batch in lake.iter_rows("candidates", plan.run_id, _READ) for row in batch.to_pylist())
    by_problem = itertools.groupby(rows, key=lambda row: row["problem_id"])
    ahead = next(by_problem, None)
    for shard in plan.shards:
        for problem, _ in plan.rows(shard.index):
            if ahead is not None and ahead[0] == problem.problem_id:
                yield problem, {row["kind"]: row for row in ahead[1] if row["is_target"]}
                ahead = next(by_problem, None)


class _RowFile:
    """Rows on their way into a Parquet file, batch by batch."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._batch: list[dict[str, Any]] = []

    def add(self, prompt: Sequence[Message], completion: str, problem_id: str, split: str) -> None:
        said = [{"role": role, "content": text} for role, text in prompt]
        answer = [{"role": "assistant", "content": completion}]
        self._batch.append({"prompt": said, "completion": answer, "problem_id": problem_id, "split": split})
        if len(self._batch) == 4096:
            self.flush()

    def flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._batch, schema=SCHEMA))
        self._batch.clear()


@contextmanager
def _row_file(path: Path) -> Iterator[_RowFile]:
    with replacing(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        rows = _RowFile(writer)
        yield rows
        rows.flush()


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """What a labelling run came to over all its sessions. Executions count those of candidate plans
    and of the search."""

    run_id: str
    n_problems: int
    n_kept: int
    dropped: Mapping[str, int]
    """Reason -> problems."""
    n_candidates: int
    n_distinct: int
    plan_executions: int
    allocation_executions: int
    n_searched: int
    cost_usd: float
    cost_by_purpose_usd: Mapping[str, float]
    score_quantiles: Mapping[str, tuple[float, float, float]]
    """Score -> quartiles over the executed candidates."""
    n_reused: int = 0
    """Calls that another run had paid for."""
    saved_usd: float = 0.0
    """What they would have cost."""

    @property
    def executions_per_plan(self) -> float:
        """Allocations executed per plan that was searched, M_eval's, which the probe uses, included."""
        return self.allocation_executions / self.n_searched if self.n_searched else 0.0


def summarize_labels(lake: Path, run_id: str) -> LabelSummary:
    """Reads the run's committed rows."""
    with connect(lake, runs=[run_id], views=()) as db:

        def rows(sql: str) -> list[tuple[Any, ...]]:
            return db.execute(sql, [run_id]).fetchall()

        n_problems, n_kept, cost = rows(
            "select count(*), count(*) filter (status = 'answered'), coalesce(sum(cost_usd), 0) from trajectories "
            "where run_id = ?"
        )[0]
        dropped = rows(
            "select error_type, count(*) from trajectories where run_id = ? and status = 'failed' group by 1 order "
            "by 2 desc, 1"
        )
        counts = rows(
            "select count(*) filter (kind = 'plan'), count(*) filter (kind = 'plan' and is_correct is not null), "
            "count(*) filter (kind = 'allocation'), count(distinct problem_id) filter (kind = 'allocation') from "
            "candidates where run_id = ?"
        )[0]
        purposes = rows("select purpose, sum(cost_usd) from calls where run_id = ? group by 1 order by 2 desc, 1")
        quantiles = {}
        for score in ("conciseness", "practicality", "coherence", "score"):
            found = rows(
                f"select quantile_cont({score}, [0.25, 0.5, 0.75]) from candidates where run_id = ? and kind = 'plan'"
            )[0][0]
            if found is not None:
                quantiles[score] = tuple(found)
        n_reused, saved_usd = reused_of(db, run_id)
    n_candidates, n_distinct, n_allocations, n_searched = counts
    return LabelSummary(
        run_id,
        n_problems,
        n_kept,
        dict(dropped),
        n_candidates,
        n_distinct,
        n_distinct,
        n_allocations,
        n_searched,
        cost,
        dict(purposes),
        quantiles,
        n_reused,
        saved_usd,
    )


def write_card(
    sets: LabelSets,
    summary: LabelSummary,
    source: str,
    licence: str,
    facts: Mapping[str, str],
    prices: Mapping[str, str],
    leaks: Mapping[str, Leakage],
) -> Path:
    """README.md of the folder, as dataset hubs show it. `facts` are lines of the table, `leaks` evaluation source ->
    what was found."""
    reasons = ", ".join(f"{reason} {n}" for reason, n in summary.dropped.items()) or "none"
    table = {
        "problems": source,
        "licence of the problems": licence,
        "labelled by run": summary.run_id,
        **facts,
        "problems labelled": f"{summary.n_kept} of {summary.n_problems}",
        "dropped": reasons,
        "candidate plans": f"{summary.n_candidates}, distinct {summary.n_distinct}",
        "executions per searched plan": f"{summary.executions_per_plan:.2f}",
        "cost": f"{summary.cost_usd:.6f} USD",
        "decomposer.parquet": _counts(sets.decomposer),
        "allocator.parquet": _counts(sets.allocator),
    }
    lines = [
        "---",
        "configs:",
        "- {config_name: decomposer, data_files: decomposer.parquet}",
        "- {config_name: allocator, data_files: allocator.parquet}",
        "---",
        "# Router training data",
        "",
        "Prompts and completions of a decomposer and an allocator, in the conversational prompt-completion format; "
        "column `split` says which side of",
        "the split a problem is on.",
        "",
        "| what | value |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in table.items()),
        "",
        "## Prices",
        "",
        "| model | USD per million tokens |",
        "|---|---|",
        *(f"| {name} | {_cell(price)} |" for name, price in prices.items()),
        "",
        "## Leakage",
        "",
        "Training questions that are also in an evaluation set, word for word or nearly (Jaccard index of word "
        "bigrams at least 0.8).",
        "",
        "| evaluation set | its questions | training questions | the same | nearly the same |",
        "|---|---|---|---|---|",
        *(
            f"| {_cell(name)} | {leak.n_evaluation} | {leak.n_train} | {leak.n_same} | {leak.n_near} |"
            for name, leak in leaks.items()
        ),
        "",
    ]
    path = sets.out / "README.md"
    write_atomically(path, "\n".join(lines).encode())
    return path


def own_leakage(plan: RunPlan, sets: LabelSets, *, split_seed: int, test_share: float) -> Leakage:
    """The run's own test split against its training split."""
    held_out = (
        problem.question
        for shard in plan.shards
        for problem, _ in plan.rows(shard.index)
        if split_of(problem.question, split_seed, test_share) == "test"
    )
    return leakage(sets.train_questions, held_out)


def _counts(by_split: Counter[str]) -> str:
    return f"{by_split['train']} train, {by_split['test']} test"


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def read_label_rows(path: Path, split: str) -> list[dict[str, Any]]:
    """Rows of one side of a label set, in its order: `prompt`, `completion`, `problem_id`. InputFileError if it is not
    such a file."""
    try:
        table = pq.read_table(path, schema=SCHEMA, filters=pc.field("split") == split)
    except (OSError, pa.ArrowException) as error:
        raise InputFileError(
            f"{path}: not a label set: {error}. Expected decomposer.parquet or allocator.parquet as r2 label writes "
            "them."
        ) from error
    rows: list[dict[str, Any]] = table.drop_columns(["split"]).to_pylist()
    return rows
