"""Which entries go by batch, and what a pool file, a flag or a deadline is told that cannot be."""

from pathlib import Path

import pytest

from r2.call import Purpose
from r2.errors import ConfigError, PoolFileError
from r2.methods.batch_estimate import batch_estimate
from r2.methods.estimate import CallEstimate
from r2.pool.batch.choosing import batch_choices
from r2.pool.file.config import PoolConfig, load_pool

PRICE = 'price_usd_per_mtok = {input = 1.0, output = 2.0, date = "2026-11-01", source = "made up"%s}'
BATCH = ", batch = {input = 0.5, output = 1.0}"


def pool(
    folder: Path, *, lane: str = "", batch: str = BATCH, endpoint: str = "https://api.openai.com/v1"
) -> PoolConfig:
    """An entry `can` at OpenAI, and an entry `local` that is no provider's."""
    (folder / "pool.toml").write_text(
        f'''
[router]
decomposer = "local"
allocator = "local"
[models.can]
endpoint = "{endpoint}"
tier = "small"
{PRICE % batch}
{lane}
[models.local]
endpoint = "simulated:local"
tier = "small"
{PRICE % ""}
simulated = {{ability = 1.0}}
''',
        "utf-8",
    )
    return load_pool(folder / "pool.toml")


def test_all_that_can_go_by_batch_and_the_others_are_named(tmp_path: Path):
    chosen, left = batch_choices(pool(tmp_path), "batch", None)
    assert list(chosen) == ["can"]
    assert (chosen["can"].price.input, chosen["can"].price.output, chosen["can"].routes) == (0.5, 1.0, False)
    assert left == ["local stays live: simulated:local is no provider's address: only those have batch endpoints."]


def test_the_pool_file_says_it_of_an_entry_and_then_of_its_routing_calls_too(tmp_path: Path):
    by_file = pool(tmp_path, lane='lane = "batch"')
    chosen, left = batch_choices(by_file, None, 7200.0)
    assert chosen["can"].routes and left == []
    assert batch_choices(by_file, "live", None) == ({}, [])
    assert batch_choices(pool(tmp_path, lane='lane = "live"'), None, None) == ({}, [])


def test_without_batch_rates_in_the_file_a_batch_costs_half(tmp_path: Path):
    chosen, _ = batch_choices(pool(tmp_path, batch=""), "batch", None)
    assert (chosen["can"].price.input, chosen["can"].price.output) == (0.5, 1.0)


def test_a_recording_of_a_pool_with_batch_lanes_is_replayed(tmp_path: Path):
    recorded = pool(tmp_path, lane='lane = "batch"')
    replay = {name: one.model_copy(update={"endpoint": "recording:x"}) for name, one in recorded.models.items()}
    tables = recorded.tables.model_copy(update={"models": replay})
    assert batch_choices(PoolConfig(recorded.path, tables, recorded.text), None, None) == ({}, [])


def test_the_lane_is_no_part_of_a_runs_identity(tmp_path: Path):
    assert pool(tmp_path).digest == pool(tmp_path, lane='lane = "batch"').digest


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"endpoint": "http://127.0.0.1:8000/v1"}, "we know no batch endpoint of"),
        ({"endpoint": "https://api.x.ai/v1"}, "we know no batch endpoint of"),
        ({"endpoint": "simulated:can"}, "is no provider's address"),
    ],
)
def test_an_entry_that_cannot_is_refused_by_name(tmp_path: Path, fields: dict[str, str], said: str):
    with pytest.raises(PoolFileError, match=f'models.can.lane = "batch", but .*{said}'):
        batch_choices(pool(tmp_path, lane='lane = "batch"', **fields), None, None)
    with pytest.raises(ConfigError, match=f"no entry of .* can go by batch.*can stays live: .*{said}"):
        batch_choices(pool(tmp_path, **fields), "batch", None)


def test_a_deadline_that_no_job_can_keep_or_that_has_no_job_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="--deadline: 300 s is shorter than 600 s"):
        batch_choices(pool(tmp_path), "batch", 300.0)
    with pytest.raises(ConfigError, match="no entry goes by batch"):
        batch_choices(pool(tmp_path), "live", 7200.0)


def test_a_dry_run_has_both_prices_and_the_depth_of_a_question(tmp_path: Path):
    chosen, _ = batch_choices(pool(tmp_path), "batch", None)
    asked: list[tuple[Purpose, str, int]] = [("decompose", "can", 10), ("solve", "can", 25), ("solve", "local", 5)]
    calls = [CallEstimate(purpose, model, n, 1000 * n, 100 * n, n * 1.2e-3) for purpose, model, n in asked]
    estimate = batch_estimate(calls, chosen, 10)
    assert estimate.live_usd == pytest.approx(40 * 1.2e-3)
    assert estimate.usd == pytest.approx(15 * 1.2e-3 + 25 * 0.6e-3), "the decomposer stays live"
    assert (estimate.n_calls, estimate.depth) == (25, 3)
