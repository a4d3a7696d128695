"""`r2 pool add`: a new entry in a pool file, or the file as it was; and `r2 policy`, which says what a policy's name
means."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from r2.errors import ConfigError, PoolFileError
from r2.policies.registry import PolicyCard, Registry
from r2.pool.file.config import load_pool
from tests.support.paths import ROOT

SIMULATED = (ROOT / "pools/simulated.toml").read_text("utf-8")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    path = tmp_path / "pool.toml"
    path.write_text(SIMULATED + "\n# the end\n", "utf-8")
    return path


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """scan-specialist@v1, an adapter with no weights behind it, promoted."""
    registry = Registry(tmp_path / "policies")
    card = PolicyCard(name="scan-specialist", kind="specialist", base="smollm2", cost_usd=0.25, wall_s=1800)
    for _ in range(2):
        registry.create(
            "scan-specialist", card, lambda folder: (folder / "adapter_config.json").write_text("{}") and None
        )
    registry.promote("scan-specialist", "v1", "first")
    return registry.root


def r2(*args: str | Path) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_an_entry_is_added_and_all_else_stays(pool: Path, policies: Path):
    before = pool.read_text("utf-8")
    r2(
        "pool",
        "add",
        pool,
        "scan-135m",
        "--endpoint",
        "policy:scan-specialist",
        "--tier",
        "small",
        "--policies-dir",
        policies,
        "--price-input",
        "0.05",
        "--price-output",
        "0.2",
        "--skill",
        "scan_phrase=0.98",
        "--skill",
        "add=0",
    )
    after = pool.read_text("utf-8")
    added = [line for line in after.splitlines() if line not in before.splitlines()]
    assert [line for line in before.splitlines() if line not in after.splitlines()] == []
    assert added[:2] == ["[models.scan-135m]", 'endpoint = "policy:scan-specialist"']
    config = load_pool(pool, policies)
    entry = config.models["scan-135m"]
    assert (entry.tier, entry.prompt_mode, entry.logprobs, entry.solver) == ("small", "bare", True, True)
    assert (entry.profile, config.price("scan-135m").output) == ({"scan_phrase": 0.98, "add": 0.0}, 0.2)
    assert list(config.models)[-1] == "scan-135m"
    assert config.policies["scan-135m"].ref == "scan-specialist@v1"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sim-4b", "--endpoint", "http://x/v1"], "'sim-4b' is there already"),
        (["new", "--endpoint", "policy:nobody", "--prompt-mode", "bare"], "policy 'nobody': not in"),
        (["new", "--endpoint", "policy:scan-specialist", "--prompt-mode", "cot"], "was trained on 'bare' prompts"),
        (["new", "--endpoint", "ftp://x"], "expected http"),
        (
            ["new", "--endpoint", "http://x/v1", "--skill", "add=1.5"],
            r"pool.toml:\d+: models.new.profile.add(.|\n)*left as it was",
        ),
        (["new", "--endpoint", "http://x/v1", "--skill", "add"], "expected NAME=ACCURACY"),
    ],
)
def test_an_entry_that_would_not_be_good_changes_nothing(pool: Path, policies: Path, args: list[str], message: str):
    before = pool.read_bytes()
    prices = ["--price-input", "1", "--price-output", "2"]
    with pytest.raises(ConfigError, match=message):
        r2("pool", "add", pool, *args, "--tier", "small", *prices, "--policies-dir", policies)
    assert pool.read_bytes() == before
    assert sorted(p.name for p in pool.parent.iterdir()) == ["policies", "pool.toml"]


def test_an_entry_needs_a_price_or_a_way_to_measure_it(pool: Path, policies: Path):
    for endpoint, measure in (("policy:scan-specialist", []), ("http://x/v1", ["--measure"])):
        with pytest.raises(ConfigError, match="--price-input and --price-output"):
            r2(
                "pool",
                "add",
                pool,
                "new",
                "--endpoint",
                endpoint,
                "--tier",
                "small",
                "--policies-dir",
                policies,
                *measure,
            )


def test_a_missing_pool_file_is_named(tmp_path: Path):
    with pytest.raises(PoolFileError, match="no such pool file"):
        r2(
            "pool",
            "add",
            tmp_path / "no.toml",
            "new",
            "--endpoint",
            "http://x/v1",
            "--tier",
            "small",
            "--price-input",
            "1",
            "--price-output",
            "2",
        )


def test_policies_are_listed_shown_promoted_and_rolled_back(policies: Path):
    where = ("--policies-dir", policies)
    assert "promoted" in r2("policy", "list", *where)
    assert "scan-specialist@v2 promoted (before: v1)" in r2(
        "policy", "promote", "scan-specialist", "v2", "--reason", "better", *where
    )
    assert "promoted already" in r2("policy", "promote", "scan-specialist", "v2", "--reason", "again", *where)
    shown = r2("policy", "show", "scan-specialist", *where)
    assert "scan-specialist@v2" in shown
    assert "smollm2" in shown
    assert "better" in shown
    assert "scan-specialist@v1 promoted again (before: v2)" in r2("policy", "rollback", "scan-specialist", *where)
    assert Registry(policies).current("scan-specialist") == "v1"


def test_an_error_is_one_message_and_exit_code_2(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "policy", "show", "nobody"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "R2_POLICIES_DIR": str(tmp_path)},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("r2: policy 'nobody': not in")
    assert "Traceback" not in done.stderr


def test_a_full_policy_is_served_measured_and_priced(tmp_path: Path, pool: Path):
    tiny = pytest.importorskip("r2.training.tiny")
    pytest.importorskip("torch", reason="needs the extra `train`")
    registry = Registry(tmp_path / "policies")
    words = ["Question: jump left twice Task: Translate 'jump left' I_JUMP I_TURN_LEFT solve"]
    card = PolicyCard(name="speck", kind="specialist", base="tiny")
    registry.create("speck", card, lambda folder: tiny.save_tiny(folder, words, seed=0))
    r2(
        "pool",
        "add",
        pool,
        "speck",
        "--endpoint",
        "policy:speck@v1",
        "--tier",
        "small",
        "--policies-dir",
        registry.root,
        "--measure",
        "--n",
        "2",
        "--skill",
        "scan_phrase",
    )
    config = load_pool(pool, registry.root)
    price = config.price("speck")
    assert price.output > 0
    assert "core-hour" in price.source
    assert set(config.models["speck"].profile) == {"scan_phrase"}
