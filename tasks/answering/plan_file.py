"""The question file cut into shards and frozen: the first step of a run. Needs no Prefect."""

import hashlib
from pathlib import Path

from r2.answering.wanted import wanted_digest
from r2.errors import ConfigError
from r2.methods import method_named, refuse_unused
from r2.pool.file.config import PoolConfig
from r2.pool.file.data_policy import pool_of
from r2.pool.file.identity import answering_digests
from r2.pool.file.scorer_file import scorer_digest
from r2.problems.own_check import checks_digest
from r2.settings import AnswerSettings
from storage.lake.stores import check_lake
from storage.runs.plan import PlannedEntry, RunPlan, plan_run
from storage.sources.column_names import told
from tasks.answering.simulated import warning


def plan_file(settings: AnswerSettings) -> Path:
    """The run's folder, with its frozen plan in it. ConfigError or InputFileError if pool or input cannot be used."""
    check_lake(settings.lake)
    pool = pool_of(settings)
    pool.check_keys()
    refuse_unused(settings.reasoning)
    return plan_run(settings, who_answers_digest(settings, pool.digest), pool.text, planned_entries(pool)).run_dir


def said_before(settings: AnswerSettings, plan: RunPlan) -> list[str]:
    """What there is to say before a run's first question: the columns that were guessed, and a pool that does not fit
    the questions."""
    return [said for said in (told(settings.columns, plan.settings.columns), warning(plan)) if said]


def planned_entries(pool: PoolConfig) -> dict[str, PlannedEntry]:
    """What is noted with a plan, so that later runs know which answers they can use again."""
    return {name: PlannedEntry(digest, pool.price(name).version) for name, digest in answering_digests(pool).items()}


def who_answers_digest(settings: AnswerSettings, pool_digest: str) -> str:
    """The pool's digest; with the content of a learned query-level router's file, of a scorer, of the user's own
    checks, schema and system text: another fit, or another grader, is another run. ConfigError for a method that nobody
    has."""
    chosen = settings.reasoning
    pool_digest += checks_digest(chosen) + wanted_digest(chosen) + scorer_digest(chosen.scorer)
    if not method_named(chosen.method).uses_query_router or chosen.query_router is None:
        return pool_digest
    try:
        fitted = hashlib.sha256(Path(chosen.query_router).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"--query-router {chosen.query_router}: cannot be read: {error}") from error
    return f"{pool_digest}+{fitted}"
