"""Files that come with the program: when they are meant, and that they are never changed."""

from pathlib import Path

import pytest

from r2.errors import ConfigError
from r2.policies.registry import PolicyCard, Registry, shipped_policies
from r2.policies.torch_there import require_torch
from r2.pool.file.config import load_pool
from r2.shipped.place import found, refuse_shipped, shipped_root
from tests.support.paths import ROOT


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without anything in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("R2_POLICIES_DIR", raising=False)
    return tmp_path


def test_a_name_means_the_shipped_file_until_there_is_one_of_the_users_own(elsewhere: Path):
    assert found(Path("pools/local.toml")) == ROOT / "pools/local.toml"
    Path("pools").mkdir()
    Path("pools/local.toml").write_text("")
    assert found(Path("pools/local.toml")) == Path("pools/local.toml")


@pytest.mark.parametrize(
    "path", ["pools/no_such.toml", "README.md", "pools/../README.md", "docs/answering.md", str(ROOT / "pools/x.toml")]
)
def test_other_names_stay_what_they_are(elsewhere: Path, path: str):
    assert found(Path(path)) == Path(path)


def test_a_shipped_pool_is_loaded_with_its_shipped_policies(elsewhere: Path):
    pool = load_pool("pools/specialists.toml")
    assert pool.path == shipped_root() / "pools/specialists.toml"
    assert pool.policies
    assert all(policy.path.is_relative_to(shipped_root()) for policy in pool.policies.values())


def test_a_shipped_file_is_not_changed_and_the_command_that_copies_it_is_said(elsewhere: Path):
    with pytest.raises(ConfigError, match=r"mkdir -p pools && cp .*/pools/local\.toml pools/local\.toml"):
        refuse_shipped(Path("pools/local.toml"))
    Path("mine.toml").write_text("")
    refuse_shipped(Path("mine.toml"))


def own_policy(registry: Registry, name: str) -> None:
    card = PolicyCard(name=name, kind="decomposer", base="tiny")

    def write(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"own")

    registry.create(name, card, write)


def test_versions_of_ones_own_come_before_shipped_ones(elsewhere: Path):
    registry, shipped = Registry("policies"), shipped_policies()
    assert registry.load("decomposer").ref == f"decomposer@{shipped.current('decomposer')}" == "decomposer@v3"
    own_policy(registry, "decomposer")
    assert registry.load("decomposer@v1").path == Path("policies/decomposer/v1")
    assert registry.load("decomposer@v3").path == shipped.root / "decomposer/v3"
    with pytest.raises(ConfigError, match="no version is promoted"):
        registry.load("decomposer")
    registry.promote("decomposer", "v1", "mine")
    assert registry.load("decomposer").ref == "decomposer@v1"


def test_a_shipped_policy_cannot_be_promoted_in_a_folder_that_does_not_have_it(elsewhere: Path):
    with pytest.raises(ConfigError, match="not in policies"):
        Registry("policies").promote("scan-specialist", "v3", "why not")
    assert not Path("policies").exists()


def test_without_torch_what_needs_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("r2.policies.torch_there.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^r2 sft needs torch, .*'\.\[train\]'"):
        require_torch("r2 sft")
