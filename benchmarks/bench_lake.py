"""The lake under load: how fast rows are written, what they weigh, how long each shipped view takes, and three peers on
the same rows.

    python benchmarks/bench_lake.py --rows 1000000

Synthetic runs of the real row classes (4 subtasks and 5 calls a problem, costs that reconcile) are committed shard by
shard as a run commits them, then compacted. `--rows` counts subtasks: 1,000,000 of them come with 250,000 trajectories
and 1,250,000 calls. Where engines are compared they take turns. SQLite has an index on every column it groups or joins
by; pandas and polars read the Parquet files each time, as DuckDB does, the columns that they need.
"""

import argparse
import gc
import json
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq

from benchmarks.figures import Part, at_most, forget_peak, memory_mb, say
from benchmarks.run_part import run_part
from r2.records.tables import CallRow, Candidate, SubtaskRow, TrajectoryRow
from storage.lake.lake import Lake
from storage.sql.query import connect, shipped_views

SIZES = (1_000_000, 10_000_000)
MOST_VIEW_S = 3
SUBTASKS = 4
SHARD = 500
RUNS = 5
WRITTEN_UNITS = 20
US = "r2 lake (DuckDB)"
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


def measure(part: Part, options: argparse.Namespace) -> None:
    """Writing beside the peers, then each size in a lake of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-lake-") as folder:
        compare_writing(part, Path(folder), options.rounds)
    for size in (100_000,) if options.small else options.sizes:
        with tempfile.TemporaryDirectory(prefix="bench-lake-") as folder:
            measure_size(part, Path(folder), size, options.rounds)


def measure_size(part: Part, folder: Path, size: int, rounds: int) -> None:
    root = folder / "lake"
    label = f"{size // 1_000_000} M rows" if size >= 1_000_000 else f"{size:,} rows"
    n_rows = write_lake(part, root, size, label)
    compact_lake(part, root, n_rows, label)
    time_views(part, root, rounds, label)
    compare_engines(part, root, folder / "peer.sqlite", rounds, label)


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


def unit_rows(number: int, rng: random.Random) -> dict[str, list[Any]]:
    """The tables of one unit."""
    tables = shard_rows("run", number * SHARD, SHARD, rng)
    return dict(zip(("trajectories", "subtasks", "calls"), tables, strict=True))


def compare_writing(part: Part, folder: Path, rounds: int) -> None:
    """The same units, each durable before the next: our commit, a transaction in SQLite, files by pandas and polars.

    The peers get their rows in the form that they like best, which is made before the clock starts, and neither
    checksums, nor a manifest, nor a check against the schema.
    """
    taken: dict[str, list[float]] = {}
    for number in range(rounds):
        here = folder / f"{number}"
        here.mkdir()
        rng = random.Random(number)
        units = [unit_rows(i, rng) for i in range(WRITTEN_UNITS)]
        n_rows = sum(len(rows) for unit in units for rows in unit.values())
        plain = [{table: [_plain(row) for row in rows] for table, rows in unit.items()} for unit in units]
        writers: dict[str, Callable[[], None]] = {
            US: partial(_by_lake, units, here),
            "SQLite": partial(_by_sqlite, plain, here),
            "pandas": partial(_by_pandas, plain, here),
            "polars": partial(_by_polars, plain, here),
        }
        for who, write in writers.items():
            taken.setdefault(who, []).append(n_rows / median_s(write, 1))
    for who, values in taken.items():
        part.add(f"durable write, units of {SHARD} problems", who, "rows/s", values)


def _plain(row: Any) -> dict[str, Any]:
    return {
        name: json.dumps(value) if isinstance(value, list | tuple) else value for name, value in asdict(row).items()
    }


def _by_lake(units: list[dict[str, list[Any]]], folder: Path) -> None:
    lake = Lake(folder / "lake")
    for number, unit in enumerate(units):
        lake.commit("run", f"{number:05d}-0", unit)


def _by_sqlite(units: list[dict[str, list[dict[str, Any]]]], folder: Path) -> None:
    with sqlite3.connect(folder / "peer.sqlite") as database:
        database.execute("pragma synchronous = full")
        for number, unit in enumerate(units):
            for table, rows in unit.items():
                if number == 0:
                    database.execute(f"create table {table} ({', '.join(rows[0])})")
                marks = ", ".join("?" * len(rows[0]))
                database.executemany(f"insert into {table} values ({marks})", [tuple(row.values()) for row in rows])
            database.commit()


def _by_pandas(units: list[dict[str, list[dict[str, Any]]]], folder: Path) -> None:
    for number, unit in enumerate(units):
        for table, rows in unit.items():
            path = folder / f"pandas-{number}-{table}.parquet"
            pd.DataFrame(rows).to_parquet(path, compression="zstd")
            _sync(path)


def _by_polars(units: list[dict[str, list[dict[str, Any]]]], folder: Path) -> None:
    for number, unit in enumerate(units):
        for table, rows in unit.items():
            path = folder / f"polars-{number}-{table}.parquet"
            pl.DataFrame(rows, infer_schema_length=None).write_parquet(path, compression="zstd")
            _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_lake(part: Part, root: Path, n_subtasks: int, label: str) -> int:
    """Commits all shards; returns the rows of all tables. Only the commits are timed."""
    lake, rng = Lake(root), random.Random(1)
    per_run = max(SHARD, n_subtasks // SUBTASKS // RUNS)
    spent, n_rows = 0.0, 0
    for run in range(RUNS):
        for first in range(0, per_run, SHARD):
            trajectories, subtasks, calls = shard_rows(f"run-{run}", first, min(SHARD, per_run - first), rng)
            began = time.perf_counter()
            tables = {"trajectories": trajectories, "subtasks": subtasks, "calls": calls}
            lake.commit(f"run-{run}", f"{first // SHARD:05d}-0", tables)
            spent += time.perf_counter() - began
            n_rows += len(trajectories) + len(subtasks) + len(calls)
        say(f"lake, {label}: {n_rows:,} rows written")
    part.add(f"{label}: commit", US, "rows/s", n_rows / spent)
    return n_rows


def compact_lake(part: Part, root: Path, n_rows: int, label: str) -> None:
    """Compacts every run and weighs what is left."""
    lake = Lake(root)
    before_mb, _ = memory_mb()
    forget_peak()
    began = time.perf_counter()
    for run in range(RUNS):
        lake.compact(f"run-{run}")
    part.add(f"{label}: compaction", US, "rows/s", n_rows / (time.perf_counter() - began))
    part.add(f"{label}: compaction, peak memory", US, "MB more", memory_mb()[1] - before_mb)
    for table in ("trajectories", "subtasks", "calls"):
        files = lake.files(table)
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        part.add(f"{label}: {table} on disk", US, "bytes a row", sum(f.stat().st_size for f in files) / rows)


def time_views(part: Part, root: Path, repeats: int, label: str) -> None:
    """Every shipped view, read to its end except the two that repeat stored rows, which show their first 1000. The
    table has the three slowest, the file all of them."""
    began = time.perf_counter()
    with connect(root) as connection:
        part.add(f"{label}: connect, with all views", US, "s", time.perf_counter() - began)
        taken: dict[str, list[float]] = {}
        for view in shipped_views():
            query = f"select * from {view}{' limit 1000' if view in ('otel_spans', 'bad_rows') else ''}"
            n = len(_rows(connection, query))
            assert not (view.startswith("reconcile") and n and view != "reconcile_counts"), (
                f"{view}: {n} rows in a sound lake"
            )
            run = partial(_rows, connection, query)
            taken[view] = [median_s(run, 1) for _ in range(repeats)]
            say(f"lake, {label}: {view} {statistics.median(taken[view]):.2f} s")
        slowest = sorted(taken, key=lambda view: -statistics.median(taken[view]))[:3]
        for view in slowest:
            part.add(f"{label}: view {view}", US, "s", taken[view], at_most(MOST_VIEW_S))
        part.facts[f"seconds of views, {label}"] = {view: statistics.median(each) for view, each in taken.items()}
        one = connection.execute("select run_id, problem_id from trajectories offset 1000 limit 1").fetchone()
        lookup = partial(_rows, connection, "from calls where run_id = ? and problem_id = ?", one)
        part.add(f"{label}: all calls of one problem", US, "s", (median_s(lookup, 1) for _ in range(repeats)))


def _rows(connection: duckdb.DuckDBPyConnection, query: str, parameters: object = None) -> list[tuple[Any, ...]]:
    return connection.execute(query, parameters).fetchall()


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
"""The same text for DuckDB and SQLite; pandas and polars say it in their own words."""

KEY = ["run_id", "problem_id", "rollout"]
PEER_COLUMNS = {
    "trajectories": [*KEY, "n_subtasks", "is_correct", "cost_usd"],
    "subtasks": [*KEY, "subtask_index", "model", "cost_usd"],
    "calls": [*KEY, "call_index", "request_model", "input_tokens", "output_tokens", "cost_usd"],
}


def compare_engines(part: Part, root: Path, sqlite_path: Path, repeats: int, label: str) -> None:
    """DuckDB over the lake, SQLite, pandas and polars take turns at the same questions."""
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
        part.add(f"{label}: load and index these columns", "SQLite", "s", time.perf_counter() - began)
        with connect(root) as connection:
            for name, query in QUERIES.items():
                engines = engines_for(name, query, connection, sqlite, lake)
                n_rows = {who: len(run()) for who, run in engines.items()}
                assert len(set(n_rows.values())) == 1, f"{name}: {n_rows}"
                times: dict[str, list[float]] = {who: [] for who in engines}
                for _ in range(repeats):
                    for who, run in engines.items():
                        times[who].append(median_s(run, 1))
                for who, values in times.items():
                    part.add(f"{label}: {name}", who, "s", values)
                say(f"lake, {label}: {name}")


def engines_for(
    name: str, query: str, connection: duckdb.DuckDBPyConnection, sqlite: sqlite3.Connection, lake: Lake
) -> Mapping[str, Callable[[], Sized]]:
    """One question, asked of each engine."""
    duckdb_query = query.replace("is_correct + 0.0", "is_correct::int")
    return {
        US: partial(_rows, connection, duckdb_query),
        "SQLite": lambda: sqlite.execute(query).fetchall(),
        "pandas": partial(BY_PANDAS[name], lake),
        "polars": partial(BY_POLARS[name], lake),
    }


def _frame(lake: Lake, table: str, columns: list[str]) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(file, columns=columns, partitioning=None) for file in lake.files(table)])


def _pandas_by_model(lake: Lake) -> Sized:
    calls = _frame(lake, "calls", ["run_id", "request_model", "input_tokens", "output_tokens", "cost_usd"])
    return calls.groupby(["run_id", "request_model"]).agg(
        {"cost_usd": ["count", "sum"], "input_tokens": "sum", "output_tokens": "sum"}
    )


def _pandas_by_run(lake: Lake) -> Sized:
    trajectories = _frame(lake, "trajectories", ["run_id", "is_correct", "cost_usd"])
    return trajectories.groupby("run_id").agg({"is_correct": "mean", "cost_usd": ["count", "sum"]})


def _pandas_by_difficulty(lake: Lake) -> Sized:
    subtasks = _frame(lake, "subtasks", [*KEY, "model", "cost_usd"])
    joined = subtasks.merge(_frame(lake, "trajectories", [*KEY, "n_subtasks"]), on=KEY)
    return joined.groupby(["n_subtasks", "model"])["cost_usd"].agg(["count", "sum"])


def _scan(lake: Lake, table: str, columns: list[str]) -> pl.LazyFrame:
    return pl.scan_parquet(lake.files(table), hive_partitioning=False).select(columns)


def _polars_by_model(lake: Lake) -> Sized:
    calls = _scan(lake, "calls", ["run_id", "request_model", "input_tokens", "output_tokens", "cost_usd"])
    sums = pl.len(), pl.sum("input_tokens"), pl.sum("output_tokens"), pl.sum("cost_usd")
    return calls.group_by("run_id", "request_model").agg(*sums).collect()


def _polars_by_run(lake: Lake) -> Sized:
    trajectories = _scan(lake, "trajectories", ["run_id", "is_correct", "cost_usd"])
    return trajectories.group_by("run_id").agg(pl.len(), pl.mean("is_correct"), pl.sum("cost_usd")).collect()


def _polars_by_difficulty(lake: Lake) -> Sized:
    subtasks = _scan(lake, "subtasks", [*KEY, "model", "cost_usd"])
    joined = subtasks.join(_scan(lake, "trajectories", [*KEY, "n_subtasks"]), on=KEY)
    return joined.group_by("n_subtasks", "model").agg(pl.len(), pl.sum("cost_usd")).collect()


BY_PANDAS = dict(zip(QUERIES, (_pandas_by_model, _pandas_by_run, _pandas_by_difficulty), strict=True))
BY_POLARS = dict(zip(QUERIES, (_polars_by_model, _polars_by_run, _polars_by_difficulty), strict=True))


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


def main() -> None:
    parser = argparse.ArgumentParser(description="The lake under load, and three peers on the same rows.")
    parser.add_argument("--rows", type=int, action="append", help=f"subtask rows; several times [default: {SIZES}]")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.sizes, options.small = options.rows or SIZES, False
    run_part("lake", "python benchmarks/bench_lake.py", measure, options)


if __name__ == "__main__":
    main()
