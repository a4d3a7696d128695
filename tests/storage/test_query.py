"""SQL over the lake: what each view says about a lake small enough to check by hand."""

import datetime
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from r2.errors import LakeError
from storage.lake.lake import Lake
from storage.lake.schema import TABLES
from storage.sql import dictionary
from storage.sql.query import all_of, connect, shipped_views, write_database
from tests.support.lake_rows import RUN, problem, together, worked_lake

APPROX: Any = pytest.approx


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worked_lake(tmp_path_factory.mktemp("worked") / "lake")


@pytest.fixture(scope="module")
def views(lake: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(lake) as connection:
        yield connection


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
                (
                    "run-a",
                    "small",
                    5,
                    1,
                    400,
                    80,
                    40,
                    APPROX(0.0004),
                    APPROX(1 / 6),
                    APPROX(0.0002),
                    0,
                    0,
                    APPROX(4e-5),
                    0,
                    0,
                ),
                ("run-a", "large", 2, 0, 200, 40, 20, APPROX(0.002), APPROX(5 / 6), 0.0, 0, 0, APPROX(2e-4), 0, 0),
            ],
        ),
        # a: 1 of 2 judged right, 0.0024 USD for 3 problems. b is right and dearer. c is wrong and dearer than a: off
        # the frontier
        (
            "select run_id, n_problems, n_answered, n_judged, n_correct, accuracy, accuracy_low, accuracy_high, "
            "usd_per_1k, "
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
        # 480 fresh, 120 cached and 60 generated tokens; a third of them the router's. small: 480*1 + 120*0.5 + 60*2 =
        # 660 per 1e6
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
def test_each_view_says_what_can_be_worked_out_by_hand(
    query: str, expected: list[tuple[Any, ...]], views: duckdb.DuckDBPyConnection
) -> None:
    assert views.execute(query).fetchall() == expected


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


@pytest.mark.parametrize(("cost_usd", "found"), [(0.0015, []), (0.0012, []), (0.0011, [("runs.cost_usd",)])])
def test_a_run_whose_calls_were_lost_in_a_kill_may_cost_more_than_its_rows_and_never_less(
    cost_usd: float, found: list[tuple[str]], tmp_path: Path
) -> None:
    run = replace(RUN, n_requested=1, n_answered=1, n_calls_lost=2, cost_usd=cost_usd)
    Lake(tmp_path).commit("run-a", "00000-0", {**problem(0), "runs": [run]})
    assert rows(tmp_path, "select what from reconcile_cost") == found


def test_what_one_step_has_too_much_and_another_too_little_does_not_balance(tmp_path: Path) -> None:
    """The sums over the problem are right."""
    tables = problem(0)
    first, second = tables["subtasks"]
    tables["subtasks"] = [
        replace(first, cost_usd=first.cost_usd + 1e-8, input_tokens=first.input_tokens + 2),
        replace(second, cost_usd=second.cost_usd - 1e-8, input_tokens=second.input_tokens - 2),
    ]
    Lake(tmp_path).commit("run-a", "00000-0", tables)
    for view in ("cost", "tokens"):
        found = rows(tmp_path, f"select what, subtask_index from reconcile_{view} order by 2")
        assert found == [("subtasks.cost_usd" if view == "cost" else "subtasks", step) for step in (0, 1)]


def test_a_call_that_was_made_again_is_no_double_and_one_that_is_stored_twice_is(tmp_path: Path) -> None:
    lake, tables = Lake(tmp_path), problem(0)
    again = replace(tables["calls"][0], attempt=tables["calls"][0].attempt + 1)
    lake.commit("run-a", "00000-0", {**tables, "calls": [*tables["calls"], again]})
    assert rows(tmp_path, "from reconcile_duplicates") == []
    lake.commit("run-a", "00000-1", {"trajectories": tables["trajectories"], "calls": [again]})
    doubles = "select call_index, attempt, n from reconcile_duplicates where what = 'calls'"
    assert rows(tmp_path, doubles) == [(again.call_index, again.attempt, 2)]


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
    with connect(tmp_path, is_documented=True) as connection:
        bare = connection.execute(
            "select view_name, null from duckdb_views() where not internal and comment is null union all "
            "select table_name, column_name from duckdb_columns() where not internal and comment is null"
        ).fetchall()
        assert bare == []
        [(n_views,)] = connection.execute("select count(*) from duckdb_views() where not internal").fetchall()
    assert n_views == len(TABLES) + len(shipped_views())


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
        for module in ("storage.lake.unit", "storage.sql.query"):
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


def test_a_connection_without_the_meanings_has_the_same_views(lake: Path) -> None:
    documented = "select count(*) from duckdb_columns() where comment is not null"
    views = "select view_name, column_count from duckdb_views() where not internal order by 1"
    with connect(lake, is_documented=True) as full, connect(lake) as bare:
        assert bare.execute(views).fetchall() == full.execute(views).fetchall()
        assert bare.execute(documented).fetchall() == [(0,)]
        assert full.execute(documented).fetchall() > [(300,)]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ((), set()),
        (("otel_spans",), {"otel_spans"}),
        (("cost_by_model",), {"cost_by_model"}),
        (("stop_reasons",), {"decisions", "stop_reasons"}),
    ],
)
def test_a_connection_for_some_views_has_these_and_what_they_build_on_and_says_the_same(
    lake: Path, named: tuple[str, ...], expected: set[str]
) -> None:
    there = "select view_name from duckdb_views() where not internal order by 1"
    with connect(lake) as full, connect(lake, views=named) as some:
        found = {str(name) for (name,) in some.execute(there).fetchall()}
        assert found - TABLES.keys() - {"runs_latest"} == expected
        for name in (*named, *TABLES, "runs_latest"):
            assert some.execute(all_of(name)).fetchall() == full.execute(all_of(name)).fetchall()


WRITES = Path("/proc/self/io")


@pytest.mark.skipif(not WRITES.exists(), reason="counts what this process writes, which Linux tells")
def test_the_database_file_is_written_in_one_go_and_not_statement_by_statement(tmp_path: Path) -> None:
    """Each statement of its own is a write that waits for the disk, and there are hundreds: seconds on a busy disk."""
    root = worked_lake(tmp_path / "lake")

    def n_writes() -> int:
        return int(dict(line.split(": ") for line in WRITES.read_text("utf-8").splitlines())["syscw"])

    before = n_writes()
    write_database(root)
    n_statements = (root / "lake.sql").read_text("utf-8").count(";\n")
    assert (n_writes() - before) < n_statements / 3 and n_statements > 300


def test_the_data_dictionary_says_what_is_stored() -> None:
    assert dictionary.main(["--check"]) == 0


def test_a_data_dictionary_that_is_out_of_date_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictionary, "PATH", tmp_path / "data_dictionary.md")
    assert dictionary.main(["--check"]) == 1
    assert dictionary.main([]) == 0
    assert dictionary.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("version", "tokens", "saved_usd"),
    [
        # (prompt, read, written): reads at 0.1 instead of 1, writes at 1.25 instead of 1
        ("2026-11-26:1/0.1/5/w1.25", (1000, 800, 0), 720e-6),
        ("2026-11-26:1/0.1/5/w1.25", (1000, 0, 800), -200e-6),
        ("2026-11-26:1/0.1/5/w1.25", (1000, 400, 400), 260e-6),
        ("2026-11-26:1/0.1/5", (1000, 400, 400), 360e-6),  # a write is as dear as a fresh token
        ("2026-11-26:1/0.1/5/w1.25>2000:2/0.2/9/w2.5>4000:4/0.4/9/w5", (2000, 1000, 0), 900e-6),
        ("2026-11-26:1/0.1/5/w1.25>2000:2/0.2/9/w2.5>4000:4/0.4/9/w5", (2001, 1000, 0), 1800e-6),
        ("2026-11-26:1/0.1/5/w1.25>2000:2/0.2/9/w2.5>4000:4/0.4/9/w5", (9000, 0, 1000), -1000e-6),
        ("2026-11-26:1/0.1/5", (1000, 0, 0), 0.0),
        ("", (1000, 400, 0), 0.0),
    ],
)
def test_what_a_cache_saved_goes_by_the_price_of_so_long_a_prompt(
    views: duckdb.DuckDBPyConnection, version: str, tokens: tuple[int, int, int], saved_usd: float
):
    [[found]] = views.execute("select cache_saved(?, ?, ?, ?)", [version, *tokens]).fetchall()
    assert found == APPROX(saved_usd)


_WHERE_NO_FILE_MAY_GROW = """
import resource, sys
from pathlib import Path
from storage.sql.query import write_database
from tasks.cause import message

most = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    write_database(Path(sys.argv[1]))
except Exception as error:
    print(message(error))
"""


def test_a_database_of_views_for_which_there_is_no_room_says_which_file_and_why(tmp_path: Path) -> None:
    lake = worked_lake(tmp_path)
    path = write_database(lake)
    assert path is not None
    command = [sys.executable, "-c", _WHERE_NO_FILE_MAY_GROW, str(lake), str(path.stat().st_size - 1)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r'Could not write file ".+/lake\.duckdb": File too large\. Nothing is lost', said), said
