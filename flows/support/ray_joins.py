"""Joins placed by Ray: one actor on each node of a cluster, each of which joins the run as a machine of its own.

Ray places the actors, and starts another where one was killed; which shard is whose is ours, as with any other join. A
node that is gone needs nothing from here: the others take its shards over. A node that comes later gets an actor too.
Its own environment has what a join needs (`R2_COORDINATION_URL`, keys of models): no secret goes through Ray.
"""

import asyncio
import os
import sys
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from flows.support.joined_run import joined_plan, planned_run
from flows.support.terminal import stopped_by_signals
from r2.errors import ConfigError, EndpointError
from tasks.answering.session import RunSession

LOOK_S: Final = 2.0
MOST_RESTARTS: Final = 3
"""Of one node's join, before the node is left alone."""


class Join:
    """What runs in the actor of a node."""

    def __init__(self) -> None:
        self._session: RunSession | None = None
        self._is_stopped = False

    async def join(self, folder: str, lake: str, run_id: str, pool: str | None) -> dict[str, Any]:
        """Joins the run; what this node did of it. `folder` is what relative paths start from."""
        os.chdir(folder)

        @asynccontextmanager
        async def noted(session: RunSession) -> Any:
            self._session = session
            if self._is_stopped:
                session.stop("interrupted")
            yield

        result = await joined_plan(planned_run(lake, run_id, pool), [], noted)
        progress = result.progress
        return {
            "n_settled": progress.session_n_settled,
            "n_deferred": progress.n_deferred,
            "usd": progress.session_cost_usd,
            "stop_reason": progress.stop_reason,
            "out": [str(path) for path in result.out],
        }

    async def stop(self) -> None:
        """No new call; those in flight finish and are kept."""
        self._is_stopped = True
        if self._session is not None:
            self._session.stop("interrupted")


class _Joins:
    """The joins of a cluster, as a signal ends them."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self.is_stopped = False
        self.by_node: dict[str, tuple[Any, Any]] = {}
        """Node -> (actor, what its join will return)."""

    def stop(self, reason: str) -> None:
        self.is_stopped = True
        for actor, _ in self.by_node.values():
            actor.stop.remote()

    def give_up(self) -> None:
        """The joins end by themselves; nothing is waited for twice."""


async def join_on_ray(lake: str, run_id: str, pool: str | None = None) -> list[dict[str, Any]]:
    """Joins a planned run on every node of the cluster that $RAY_ADDRESS names (else the one of this host); what each
    node did, once all have ended. ConfigError without Ray, EndpointError without a cluster."""
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from ray.exceptions import RayActorError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    except ImportError:
        raise ConfigError(
            "--runner ray needs Ray: pip install 'r2-reasoner[ray]', the same version on every node."
        ) from None
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise EndpointError(
            f"no Ray cluster: {error} Start one (`ray start --head`), or name it in RAY_ADDRESS."
        ) from None
    joins, done = _Joins(ray), list[dict[str, Any]]()
    n_starts: Counter[str] = Counter()
    actor_class = ray.remote(num_cpus=0, max_restarts=0, max_concurrency=4)(Join)
    try:
        with stopped_by_signals(joins):  # after `ray.init`, which puts a handler of its own in their place
            while True:
                nodes = {} if joins.is_stopped or done else _living(ray)
                for node in nodes.keys() - joins.by_node.keys():
                    if n_starts[node] <= MOST_RESTARTS:
                        n_starts[node] += 1
                        actor = actor_class.options(
                            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
                        ).remote()
                        joins.by_node[node] = actor, actor.join.remote(str(Path.cwd()), lake, run_id, pool)
                        _say(f"{nodes[node]} joins")
                if not joins.by_node:
                    break
                refs = {ref: node for node, (_, ref) in joins.by_node.items()}
                ended, _ = await asyncio.to_thread(ray.wait, list(refs), num_returns=1, timeout=LOOK_S)
                for ref in ended:
                    node = refs[ref]
                    try:
                        done.append(await asyncio.to_thread(ray.get, ref))
                    except RayActorError:
                        _say(f"the join on node {node[:8]} is gone: the others take its shards over")
                    joins.by_node.pop(node)
    finally:
        await asyncio.to_thread(ray.shutdown)
    if not done:
        raise EndpointError("every join has died before the run was finished. Look at Ray's logs, and join it again.")
    return done


def _living(ray: Any) -> dict[str, str]:
    """Node id -> its host's name, of the nodes that are alive."""
    return {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}


def _say(line: str) -> None:
    sys.stderr.write(f"r2: {line}\n")
