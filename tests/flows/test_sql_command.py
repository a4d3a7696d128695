"""`r2 sql` and `r2 lake`: formats, what ad-hoc SQL may not do, and the commands' words and exit codes."""

import csv
import datetime
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.console import say
from r2.errors import ConfigError
from storage.lake.lake import Lake
from storage.lake.schema import TABLES
from storage.sql.output import Reader
from storage.sql.query import all_of, run_sql, shipped_views
from tests.support.lake_rows import NOON, problem, worked_lake

QUERY = "select run_id, cost_usd, started_at, candidates from subtasks where run_id = 'run-b' order by subtask_index"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worked_lake(tmp_path_factory.mktemp("worked") / "lake")


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


@pytest.mark.parametrize(
    "query",
    [
        "select comment from duckdb_columns() where table_name = 'calls' and column_name = 'cost_usd'",
        "select column_comment as comment from information_schema.columns "
        "where table_name = 'calls' and column_name = 'cost_usd'",
    ],
)
def test_what_a_column_means_can_be_asked(query: str, lake: Path) -> None:
    assert "USD" in json.loads(answer(lake, "json", query))[0]["comment"]


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
        ("from cost_by_modle", "Views: runs_latest, batch_jobs, cost_by_model"),
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


@pytest.fixture
def r2() -> Any:
    """Runs `r2 sql ...` or `r2 lake ...` in this process; errors are raised, as flows/cli/app.py expects them."""
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(a) for a in arguments])


def test_r2_sql_shows_a_view_and_writes_files(r2: Any, lake: Path, tmp_path: Path) -> None:
    shown = r2("sql", "--lake", lake, "--view", "collapse", "--format", "json")
    assert [row["top_model"] for row in json.loads(shown.stdout)] == ["small"] * 3
    written = r2("sql", "from calls", "--lake", lake, "--format", "parquet", "--out", tmp_path / "calls.parquet")
    assert written.stdout == "" and "13 rows" in written.stderr
    assert pq.read_table(tmp_path / "calls.parquet").num_rows == 13


def test_r2_sql_alone_lists_every_table_and_view_with_a_line_each(r2: Any, tmp_path: Path) -> None:
    shown = r2("sql", "--lake", tmp_path / "none")
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    named = [line.split()[0] for line in lines if line.startswith("  ")]
    assert named == [*TABLES, *shipped_views()]
    assert all(len(line.split()) > 3 for line in lines if line.startswith("  ")), "each says what it holds"
    assert "  cost_by_model              What each model of the pool was paid, per run" in shown.stdout


def test_a_view_comes_in_an_order_that_does_not_change(r2: Any, lake: Path) -> None:
    shown = r2("sql", "--lake", lake, "--view", "cost_by_model", "--format", "json")
    found = [(row["run_id"], row["request_model"]) for row in json.loads(shown.stdout)]
    assert found == [(run, model) for run in ("run-a", "run-b", "run-c") for model in ("large", "small")]
    spans = json.loads(r2("sql", "--lake", lake, "--view", "otel_spans", "--format", "json").stdout)
    assert [span["start_time"] for span in spans] == sorted(span["start_time"] for span in spans)
    calls = json.loads(r2("sql", "--lake", lake, "--view", "calls", "--format", "json").stdout)
    assert [(row["run_id"], row["problem_id"], row["call_index"]) for row in calls[:4]] == [
        ("run-a", "p0", 0),
        ("run-a", "p0", 1),
        ("run-a", "p0", 2),
        ("run-a", "p1", 0),
    ]


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("view", ["cost_by_model", "cost_accuracy", "calls", "otel_spans", "errors"])
def test_a_table_fits_the_terminal(view: str, width: int, lake: Path) -> None:
    out = io.BytesIO()
    run_sql(lake, all_of(view), "table", out, Reader(is_terminal=True, width=width))
    lines = out.getvalue().decode().splitlines()
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("fmt", ["csv", "json", "table", "parquet"])
def test_a_reader_that_has_seen_enough_is_no_error(fmt: str, lake: Path) -> None:
    code = "from flows.cli.app import app; app()"
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
    code = "import flows.cli.app, sys; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


STEERING = "\x1b]0;PWNED\x07\x1b[2J\x1b[31m\x9b31m\u202edeciled"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake whose model answered with what steers a terminal, and with a formula."""
    root = tmp_path_factory.mktemp("hostile")
    Lake(root).commit("run-a", "00000-0", problem(0, answer=STEERING))
    Lake(root).commit("run-a", "00001-0", problem(1, answer="=1+1|'calc'!A1", target="-5"))
    return root


def shown_on_a_terminal(lake: Path, fmt: str, query: str) -> str:
    out = io.BytesIO()
    run_sql(lake, query, fmt, out, Reader(is_terminal=True))
    return out.getvalue().decode()


@pytest.mark.parametrize("fmt", ["table", "csv", "json"])
def test_what_would_steer_a_terminal_is_shown_and_not_sent(fmt: str, hostile: Path) -> None:
    text = shown_on_a_terminal(hostile, fmt, "select answer from trajectories where answer not like '=%'")
    assert not set(text) & set("\x1b\x07\x9b\u202e")
    assert ("\\x1b]0;PWNED\\x07\\x1b[2J" if fmt != "json" else "\\u001b]0;PWNED\\u0007\\u001b[2J") in text
    if fmt == "json":
        assert json.loads(text) == [{"answer": STEERING}], "and it is the same value"


def test_a_table_is_never_more_than_text_even_in_a_pipe(hostile: Path, r2: Any) -> None:
    query = f'select answer as "{STEERING}" from trajectories'
    result = r2("sql", query, "--lake", hostile)
    assert result.exit_code == 0
    assert not set(result.stdout) & set("\x1b\x07\x9b\u202e")


def test_files_hold_every_value_as_it_is_stored(hostile: Path) -> None:
    query = "select answer from trajectories where input_index = 0"
    assert json.loads(answer(hostile, "json", query)) == [{"answer": STEERING}]
    assert list(csv.reader(io.StringIO(answer(hostile, "csv", query).decode(), newline="")))[1] == [STEERING]
    assert pq.read_table(io.BytesIO(answer(hostile, "parquet", query)))["answer"].to_pylist() == [STEERING]
    with pytest.raises(ConfigError, match="not for a terminal"):
        shown_on_a_terminal(hostile, "parquet", query)


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "=cmd|'/c calc'!A1", "-", "=", "+a"])
def test_a_formula_reaches_a_spreadsheet_as_text(text: str, lake: Path, r2: Any, tmp_path: Path) -> None:
    query = "select '{}' as x, -5 as n, '-5' as t, '+1e3' as u, 'a=b' as v".format(text.replace("'", "''"))
    [_, row] = csv.reader(io.StringIO(answer(lake, "csv", query).decode(), newline=""))
    assert row == ["'" + text, "-5", "-5", "+1e3", "a=b"]
    r2("sql", query, "--lake", lake, "--format", "csv", "--out", tmp_path / "x.csv", "--keep-formulas")
    [_, row] = csv.reader(io.StringIO((tmp_path / "x.csv").read_text("utf-8"), newline=""))
    assert row[0] == text


def test_messages_that_quote_a_file_do_not_steer_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    say(f"the server said {STEERING}\nand more")
    assert capfd.readouterr().err == (
        "the server said \\x1b]0;PWNED\\x07\\x1b[2J\\x1b[31m\\x9b31m\\u202edeciled\nand more\n"
    )
