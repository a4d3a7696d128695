"""`r2 report`: an evaluation or a run as one HTML file, without a network. `write_report` is the way in; content.py
says what is in it."""

from pathlib import Path

from r2.atomic import write_atomically
from r2.errors import ConfigError, LakeError
from storage.evaluations.store import evaluation_ids, read_evaluation
from storage.lake.address import named
from storage.lake.lake import Lake
from storage.lake.schema import OF_RUNS
from storage.lake.stores import store_of
from storage.sql.query import connect, damage_named

N_LISTED = 10


def write_report(lake: Path, name: str | None = None, out: Path | None = None) -> Path:
    """Writes the report of `name`, an id or an unambiguous beginning of one; without a name, of the newest
    evaluation or run.

    Without `out` it goes beside the data, `<lake>/_reports/<id>.html`. Raises ConfigError, with the newest ids, where
    nothing or more than one thing has that name, and LakeError where there is no lake.
    """
    from storage.report.evaluation import report_of_evaluation
    from storage.report.page import page_of
    from storage.report.run import report_of_run

    found = resolve(lake, name)
    is_evaluation = found in evaluation_ids(lake)
    runs = read_evaluation(lake, found).runs() if is_evaluation else [found]
    with connect(lake, runs=runs, of_all_runs=OF_RUNS) as db, damage_named(lake):
        report = report_of_evaluation(lake, db, found) if is_evaluation else report_of_run(lake, db, found)
    path = out or lake / "_reports" / f"{found}.html"
    content = page_of(report).encode("utf-8", "replace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}. Name another file with --out.") from error
    return path


def resolve(lake: Path, name: str | None) -> str:
    """The id that `name` stands for; None: the newest evaluation, or run that is not part of one."""
    if not store_of(lake).is_there():
        raise LakeError(f"{named(lake)}: no lake there. Name its folder with --lake; a run creates it.")
    evaluations, runs = _newest_evaluations(lake), _newest_runs(lake)
    everything = [*evaluations, *runs]
    newest = ", ".join(everything[:N_LISTED]) or "none yet"
    if name is None:
        plans = [(lake / "_evaluations" / one / "plan.json").read_text("utf-8", "replace") for one in evaluations]
        own = [run_id for run_id in runs if not any(run_id in plan for plan in plans)]
        runs_at = _runs_at(lake)
        dated = [(runs_at[one], one) for one in own] + [(_evaluated_at(lake, one), one) for one in evaluations]
        if not dated:
            raise ConfigError(f"{lake} has no evaluation and no run yet. r2 answer and r2 evaluate make them.")
        return max(dated)[1]
    if name in everything:
        return name
    fitting = [one for one in everything if name and one.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ConfigError(
            f"{name!r} begins {len(fitting)} ids in {lake}: {', '.join(fitting[:N_LISTED])}. Give more of it."
        )
    raise ConfigError(f"{lake} has no evaluation and no run {name!r}. Newest: {newest}.")


def _newest_evaluations(lake: Path) -> list[str]:
    return sorted(evaluation_ids(lake), key=lambda one: -_evaluated_at(lake, one))


def _newest_runs(lake: Path) -> list[str]:
    """By when something was last committed to them."""
    changed_at = _runs_at(lake)
    return sorted(changed_at, key=lambda run_id: -changed_at[run_id])


def _evaluated_at(lake: Path, evaluation_id: str) -> float:
    return (lake / "_evaluations" / evaluation_id / "plan.json").stat().st_mtime


def _runs_at(lake: Path) -> dict[str, float]:
    return store_of(lake).changed_at(Lake(lake).manifest.folder)
