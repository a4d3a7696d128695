"""`r2 answer --tag`: stored with each session, and held by the cap that the pool file has for a tag's day."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from storage.sql.query import connect
from tests.support.prefect_sockets import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS

POOL = """
[router]
decomposer = "one"
allocator = "one"

[models.one]
endpoint = "simulated:one"
tier = "small"
price_usd_per_mtok = {input = 1, output = 1, date = "2026-11-24", source = "made up"}
simulated = {ability = 9.0, ttft_s = 0.0, tokens_per_s = 1e9}

[budget.max_usd_per_day_by_tag]
"team=search" = 0.00000001
"""


def test_a_tag_whose_day_is_spent_stops_the_run_and_another_tag_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("R2_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "pool.toml").write_text(POOL)
    rows = [{"id": str(n), "question": f"What is {n} + 3?", "benchmark": "arithmetic"} for n in range(3)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lake = tmp_path / "lake"
    command = ["answer", str(tmp_path / "q.jsonl"), "--pool", str(tmp_path / "pool.toml"), "--lake", str(lake)]
    command += ["--method", "start"]
    stopped = CliRunner().invoke(app, [*command, "--tag", "team=search"], catch_exceptions=False)
    assert stopped.exit_code != 0
    ended = CliRunner().invoke(app, [*command, "--tag", "team=ads", "--tag", "project=x"], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    with connect(lake) as db:
        sessions = db.execute("select status, n_answered, tags, run_id from runs order by session").fetchall()
        spent = db.execute("select tag, value, n_runs, cost_usd from spend_by_tag order by tag").fetchall()
        [(cost_usd,)] = db.execute("select sum(cost_usd) from calls").fetchall()
    assert [row[:3] for row in sessions] == [
        ("budget_stopped", 0, '{"team":"search"}'),
        ("completed", 3, '{"project":"x","team":"ads"}'),
    ]
    assert len({row[3] for row in sessions}) == 1, "tags are no part of what the run is"
    assert spent == [("project", "x", 1, pytest.approx(cost_usd)), ("team", "ads", 1, pytest.approx(cost_usd))]
    assert cost_usd > 0
