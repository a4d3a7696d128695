"""The rounds of a training: who learns next, from which versions, and whether what was learned is kept. State in one
file, replaced whole.

    <run_dir>/state.json             versions now, and every settled round with its decision
    <run_dir>/round-00/spec.json     what the round is to do, written before it starts and never changed
    <run_dir>/round-00/result.json   its result, written last by the round itself

A kill at any moment leaves the last settled round in state.json. The same call resumes with the next round, which
finds its own checkpoints. A round's candidate is promoted only after a paired comparison on held-out problems that no
earlier round was compared on (r2/training/grpo/promotion.py); the decision, with its interval, is kept here, in the
registry's history and in the lake.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from r2.atomic import write_atomically
from r2.errors import ConfigError
from r2.policies.registry import Registry
from r2.problem import Problem
from r2.training.grpo.promotion import Decision, HeldOut, decide
from r2.training.grpo.settings import GrpoSettings, Role

Versions = dict[Role, str]
"""Role -> NAME@VERSION of the registry, or the name of a pool entry."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a round. `digests` are hashes of the frozen policies' weights before and after it."""

    candidates: Mapping[str, str]
    before: HeldOut
    after: HeldOut
    digests: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    cost_usd: float = 0.0
    wall_s: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    shuffled: HeldOut | None = None
    """The versions after it, with the models in random orders; None where the allocator did not learn, or the result
    was written before this was measured."""


@dataclass(slots=True)
class State:
    """Where a training is. `settled` has one record per finished round."""

    run_id: str
    start: Versions
    current: Versions
    settled: list[dict[str, Any]] = field(default_factory=list)

    @property
    def number(self) -> int:
        """The round to do next, 0-based."""
        return len(self.settled)


class Rounds:
    """A training's state on disk. `open` finds or begins it."""

    def __init__(self, run_dir: Path, settings: GrpoSettings, state: State) -> None:
        self.run_dir = run_dir
        self.settings = settings
        self.state = state

    @classmethod
    def open(cls, run_dir: Path, settings: GrpoSettings, run_id: str, start: Versions) -> "Rounds":
        """Resumes the stored state, else begins with `start`. ConfigError if the folder belongs to another
        training."""
        path = run_dir / "state.json"
        if path.exists():
            state = State(**orjson.loads(path.read_bytes()))
            if state.run_id != run_id:
                raise ConfigError(
                    f"{path} is of training {state.run_id}, not {run_id}. Use another lake, or the same settings."
                )
            return cls(run_dir, settings, state)
        rounds = cls(run_dir, settings, State(run_id, dict(start), dict(start)))
        run_dir.mkdir(parents=True, exist_ok=True)
        rounds._save()
        return rounds

    @property
    def is_done(self) -> bool:
        """True if every round that was asked for is settled; `sft_only` has one, in which nobody learns."""
        return self.state.number >= (1 if self.settings.mode == "sft_only" else self.settings.rounds)

    def next_spec(self) -> Path:
        """The specification of the round to do next, written if it is not there yet."""
        number = self.state.number
        path = self.run_dir / f"round-{number:02d}" / "spec.json"
        if not path.exists():
            roles: Sequence[Role] = () if self.settings.mode == "sft_only" else self.settings.roles_of(number)
            if fixed := [role for role in roles if "@" not in self.state.current[role]]:
                raise ConfigError(
                    f"round {number}: the {fixed[0]} {self.state.current[fixed[0]]!r} is a pool entry, which cannot "
                    "be trained. "
                    "Name a policy of the registry, or choose rounds so that only the other one learns (--rounds 1, "
                    "--first)."
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            spec = {
                "run_id": self.state.run_id,
                "number": number,
                "roles": roles,
                "versions": self.state.current,
                "settings": self.settings.model_dump(mode="json"),
            }
            write_json(path, spec)
        return path

    def settle(self) -> Decision:
        """Reads the round's result, promotes its candidates or keeps the versions before, and moves to the next round.
        A second call changes nothing."""
        number, settings = self.state.number, self.settings
        result = read_result(self.run_dir / f"round-{number:02d}" / "result.json")
        decision = decide(
            result.before,
            result.after,
            settings.gate,
            settings.seed,
            shuffled=result.shuffled,
        )
        record = {
            "number": number,
            "candidates": dict(result.candidates),
            "decision": asdict(decision),
            "alarms": list(result.alarms),
            "cost_usd": result.cost_usd,
            "wall_s": result.wall_s,
            "facts": dict(result.facts),
        }
        registry = Registry(settings.policies_dir)
        if decision.is_promoted:
            for role, ref in result.candidates.items():
                name, _, version = ref.partition("@")
                evidence = {"run_id": self.state.run_id, "round": number, **asdict(decision)}
                registry.promote(name, version, f"GRPO round {number}: {decision.reason}", evidence)
                self.state.current[role] = ref  # type: ignore[index]
        self.state.settled.append(record)
        self._save()
        return decision

    def _save(self) -> None:
        write_json(self.run_dir / "state.json", asdict(self.state))


def fresh_held_out(run_dir: Path, number: int, problems: Sequence[Problem], settings: GrpoSettings) -> list[Problem]:
    """The problems that round `number` is compared on: of the held-out `problems` those that no earlier round was
    compared on, shared out among the rounds that are left, at most `n_held_out`.

    To choose again and again by the same problems is to learn them. ConfigError where none is left.
    """
    used: set[str] = set()
    for earlier in range(number):
        used.update(read_result(run_dir / f"round-{earlier:02d}" / "result.json").before.problem_ids)
    fresh = [problem for problem in problems if problem.problem_id not in used]
    n_left = max(1, settings.rounds - number)
    share = len(fresh) // n_left
    if not share:
        raise ConfigError(
            f"round {number}: {len(fresh)} of {len(problems)} held-out problems were not used by an earlier round, for "
            f"{n_left} rounds that are left; each needs its own. Bring more problems, or hold out more (--test-share) "
            "and begin a new training."
        )
    return fresh[: min(share, settings.n_held_out or share)]


def read_result(path: Path) -> Result:
    """A round's result. ConfigError if the round did not write one."""
    try:
        stored = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: the round ended without a result; see train.log beside it, then run the same command again."
        ) from None
    held = {name: HeldOut(**{key: tuple(value) for key, value in stored[name].items()}) for name in ("before", "after")}
    if stored.get("shuffled"):
        held["shuffled"] = HeldOut(**{key: tuple(value) for key, value in stored["shuffled"].items()})
    digests = {name: (pair[0], pair[1]) for name, pair in stored["digests"].items()}
    return Result(**{**stored, **held, "digests": digests, "alarms": tuple(stored["alarms"])})


def write_json(path: Path, document: Any) -> None:
    """A document of a round, written whole."""
    write_atomically(path, orjson.dumps(document, option=orjson.OPT_INDENT_2))
