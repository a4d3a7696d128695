"""`make bench`: what its table says, that rounds can be added, that a peer which cannot be installed is named, and that
all engines find the same."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import bench_client, bench_lake
from benchmarks.bench_flow import exponent
from benchmarks.figures import Part, at_least, at_most, keep, kept, table, with_rounds
from benchmarks.peers import NotInstalledError, Peer, python_of
from tests.support.paths import ROOT

FACTS = {"date": "2026-11-27 12:00", "commit": "abc1234", "machine": "2 x CPU", "python": "3.11.7", "other_cores": 0.1}


def measured() -> Part:
    part = Part("clients", "python benchmarks/bench.py clients", facts=FACTS)
    part.add("requests/s", "ours", "requests/s", [4000, 6000, 5000])
    part.add("requests/s", "theirs", "requests/s", [500, 500, 250])
    part.add_ratio("requests/s", "ours", "theirs", at_least(12.5))
    part.add("CPU per request", "ours", "us", 180.4, at_most(170))
    part.skip("another", "cannot be installed: no such package")
    return part


def test_a_ratio_is_taken_round_by_round_and_held_to_its_bar():
    ratio = measured().found("requests/s", "ours / theirs")
    assert ratio.values == (8, 12, 20)
    assert (ratio.median, ratio.is_missed) == (12, True)


def test_the_table_has_medians_spread_bars_and_who_was_left_out():
    lines = [
        " | ".join(cell.strip() for cell in line.strip("| ").split("|")) for line in table([measured()]).split("\n")
    ]
    assert lines[0] == "part | measured | who | median | least to most | n | bar"
    assert lines[2] == "clients | requests/s | ours | 5,000 requests/s | 4,000 to 6,000 | 3"
    assert lines[4] == "clients | requests/s | ours / theirs | 12 x | 8 to 20 | 3 | ≥ 12.5: missed"
    assert lines[5] == "clients | CPU per request | ours | 180 us |  | 1 | ≤ 170: missed"
    assert lines[7].startswith("- clients: 2026-11-27 12:00, commit abc1234, 0.1 cores busy with other work.")
    assert lines[8] == "- clients: not measured: another: cannot be installed: no such package"


def test_a_file_gives_back_what_was_kept_and_rounds_are_added_to_it(tmp_path: Path):
    path = tmp_path / "made" / "bench.json"
    keep(path, {"clients": measured()})
    assert json.loads(path.read_text("utf-8"))["parts"]["clients"]["figures"][0]["median"] == 5000
    assert table(kept(path).values()) == table([measured()])
    more = Part("clients", "again", facts=FACTS)
    more.add("requests/s", "ours", "requests/s", [7000])
    more.add("requests/s", "new", "requests/s", [1])
    both = with_rounds(kept(path)["clients"], more)
    assert [(one.who, one.values) for one in both.figures] == [("ours", (4000, 6000, 5000, 7000)), ("new", (1,))]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [({10: 1.0, 100: 10.0, 1000: 100.0}, 1.0), ({10: 1.0, 1000: 10_000.0}, 2.0), ({10: 3.0, 100: 3.0}, 0.0)],
)
def test_the_growth_exponent_is_the_slope_of_the_logs(seconds: dict[int, float], expected: float):
    assert exponent(seconds) == pytest.approx(expected)


def test_a_peer_that_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    peer = Peer("nobody's client", "nobody", ("no-such-client==1.0",), 1.0)
    with pytest.raises(NotInstalledError, match=re.escape("no-such-client==1.0")):
        python_of(peer, tmp_path)


def test_a_client_in_an_environment_of_its_own_is_measured_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The environment is this one, which has the openai SDK."""
    sdk = Peer("openai SDK", "openai", (), 0.2)
    broken = Peer("no such client", "openai", (), 0.2)
    monkeypatch.setattr(bench_client, "PEERS", (sdk, broken))
    monkeypatch.setattr(bench_client, "python_of", lambda peer, folder: Path(sys.executable))
    part = Part("clients", "test")
    bench_client.measure_clients(part, argparse.Namespace(small=True, requests=0, rounds=1, peers_dir=tmp_path))
    assert {figure.who for figure in part.figures if figure.what == bench_client.CPU} == {
        "bare aiohttp",
        "r2 client",
        "openai SDK",
        "r2 client / bare aiohttp",
    }
    assert all(figure.median > 0 for figure in part.figures)
    assert [why.partition(":")[0] for why in part.skipped] == ["no such client"]


def test_all_engines_find_as_many_rows(tmp_path: Path):
    part = Part("lake", "test")
    bench_lake.measure_size(part, tmp_path, 2_000, 1)
    for question in bench_lake.QUERIES:
        engines = [figure.who for figure in part.figures if figure.what == f"2,000 rows: {question}"]
        assert engines == ["r2 lake (DuckDB)", "SQLite", "pandas", "polars"]


def test_a_part_that_there_is_not_is_refused():
    command = [sys.executable, "benchmarks/bench.py", "speed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "no part speed: expected some of clients" in done.stderr) == (2, True), done.stderr


def test_the_peak_is_of_the_process_itself_and_is_counted_anew():
    """`getrusage` would count the 200 MB of the process that starts it."""
    child = "from benchmarks.figures import memory_mb; print(memory_mb()[1])"
    program = f"""
import subprocess, sys
from benchmarks.figures import forget_peak, memory_mb
held = b"x" * (200 << 20)
subprocess.run([sys.executable, "-c", {child!r}], check=True)
del held
print(memory_mb()[1])
forget_peak()
print(memory_mb()[1])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    of_child, before, after = map(float, done.stdout.split())
    assert of_child < 200 < before
    assert after < 200


def test_answers_are_compared_question_by_question(tmp_path: Path):
    """Ours: three right of four for 1 + 1 + 1 + 1 USD; theirs: two right, one failed, for 2 + 2 + 2 + 2."""
    ours, theirs = tmp_path / "ours.jsonl", tmp_path / "theirs.jsonl"
    for path, right, usd in ((ours, [True, True, True, False], 1), (theirs, [None, True, True, False], 2)):
        rows = [
            {"id": n, "status": "failed" if one is None else "answered", "is_correct": one, "cost_usd": usd}
            for n, one in enumerate(right)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = [sys.executable, "benchmarks/compared_answers.py", str(ours), str(theirs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{ours}: 3/4 [30.1%, 95.4%], 1000.0000 USD per 1k" in done.stdout
    # of one question in four: none of it in (3/4)^4 = 32 % of the draws, three or four in 5 %
    assert "saves 50.0% [50.0%, 50.0%] with +25.0 points [+0.0, +75.0] right" in done.stdout
    others = theirs.read_text("utf-8").splitlines()[1:]
    for text, said in (("\n".join(others), "other questions than in"), ("", "no answers in it"), ("id,q", "as JSONL")):
        theirs.write_text(text, "utf-8")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode, done.stderr
        assert f"{theirs}: " in done.stderr
        assert said in done.stderr
