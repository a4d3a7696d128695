"""The scorer that settings name: its bytes, from the registry or a file, and whether it can be used with a pool."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from r2.answering.scored_unit import misfit
from r2.answering.scorer import ARM_FEATURES, FORMAT, RESULT_FEATURES, Scorer
from r2.errors import ConfigError
from r2.policies.registry import Registry
from r2.pool.file.config import policy_registry
from r2.roster import ModelCard

SCORER_FILE: Final = "scorer.json"
_FAMILY: Final = "r2-scorer-"


@dataclass(frozen=True, slots=True)
class FittingScorer:
    """`scorer` None: `why` says why it is not used, and the untrained rule routes."""

    scorer: Scorer | None
    why: str = ""


def scorer_bytes(named: str, registry: Registry | None = None) -> bytes:
    """The content of the scorer that `--scorer` names: NAME, NAME@VERSION, or a file. ConfigError where there is none,
    or where the policy of that name is another kind."""
    path = Path(named)
    try:
        if path.is_file():
            return path.read_bytes()
        if path.suffix == ".json":
            raise ConfigError(f"--scorer {named}: no such file. Train one: r2 sft --policy scorer.")
        policy = (registry or policy_registry()).load(named)
        if policy.card.kind != "scorer":
            raise ConfigError(
                f"--scorer {named}: {policy.ref} is a {policy.card.kind}, no scorer. r2 policy list shows the kinds."
            )
        policy.check_files()
        return (policy.path / SCORER_FILE).read_bytes()
    except OSError as error:
        raise ConfigError(f"--scorer {named}: cannot be read: {error}") from error


def scorer_digest(named: str | None) -> str:
    """What tells runs with different scorers apart; "" without one. ConfigError as of `scorer_bytes`."""
    return "" if named is None else f"+scorer:{hashlib.sha256(scorer_bytes(named)).hexdigest()}"


def fitting_scorer(named: str, solvers: Sequence[ModelCard], registry: Registry | None = None) -> FittingScorer:
    """The scorer, or why it does not fit this pool: its features are those of another version, or `misfit`
    (r2/answering/scored_unit.py). ConfigError for what is no scorer at all."""
    content = scorer_bytes(named, registry)
    if made := _other_features(content):
        return FittingScorer(None, f"it was made with other features ({made}) than this version reads")
    scorer = Scorer.from_json(content, f"--scorer {named}")
    why = misfit(scorer, solvers)
    return FittingScorer(None if why else scorer, why)


def _other_features(content: bytes) -> str:
    """Which features a scorer of another version has; "" for one of this version, and for what is no scorer."""
    try:
        stored = orjson.loads(content)
        made = (stored["format"], stored["result_features"], stored["arm_features"])
    except (ValueError, KeyError, TypeError):
        return ""
    is_ours = str(made[0]).startswith(_FAMILY)
    return ", ".join(map(str, made)) if is_ours and made != (FORMAT, len(RESULT_FEATURES), len(ARM_FEATURES)) else ""
