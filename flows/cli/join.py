"""`r2 join`: this machine works on a run that another has planned, or looks at it, stops it, lets it go on."""

import getpass
import socket
from typing import Annotated

import typer

from flows.cli import options
from flows.cli.console import figures, results, say, starting
from flows.cli.options import INPUT, OUTPUT, flag
from r2.errors import ConfigError


def join(
    run: Annotated[str, typer.Argument(help="The run's id: `r2 answer FILE --join` prints it.")],
    lake: options.Lake = None,
    pool: Annotated[str | None, options.pool("where the run's plan has it")] = None,
    out: Annotated[
        str | None, options.out("Answers, if this machine is the one that closes the run.", "as the run's plan has it")
    ] = None,
    runner: options.Runner = None,
    stop: Annotated[
        bool, flag(INPUT, "--stop", help="Stop the run on all machines: calls in flight finish and are kept.")
    ] = False,
    resume: Annotated[bool, flag(INPUT, "--resume", help="Let machines join a run that was stopped.")] = False,
    status: Annotated[bool, flag(OUTPUT, "--status", help="Show how far the run is and who works on it.")] = False,
) -> None:
    """Join a run beside other machines.

    Each machine takes one shard after the other until none is open. Machines may come and go at any moment; the shards
    of one that is gone are taken over within 90 s. Needs R2_COORDINATION_URL and a lake that all machines reach.

    Examples:

        r2 join cot-0123456789ab --lake /mnt/team/lake
        r2 join cot-0123456789ab --lake /mnt/team/lake --status
        r2 join cot-0123456789ab --lake /mnt/team/lake --runner ray
    """
    if runner not in (None, "ray"):
        raise ConfigError(f"--runner {runner}: ray, or none to join on this machine.")
    if stop + resume + status + (runner is not None) > 1:
        raise ConfigError("--stop, --resume, --status and --runner: one of them at a time.")
    import asyncio

    where = lake or "lake"
    if stop or resume:
        who = f"{getpass.getuser()} on {socket.gethostname()}" if stop else None
        asyncio.run(_set_stop(where, run, who))
        return
    if status:
        asyncio.run(_print_status(where, run))
        return
    from flows.cli.on_ray import run_on_ray

    starting()
    raise typer.Exit(run_on_ray(where, run, pool) if runner else _join_here(where, run, pool, out))


def _join_here(lake: str, run: str, pool: str | None, out: str | None) -> int:
    import uvloop

    from flows.cli.answer import print_result
    from flows.support.joined_run import joined_plan, planned_run

    plan = planned_run(lake, run, pool, out)
    return print_result(uvloop.run(joined_plan(plan, [])))


async def _set_stop(lake: str, run: str, who: str | None) -> None:
    from storage.joined.claims import stop_run
    from tasks.answering.joining import coordination

    async with coordination(say) as database:
        if not await stop_run(database, _key_of(lake, run), who):
            raise ConfigError(f"run {run}: nobody works on it, or it is finished.")
    said = "may be joined again" if who is None else "is stopped: its machines end within 20 s, and none can join it"
    say(f"r2: run {run} {said}.")


async def _print_status(lake: str, run: str) -> None:
    from storage.joined.claims import look
    from storage.lake.address import lake_folder
    from storage.lake.stores import store_of
    from storage.runs.plan import read_plan, run_dir_of
    from tasks.answering.joining import coordination
    from tasks.answering.progress import progress_so_far

    run_dir = run_dir_of(lake_folder(lake), run)
    store_of(lake_folder(lake)).receive_once(run_dir / "manifest.json")
    plan = read_plan(run_dir)
    progress = progress_so_far(plan)
    table = figures(f"run {run}")
    table.add_row("requested", str(progress.n_requested))
    table.add_row("answered", str(progress.n_answered))
    table.add_row("failed", str(progress.n_failed))
    table.add_row("USD of settled questions", f"{progress.settled_cost_usd:.6f}")
    async with coordination(say) as database:
        seen = await look(database, _key_of(lake, run))
    table.add_row("shards open", f"{seen.n_open} of {len(plan.shards)}")
    table.add_row("shards being worked on", str(seen.n_busy))
    table.add_row("machines", ", ".join(worker.rsplit(":", 2)[0] for worker in seen.workers) or "none")
    if seen.stopped_by is not None:
        table.add_row("stopped by", seen.stopped_by)
    results().print(table)


def _key_of(lake: str, run: str) -> str:
    """The run's name in the database. ConfigError where no machine has joined it."""
    from storage.joined.mark import new_mark, read_mark
    from storage.lake.address import is_in_bucket, lake_folder
    from storage.runs.plan import run_dir_of

    mark = new_mark(run, lake, "") if is_in_bucket(lake) else read_mark(run_dir_of(lake_folder(lake), run))
    if mark is None:
        raise ConfigError(f"run {run} of {lake}: no machine has joined it, or it is finished.")
    return mark.key
