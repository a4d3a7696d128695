"""Calibration with a journal, so that one that was stopped goes on with the same command and pays for no answer
twice."""

import hashlib
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from r2.pool.calibrate import Calibration, calibrate_pool
from r2.pool.file.config import PoolConfig
from storage.runs.journal import Journal
from storage.runs.paid import paid_usd

FOLDER = "calibrations"


async def calibrate_once(
    pool: PoolConfig,
    models_dir: Path,
    state_dir: Path,
    n: int,
    seed: int,
    only: Sequence[str],
    report: Callable[[str], None],
    max_cost_usd: float | None = None,
) -> list[Calibration]:
    """As `calibrate_pool`. Answers are kept in `state_dir` until every entry is measured, and then go: the next
    calibration asks anew. What was asked with another version of the pool file is not taken. `max_cost_usd` caps what
    all sessions pay together.

    RunLockedError while another process calibrates with the same pool file.
    """
    key = hashlib.sha256(pool.digest.encode()).hexdigest()[:12]
    folder = state_dir / FOLDER / key
    with Journal.open(folder / "calls.journal") as journal:
        if journal.n_missing_at_open:
            sys.stderr.write(f"r2: {journal.loss()}\n")
        if n_kept := len(journal):
            report(f"{n_kept} answers are there from before this calibration was stopped; they are not paid for again")
        measured = await calibrate_pool(
            pool,
            models_dir,
            state_dir,
            n,
            seed,
            only,
            report,
            journal,
            run_account=f"calibration:{key}",
            max_cost_usd=max_cost_usd,
            already_spent_usd=paid_usd(journal),
        )
    if all(one.why_unmeasured is None for one in measured):
        shutil.rmtree(folder)
    return measured
