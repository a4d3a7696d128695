"""The lake under load: how fast rows are written, what they weigh, how long each shipped view takes, and two peers on
the same rows.

    python benchmarks/bench_lake.py --rows 1000000

Synthetic runs of the real row classes (4 subtasks and 5 calls a problem, costs that reconcile) are committed shard by
shard as a run commits them, then compacted. Every figure of a query is the median of 5; where engines are compared they
take turns. SQLite has an index on every column it groups or joins by; pandas reads the Parquet files each time, as
DuckDB does, all columns it needs.
"""

import argparse
import gc
import random
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq

from r2.records.tables import CallRow, Candidate, SubtaskRow, TrajectoryRow
from storage.lake.lake import Lake
from storage.sql.query import connect, shipped_views

SUBTASKS = 4
SHARD = 500
RUNS = 5
MODELS = (("tiny", "small", 0.05), ("mid", "medium", 0.4), ("big", "large", 2.0))
WORDS = (
    "add",
    "price",
    "box",
    "take",
    "away",
    "paid",
    "round",
    "whole",
    "pens",
    "left",
    "store",
    "each",
    "of",
    "the",
    "in",
)
Rows = tuple[list[TrajectoryRow], list[SubtaskRow], list[CallRow]]


def main() -> None:
    """Prints one table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=1_000_000, help="subtask rows to write")
    arguments.add_argument("--repeats", type=int, default=5)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-lake-") as folder:
        root = Path(folder) / "lake"
        report: list[tuple[str, str]] = []
        n_rows = write_lake(root, chosen.rows, report)
        compact_lake(root, n_rows, report)
        time_views(root, chosen.repeats, report)
        compare_engines(root, Path(folder) / "peer.sqlite", chosen.repeats, report)
    width = max(len(what) for what, _ in report)
    for what, figure in report:
        print(f"{what:<{width}}  {figure}")


def shard_rows(run_id: str, first: int, n: int, rng: random.Random) -> Rows:
    """A shard's rows. One in fifty attempts fails and is made again; one in twenty subtasks is escalated."""
    trajectories, subtasks, calls = [], [], []
    for index in range(first, first + n):
        problem_id = f"q{rng.getrandbits(48):012x}"
        at = 1.78e9 + index
        mine = [call_row(run_id, problem_id, 0, None, MODELS[0], at, rng)]
        for step in range(SUBTASKS):
            model = rng.choices(MODELS, (6, 3, 1))[0]
            call = call_row(run_id, problem_id, step + 1, step, model, at + step, rng)
            mine.append(call)
            subtasks.append(
                SubtaskRow(
                    run_id=run_id,
                    problem_id=problem_id,
                    rollout=0,
                    subtask_index=step,
                    benchmark="word_problem",
                    depends_on=(step - 1,) if step else (),
                    subtask_text=" ".join(rng.choices(WORDS, k=12)),
                    output_text=str(index),
                    allocated_model=model[0],
                    model=model[0],
                    tier=model[1],
                    candidates=tuple(Candidate(name, -1.5, 0.3, price * 1e-4) for name, _, price in MODELS),
                    is_escalated=rng.random() < 0.05,
                    is_fallback=False,
                    input_tokens=call.input_tokens,
                    output_tokens=call.output_tokens,
                    cost_usd=call.cost_usd,
                    latency_s=call.latency_s,
                    error_type=None,
                    started_at=call.started_at,
                )
            )
        calls += mine
        trajectories.append(
            TrajectoryRow(
                run_id=run_id,
                problem_id=problem_id,
                rollout=0,
                input_index=index,
                method="r2",
                benchmark="word_problem",
                status="answered",
                input=" ".join(rng.choices(WORDS, k=40)),
                target="7",
                answer="7",
                is_correct=rng.random() < 0.8,
                plan="1. add\n2. take away",
                n_subtasks=SUBTASKS,
                n_calls=len(mine),
                n_attempts=len(mine),
                n_escalations=0,
                input_tokens=sum(c.input_tokens for c in mine),
                cached_input_tokens=0,
                output_tokens=sum(c.output_tokens for c in mine),
                cost_usd=sum(c.cost_usd for c in mine),
                router_cost_usd=mine[0].cost_usd,
                latency_s=sum(c.latency_s for c in mine),
                failed_checks="",
                error_type=None,
                error_message=None,
                started_at=at,
            )
        )
    return trajectories, subtasks, calls


def call_row(
    run_id: str,
    problem_id: str,
    call_index: int,
    step: int | None,
    model: tuple[str, str, float],
    at: float,
    rng: random.Random,
) -> CallRow:
    """One light call: its body is a few words."""
    name, _, price = model
    n_in, n_out = rng.randrange(80, 400), rng.randrange(5, 60)
    return CallRow(
        run_id=run_id,
        problem_id=problem_id,
        rollout=0,
        call_index=call_index,
        attempt=0,
        subtask_index=step,
        benchmark="word_problem",
        purpose="decompose" if step is None else "solve",
        request_sha=f"{rng.getrandbits(64):016x}",
        request_model=name,
        response_model=name,
        response_id="",
        status=200,
        finish_reason="stop",
        temperature=0.0,
        max_output_tokens=64,
        input_tokens=n_in,
        cached_input_tokens=0,
        output_tokens=n_out,
        usage_source="provider",
        cost_usd=(n_in + 4 * n_out) * price / 1e6,
        price_version=f"2026-11-01:{price:g}/{price:g}/{4 * price:g}",
        latency_s=rng.expovariate(2.0),
        queue_s=rng.expovariate(20.0),
        retry_after_s=None,
        is_replayed=False,
        error_type=None,
        error_message=None,
        input_messages='[["user", "add"]]',
        output_text=str(n_out),
        raw_body=b'{"ok": true}',
        started_at=at,
    )


def write_lake(root: Path, n_subtasks: int, report: list[tuple[str, str]]) -> int:
    """Commits all shards; returns the rows of all tables. Only the commits are timed."""
    lake, rng = Lake(root), random.Random(1)
    per_run = max(SHARD, n_subtasks // SUBTASKS // RUNS)
    spent, n_rows, n_units = 0.0, 0, 0
    for run in range(RUNS):
        for first in range(0, per_run, SHARD):
            trajectories, subtasks, calls = shard_rows(f"run-{run}", first, min(SHARD, per_run - first), rng)
            began = time.perf_counter()
            lake.commit(
                f"run-{run}",
                f"{first // SHARD:05d}-0",
                {"trajectories": trajectories, "subtasks": subtasks, "calls": calls},
            )
            spent += time.perf_counter() - began
            n_rows += len(trajectories) + len(subtasks) + len(calls)
            n_units += 1
    report.append(
        ("rows written (trajectories + subtasks + calls)", f"{n_rows:,} in {n_units:,} units of {SHARD} problems")
    )
    report.append(("commit, durable", f"{n_rows / spent:,.0f} rows/s, {spent / n_units * 1e3:.0f} ms a unit"))
    return n_rows


def compact_lake(root: Path, n_rows: int, report: list[tuple[str, str]]) -> None:
    """Compacts every run and weighs what is left."""
    lake = Lake(root)
    before = connect(root)
    scattered = median_s(lambda: before.execute("select * from cost_by_model").fetchall(), 3)
    before.close()
    began, rss = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for run in range(RUNS):
        lake.compact(f"run-{run}")
    spent = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss) / 1024
    report.append(("compaction", f"{n_rows / spent:,.0f} rows/s, peak memory +{grown:.0f} MB"))
    report.append(("cost_by_model before compaction", f"{scattered * 1e3:.0f} ms"))
    for table in ("trajectories", "subtasks", "calls"):
        files = lake.files(table)
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        report.append(
            (
                f"{table}",
                f"{sum(f.stat().st_size for f in files) / rows:.0f} bytes a row, {rows:,} rows in {len(files)} files",
            )
        )


def time_views(root: Path, repeats: int, report: list[tuple[str, str]]) -> None:
    """Every shipped view, read to its end except the two that repeat stored rows, which show their first 1000."""
    began = time.perf_counter()
    with connect(root) as connection:
        report.append(("connect, with all views", f"{(time.perf_counter() - began) * 1e3:.0f} ms"))
        for view in shipped_views():
            limit = " limit 1000" if view in ("otel_spans", "bad_rows") else ""
            query = f"select * from {view}{limit}"
            n = len(connection.execute(query).fetchall())
            assert not (view.startswith("reconcile") and n and view != "reconcile_counts"), (
                f"{view}: {n} rows in a sound lake"
            )
            seconds = median_s(lambda query=query: connection.execute(query).fetchall(), repeats)  # type: ignore[misc]
            report.append((f"view {view}{limit}", f"{seconds * 1e3:.0f} ms, {n} rows"))
        one = connection.execute("select run_id, problem_id from trajectories offset 1000 limit 1").fetchone()
        lookup = median_s(
            lambda: connection.execute("from calls where run_id = ? and problem_id = ?", one).fetchall(), repeats
        )
        report.append(("all calls of one problem", f"{lookup * 1e3:.0f} ms"))


QUERIES = {
    "cost by model": """
        select run_id, request_model, count(*), sum(input_tokens), sum(output_tokens), sum(cost_usd)
        from calls group by run_id, request_model""",
    "accuracy and cost by run": """
        select run_id, count(*), avg(is_correct + 0.0), sum(cost_usd) from trajectories group by run_id""",
    "model share by difficulty (join)": """
        select t.n_subtasks, s.model, count(*), sum(s.cost_usd)
        from subtasks s join trajectories t
            on s.run_id = t.run_id and s.problem_id = t.problem_id and s.rollout = t.rollout
        group by t.n_subtasks, s.model""",
}
"""The same text for DuckDB and SQLite."""

KEY = ["run_id", "problem_id", "rollout"]
PEER_COLUMNS = {
    "trajectories": [*KEY, "n_subtasks", "is_correct", "cost_usd"],
    "subtasks": [*KEY, "subtask_index", "model", "cost_usd"],
    "calls": [*KEY, "call_index", "request_model", "input_tokens", "output_tokens", "cost_usd"],
}


def compare_engines(root: Path, sqlite_path: Path, repeats: int, report: list[tuple[str, str]]) -> None:
    """DuckDB over the lake, SQLite and pandas take turns at the same questions."""
    lake = Lake(root)
    began = time.perf_counter()
    with sqlite3.connect(sqlite_path) as sqlite:
        for table, columns in PEER_COLUMNS.items():
            sqlite.execute(f"create table {table} ({', '.join(columns)})")
            marks = ", ".join("?" * len(columns))
            for rows in narrow_rows(lake, table, columns):
                sqlite.executemany(f"insert into {table} values ({marks})", rows)
        sqlite.execute("create index t_key on trajectories (run_id, problem_id, rollout)")
        sqlite.execute("create index c_model on calls (run_id, request_model)")
        sqlite.execute("create index s_key on subtasks (run_id, problem_id, rollout)")
        sqlite.execute("analyze")
        sqlite.commit()
        report.append(
            (
                "SQLite: load and index, columns of these queries only",
                f"{time.perf_counter() - began:.1f} s, {sqlite_path.stat().st_size / 1e6:.0f} MB",
            )
        )
        with connect(root) as connection:
            report.append(("", f"{'DuckDB':>10} {'SQLite':>10} {'pandas':>10}   (median ms)"))
            for name, query in QUERIES.items():
                engines = engines_for(name, query, connection, sqlite, lake)
                times: list[list[float]] = [[] for _ in engines]
                for _ in range(repeats):
                    for taken, run in zip(times, engines, strict=True):
                        taken.append(median_s(run, 1))
                report.append((name, " ".join(f"{statistics.median(t) * 1e3:10.0f}" for t in times)))


def engines_for(
    name: str, query: str, connection: duckdb.DuckDBPyConnection, sqlite: sqlite3.Connection, lake: Lake
) -> list[Callable[[], Any]]:
    """One question, asked of DuckDB, SQLite and pandas."""
    duckdb_query = query.replace("is_correct + 0.0", "is_correct::int")

    def frame(table: str, columns: list[str]) -> pd.DataFrame:
        return pd.concat([pd.read_parquet(file, columns=columns, partitioning=None) for file in lake.files(table)])

    def by_model() -> object:
        return (
            frame("calls", ["run_id", "request_model", "input_tokens", "output_tokens", "cost_usd"])
            .groupby(["run_id", "request_model"])
            .agg({"cost_usd": ["count", "sum"], "input_tokens": "sum", "output_tokens": "sum"})
        )

    def by_run() -> object:
        return (
            frame("trajectories", ["run_id", "is_correct", "cost_usd"])
            .groupby("run_id")
            .agg({"is_correct": "mean", "cost_usd": ["count", "sum"]})
        )

    def by_difficulty() -> object:
        joined = frame("subtasks", [*KEY, "model", "cost_usd"]).merge(
            frame("trajectories", [*KEY, "n_subtasks"]), on=KEY
        )
        return joined.groupby(["n_subtasks", "model"])["cost_usd"].agg(["count", "sum"])

    pandas_query = dict(zip(QUERIES, (by_model, by_run, by_difficulty), strict=True))[name]
    return [
        lambda: connection.execute(duckdb_query).fetchall(),
        lambda: sqlite.execute(query).fetchall(),
        pandas_query,
    ]


def narrow_rows(lake: Lake, table: str, columns: list[str]) -> Iterator[list[tuple[Any, ...]]]:
    for file in lake.files(table):
        for batch in pq.ParquetFile(file).iter_batches(columns=columns):
            yield list(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def median_s(run: Callable[[], Any], repeats: int) -> float:
    """Median wall seconds, with the garbage of the run before swept away."""
    taken = []
    for _ in range(repeats):
        gc.collect()
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
