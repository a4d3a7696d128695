"""Which scorer a name means, and when it is not used."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from r2.answering.scorer import ARM_FEATURES, RESULT_FEATURES, ArmProfile, Kind, KindProfile, Linear, Net, Scorer
from r2.errors import ConfigError
from r2.policies.registry import PolicyCard, Registry
from r2.pool.file.scorer_file import fitting_scorer, scorer_bytes, scorer_digest
from tests.support.scripted import ROSTER

N, M = len(RESULT_FEATURES), 2 * len(ARM_FEATURES) + 1
SILENT = Net(np.zeros(N), np.ones(N), np.zeros((N, 1)), np.zeros(1), np.zeros(1), 0.0)
HEAD = Linear(np.zeros(M), np.ones(M), np.zeros(M), 0.0)


def scorer(*arms: str) -> Scorer:
    profile = ArmProfile({"": KindProfile(9, 0.5, 0.001)})
    return Scorer({"": Kind(0.0, 0.3)}, dict.fromkeys(arms, profile), (SILENT,), HEAD)


def registered(root: Path, kind: Any, file: str, content: bytes) -> Registry:
    registry = Registry(root)
    card = PolicyCard(name="mine", kind=kind, base="numpy")
    registry.create("mine", card, lambda folder: (folder / file).write_bytes(content))
    registry.promote("mine", "v1", "first")
    return registry


def test_a_name_a_version_and_a_file_mean_the_same_bytes(tmp_path: Path):
    content = scorer("small", "middle").to_json()
    registry = registered(tmp_path, "scorer", "scorer.json", content)
    file = str(tmp_path / "mine" / "v1" / "scorer.json")
    assert scorer_bytes("mine", registry) == scorer_bytes("mine@v1", registry) == scorer_bytes(file) == content
    assert scorer_digest(file).startswith("+scorer:")
    assert scorer_digest(None) == ""


def test_what_is_no_scorer_is_refused(tmp_path: Path):
    registry = registered(tmp_path, "specialist", "weights", b"x")
    with pytest.raises(ConfigError, match="mine@v1 is a specialist, no scorer"):
        scorer_bytes("mine", registry)
    with pytest.raises(ConfigError, match="no such file"):
        scorer_bytes("nowhere.json", registry)
    other = tmp_path / "other.json"
    other.write_text('{"weights": []}')
    with pytest.raises(ConfigError, match="not a scorer of this version"):
        fitting_scorer(str(other), ROSTER.solvers)


def test_a_scorer_that_knows_less_than_half_of_the_pool_is_not_used_and_says_so(tmp_path: Path):
    file = tmp_path / "s.json"
    file.write_bytes(scorer("small", "middle").to_json())
    assert fitting_scorer(str(file), ROSTER.solvers).scorer is not None
    file.write_bytes(scorer("small").to_json())
    found = fitting_scorer(str(file), ROSTER.solvers)
    assert found.scorer is None
    assert found.why.startswith("it was trained on 1 of the 3 solvers")


def test_a_scorer_of_other_features_is_not_used_and_says_so(tmp_path: Path):
    file = tmp_path / "s.json"
    stored = orjson.loads(scorer("small", "middle", "large").to_json())
    file.write_bytes(orjson.dumps(stored | {"result_features": 7}))
    found = fitting_scorer(str(file), ROSTER.solvers)
    assert found.scorer is None
    assert "other features" in found.why
