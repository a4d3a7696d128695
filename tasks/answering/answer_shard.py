"""A shard as a Prefect task: the unit of its retries."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.answering.answer_rows import answer_rows
from tasks.answering.session import session_of
from tasks.retry import may_help


@task(
    name="answer-shard",
    task_run_name="shard-{shard}",
    retries=2,
    retry_delay_seconds=[30, 300],
    retry_condition_fn=may_help,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def answer_shard(run_dir: str, shard: int) -> dict[str, int]:
    """Answers what is left of a shard, or awaits its answering where that began ahead of the flow; the counts of
    `answer_rows`."""
    async with session_of(Path(run_dir)) as session:
        begun = session.begun.pop(shard, None)  # a retry answers anew
        return await (answer_rows(session, shard) if begun is None else begun)
