"""What a run came to is the same whether its units are read together, some at a time, or as one."""

from pathlib import Path

import pytest

from storage.lake.lake import Lake
from storage.runs import summary
from storage.runs.summary import summarize
from tests.support.lake_rows import RUN, bad_row, problem, together, unit_of


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(tmp_path)
    made.commit("run-a", "00000-0", together(problem(0), bad_row(2)))
    for number in range(1, 6):
        made.commit("run-a", f"{number:05d}-0", unit_of([10 * number, 10 * number + 1]))
    made.commit("run-a", "session-0000", {"runs": [RUN]})
    return made


def test_units_are_summed_up_some_at_a_time(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = summarize(lake.root, "run-a")
    assert (at_once.method, at_once.n_answered, at_once.n_failed) == ("r2", 11, 1)
    assert at_once.n_calls == sum(at_once.calls_by_model.values()) > 0
    assert at_once.cost_usd == pytest.approx(sum(at_once.cost_by_model_usd.values()))
    assert at_once.cost_usd > 0
    for n_units in (1, 2, 3):
        monkeypatch.setattr(summary, "UNITS_AT_ONCE", n_units)
        apart = summarize(lake.root, "run-a")
        assert apart.cost_usd == pytest.approx(at_once.cost_usd)
        assert apart.n_answered == 11
        assert apart.calls_by_model == at_once.calls_by_model
        assert list(apart.calls_by_model) == list(at_once.calls_by_model)
        assert apart.n_cached_tokens == at_once.n_cached_tokens > 0
    lake.compact("run-a")
    assert summarize(lake.root, "run-a").n_answered == 11


def test_a_compaction_that_comes_between_takes_nothing_out(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "UNITS_AT_ONCE", 2)
    reused_of = summary.reused_of

    def compacts_meanwhile(*given: object) -> tuple[int, float]:
        lake.compact("run-a")
        return reused_of(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(summary, "reused_of", compacts_meanwhile)
    found = summarize(lake.root, "run-a")
    assert (found.n_answered, found.n_failed) == (11, 1)


def test_a_run_without_rows_gives_zeros(lake: Lake) -> None:
    found = summarize(lake.root, "run-b")
    assert (found.method, found.n_settled, found.cost_usd, found.calls_by_model, found.accuracy) == ("", 0, 0, {}, None)
