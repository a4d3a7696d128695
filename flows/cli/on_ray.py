"""`--runner ray`: a run joined on every node of a cluster, and what each node did of it."""

from flows.cli.console import figures, results


def run_on_ray(lake: str, run: str, pool: str | None) -> int:
    """Joins a planned run on every node, prints what each did, and returns the exit code."""
    import asyncio

    from flows.support.joined_run import planned_run
    from flows.support.ray_joins import join_on_ray
    from flows.support.terminal import INTERRUPTED
    from tasks.answering.finish_joined import n_deferred

    done = asyncio.run(join_on_ray(lake, run, pool))
    table = figures(f"run {run}")
    for number, one in enumerate(done, 1):
        table.add_row(f"join {number}", f"{one['n_settled']} questions, {one['usd']:.6f} USD")
    n_left = n_deferred(planned_run(lake, run, pool))
    table.add_row("left over", str(n_left))
    results().print(table)
    for path in {path for one in done for path in one["out"]}:
        print(path)
    if any(one["stop_reason"] == "interrupted" for one in done):
        return INTERRUPTED
    return 1 if n_left else 0
