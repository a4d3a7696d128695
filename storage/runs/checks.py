"""What the user's own check came to over one run or several: where it failed, how it agrees with gold answers, and what
its judge cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r2.evaluation.intervals import wilson_interval
from storage.sql.query import connect


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """Counts of trajectories, as the view `check_agreement` has them for each run. `judge_usd` is what its judge was
    paid, which no method is charged."""

    name: str
    """As the user writes it."""
    n_errors: int
    example_error: str
    n_compared: int
    n_agree: int
    n_right_only_by_check: int
    n_right_only_by_gold: int
    judge_usd: float

    @property
    def agreement_interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of n_agree / n_compared."""
        return wilson_interval(self.n_agree, self.n_compared)


def check_summary(lake: Path, name: str | None, run_ids: Sequence[str]) -> CheckSummary | None:
    """None without a check of the user's own."""
    if name is None:
        return None
    with connect(lake, runs=run_ids, views=["check_agreement"]) as db:
        [counts] = db.execute(
            "select coalesce(sum(n_errors), 0)::bigint, coalesce(min(example_error), ''), "
            "coalesce(sum(n_compared), 0)::bigint, coalesce(sum(n_agree), 0)::bigint, "
            "coalesce(sum(n_right_only_by_check), 0)::bigint, coalesce(sum(n_right_only_by_gold), 0)::bigint "
            "from check_agreement where list_contains(?, run_id)",
            [list(run_ids)],
        ).fetchall()
        [(judge_usd,)] = db.execute(
            "select coalesce(sum(cost_usd), 0) from calls where purpose = 'judge' and list_contains(?, run_id)",
            [list(run_ids)],
        ).fetchall()
    n_errors, example_error, n_compared, n_agree, n_only_check, n_only_gold = counts
    return CheckSummary(name, n_errors, example_error, n_compared, n_agree, n_only_check, n_only_gold, judge_usd)
