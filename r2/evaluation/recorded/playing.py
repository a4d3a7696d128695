"""Playing a policy on rows, and the jobs that a comparison consists of.

A job fits a method on some rows and plays all its settings on others. Jobs depend on nothing of each other, so that
they may run side by side: `Each` says how, and `one_by_one` is the plain way. All that a job holds can be pickled,
where its method's `fit` is a function of a module.

Which models a policy asked for a question, and whose answer it gave, is its *route*. What a job came to is kept as
routes; what they cost and whether they were right is worked out from the rows.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from r2.evaluation.outcomes import FloatArray
from r2.evaluation.recorded.method import TableMethod, TablePolicy
from r2.evaluation.recorded.table import IntArray, OutcomeTable, Question


@dataclass(frozen=True, slots=True)
class Plays:
    """A policy's settings on some rows: `right_SQ`, `cost_SQ` and `calls_SQ` are settings x rows; `asked` holds the
    models asked, by setting and row, in order, and `answered` the one whose answer was given."""

    right_SQ: FloatArray
    cost_SQ: FloatArray
    calls_SQ: FloatArray
    asked: Sequence[Sequence[tuple[str, ...]]]
    answered: Sequence[Sequence[str]]

    def of_rows(self, at: IntArray) -> "Plays":
        """On these rows only."""
        asked, answered = ([[row[i] for i in at.tolist()] for row in kind] for kind in (self.asked, self.answered))
        return Plays(self.right_SQ[:, at], self.cost_SQ[:, at], self.calls_SQ[:, at], asked, answered)


@dataclass(frozen=True, slots=True)
class Job:
    """Fit `method` on `fit`, and play every setting on each of the tables `rows`. `label` says what it is for."""

    label: str
    method: TableMethod
    fit: OutcomeTable
    rows: tuple[OutcomeTable, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """A job's policy as it played: the names of its settings, and its plays of each table of the job."""

    settings: tuple[str, ...]
    plays: tuple[Plays, ...]


Each = Callable[[Sequence[Job]], Iterator[Done]]
"""Runs jobs, and gives what they come to in their order."""


def run_job(job: Job) -> Done:
    """Fits and plays."""
    policy = job.method.fit(job.fit)
    return Done(tuple(policy.settings), tuple(play(policy, rows) for rows in job.rows))


def one_by_one(jobs: Sequence[Job], run: Callable[[Job], Done] = run_job) -> Iterator[Done]:
    """One job after the other, in this process."""
    return map(run, jobs)


def identity(job: Job) -> str:
    """Of its label and its rows."""
    ids = [[problem.problem_id for problem in rows.problems] for rows in (job.fit, *job.rows)]
    return hashlib.blake2b(orjson.dumps([job.label, ids]), digest_size=12).hexdigest()


def kept_of(job: Job, done: Done) -> dict[str, Any]:
    """What a job came to, as JSON can hold it: `job`, the identity; `settings`; `routes`, each once; and for each table
    of the job, each setting and each row the number of its route."""
    routes: dict[tuple[tuple[str, ...], str], int] = {}
    tables = [
        [
            [routes.setdefault(route, len(routes)) for route in zip(asked, answered, strict=True)]
            for asked, answered in zip(plays.asked, plays.answered, strict=True)
        ]
        for plays in done.plays
    ]
    return {"job": identity(job), "settings": done.settings, "routes": list(routes), "tables": tables}


def done_of(job: Job, kept: Mapping[str, Any]) -> Done | None:
    """Inverse of `kept_of`; None for what is of another job."""
    if kept.get("job") != identity(job):
        return None
    routes = [(tuple(asked), answered) for asked, answered in kept["routes"]]
    plays = []
    for codes, rows in zip(kept["tables"], job.rows, strict=True):
        asked, answered = ([[routes[code][part] for code in setting] for setting in codes] for part in (0, 1))
        plays.append(plays_of(asked, answered, rows))
    return Done(tuple(kept["settings"]), tuple(plays))


def play(policy: TablePolicy, table: OutcomeTable) -> Plays:
    """Every setting of the policy on every row. ValueError where the policy answers with a model it did not ask."""
    asked: list[list[tuple[str, ...]]] = [[] for _ in policy.settings]
    answered: list[list[str]] = [[] for _ in policy.settings]
    for at in range(table.n_problems):
        for setting in range(len(policy.settings)):
            question = Question(table, at)
            answered[setting].append(policy.play(question, setting))
            asked[setting].append(tuple(attempt.arm for attempt in question.attempts))
    return plays_of(asked, answered, table)


def plays_of(
    asked: Sequence[Sequence[tuple[str, ...]]], answered: Sequence[Sequence[str]], table: OutcomeTable
) -> Plays:
    """What these routes come to on the table's rows. ValueError where an answer is of a model that was not asked."""
    row_of = {model: row for row, model in enumerate(table.models)}
    right, cost, calls = (np.zeros((len(asked), table.n_problems)) for _ in range(3))
    right_of, cost_of = table.is_correct_MP.tolist(), table.cost_usd_MP.tolist()
    for setting, routes in enumerate(zip(asked, answered, strict=True)):
        for at, (models, answers) in enumerate(zip(*routes, strict=True)):
            if answers not in models:
                raise ValueError(f"the answer of {answers!r} was given without asking it; asked were {models}")
            right[setting, at] = right_of[row_of[answers]][at]
            cost[setting, at] = sum(cost_of[row_of[model]][at] for model in models)
            calls[setting, at] = len(models)
    return Plays(right, cost, calls, asked, answered)
