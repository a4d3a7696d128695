"""A comparison on recorded answers, from files to figures: read, fit, play, compare. No model is called and nothing is
paid."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from r2.errors import ConfigError
from r2.evaluation.recorded.admissible import check_table, check_test, without_known
from r2.evaluation.recorded.comparison import MARGIN, RecordedComparison, compared
from r2.evaluation.recorded.crossfit import N_FOLDS, cross_fitted, on_test_rows
from r2.evaluation.recorded.playing import Done, Each, Job, one_by_one, run_job
from r2.evaluation.recorded.table import OutcomeTable
from r2.lifeline import killed_with
from r2.settings import MODELS_DIR
from r2.training.recorded_methods import recorded_methods, train_on_the_gpu
from storage.evaluations.recorded_jobs import KeptJobs
from storage.sources.outcome_tables import read_outcome_tables

N_BOOTSTRAP = 2000
ROWS_FOR_PROCESSES = 500
"""Questions from which processes of their own, which take seconds to start, are worth it."""


def play_recorded(
    outcomes: Sequence[Path],
    test: Sequence[Path],
    methods: Sequence[str],
    say: Callable[[str], None],
    n_seeds: int = 1,
    n_folds: int = N_FOLDS,
    models_dir: Path = MODELS_DIR,
    each: Each | None = None,
    kept: KeptJobs | None = None,
) -> RecordedComparison:
    """Every method on the rows of `outcomes` by cross-fitting in `n_folds`, or on those of `test` where there are any;
    trained ones once for each seed, from bases in `models_dir`. `say` gets lines of progress, and what of the files is
    not used. `each` does the fitting and playing; None: this machine, side by side where there is enough of it. Then
    `kept` keeps what is finished, and what it has from a comparison that was stopped is not done again.

    Raises InputFileError and ConfigError for files, rows and methods that nothing can be learned or played from.
    """
    started = time.monotonic()
    table, unseen, remarks = _read(outcomes, test)
    for remark in remarks:
        say(remark)
    check_table(table)
    known = recorded_methods(table.models, methods, n_seeds, models_dir)
    chosen = [method for method in known if not method.missing_in(table)]
    not_played = {method.name: method.missing_in(table) for method in known if method.missing_in(table)}
    for name, why in not_played.items():
        say(f"{name} is not in this table: {why}")

    n_rows = table.n_problems + (0 if unseen is None else unseen.n_problems)
    in_processes = n_rows >= ROWS_FOR_PROCESSES and not train_on_the_gpu(chosen)
    run = run_job if kept is None else kept.run
    plain = each or partial(side_by_side if in_processes else one_by_one, run=run)

    def each_said(jobs: Sequence[Job]) -> Iterator[Done]:
        if kept is not None and (n := sum(map(kept.has, jobs))):
            say(f"{n} of {len(jobs)} fits are there from before this comparison was stopped; they are not made again")
        return plain(jobs)

    def progress(line: str) -> None:
        say(f"{line} ({time.monotonic() - started:.0f} s)")

    if unseen is None:
        played = cross_fitted(table, chosen, progress, each_said, n_folds)
    else:
        check_test(table, unseen)
        played = on_test_rows(table, unseen, chosen, progress, each_said)
    return RecordedComparison(
        tuple(map(str, outcomes)),
        tuple(map(str, test)),
        table.n_problems,
        n_folds if unseen is None else 0,
        table.models,
        MARGIN,
        N_BOOTSTRAP,
        tuple(compared(scope, n_bootstrap=N_BOOTSTRAP) for scope in played),
        not_played,
        remarks,
        time.monotonic() - started,
    )


def side_by_side(jobs: Sequence[Job], run: Callable[[Job], Done] = run_job) -> Iterator[Done]:
    """Jobs in as many processes as there are cores for us. Each fits in one thread: more would fight for the cores.
    Whatever ends it, jobs that have not begun are not begun any more, and those in progress end. `run` must be
    picklable."""
    n = min(len(os.sched_getaffinity(0)), len(jobs))
    if n < 2:
        yield from one_by_one(jobs, run)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(n, spawn, initializer=_in_one_thread, initargs=(os.getpid(),))
    try:
        yield from pool.map(run, jobs)
    except BaseException:
        for process in multiprocessing.active_children():  # a fit may take an hour: it is not waited for
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_one_thread(parent: int) -> None:
    from threadpoolctl import threadpool_limits

    killed_with(parent)
    threadpool_limits(1)  # type: ignore[no-untyped-call, unused-ignore]


def _read(outcomes: Sequence[Path], test: Sequence[Path]) -> tuple[OutcomeTable, OutcomeTable | None, tuple[str, ...]]:
    """The table, the test rows that it does not have (None without test files), and what is not used."""
    joined = read_outcome_tables(outcomes)
    if not test:
        return joined.table, None, joined.remarks
    of_test = read_outcome_tables(test, joined.table.models)
    table, unseen = joined.table, of_test.table
    remarks = [*joined.remarks, *of_test.remarks]
    if left := [model for model in table.models if model not in unseen.models]:
        remarks.append(f"left out, for having no rows in --test: {', '.join(left)}")
        table = table.of_models(unseen.models)
    if (table.replies is None) != (unseen.replies is None):
        raise ConfigError(
            f"--{'outcomes' if table.replies is None else 'test'}: no replies, and the other files have them. Give "
            "both sides with the models' replies, or both without."
        )
    kept = without_known(table, unseen)
    if n_known := unseen.n_problems - kept.n_problems:
        remarks.append(f"--test: {n_known} of {unseen.n_problems} questions are in --outcomes too and are left out")
    if not kept.n_problems:
        raise ConfigError("--test: every question is in --outcomes too; give questions that nothing was fitted on.")
    return table, kept, tuple(remarks)
