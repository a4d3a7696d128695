"""The question file cut into shards and frozen: the first task of a run."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from r2.pool.config import load_pool
from r2.settings import AnswerSettings
from storage.run_plan import plan_run


@task(name="plan-file", cache_policy=NO_CACHE, persist_result=False)
def plan_file(settings: AnswerSettings) -> Path:
    """The run's folder, with its frozen plan in it. ConfigError or InputFileError if pool or input cannot be used."""
    pool = load_pool(settings.pool)
    pool.check_keys()
    return plan_run(settings, pool.digest, pool.text).run_dir
