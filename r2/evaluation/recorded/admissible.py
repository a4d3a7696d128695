"""Which tables of recorded answers can be learned from and played: refusals by name, before anything is fitted."""

from r2.errors import ConfigError
from r2.evaluation.recorded.crossfit import N_FOLDS, folds_of
from r2.evaluation.recorded.table import OutcomeTable
from r2.problems.leakage import normalised

LEAST_IN_SCOPE = 20
"""Questions that a benchmark must have to be fitted and cross-fitted: four in each fold."""


def check_table(table: OutcomeTable) -> None:
    """ConfigError, by name, for what cannot be learned from: answers all right or all wrong, and a benchmark with too
    few questions to be cross-fitted."""
    if not table.n_problems:
        raise ConfigError("--outcomes: no question has an outcome of every model")
    if float(table.is_correct_MP.min()) == float(table.is_correct_MP.max()):
        what = "right" if table.is_correct_MP.max() > 0 else "wrong"
        raise ConfigError(
            f"--outcomes: every model is {what} on all {table.n_problems} questions, so there is nothing to choose by. "
            "Give questions that some model answers right and some model wrong."
        )
    groups = table.benchmarks
    for group in dict.fromkeys(groups):
        if (n := groups.count(group)) < LEAST_IN_SCOPE:
            raise ConfigError(
                f"--outcomes: benchmark {group!r} has {n} questions; at least {LEAST_IN_SCOPE} are needed to fit on "
                "some and play the others. Add questions of it, or leave its rows out."
            )
    folds = folds_of(table)
    for fold in range(N_FOLDS):
        for group in dict.fromkeys(groups):
            if all(its != group for its, at in zip(groups, folds, strict=True) if at != fold):
                raise ConfigError(
                    f"--outcomes: all questions of benchmark {group!r} are the same one, so that nothing of it can be "
                    "fitted where it is played. Give different questions."
                )


def check_test(table: OutcomeTable, test: OutcomeTable) -> None:
    """ConfigError for test rows of a benchmark that `table` has no row of."""
    known = set(table.benchmarks)
    if unknown := [group for group in dict.fromkeys(test.benchmarks) if group not in known]:
        n = test.benchmarks.count(unknown[0])
        raise ConfigError(
            f"--test: {n} questions of benchmark {unknown[0]!r}, and --outcomes has none of it to fit on. Its "
            f"benchmarks: {', '.join(sorted(known))}. Add rows of {unknown[0]!r} to --outcomes, or leave them out."
        )


def without_known(table: OutcomeTable, test: OutcomeTable) -> OutcomeTable:
    """The test rows whose questions, by their words, are not in `table`."""
    known = {normalised(problem.question) for problem in table.problems}
    return test.part(at for at, problem in enumerate(test.problems) if normalised(problem.question) not in known)
