"""The first join of a run: what a session that worked on it alone has paid for goes from its journals into rows."""

from r2.errors import ConfigError
from r2.pool.coordination.database import Database
from storage.joined.call_rows import adopt
from storage.joined.mark import JoinedMark, new_mark, read_mark, set_mark
from storage.lake.lake import Lake
from storage.runs.job_files import JobFiles
from storage.runs.journal import Journal
from storage.runs.journal_mark import remove_journal
from storage.runs.plan import RunPlan


async def mark_joined(plan: RunPlan, database: Database) -> JoinedMark:
    """The run's mark, made by whoever joins first. RunLockedError while a session works on the run alone.

    The rows are there before the mark, and the journals until after it: a kill at any moment loses nothing.
    """
    if JobFiles(plan.jobs_dir).open_jobs():
        raise ConfigError(
            f"run {plan.run_id} has batch jobs under way, which one machine waits for. Run the same command without "
            "--join until they are in."
        )
    mark = read_mark(plan.run_dir)
    if mark is None:
        with Lake(plan.settings.lake).run_lock(plan.run_id):
            mark = new_mark(plan.run_id, plan.settings.lake, database.shown)
            for shard in plan.shards:
                if (path := plan.journal_file(shard.index)).exists():
                    with Journal.open(path) as journal:
                        await adopt(database, mark.key, shard.index, journal)
            mark = set_mark(plan.run_dir, mark)
    for shard in plan.shards:
        remove_journal(plan.journal_file(shard.index))
    return mark
