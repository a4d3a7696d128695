"""What `make torture` counts with: its verdicts, its failing disk, its damage, and its list of parts."""

import errno
import io
import json
import random
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.torture import damage, plan, wire
from benchmarks.torture.failing import Writes
from benchmarks.torture.figures import Row, show, write
from tests.support.hostile import MODES


@pytest.mark.parametrize(
    ("row", "verdict", "said"),
    [
        (Row("a", "b", twice=3, in_flight=3), "holds", []),
        (Row("a", "b", twice=4, in_flight=3), "BROKEN", ["4 calls were paid again, 3 were in flight"]),
        (Row("a", "b", lost=1), "BROKEN", ["1 rows are lost"]),
        (Row("a", "b", identity=False), "BROKEN", ["the stored costs do not add up, or do not cover the bill"]),
        (Row("a", "b", skipped="nothing can be mounted here"), "skipped: nothing can be mounted here", []),
    ],
)
def test_a_row_is_judged_by_what_is_lost_paid_again_and_added_up(row: Row, verdict: str, said: list[str]):
    row.judge()
    assert (row.verdict, row.broken) == (verdict, said)


def test_the_table_and_the_json_have_every_row_and_why_it_is_broken(tmp_path: Path):
    row = Row("SIGKILL", "killed", times=5, twice=4, in_flight=3)
    row.judge()
    console = Console(width=160, record=True, file=io.StringIO())
    show(console, [row])
    assert "SIGKILL: 4 calls were paid again, 3 were in flight" in console.export_text()
    write(tmp_path / "rows.json", [row], {"seed": 7})
    stored = json.loads((tmp_path / "rows.json").read_text("utf-8"))
    assert (stored["seed"], stored["rows"][0]["times"], stored["rows"][0]["verdict"]) == (7, 5, "BROKEN")


def test_a_failing_disk_refuses_from_the_nth_write_below_its_folder_on(tmp_path: Path):
    lake = tmp_path / "lake"
    writes = Writes(errno.ENOSPC, 2, lake)
    writes.meets(lake / "a")
    writes.meets(tmp_path / "lake-of-somebody-else" / "b")
    for _ in range(2):
        with pytest.raises(OSError, match="No space left on device") as told:
            writes.meets(lake / "b")
        assert told.value.filename == str(lake / "b")
    assert (tmp_path / "lake.writes").read_bytes() == b"..."
    writes.aim(2, tmp_path / "lake-of-somebody-else")
    writes.meets(lake / "b")
    writes.meets(tmp_path / "lake-of-somebody-else" / "b")
    assert writes.n == 1


@pytest.mark.parametrize("name", damage.HARMS)
def test_each_harm_changes_the_file(name: str, tmp_path: Path):
    path = tmp_path / "lake" / "part"
    path.parent.mkdir()
    path.write_bytes(b"what was written")
    damage.HARMS[name](path, random.Random(1))
    is_same = path.exists() and not path.is_symlink() and path.read_bytes() == b"what was written"
    assert not is_same


@pytest.mark.parametrize(("harmed", "place"), [(b"abXd", 2), (b"ab", 2), (b"", 0), (b"abcd", 4)])
def test_where_a_harm_begins_is_its_first_changed_byte(harmed: bytes, place: int):
    assert damage.first_change(b"abcd", harmed) == place


def test_every_hostile_reply_is_a_scenario_of_the_whole_and_the_slice_is_a_part_of_it():
    whole, few = ([one.name for one in plan.scenarios(is_slice=is_slice)] for is_slice in (False, True))
    assert {f"wire {name}" for name in [*MODES, *wire.OWN_MODES]} <= set(whole)
    assert set(few) < set(whole)
    assert whole[:4] == ["kill answer", "kill label", "kill evaluate", "kill grpo"]
