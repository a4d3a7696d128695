"""SQL over the lake: what each view says about a lake small enough to check by hand, and what ad-hoc SQL may and may not do."""

import csv
import datetime
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from flows.cli_lake import register
from r2.errors import ConfigError, LakeError
from storage import dictionary
from storage.lake import Lake
from storage.query import connect, run_sql, shipped_views, write_database
from storage.schema import TABLES
from tests.lake_rows import CALL, NOON, RUN, bad_row, problem, together

APPROX: Any = pytest.approx


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a: p0 right, p1 wrong, p2 a bad row, one failed attempt. Runs b and c: one problem each over the same input."""
    root = tmp_path_factory.mktemp("views") / "lake"
    lake = Lake(root)
    p0, p1 = problem(0), problem(1, is_correct=False, answer="8")
    failed = replace(
        CALL, problem_id="p1", call_index=1, attempt=1, subtask_index=0, purpose="solve", status=500, error_type="server_error",
        error_message="status 500", input_tokens=0, cached_input_tokens=0, output_tokens=0, cost_usd=0.0, output_text=None,
    )  # fmt: skip
    p1["trajectories"] = [replace(p1["trajectories"][0], n_attempts=4)]
    p1["calls"].append(failed)
    lake.commit("run-a", "00000-0", together(p0, p1))
    lake.commit("run-a", "00000-1", bad_row(2))
    sessions = [
        replace(RUN, status="budget_stopped", n_requested=3, n_answered=1, n_deferred=2, cost_usd=0.0012),
        replace(
            RUN, session=1, status="completed_with_errors", n_requested=3, n_answered=2, n_failed=1, cost_usd=0.0024
        ),
    ]
    lake.commit("run-a", "session-0000", {"runs": sessions[:1]})
    lake.commit("run-a", "session-0001", {"runs": sessions[1:]})
    lake.commit("run-b", "00000-0", problem(0, "run-b"))
    lake.commit(
        "run-b", "session-0000", {"runs": [replace(RUN, run_id="run-b", n_requested=1, n_answered=1, cost_usd=0.0012)]}
    )
    lake.commit("run-c", "00000-0", problem(0, "run-c", is_correct=False))
    lake.commit(
        "run-c", "session-0000", {"runs": [replace(RUN, run_id="run-c", n_requested=1, n_answered=1, cost_usd=0.0012)]}
    )
    return root


def rows(root: Path, query: str) -> list[tuple[Any, ...]]:
    with connect(root) as connection:
        return connection.execute(query).fetchall()


DAY = datetime.date(2026, 5, 28)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            "select run_id, session, n_answered, status from runs_latest order by 1",
            [("run-a", 1, 2, "completed_with_errors"), ("run-b", 0, 1, "completed"), ("run-c", 0, 1, "completed")],
        ),
        # small: decompose and subtask 0 of two problems, and the failed attempt; large: subtask 1 of two problems
        (
            "from cost_by_model where run_id = 'run-a' order by cost_usd",
            [
                ("run-a", "small", 5, 1, 400, 80, 40, APPROX(0.0004), APPROX(1 / 6), APPROX(0.0002)),
                ("run-a", "large", 2, 0, 200, 40, 20, APPROX(0.002), APPROX(5 / 6), 0.0),
            ],
        ),
        # a: 1 of 2 judged right, 0.0024 USD for 3 problems. b is right and dearer. c is wrong and dearer than a: off the frontier
        (
            "select run_id, n_problems, n_answered, n_judged, n_correct, accuracy, accuracy_low, accuracy_high, usd_per_1k, "
            "calls_per_problem, mean_latency_s, on_frontier from cost_accuracy order by run_id",
            [
                (
                    "run-a",
                    3,
                    2,
                    2,
                    1,
                    0.5,
                    APPROX(0.094531, abs=1e-6),
                    APPROX(0.905469, abs=1e-6),
                    APPROX(0.8),
                    2,
                    APPROX(1.2),
                    True,
                ),
                ("run-b", 1, 1, 1, 1, 1.0, APPROX(0.206549, abs=1e-6), APPROX(1.0), APPROX(1.2), 3, APPROX(1.8), True),
                ("run-c", 1, 1, 1, 0, 0.0, APPROX(0.0), APPROX(0.793451, abs=1e-6), APPROX(1.2), 3, APPROX(1.8), False),
            ],
        ),
        (
            "from spend_by_day where run_id = 'run-a' order by request_model",
            [(DAY, "run-a", "large", 2, 200, 20, APPROX(0.002)), (DAY, "run-a", "small", 5, 400, 40, APPROX(0.0004))],
        ),
        # 480 fresh, 120 cached and 60 generated tokens; a third of them the router's. small: 480*1 + 120*0.5 + 60*2 = 660 per 1e6
        (
            "from single_model_cost where run_id = 'run-a' order by all_calls_usd",
            [
                (
                    "run-a",
                    "small",
                    "2026-11-01:1/0.5/2",
                    APPROX(0.0024),
                    APPROX(0.00066),
                    APPROX(0.00044),
                    APPROX(0.0024 / 0.00044),
                ),
                (
                    "run-a",
                    "large",
                    "2026-11-01:10/5/20",
                    APPROX(0.0024),
                    APPROX(0.0066),
                    APPROX(0.0044),
                    APPROX(0.0024 / 0.0044),
                ),
            ],
        ),
        # 2 of 7 attempts, 0.0002 of 0.0024 USD, 220 of 660 tokens, 1.0 of 5.5 seconds
        (
            "from router_overhead where run_id = 'run-a'",
            [("run-a", 7, 2, APPROX(0.0024), APPROX(0.0002), APPROX(1 / 12), APPROX(1 / 3), APPROX(1 / 5.5))],
        ),
        (
            "from model_share where run_id = 'run-a' order by model",
            [
                ("run-a", "large", "large", 2, 0.5, 2, APPROX(0.002), APPROX(0.002 / 0.0022)),
                ("run-a", "small", "small", 2, 0.5, 0, APPROX(0.0002), APPROX(0.0002 / 0.0022)),
            ],
        ),
        (
            "from model_share_by_difficulty where run_id = 'run-a' order by model",
            [("run-a", "2", "large", 2, 0.5, APPROX(0.002)), ("run-a", "2", "small", 2, 0.5, APPROX(0.0002))],
        ),
        (
            "from deferral where run_id = 'run-a' order by subtask_index",
            [("run-a", 0, "small", 2, 0.0, 0.0, 0.0), ("run-a", 1, "large", 2, 1.0, 0.0, 0.0)],
        ),
        ("from escalations where run_id = 'run-a'", [("run-a", "small", "large", 2, 0, 0, APPROX(0.002), APPROX(0.6))]),
        ("from collapse where run_id = 'run-a'", [("run-a", 4, 1, "small", 1.0, 0.0, 1.0)]),
        # successful attempts only: four of 0.5 s and two of 1.5 s, ten generated tokens each
        (
            "from latency_percentiles where run_id = 'run-a' order by request_model",
            [
                ("run-a", "large", 2, 1.5, 1.5, 1.5, APPROX(0.1), APPROX(0.1), APPROX(20 / 3)),
                ("run-a", "small", 4, 0.5, 0.5, 0.5, APPROX(0.1), APPROX(0.1), APPROX(20)),
            ],
        ),
        (
            "from errors order by level",
            [
                ("run-a", "attempt", "server_error", "small", "arithmetic", 1, "status 500"),
                ("run-a", "problem", "bad_row", None, "arithmetic", 1, "line 3: no question"),
            ],
        ),
        ("from bad_rows", [("run-a", 3, "p2", "bad_row", "line 3: no question", 0, 0.0, "2+3+4")]),
        (
            'select count(*), count(distinct trace_id), count(distinct span_id), min("gen_ai.request.model"), '
            "max(epoch_us(end_time) - epoch_us(start_time)) from otel_spans",
            [(13, 4, 13, "large", 1_500_000)],
        ),
        ("from reconcile_cost", []),
        ("from reconcile_tokens", []),
        ("from reconcile_counts", []),
        ("from reconcile_duplicates", []),
        (
            "select hour_of(started_at), day_of(started_at) from calls limit 1",
            [(datetime.datetime(2026, 5, 28, 20), DAY)],
        ),
    ],
    ids=lambda value: value.split("from ")[-1].split()[0] if isinstance(value, str) else "",
)
def test_each_view_says_what_can_be_worked_out_by_hand(query: str, expected: list[tuple[Any, ...]], lake: Path) -> None:
    assert rows(lake, query) == expected


def test_an_even_spread_over_two_models_is_worth_two_models(tmp_path: Path) -> None:
    tables = problem(0)
    tables["subtasks"][1] = replace(tables["subtasks"][1], allocated_model="large")
    Lake(tmp_path).commit("run-a", "00000-0", tables)
    assert rows(tmp_path, "select n_models, top_share, entropy_bits, effective_models from collapse") == [
        (2, 0.5, 1.0, 2.0)
    ]


@pytest.mark.parametrize(
    ("what", "table", "changes"),
    [
        ("trajectories.cost_usd", "trajectories", {"cost_usd": 0.5}),
        ("trajectories.router_cost_usd", "trajectories", {"router_cost_usd": 0.0}),
        ("subtasks.cost_usd", "subtasks", {"cost_usd": 0.5}),
        ("runs.cost_usd", "runs", {"cost_usd": 0.5}),
        ("trajectories", "trajectories", {"cached_input_tokens": 61}),
        ("subtasks", "subtasks", {"output_tokens": 11}),
        ("trajectories.n_attempts", "trajectories", {"n_attempts": 4}),
        ("trajectories.n_calls", "trajectories", {"n_calls": 2}),
        ("trajectories.n_subtasks", "trajectories", {"n_subtasks": 3}),
        ("runs.n_answered + n_failed", "runs", {"n_answered": 2, "n_requested": 2}),
        ("runs.n_requested", "runs", {"n_requested": 5}),
    ],
)
def test_books_that_do_not_balance_are_named(what: str, table: str, changes: dict[str, Any], tmp_path: Path) -> None:
    tables = {**problem(0), "runs": [replace(RUN, n_requested=1, n_answered=1, cost_usd=0.0012)]}
    tables[table][0] = replace(tables[table][0], **changes)
    lake = Lake(tmp_path)
    lake.commit("run-a", "00000-0", tables)
    found = [
        what
        for view in ("cost", "tokens", "counts")
        for (what,) in rows(tmp_path, f"select what from reconcile_{view}")
    ]
    assert found == ([what, "runs.cost_usd"] if what == "trajectories.cost_usd" else [what])


def test_a_problem_that_was_stored_twice_is_named(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.commit("run-a", "00000-0", problem(0))
    lake.commit("run-a", "00000-1", problem(0))
    found = rows(tmp_path, "select what, problem_id, n from reconcile_duplicates order by 1")
    assert found == [("calls", "p0", 2)] * 3 + [("subtasks", "p0", 2)] * 2 + [("trajectories", "p0", 2)]


def test_an_interrupted_run_that_a_later_session_adds_to_is_not_called_wrong(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.commit("run-a", "00000-0", together(problem(0), problem(1)))
    lake.commit("run-a", "session-0000", {"runs": [replace(RUN, status="interrupted", n_answered=1, n_deferred=1)]})
    assert rows(tmp_path, "from reconcile_counts") == []


def test_an_empty_lake_has_every_table_and_view_and_they_are_empty(tmp_path: Path) -> None:
    with connect(tmp_path) as connection:
        for name in [*TABLES, *shipped_views()]:
            assert connection.execute(f"from {name}").fetchall() == [], name


def test_a_folder_that_is_not_there_is_not_taken_for_an_empty_lake(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="no lake there"):
        connect(tmp_path / "laek")
    assert not (tmp_path / "laek").exists()


def test_every_view_and_every_column_has_a_comment(tmp_path: Path) -> None:
    with connect(tmp_path) as connection:
        bare = connection.execute(
            "select view_name, null from duckdb_views() where not internal and comment is null union all "
            "select table_name, column_name from duckdb_columns() where not internal and comment is null"
        ).fetchall()
        assert bare == []
        [(n_views,)] = connection.execute("select count(*) from duckdb_views() where not internal").fetchall()
    assert n_views == len(TABLES) + len(shipped_views()) == 23


def test_the_spans_carry_every_opentelemetry_name_of_the_calls(lake: Path) -> None:
    declared = {f.metadata[b"otel"].decode() for f in TABLES["calls"].schema if b"otel" in f.metadata}
    with connect(lake) as connection:
        named = {column[0] for column in connection.execute("from otel_spans").description or []}
    assert declared <= named


def test_a_query_sees_nothing_of_a_unit_that_is_not_committed_and_is_not_broken_by_strange_files(
    tmp_path: Path,
) -> None:
    lake = Lake(tmp_path)
    lake.commit("run-a", "00000-0", problem(0))
    folder = lake.files("calls")[0].parent
    (folder / "part-00001-0-0123abcd.parquet").write_bytes(b"torn")
    (folder / "theirs.parquet").write_bytes(b"")
    assert rows(tmp_path, "select count(*) from calls") == [(3,)]


def test_a_query_that_began_before_a_compaction_ends_with_the_same_rows(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for unit in range(3):
        lake.commit("run-a", f"{unit:05d}-0", problem(unit))
    with connect(tmp_path) as connection:
        lake.compact("run-a")
        lake.vacuum()
        assert connection.execute("select count(*) from trajectories").fetchall() == [(3,)]
    assert rows(tmp_path, "select count(*) from trajectories") == [(3,)]


def test_columns_added_since_a_part_was_written_are_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = TABLES["trajectories"]
    older = replace(table, schema=table.schema.remove(table.schema.get_field_index("target")))
    with monkeypatch.context() as then:
        then.setitem(TABLES, "trajectories", older)
        for module in ("storage.unit", "storage.query"):
            then.setattr(f"{module}.schema_digest", lambda: "older")
        Lake(tmp_path).commit("run-a", "00000-0", problem(0))
    Lake(tmp_path).commit("run-a", "00001-0", problem(1))
    assert rows(tmp_path, "select target from trajectories order by input_index") == [(None,), ("9",)]
    Lake(tmp_path).compact("run-a")
    assert rows(tmp_path, "select target from trajectories order by input_index") == [(None,), ("9",)]


def test_the_database_file_holds_views_only_and_opens_read_only(lake: Path) -> None:
    path = write_database(lake)
    assert path.stat().st_size < 1_000_000
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("select count(*) from duckdb_tables()").fetchall() == [(0,)]
        assert connection.execute("select sum(cost_usd) from cost_by_model").fetchall() == [(APPROX(0.0048),)]
        assert connection.execute(
            "select tags['storage_version'] from duckdb_databases() where not internal"
        ).fetchall() == [("v1.0.0+",)]
    with closing(duckdb.connect()) as connection:
        connection.execute((lake / "lake.sql").read_text("utf-8"))
        assert connection.execute("select count(*) from trajectories").fetchall() == [(5,)]
    assert not [p for p in lake.iterdir() if p.name.startswith(".views-")]


QUERY = "select run_id, cost_usd, started_at, candidates from subtasks where run_id = 'run-b' order by subtask_index"


def answer(lake: Path, fmt: str, query: str = QUERY) -> bytes:
    out = io.BytesIO()
    run_sql(lake, query, fmt, out)
    return out.getvalue()


def test_results_come_as_table_csv_json_or_parquet(lake: Path) -> None:
    at = datetime.datetime.fromtimestamp(NOON, datetime.UTC)
    found = json.loads(answer(lake, "json"))
    assert [row["cost_usd"] for row in found] == [0.0001, 0.001]
    assert found[0]["started_at"] == at.isoformat()
    assert found[0]["candidates"][1] == {
        "model": "large",
        "score": None,
        "propensity": None,
        "expected_cost_usd": 0.001,
    }
    [header, first, _] = csv.reader(io.StringIO(answer(lake, "csv").decode()))
    assert header == ["run_id", "cost_usd", "started_at", "candidates"]
    assert first[:3] == ["run-b", "0.0001", at.isoformat()]
    assert json.loads(first[3]) == found[0]["candidates"]
    assert pq.read_table(io.BytesIO(answer(lake, "parquet")))["started_at"][0].as_py() == at
    assert answer(
        lake, "table", "select 'a|b' as name, 12.5 as n, null as missing union all select 'c', 3, null order by n"
    ).decode() == ("name     n  missing\n----  ----  -------\nc      3.0     NULL\na|b   12.5     NULL\n")
    with pytest.raises(ConfigError, match="expected table, csv, json, parquet"):
        answer(lake, "xml")


def test_an_empty_result_is_well_formed_in_every_format(lake: Path) -> None:
    nothing = "select run_id from runs where false"
    assert answer(lake, "json", nothing) == b"[]\n"
    assert answer(lake, "csv", nothing) == b"run_id\n"
    assert answer(lake, "table", nothing) == b"run_id\n------\n"
    assert pq.read_table(io.BytesIO(answer(lake, "parquet", nothing))).num_rows == 0


def test_bytes_nul_and_large_numbers_survive_json(lake: Path) -> None:
    found = json.loads(
        answer(
            lake, "json", "select 'a' || chr(0) as t, '\\xFF'::blob as b, 2::hugeint ** 70 as h, 1.5::decimal(4,1) as d"
        )
    )
    assert found == [{"t": "a\0", "b": "\\xff", "h": 2.0**70, "d": 1.5}]


def test_a_terminal_is_shown_the_first_rows_and_told_so(lake: Path) -> None:
    shown = answer(lake, "table", "from range(1000)").decode().splitlines()
    assert len(shown) == 2 + 200 + 1
    assert shown[-1].startswith("... the first 200 rows")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("copy runs to 'x.csv'", "COPY refused"),
        ("explain analyze copy (select 1) to 'x.csv'", "EXPLAIN refused"),
        ("create table t (a int)", "CREATE refused"),
        ("attach 'x.db'", "ATTACH refused"),
        ("install httpfs", "LOAD refused"),
        ("set threads = 1", "SET refused"),
        ("with t as (insert into runs select * from runs returning *) from t", "runs"),
        ("select 1; drop view runs", "2 SQL statements"),
        ("", "0 SQL statements"),
        ("select * from read_text('/etc/hostname')", "file system operations are disabled"),
        ("select * from '/etc/hostname'", "does not exist"),
        ("select * from glob('/*')", "file system operations are disabled"),
        ("selekt 1", "syntax error"),
        ("from cost_by_modle", "Views: runs_latest, cost_by_model"),
        ("select nothing from runs", "nothing"),
    ],
)
def test_ad_hoc_sql_that_could_do_more_than_read_the_lake_is_refused(query: str, said: str, lake: Path) -> None:
    before = sorted(lake.rglob("*"))
    with pytest.raises(ConfigError, match=said):
        answer(lake, "json", query)
    assert sorted(lake.rglob("*")) == before


def test_ad_hoc_sql_cannot_see_this_programs_variables(lake: Path) -> None:
    secrets = pq.read_table(io.BytesIO(answer(lake, "parquet")))
    assert secrets.num_rows == 2
    with pytest.raises(ConfigError, match="secrets does not exist"):
        answer(lake, "json", "from secrets")


@pytest.mark.parametrize(
    "query", ["describe runs", "summarize runs", "show tables", "values (1)", "with x as (select 1 as a) from x"]
)
def test_everything_that_reads_like_a_select_is_allowed(query: str, lake: Path) -> None:
    assert json.loads(answer(lake, "json", query))


def test_the_data_dictionary_says_what_is_stored() -> None:
    assert dictionary.main(["--check"]) == 0


def test_a_data_dictionary_that_is_out_of_date_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictionary, "PATH", tmp_path / "data_dictionary.md")
    assert dictionary.main(["--check"]) == 1
    assert dictionary.main([]) == 0
    assert dictionary.main(["--check"]) == 0


@pytest.fixture
def r2() -> Iterator[Any]:
    """Runs `r2 sql ...` or `r2 lake ...` in this process; errors are raised, as flows/cli.py expects them."""
    app = typer.Typer()
    register(app)
    runner = CliRunner()
    yield lambda *arguments: runner.invoke(app, [str(a) for a in arguments])


def test_r2_sql_shows_a_view_and_writes_files(r2: Any, lake: Path, tmp_path: Path) -> None:
    shown = r2("sql", "--lake", lake, "--view", "collapse", "--format", "json")
    assert [row["top_model"] for row in json.loads(shown.stdout)] == ["small"] * 3
    written = r2("sql", "from calls", "--lake", lake, "--format", "parquet", "--out", tmp_path / "calls.parquet")
    assert written.stdout == "" and "13 rows" in written.stderr
    assert pq.read_table(tmp_path / "calls.parquet").num_rows == 13


@pytest.mark.parametrize("fmt", ["csv", "json", "table", "parquet"])
def test_a_reader_that_has_seen_enough_is_no_error(fmt: str, lake: Path) -> None:
    code = "import typer, flows.cli_lake as c; app = typer.Typer(); c.register(app); app()"
    query = "select range, repeat('x', 100) as text from range(200000)"
    command = [sys.executable, "-c", code, "sql", query, "--lake", str(lake), "--format", fmt]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either a query or --view"),
        (["select 1", "--view", "errors"], "either a query or --view"),
        (["--view", "erors"], "no view 'erors'. Views: runs_latest"),
        (["drop view runs"], "DROP refused"),
    ],
)
def test_wrong_usage_of_r2_sql_is_a_configuration_error_that_lists_what_there_is(
    arguments: list[str], said: str, r2: Any, lake: Path, tmp_path: Path
) -> None:
    result = r2("sql", *arguments, "--lake", lake, "--out", tmp_path / "out")
    assert isinstance(result.exception, ConfigError) and said in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_r2_lake_keeps_a_lake(r2: Any, tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for unit in range(2):
        lake.commit("run-a", f"{unit:05d}-0", problem(unit))
    assert r2("lake", "refresh", "--lake", tmp_path).stdout.strip() == str(tmp_path / "lake.duckdb")
    with lake.run_lock("run-a"):
        busy = r2("lake", "compact", "--lake", tmp_path)
    assert busy.stdout == "" and "passed over" in busy.stderr
    assert r2("lake", "compact", "--lake", tmp_path).stdout == "run-a: 12 rows in 3 files\n"
    assert r2("lake", "compact", "run-a", "--lake", tmp_path).stdout == "run-a: nothing to do\n"
    assert isinstance(r2("lake", "compact", "run-z", "--lake", tmp_path).exception, ConfigError)
    assert r2("lake", "vacuum", "--lake", tmp_path, "--older-than-hours", 0).stdout == "6 files deleted\n"
    assert r2("lake", "verify", "--lake", tmp_path).exit_code == 0
    lake.files("calls")[0].write_bytes(b"torn")
    broken = r2("lake", "verify", "--lake", tmp_path)
    assert broken.exit_code == 1 and str(lake.files("calls")[0]) in broken.stdout
    assert isinstance(r2("lake", "verify", "--lake", tmp_path / "none").exception, ConfigError)


def test_asking_the_lake_loads_no_prefect() -> None:
    code = "import flows.cli_lake, sys; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
