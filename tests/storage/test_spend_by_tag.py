"""The view `spend_by_tag`: who spent how much on which day."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from storage.lake.lake import Lake
from storage.sql.query import connect
from tests.support.lake_rows import NOON, RUN, problem

DAY = 86_400


def test_a_call_is_the_spend_of_the_session_it_was_sent_in_on_its_own_day(tmp_path: Path):
    """Each problem costs 0.0012 USD in three calls. p0 is answered in the first session, p90000 a day later in the
    second, whose tags are others; run b has no tags."""
    lake = Lake(tmp_path)
    lake.commit("run-a", "00000-0", problem(0))
    lake.commit("run-a", "00001-0", problem(DAY))
    search = replace(RUN, started_at=NOON - 1, tags='{"project":"x.y","team":"search"}')
    ads = replace(RUN, session=1, started_at=NOON + 3600, tags='{"team":"ads"}')
    for session in (search, ads):
        lake.commit("run-a", f"session-{session.session}", {"runs": [session]})
    lake.commit("run-b", "00000-0", problem(0, "run-b"))
    lake.commit("run-b", "session-0", {"runs": [replace(RUN, run_id="run-b", started_at=NOON - 1)]})
    lake.commit("run-c", "00000-0", problem(0, "run-c"))
    lake.commit("run-c", "session-0", {"runs": [replace(search, run_id="run-c", tags='{"team":"search"}')]})
    with connect(tmp_path) as db:
        found = db.execute("from spend_by_tag order by day, tag").fetchall()
    first = date(2026, 5, 28)
    assert [row[:5] for row in found] == [
        (first, "project", "x.y", 1, 3),
        (first, "team", "search", 2, 6),
        (date(2026, 5, 29), "team", "ads", 1, 3),
    ]
    assert [row[5] for row in found] == pytest.approx([0.0012, 0.0024, 0.0012])
