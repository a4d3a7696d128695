from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.errors import ConfigError, PoolFileError
from r2.pool.file.config import load_pool
from r2.pool.file.new_entry import adding
from r2.settings import load_settings
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
        ('tier = "small"', 'tier = "small"\nprofile_rows = 0', r"pool.toml:8: models.a.profile_rows: .* 1 or more"),
        ('tier = "small"', 'tier = "small"\nprofile_rows = "many"', r"profile_rows: expected a number of questions"),
        (
            'tier = "small"',
            'tier = "small"\nprofile = {add = 1.0}\nprofile_rows = {add = 0}',
            r"pool.toml:9: models.a.profile_rows: expected a number of questions, 1 or more, or one by skill",
        ),
        (
            'tier = "small"',
            'tier = "small"\nprofile = {add = 1.0}\nprofile_rows = {add = 8, addd = 8}',
            r"pool.toml:9: models.a.profile_rows: the profile has no addd",
        ),
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


SECRET = "hunter2-4711"
ENDPOINT = 'endpoint = "https://example.org/v1"\ntier = "small"'


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (
            f'endpoint = "https://user:{SECRET}@example.org/v1"',
            r"pool.toml:6: models.a.endpoint: the address holds a user",
        ),
        (f'endpoint = "https://{SECRET}@example.org/v1"', r"pool.toml:6: models.a.endpoint: the address holds a user"),
        (f'endpoint = "https://example.org/v1?key={SECRET}"', r"pool.toml:6: .* a key in its query \(key=...\)"),
        (f'endpoint = "https://example.org/v1?v=2&api_key={SECRET}"', r"pool.toml:6: .* \(api_key=...\)"),
        (f'endpoint = "https://example.org/v1?X-Amz-Signature={SECRET}"', r"\(X-Amz-Signature=...\)"),
        (
            f'endpoint = "ftp://user:{SECRET}@example.org/v1"',
            r"pool.toml:6: models.a.endpoint: the address holds a user",
        ),
        (
            f'endpoint = "https://example.org/v1" # was https://u:{SECRET}@x.org',
            r"pool.toml:6: an address with a user name",
        ),
        (
            f'api_key_env = "sk-{SECRET}"\nendpoint = "https://x.org/v1"',
            r"pool.toml:6: models.a.api_key_env: not the name",
        ),
        (f'api_key_env = ["{SECRET}"]\nendpoint = "https://x.org/v1"', r"pool.toml:6: models.a.api_key_env"),
        (f'extra_body = {{api_key = "{SECRET}"}}\nendpoint = "https://x.org/v1"', r"the field 'api_key' holds a key"),
        (f'extra_body = "{SECRET}"\nendpoint = "https://x.org/v1"', r"pool.toml:6: models.a.extra_body"),
    ],
)
def test_a_secret_in_a_pool_file_is_refused_without_being_repeated(tmp_path: Path, new: str, message: str):
    text = GOOD.replace('endpoint = "https://example.org/v1"\ntier = "small"', f'{new}\ntier = "small"')
    with pytest.raises(PoolFileError, match=message) as told:
        load_pool(pool_file(tmp_path, text))
    assert SECRET not in str(told.value)


@pytest.mark.parametrize(
    "new",
    [
        'endpoint = "https://example.org/v1?api-version=2024-10-21"',
        'endpoint = "https://example.org/@team/v1"',
        'extra_body = {max_tokens = 16, stop_token_ids = [1], keyword = "y"}\nendpoint = "https://x.org/v1"',
        'api_key_env = "OPENAI_API_KEY_2"\nendpoint = "https://x.org/v1"  # https://x.org/a@b.html, mail: me@x.org',
    ],
)
def test_what_only_looks_like_a_secret_is_not_refused(tmp_path: Path, new: str):
    text = GOOD.replace('endpoint = "https://example.org/v1"\ntier = "small"', f'{new}\ntier = "small"')
    assert load_pool(pool_file(tmp_path, text)).models["a"].tier == "small"


@pytest.mark.parametrize(
    "hostile",
    [
        "x = " + "[" * 5000 + "]" * 5000,
        "x = " + "[" * 40 + "]" * 40,
        "x = " + "{a = " * 200 + "1" + "}" * 200,
        "[" + ".".join("a" * 3000) + "]\nb = 1",
        "x = " + "9" * 10_000,
        "# " + "x" * (5 * 1024 * 1024),
    ],
)
def test_toml_that_is_nested_or_long_beyond_reason_is_one_message(tmp_path: Path, hostile: str):
    with pytest.raises(PoolFileError, match=r"pool.toml: not valid TOML: ") as told:
        load_pool(pool_file(tmp_path, GOOD + hostile))
    assert len(str(told.value)) < 400
    with pytest.raises(ConfigError, match=r"pool.toml: cannot be read as TOML: "):
        load_settings(pool_file(tmp_path, hostile), {})
    with (
        pytest.raises(PoolFileError, match=r"pool.toml: not valid TOML: "),
        adding(pool_file(tmp_path, GOOD + hostile), {"c": {}}, None),
    ):
        pytest.fail("nothing was to be added")


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("[]{}=.,\"'ab1\n# -"), max_size=120))
def test_any_text_is_a_pool_or_one_message(tmp_path_factory: pytest.TempPathFactory, text: str):
    path = pool_file(tmp_path_factory.mktemp("pool"), text)
    with pytest.raises(PoolFileError):  # no such text holds a router and a model with a price
        load_pool(path)


def test_a_name_that_would_steer_the_terminal_is_refused(tmp_path: Path):
    text = GOOD.replace("[models.b]", '[models."b\\u001b[2J"]')
    with pytest.raises(PoolFileError, match=r"'b\\x1b\[2J' holds a control character"):
        load_pool(pool_file(tmp_path, text))
