"""What a run came to: counts by status, accuracy with its interval, cost, calls and model shares,
read from the lake."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from r2.answering.protocol import CUT_ANSWER, NO_LOGPROBS
from r2.evaluation.intervals import wilson_interval
from storage.lake.lake import Lake
from storage.runs.checks import CheckSummary, check_summary
from storage.sql.query import connect


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Facts of one run over all its sessions. `accuracy` and its Wilson 95 % interval are None where nothing was
    judged."""

    run_id: str
    method: str
    n_answered: int
    n_failed: int
    n_judged: int
    n_correct: int
    cost_usd: float
    router_cost_usd: float
    n_calls: int
    n_escalations: int
    input_tokens: int
    output_tokens: int
    n_cut: int
    """Answers that end at their limit and are the best there was."""
    n_without_logprobs: int
    """Questions whose log-probabilities, promised by the pool file, did not come."""
    n_doubtful_bills: int
    """Attempts whose bill cannot be true of what was asked."""
    n_cached_tokens: int
    """Prompt tokens read from a provider's cache."""
    n_cache_write_tokens: int
    """Prompt tokens written to one."""
    cache_saved_usd: float
    """What that saved; below 0 where writes cost more than reads saved."""
    calls_by_model: Mapping[str, int]
    cost_by_model_usd: Mapping[str, float]
    check: CheckSummary | None = None
    """Of the user's own check."""
    n_reused: int = 0
    """Calls that another run had paid for."""
    saved_usd: float = 0.0
    """What they would have cost."""

    @property
    def n_settled(self) -> int:
        return self.n_answered + self.n_failed

    @property
    def accuracy(self) -> float | None:
        return self.n_correct / self.n_judged if self.n_judged else None

    @property
    def accuracy_interval(self) -> tuple[float, float] | None:
        return wilson_interval(self.n_correct, self.n_judged) if self.n_judged else None

    @property
    def usd_per_1k(self) -> float:
        """USD per thousand settled questions, the router's own calls and what earlier runs paid for included."""
        return 1000 * (self.cost_usd + self.saved_usd) / self.n_settled if self.n_settled else 0.0

    @property
    def calls_per_question(self) -> float:
        return self.n_calls / self.n_settled if self.n_settled else 0.0


UNITS_AT_ONCE = 200
"""Units whose files one sum opens."""
_TOTALS = (
    "n_answered",
    "n_failed",
    "n_judged",
    "n_correct",
    "cost_usd",
    "router_cost_usd",
    "n_calls",
    "n_escalations",
    "input_tokens",
    "output_tokens",
    "n_cut",
    "n_without_logprobs",
)
_CACHED = ("n_cached_tokens", "n_cache_write_tokens", "cache_saved_usd")
_REUSED = ("n_reused", "saved_usd")
_DOUBTFUL = ("n_doubtful_bills",)


def reused_of(db: duckdb.DuckDBPyConnection, run_id: str) -> tuple[int, float]:
    """(calls, USD) of a run that other runs had paid for, and what they would have cost."""
    [(n_calls, usd)] = db.execute(
        "select count(*), coalesce(sum(saved_usd), 0) from calls where run_id = ? and reused_from is not null",
        [run_id],
    ).fetchall()
    return int(n_calls), float(usd)


def summarize(lake: Path, run_id: str, check: str | None = None) -> RunSummary:
    """Reads the run's committed rows; a run without any gives zeros. `check` names the user's own check that judged
    them.

    Before it is compacted, a run of a million questions is thousands of files. They are summed up some at a time:
    DuckDB would take a hundred MB to open them all.
    """
    while True:
        units = [entry.unit for entry in Lake(lake).manifest.live(run_id)]
        sums = _Sums()
        for first in range(0, max(1, len(units)), UNITS_AT_ONCE):
            sums.add(lake, run_id, units[first : first + UNITS_AT_ONCE])
        if len(units) <= UNITS_AT_ONCE or units == [entry.unit for entry in Lake(lake).manifest.live(run_id)]:
            break  # else a compaction came between
    return RunSummary(
        run_id=run_id,
        method=sums.method,
        calls_by_model=sums.calls_by_model,
        cost_by_model_usd=sums.cost_by_model_usd,
        check=check_summary(lake, check, [run_id]),
        **sums.numbers,
    )


class _Sums:
    """What the units that were added come to. `numbers`: by the names of `RunSummary`."""

    def __init__(self) -> None:
        self.method = ""
        self.numbers: dict[str, Any] = dict.fromkeys((*_TOTALS, *_CACHED, *_REUSED, *_DOUBTFUL), 0)
        self._by_model: dict[str, tuple[int, float]] = {}

    def add(self, lake: Path, run_id: str, units: Sequence[str]) -> None:
        with connect(lake, runs=[run_id], views=["cost_by_model"], units=frozenset(units)) as db:
            db.execute("set parquet_metadata_cache = false")  # each footer would be kept, and is read but a few times
            method, *totals = db.execute(
                """
                select any_value(method), count(*) filter (status = 'answered'), count(*) filter (status = 'failed'),
                       count(is_correct), count(*) filter (is_correct), coalesce(sum(cost_usd), 0),
                       coalesce(sum(router_cost_usd), 0), coalesce(sum(n_calls), 0)::bigint,
                       coalesce(sum(n_escalations), 0)::bigint,
                       coalesce(sum(input_tokens), 0)::bigint, coalesce(sum(output_tokens), 0)::bigint,
                       count(*) filter (list_contains(string_split(failed_checks, ','), ?)),
                       count(*) filter (list_contains(string_split(failed_checks, ','), ?))
                from trajectories where run_id = ?
                """,
                [CUT_ANSWER, NO_LOGPROBS, run_id],
            ).fetchall()[0]
            by_model = db.execute(
                """
                select request_model, count(*), sum(cost_usd) from calls
                where run_id = ? and error_type is null group by 1
                """,
                [run_id],
            ).fetchall()
            [cached] = db.execute(
                """
                select coalesce(sum(cached_input_tokens), 0)::bigint, coalesce(sum(cache_write_tokens), 0)::bigint,
                       coalesce(sum(cache_saved_usd), 0)
                from cost_by_model where run_id = ?
                """,
                [run_id],
            ).fetchall()
            reused = reused_of(db, run_id)
            [doubtful] = db.execute(
                "select count(*) from calls where run_id = ? and usage_source = 'doubtful'", [run_id]
            ).fetchall()
        self.method = self.method or method or ""
        for names, values in ((_TOTALS, totals), (_CACHED, cached), (_REUSED, reused), (_DOUBTFUL, doubtful)):
            for name, value in zip(names, values, strict=True):
                self.numbers[name] += value
        for model, n, usd in by_model:
            n_before, usd_before = self._by_model.get(model, (0, 0.0))
            self._by_model[model] = n_before + n, usd_before + usd

    @property
    def calls_by_model(self) -> dict[str, int]:
        """The most called first."""
        return {model: self._by_model[model][0] for model in self._models()}

    @property
    def cost_by_model_usd(self) -> dict[str, float]:
        return {model: self._by_model[model][1] for model in self._models()}

    def _models(self) -> list[str]:
        return sorted(self._by_model, key=lambda model: (-self._by_model[model][0], model))
