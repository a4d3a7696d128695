"""What the commands say about a check of the user's own: who judged, agreement with gold answers, what failed."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # not when the command starts: --help need not wait for it
    from storage.runs.checks import CheckSummary


def checked(summary: "CheckSummary | None") -> Iterator[tuple[str, str]]:
    """Lines of (what, figure); none without such a check."""
    if summary is None:
        return
    yield "judged by", summary.name
    if summary.n_compared:
        low, high = summary.agreement_interval
        share = summary.n_agree / summary.n_compared
        yield "agrees with gold answers", f"{share:.1%}  (95 % {low:.1%} to {high:.1%}, n = {summary.n_compared})"
        if summary.n_agree < summary.n_compared:
            yield "right by the check alone", str(summary.n_right_only_by_check)
            yield "right by the gold answer alone", str(summary.n_right_only_by_gold)
    if summary.n_errors:
        yield "no verdict", f"{summary.n_errors}, for example: {summary.example_error}"
