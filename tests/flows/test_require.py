"""`r2 answer --require`: who says too little is not asked, and is named."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from r2.errors import ConfigError
from storage.sql.query import connect
from tests.support.prefect_sockets import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS

ROUTER = """
[router]
decomposer = "here"
allocator = "here"
"""
ENTRY = """
[models.{name}]
endpoint = "simulated:{name}"
tier = "{tier}"
price_usd_per_mtok = {{input = 1, output = 1, date = "2026-11-24", source = "made up"}}
simulated = {{ability = 9.0, ttft_s = 0.0, tokens_per_s = 1e9}}
{says}
"""


def test_a_run_asks_only_entries_that_say_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R2_STATE_DIR", str(tmp_path / "state"))
    says = 'regions = ["eu"]\nretention = "none"'
    entries = ENTRY.format(name="here", tier="small", says=says) + ENTRY.format(name="there", tier="large", says="")
    (tmp_path / "pool.toml").write_text(ROUTER + entries)
    rows = [{"id": str(n), "question": f"What is {n} + 3?", "benchmark": "arithmetic"} for n in range(6)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lake = tmp_path / "lake"
    command = ["answer", str(tmp_path / "q.jsonl"), "--pool", str(tmp_path / "pool.toml"), "--lake", str(lake)]
    command += ["--method", "random"]
    for words in ([], ["--require", "region=eu,retention=none"]):
        out = CliRunner().invoke(app, [*command, *words], catch_exceptions=False)
        assert out.exit_code == 0, out.output
        assert ("r2: --require region=eu,retention=none: not asked: there" in out.stderr) == bool(words)
    with connect(lake) as db:
        asked = db.execute(
            "select json_extract_string(config, '$.require') as require, "
            "list_sort(list(distinct request_model)) from runs join calls using (run_id) group by all order by require"
        ).fetchall()
    assert asked == [("", ["here", "there"]), ("region=eu,retention=none", ["here"])]
    refused = CliRunner().invoke(app, [*command, "--require", "region=us"])
    assert isinstance(refused.exception, ConfigError)
    assert "here: says regions eu; there: says no regions" in str(refused.exception)
