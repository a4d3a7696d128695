from pathlib import Path

import pytest

from r2.errors import PoolFileError
from r2.pool.file.config import load_pool
from tests.support.paths import ROOT

GOOD = """[router]
decomposer = "a"
allocator = "a"

[models.a]
endpoint = "https://example.org/v1"
tier = "small"
price_usd_per_mtok = {input = 1.0, output = 2.0, date = "2026-11-01", source = "made up"}

[models.b]
endpoint = "https://example.org/v1"
tier = "large"
api_key_env = "R2_TEST_KEY"
price_usd_per_mtok = {input = 3.0, cached_input = 0.3, output = 9.0, date = "2026-11-01", source = "made up"}
"""


def pool_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pool.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_good_file_gives_a_roster_cheapest_first(tmp_path: Path):
    pool = load_pool(pool_file(tmp_path, GOOD))
    assert [card.name for card in pool.roster().solvers] == ["a", "b"]
    assert pool.price("b").cached_input == 0.3
    assert pool.price("a").cached_input == 1.0, "no cached price: cached tokens cost the same"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('tier = "small"', 'tier = "small"\nmax_rpm = 3', r"pool.toml:8: models.a.max_rpm: unknown key"),
        ('tier = "small"', 'tier = "small"\nmax_token_per_minute = 3', r"Did you mean 'max_tokens_per_minute'"),
        (
            'price_usd_per_mtok = {input = 1.0, output = 2.0, date = "2026-11-01", source = "made up"}\n',
            "",
            r"pool.toml:5: models.a.price_usd_per_mtok: missing price",
        ),
        ('tier = "small"', 'tier = "tiny"', r"pool.toml:7: models.a.tier"),
        ("input = 1.0", "input = -1.0", r"pool.toml:8: models.a.price_usd_per_mtok.input"),
        ('allocator = "a"', 'allocator = "zz"', r"router.allocator = 'zz' is not a model of this pool"),
        (
            'allocator = "a"',
            'allocator = "a"\nsecond_decomposer = "zz"',
            r"router.second_decomposer = 'zz' is not a model of this pool",
        ),
        ("[router]", "[router", r"not valid TOML"),
        ("[models.b]", "[models.b.2]", r'a name with a dot needs quotes: \[models."b.2"\]'),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str):
    with pytest.raises(PoolFileError, match=message):
        load_pool(pool_file(tmp_path, GOOD.replace(old, new, 1)))


def test_an_unset_key_variable_stops_before_anything_is_called(tmp_path: Path):
    pool = load_pool(pool_file(tmp_path, GOOD))
    with pytest.raises(
        PoolFileError, match=r"pool.toml:13: model 'b' reads its key from \$R2_TEST_KEY, which is not set"
    ):
        pool.check_keys({})
    pool.check_keys({"R2_TEST_KEY": "k"})


def test_limits_do_not_change_a_pools_identity_but_prices_do(tmp_path: Path):
    digest = load_pool(pool_file(tmp_path, GOOD)).digest
    assert (
        load_pool(pool_file(tmp_path, GOOD.replace('tier = "large"', 'tier = "large"\nmax_in_flight = 3'))).digest
        == digest
    )
    assert load_pool(pool_file(tmp_path, GOOD.replace("output = 9.0", "output = 8.0"))).digest != digest


@pytest.mark.parametrize("path", sorted((ROOT / "pools").glob("*.toml")), ids=lambda p: p.name)
def test_shipped_pool_files_are_good(path: Path):
    assert load_pool(path).roster().solvers
