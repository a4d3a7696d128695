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

FOLDER = "calibrations"


async def calibrate_once(
    pool: PoolConfig,
    models_dir: Path,
    state_dir: Path,
    n: int,
    seed: int,
    only: Sequence[str],
    report: Callable[[str], None],
) -> list[Calibration]:
    """As `calibrate_pool`. Answers are kept in `state_dir` until every entry is measured, and then go: the next
    calibration asks anew. What was asked with another version of the pool file is not taken.

    RunLockedError while another process calibrates with the same pool file.
    """
    folder = state_dir / FOLDER / hashlib.sha256(pool.digest.encode()).hexdigest()[:12]
    with Journal.open(folder / "calls.journal") as journal:
        if journal.n_missing_at_open:
            sys.stderr.write(f"r2: {journal.loss()}\n")
        if n_kept := len(journal):
            report(f"{n_kept} answers are there from before this calibration was stopped; they are not paid for again")
        measured = await calibrate_pool(pool, models_dir, state_dir, n, seed, only, report, journal)
    if all(one.why_unmeasured is None for one in measured):
        shutil.rmtree(folder)
    return measured
