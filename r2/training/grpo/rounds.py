"""The rounds of a training: who learns next, from which versions, and whether what was learned is kept. State in one
file, replaced whole.

    <run_dir>/state.json             versions now, and every settled round with its decision
    <run_dir>/round-00/spec.json     what the round is to do, written before it starts and never changed
    <run_dir>/round-00/result.json   its result, written last by the round itself

A kill at any moment leaves the last settled round in state.json. The same call resumes with the next round, which
finds its own checkpoints. A round's candidate is promoted only after a paired comparison on held-out problems
(docs/method.md, section 5); the decision, with its interval, is kept here, in the registry's history and in the lake.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from r2.atomic import write_atomically
from r2.errors import ConfigError
from r2.evaluation.intervals import paired_interval
from r2.policies.registry import Registry
from r2.training.grpo.settings import GrpoSettings, Role

Versions = dict[Role, str]
"""Role -> NAME@VERSION of the registry, or the name of a pool entry."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How a pair of policies did on the held-out problems, one entry per problem, in a fixed order."""

    problem_ids: tuple[str, ...]
    is_correct: tuple[float, ...]
    cost_usd: tuple[float, ...]
    cost_share: tuple[float, ...]
    """cost_usd over what the same problem costs on the largest model alone."""
    is_read: tuple[float, ...] = ()
    """1 where plan and allocation were read, 0 where a fallback stood in for one of them; empty in results written
    before this was measured."""

    @property
    def readable(self) -> float:
        """Share of the problems whose plan and allocation were read; 1 where it was not measured."""
        return sum(self.is_read) / len(self.is_read) if self.is_read else 1.0

    def utilities(self, lam: float) -> list[float]:
        """1[correct] - lambda * cost_usd / cost_ref of each problem."""
        return [right - lam * cost for right, cost in zip(self.is_correct, self.cost_share, strict=True)]

    def summary(self, lam: float) -> dict[str, float]:
        """Means over the problems."""
        n = max(1, len(self.problem_ids))
        return {
            "utility": sum(self.utilities(lam)) / n,
            "accuracy": sum(self.is_correct) / n,
            "cost_usd": sum(self.cost_usd) / n,
            "cost_share": sum(self.cost_share) / n,
            "readable": self.readable,
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """A paired comparison: mean difference of utility with its 95 % interval, and what follows from it."""

    is_promoted: bool
    difference: float
    low: float
    high: float
    n_problems: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    reason: str


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


def decide(
    before: HeldOut, after: HeldOut, lam: float, margin: float, seed: int = 0, *, readable_loss: float = 0.05
) -> Decision:
    """Promotes where utility is higher and, by a paired bootstrap over problems, not worse by more than `margin`, and
    the share of problems whose plan and allocation can be read is not lower by more than `readable_loss`: else the
    fallbacks earned the utility, not the version.

    Raises ValueError if the two are not over the same problems.
    """
    if before.problem_ids != after.problem_ids:
        raise ValueError("the two versions were not evaluated on the same problems in the same order")
    old, new = np.asarray(before.utilities(lam)), np.asarray(after.utilities(lam))
    interval = paired_interval(new, old, seed=seed)
    difference = float((new - old).mean()) if len(new) else 0.0
    low, high = (interval.low, interval.high) if interval is not None else (0.0, 0.0)
    is_read = after.readable >= before.readable - readable_loss - 1e-9
    is_promoted = is_read and difference > 0 and low >= -margin
    if not is_read:
        reason = (
            f"kept: plan and allocation can be read for only {100 * after.readable:.0f} % of the held-out problems, "
            f"{100 * before.readable:.0f} % before; a fallback answered for the others "
            f"(utility {difference:+.4f}, 95 % {low:+.4f} to {high:+.4f}, n = {len(new)})"
        )
    elif is_promoted:
        reason = f"held-out utility {difference:+.4f} (95 % {low:+.4f} to {high:+.4f}, n = {len(new)})"
    elif difference <= 0:
        reason = (
            f"kept: held-out utility is not higher ({difference:+.4f}, 95 % {low:+.4f} to {high:+.4f}, n = {len(new)})"
        )
    else:
        reason = (
            f"kept: the interval of the gain ({low:+.4f} to {high:+.4f}, n = {len(new)}) reaches below {-margin:+.4f}"
        )
    return Decision(is_promoted, difference, low, high, len(new), before.summary(lam), after.summary(lam), reason)


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
            settings.price_of_cost,
            settings.margin,
            settings.seed,
            readable_loss=settings.readable_loss,
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


def read_result(path: Path) -> Result:
    """A round's result. ConfigError if the round did not write one."""
    try:
        stored = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: the round ended without a result; see train.log beside it, then run the same command again."
        ) from None
    held = {name: HeldOut(**{key: tuple(value) for key, value in stored[name].items()}) for name in ("before", "after")}
    digests = {name: (pair[0], pair[1]) for name, pair in stored["digests"].items()}
    return Result(**{**stored, **held, "digests": digests, "alarms": tuple(stored["alarms"])})


def write_json(path: Path, document: Any) -> None:
    """A document of a round, written whole."""
    write_atomically(path, orjson.dumps(document, option=orjson.OPT_INDENT_2))
