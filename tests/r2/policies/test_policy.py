"""The policy registry: versions appear whole or not at all, and what is promoted can be taken back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from r2.errors import ConfigError, PoolFileError
from r2.policies.registry import PolicyCard, Registry, file_sha256, git_commit
from r2.pool.file.config import load_pool
from r2.pool.servers.endpoints import open_policy
from tests.support.paths import ROOT

CARD = PolicyCard(name="decomposer", kind="decomposer", base="smollm2", metrics={"valid": 0.97}, cost_usd=0.5)


def writes(text: str):
    def write(folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{}", "utf-8")
        (folder / "adapter_model.safetensors").write_text(text, "utf-8")

    return write


def with_versions(root: Path, n: int) -> Registry:
    registry = Registry(root / "policies")
    for number in range(1, n + 1):
        registry.create("decomposer", CARD, writes(f"weights {number}"))
    return registry


def test_a_version_is_written_with_its_card_and_read_back(tmp_path: Path):
    registry = with_versions(tmp_path, 2)
    policy = registry.load("decomposer@v2")
    assert registry.versions("decomposer") == ["v1", "v2"]
    assert registry.next_version("decomposer") == "v3"
    assert (policy.ref, policy.is_adapter, policy.catalogue_name) == ("decomposer@v2", True, "smollm2-135m-instruct")
    assert (policy.card.metrics, policy.card.cost_usd, policy.card.prompt_mode) == ({"valid": 0.97}, 0.5, "bare")
    assert policy.card.created_at.endswith("+00:00")
    weights = policy.path / "adapter_model.safetensors"
    assert policy.card.files_sha256["adapter_model.safetensors"] == file_sha256(weights)
    assert registry.load(policy.path) == policy == registry.load(str(policy.path))


def test_equal_weights_have_equal_hashes_and_others_do_not(tmp_path: Path):
    registry = Registry(tmp_path)
    first, again, other = (registry.create("decomposer", CARD, writes(text)) for text in ("a", "a", "b"))
    assert first.card.weights_sha256 == again.card.weights_sha256 != other.card.weights_sha256


@pytest.mark.parametrize("ref", Registry(ROOT / "policies").names())
def test_the_shipped_policies_are_as_their_cards_say(ref: str):
    Registry(ROOT / "policies").load(ref).check_files()


def flip_a_bit(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])


def replace_by_a_link(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder.parent / "elsewhere")
    (folder / "adapter_model.safetensors").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (flip_a_bit, "adapter_model.safetensors: not the file that was written"),
        (
            lambda folder: (folder / "adapter_config.json").write_text('{"auto_map": {}}'),
            "adapter_config.json: not the",
        ),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors: missing"),
        (replace_by_a_link, "adapter_model.safetensors: missing, or a link"),
        (
            lambda folder: (folder / "pytorch_model.bin").write_bytes(b"a pickle"),
            "pytorch_model.bin: not a file of this",
        ),
        (lambda folder: (folder / "evil.py").write_text("open('x', 'w')"), "evil.py: not a file of this version"),
    ],
)
def test_a_version_that_was_changed_is_not_loaded(harm: Callable[[Path], object], said: str, tmp_path: Path):
    policy = with_versions(tmp_path, 1).load("decomposer@v1")
    policy.check_files()
    (policy.path / "adapter.gguf").write_bytes(b"made from it")
    (policy.path / "README.md").write_text("what it is for")
    policy.check_files()
    harm(policy.path)
    loaders: list[Callable[[], object]] = [
        policy.check_files,
        lambda: open_policy(policy, models_dir=tmp_path, log_dir=tmp_path, context_tokens=512),
    ]
    for load in loaders:
        with pytest.raises(ConfigError, match=f"decomposer@v1: .*{said}"):
            load()


def test_versions_sort_as_numbers(tmp_path: Path):
    registry = with_versions(tmp_path, 10)
    assert registry.versions("decomposer")[-2:] == ["v9", "v10"]
    assert registry.names() == ["decomposer"]


def test_a_writer_that_fails_leaves_no_version(tmp_path: Path):
    registry = with_versions(tmp_path, 1)

    def fails(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_text("half", "utf-8")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        registry.create("decomposer", CARD, fails)
    with pytest.raises(ConfigError, match="wrote no file"):
        registry.create("decomposer", CARD, lambda folder: None)
    assert registry.versions("decomposer") == ["v1"]
    assert [p.name for p in (registry.root / "decomposer").iterdir()] == ["v1"]


def test_what_a_kill_left_half_written_is_not_a_version(tmp_path: Path):
    registry = with_versions(tmp_path, 1)
    half = registry.root / "decomposer/.writing-0123"
    half.mkdir()
    (half / "model.safetensors").write_text("half", "utf-8")
    (registry.root / "decomposer/v2").mkdir()  # without a card
    assert registry.versions("decomposer") == ["v1"]
    assert registry.create("decomposer", CARD, writes("x")).card.version == "v3"


def test_a_version_taken_meanwhile_is_not_overwritten(tmp_path: Path):
    registry = Registry(tmp_path)

    def slow(folder: Path) -> None:
        writes("slow")(folder)
        with_taken.append(registry.create("decomposer", CARD, writes("quick")).card.version)

    with_taken: list[str] = []
    assert registry.create("decomposer", CARD, slow).card.version == "v2"
    assert with_taken == ["v1"]
    with pytest.raises(ConfigError, match="exists already"):
        registry.create("decomposer", CARD.model_copy(update={"version": "v1"}), writes("x"))
    with pytest.raises(ConfigError, match="names 'decomposer'"):
        registry.create("allocator", CARD, writes("x"))


def test_a_name_means_its_promoted_version(tmp_path: Path):
    registry = with_versions(tmp_path, 2)
    with pytest.raises(ConfigError, match="r2 policy promote decomposer v2"):
        registry.load("decomposer")
    registry.promote("decomposer", "v1", "better", {"difference": 0.1, "interval": [0.02, 0.18]})
    assert registry.load("decomposer").card.version == "v1"
    [entry] = registry.history("decomposer")
    assert (entry["action"], entry["version"], entry["previous"], entry["reason"]) == ("promote", "v1", None, "better")
    assert entry["decision"] == {"difference": 0.1, "interval": [0.02, 0.18]}
    registry.promote("decomposer", "v1", "again")
    assert len(registry.history("decomposer")) == 1


def test_rollbacks_go_back_one_promotion_each(tmp_path: Path):
    registry = with_versions(tmp_path, 3)
    with pytest.raises(ConfigError, match="nothing was promoted before anything"):
        registry.rollback("decomposer")
    for version in ("v1", "v2", "v3"):
        registry.promote("decomposer", version, "better")
    assert registry.rollback("decomposer").card.version == "v2"
    assert registry.rollback("decomposer").card.version == "v1"
    with pytest.raises(ConfigError, match="nothing was promoted before v1"):
        registry.rollback("decomposer")
    registry.promote("decomposer", "v3", "after all")
    assert registry.rollback("decomposer", "no").card.version == "v1"
    assert registry.current("decomposer") == "v1"
    assert [e["action"] for e in registry.history("decomposer")] == [
        *["promote"] * 3,
        *["rollback"] * 2,
        "promote",
        "rollback",
    ]


def test_a_promotion_killed_half_way_is_not_rolled_back_to(tmp_path: Path):
    registry = with_versions(tmp_path, 3)
    registry.promote("decomposer", "v1", "better")
    registry.promote("decomposer", "v2", "better")
    with (registry.root / "decomposer/history.jsonl").open("ab") as file:
        file.write(b'{"at":"2026-11-24","action":"promote","version":"v3","previous":"v2"}\n{"at": "20')
    assert registry.rollback("decomposer").card.version == "v1"
    assert registry.history("decomposer")[-1]["action"] == "rollback", "a torn line does not swallow the next"


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("allocator", r"not in .*there: decomposer.*r2 sft"),
        ("decomposer@v7", "no such version.*Versions: v1"),
        ("./nowhere", "holds no card.json"),
    ],
)
def test_what_is_not_there_is_refused_with_the_next_move(tmp_path: Path, ref: str, message: str):
    with pytest.raises(ConfigError, match=message):
        with_versions(tmp_path, 1).load(ref)


@pytest.mark.parametrize("content", [b"\xdf\xff", b"v9", b"../elsewhere/v1", b"v1\nv1"])
def test_a_current_that_names_no_version_is_refused_and_mended_by_a_promotion(tmp_path: Path, content: bytes):
    registry = with_versions(tmp_path, 1)
    registry.promote("decomposer", "v1", "the first")
    (registry.root / "decomposer" / "current").write_bytes(content)
    with pytest.raises(ConfigError, match=r"current: names .*, and no version of policy decomposer. Versions: v1"):
        registry.load("decomposer")
    registry.promote("decomposer", "v1", "again")
    assert registry.load("decomposer").path.name == "v1"


POOL = """[router]
decomposer = "plans"
allocator = "a"

[models.a]
endpoint = "https://example.org/v1"
tier = "small"
price_usd_per_mtok = {input = 1.0, output = 2.0, date = "2026-11-01", source = "made up"}

[models.plans]
endpoint = "policy:decomposer"
tier = "small"
prompt_mode = "bare"
solver = false
price_usd_per_mtok = {input = 1.0, output = 2.0, date = "2026-11-01", source = "made up"}
"""


def pool_file(folder: Path, text: str = POOL) -> Path:
    path = folder / "pool.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_promotion_makes_another_pool_of_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    registry = with_versions(tmp_path, 2)
    registry.promote("decomposer", "v1", "first")
    path = pool_file(tmp_path)
    first = load_pool(path, registry.root)
    assert first.policies["plans"].ref == "decomposer@v1"
    assert load_pool(path, registry.root).digest == first.digest
    registry.promote("decomposer", "v2", "better")
    second = load_pool(path, registry.root)
    assert second.policies["plans"].ref == "decomposer@v2"
    assert second.digest != first.digest
    monkeypatch.setenv("R2_POLICIES_DIR", str(registry.root))
    assert load_pool(path).digest == second.digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "policy:decomposer",
            "policy:planner",
            r"pool.toml:11: models.plans.endpoint: policy 'planner': not in .*r2 sft",
        ),
        ("policy:decomposer", "policy:decomposer@v9", r"no such version"),
        ("policy:decomposer", "policy:./x/v1", r"holds no card.json"),
        ("policy:decomposer", "policy:decomposer", r"no version is promoted.*r2 policy promote decomposer v1"),
        ('"bare"', '"direct"', r"pool.toml:13: models.plans.prompt_mode = 'direct', but decomposer@v1"),
    ],
)
def test_a_pool_names_the_policy_it_lacks(tmp_path: Path, old: str, new: str, message: str):
    registry = with_versions(tmp_path, 1)
    if new == '"direct"':
        registry.promote("decomposer", "v1", "first")
    with pytest.raises(PoolFileError, match=message):
        load_pool(pool_file(tmp_path, POOL.replace(old, new)), registry.root)


def test_the_commit_of_this_checkout_is_known():
    assert len(git_commit().rstrip("+")) >= 12 or not (ROOT / ".git").exists()
