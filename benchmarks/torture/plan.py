"""Which scenarios are run, and how often each: all of it, or the slice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.torture import damage, every_write, injection, kills, machine, wire
from benchmarks.torture.figures import Row
from benchmarks.torture.world import World


@dataclass(frozen=True, slots=True)
class Scenario:
    """`beside`: it mostly waits and counts for itself, so that three such are done at a time."""

    name: str
    run: Callable[[World], Row]
    beside: bool = False


def scenarios(*, is_slice: bool) -> list[Scenario]:
    """The kills first: they take the longest."""
    return _slice() if is_slice else _all()


def _all() -> list[Scenario]:
    return [
        Scenario("kill answer", lambda world: kills.answer(world, 60, 300, 960.0)),
        Scenario("kill label", lambda world: kills.label(world, 20, 60, 420.0)),
        Scenario("kill evaluate", lambda world: kills.evaluate(world, 15, 30, 420.0)),
        Scenario("kill grpo", lambda world: kills.grpo(world, 5, 6, 420.0)),
        Scenario("disk full", lambda world: machine.disk(world, "full", 8)),
        Scenario("disk read_only", lambda world: machine.disk(world, "read_only", 8)),
        Scenario("disk short", lambda world: machine.disk(world, "short", 4)),
        Scenario("every write full", lambda world: every_write.every_write(world, "full")),
        Scenario("every write read_only", lambda world: every_write.every_write(world, "read_only")),
        Scenario("disk tmpfs", lambda world: machine.full_mount(world, 3)),
        Scenario("disk mount", machine.read_only_mount),
        Scenario("stopped", lambda world: machine.stopped(world, (20.0, 70.0, 150.0))),
        Scenario("clock", lambda world: machine.clock(world, 2)),
        Scenario("two runs", lambda world: machine.two_runs(world, 2)),
        Scenario("restarts", lambda world: machine.restarts(world, 6)),
        Scenario("damage lake", lambda world: damage.lake_files(world, 150)),
        Scenario("damage run", lambda world: damage.journals(world, 12)),
        Scenario("damage registry", lambda world: damage.registry(world, 60)),
        *(Scenario(f"wire {name}", _hostile(name), beside=True) for name in wire.ways()),
        *(Scenario("wire storm", _storm(wire.RETRY_AFTER[place::3]), beside=True) for place in range(3)),
        Scenario("wire redirects", wire.redirects, beside=True),
        Scenario("wire unreachable", wire.unreachable, beside=True),
        Scenario("injection", injection.obedient, beside=True),
    ]


def _slice() -> list[Scenario]:
    return [
        Scenario("kill answer", lambda world: kills.answer(world, 2, 100, 60.0)),
        Scenario("kill label", lambda world: kills.label(world, 1, 20, 60.0)),
        Scenario("two runs", lambda world: machine.two_runs(world, 1)),
        Scenario("damage lake", lambda world: damage.lake_files(world, 30)),
        Scenario("damage registry", lambda world: damage.registry(world, 10)),
        *(Scenario(f"wire {name}", _hostile(name), beside=True) for name in ("gzip", "reset_in_the_body")),
        Scenario("wire storm", _storm(("1e308",)), beside=True),
    ]


def _hostile(name: str) -> Callable[[World], Row]:
    return lambda world: wire.hostile(world, (name,))


def _storm(values: Sequence[str]) -> Callable[[World], Row]:
    return lambda world: wire.storm(world, values, 200)
