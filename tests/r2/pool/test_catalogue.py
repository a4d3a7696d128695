"""Hosted models by name: what the catalogue makes of them, in a list of a pool file and in entries that are written
out."""

import importlib.metadata
import tomllib
from datetime import date
from pathlib import Path

import pytest

from r2.errors import ConfigError, PoolFileError
from r2.pool.calibrate import Calibration, write_profiles
from r2.pool.file import catalogue, listed, published_prices
from r2.pool.file.catalogue import entry_of, facts_of, parse_name, providers
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.file.entry_text import entry_text
from r2.pool.file.published_prices import is_same_model, named_in
from r2.pool.file.router_choice import router_entry
from r2.pool.file.starter import starter_names, starter_pool

DAY = date(2026, 11, 26)


def pool_of(folder: Path, text: str) -> PoolConfig:
    path = folder / "pool.toml"
    path.write_text(text, "utf-8")
    return load_pool(path)


def test_an_entry_has_what_the_price_list_and_the_table_say():
    entry = entry_of("openai/gpt-6-luna", DAY)
    assert entry["endpoint"] == "https://api.openai.com/v1"
    assert (entry["dialect"], entry["api_key_env"], entry["tier"]) == ("openai", "OPENAI_API_KEY", "small")
    assert (entry["context_tokens"], entry["max_output_tokens"]) == (922_000, 128_000)
    assert entry["price_usd_per_mtok"] == {
        "input": 0.1,
        "cached_input": 0.01,
        "cache_write": 0.125,
        "output": 0.5,
        "long": [{"above_tokens": 272_000, "input": 0.2, "cached_input": 0.02, "cache_write": 0.25, "output": 0.75}],
        "batch": {
            "input": 0.05,
            "cached_input": 0.005,
            "cache_write": 0.0625,
            "output": 0.25,
            "long": [
                {"above_tokens": 272_000, "input": 0.1, "cached_input": 0.01, "cache_write": 0.125, "output": 0.375}
            ],
        },
        "date": "2026-10-14",
        "source": "genai-prices 0.2.3, openai/gpt-6-luna",
    }


def test_one_model_that_thinks_and_does_not_is_two_entries():
    thinks, does_not = entry_of("openai/gpt-6-luna", DAY), entry_of("openai/gpt-6-luna@none", DAY)
    assert (thinks["sampling"], thinks.get("logprobs"), thinks["thinking_tokens"]) == (False, None, 4096)
    assert "sampling" not in does_not and "thinking_tokens" not in does_not
    assert (does_not["logprobs"], does_not["reasoning_effort"]) == (True, "none")
    assert entry_of("anthropic/claude-opus-5-5@max", DAY)["thinking_tokens"] == 32_768
    with pytest.raises(ConfigError, match=r"no reasoning effort 'hard'\. It knows: none, low, medium, high, xhigh"):
        entry_of("openai/gpt-6-luna@hard", DAY)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("openai/gpt-6-lunar", r"has no price for it\. Nearest names: openai/gpt-6-luna, .*Or give its price by hand"),
        ("opnai/gpt-6-luna", r"expected PROVIDER/MODEL\. Did you mean openai/gpt-6-luna\? Providers: openai, "),
        ("gpt-6-luna", r"expected PROVIDER/MODEL\."),
        ("mistral/mistral-large-latest", r"takes it for mistral/mistral-large, which may be another model\. Nearest"),
        ("gemini/gemini-3.8-flash-lite", r"takes it for gemini/gemini-3.8-flash, which may be another model"),
        ("openai/o1", r"openai/o1: the provider ended it on 2026-10-23\. Its successor is openai/gpt-5\.6-sol"),
    ],
)
def test_what_cannot_stand_for_a_model_is_refused_with_the_next_move(name: str, message: str):
    with pytest.raises(ConfigError, match=message):
        entry_of(name, DAY)


def test_a_name_with_a_day_behind_it_is_the_same_model_and_one_with_words_is_not():
    assert is_same_model("gpt-4-0613", "gpt-4")
    assert is_same_model("claude-opus-5-5-20261001", "claude-opus-5-5")
    assert is_same_model("accounts/fireworks/models/gpt-oss-20b", "gpt-oss-20b")
    assert not is_same_model("claude-opus-5-5", "claude-opus-5")
    assert not is_same_model("gemini-3.8-flash-lite", "gemini-3.8-flash")
    assert facts_of("anthropic", "claude-haiku-5-5-20261001") == facts_of("anthropic", "claude-haiku-5-5")
    assert facts_of("anthropic", "claude-haiku-5-6").context_tokens is None


def test_a_price_that_changes_on_a_day_is_that_of_the_day_and_has_an_end():
    before, after = (entry_of("gemini/gemini-3.8-flash", day)["price_usd_per_mtok"] for day in (DAY, date(2027, 1, 1)))
    assert (before["input"], before["until"], after["input"]) == (0.75, "2026-12-31", 1.5)
    assert "until" not in after


def test_every_model_of_a_tier_has_a_price_and_every_successor_is_known():
    for provider, facts in providers().items():
        for model in catalogue.tier_models(provider).values():
            assert entry_of(f"{provider}/{model}", DAY)["price_usd_per_mtok"]["output"] > 0
        for model in facts.models.values():
            assert model.successor is None or model.successor in facts.models


def test_the_table_knows_the_day_of_the_pinned_price_list():
    pinned = tomllib.loads((Path(catalogue.__file__).parent / "models.toml").read_text("utf-8"))["prices"]
    assert importlib.metadata.version("genai-prices") == pinned["release"]
    assert catalogue.price_date() == pinned["date"]


def test_a_list_of_names_is_a_pool_file(tmp_path: Path):
    pool = pool_of(tmp_path, 'models = ["openai/gpt-6-luna@none", "anthropic/claude-opus-5-5"]\n')
    assert [card.name for card in pool.roster().solvers] == ["openai/gpt-6-luna@none", "anthropic/claude-opus-5-5"]
    assert pool.router.decomposer == pool.router.allocator == "openai/gpt-6-luna@none"
    assert pool.price("openai/gpt-6-luna@none").for_prompt(300_000).output == 0.75
    assert pool.models["anthropic/claude-opus-5-5"].context_tokens == 1_000_000


def test_the_text_of_a_list_says_all_that_it_stood_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pool = pool_of(tmp_path, '# mine\nmodels = ["openai/gpt-6-luna"]\n[budget]\nmax_usd_per_day = 3.0  # enough\n')
    assert "# mine" in pool.text and "# enough" in pool.text and "models = [" not in pool.text
    (tmp_path / "stored.toml").write_text(pool.text, "utf-8")

    def no_list() -> str:
        raise AssertionError("the stored text needs no price list")

    monkeypatch.setattr(published_prices, "release", no_list)
    assert load_pool(tmp_path / "stored.toml").digest == pool.digest


def test_a_later_price_list_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = 'models = ["openai/gpt-6-luna"]\n'
    digest = pool_of(tmp_path, text).digest
    assert pool_of(tmp_path, text).digest == digest
    real = catalogue.priced

    def dearer(name: catalogue.Name, today: date) -> tuple[dict[str, object], int | None]:
        table, context = real(name, today)
        return {
            **table,
            "output": 0.6,
            "date": "2027-01-02",
            "source": "genai-prices 0.3.0, openai/gpt-6-luna",
        }, context

    monkeypatch.setattr(catalogue, "priced", dearer)
    later = pool_of(tmp_path, text)
    assert later.digest != digest
    assert later.models["openai/gpt-6-luna"].price_usd_per_mtok.date == "2027-01-02"


def test_a_table_overrides_a_listed_model_line_by_line(tmp_path: Path):
    pool = pool_of(
        tmp_path,
        """catalogue = ["openai/gpt-6-luna", "anthropic/claude-haiku-5-5"]

[router]
decomposer = "mine"
allocator = "openai/gpt-6-luna"

[models.mine]
endpoint = "https://example.org/v1"
tier = "small"
price_usd_per_mtok = {input = 1.0, output = 2.0, date = "2026-11-01", source = "made up"}

[models."openai/gpt-6-luna"]
tier = "large"
price_usd_per_mtok = {output = 0.4}
""",
    )
    luna = pool.models["openai/gpt-6-luna"]
    assert (luna.tier, luna.context_tokens, luna.price_usd_per_mtok.input) == ("large", 922_000, 0.1)
    assert luna.price_usd_per_mtok.output == 0.4
    assert luna.price_usd_per_mtok.source == "genai-prices 0.2.3, openai/gpt-6-luna; by hand: output"
    assert named_in(luna.price_usd_per_mtok.source) is None, "its price is the user's, and is not compared"
    assert set(pool.models) == {"mine", "openai/gpt-6-luna", "anthropic/claude-haiku-5-5"}
    assert pool.router.decomposer == "mine"


def test_a_model_without_a_price_is_listed_with_a_price_by_hand(tmp_path: Path):
    price = '{input = 1.0, output = 3.0, date = "2026-11-26", source = "their page"}'
    text = f'catalogue = ["openai/gpt-7"]\n[models."openai/gpt-7"]\nprice_usd_per_mtok = {price}\n'
    pool = pool_of(tmp_path, text)
    assert (pool.models["openai/gpt-7"].served_model, pool.price("openai/gpt-7").output) == ("gpt-7", 3.0)
    assert not pool.roster()["openai/gpt-7"].states_context


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = []\n", r"pool.toml: models: expected a list of names such as models = \["),
        ('models = ["openai/gpt-6-luna", 3]\n', "models: expected a list of names"),
        ('models = ["openai/gpt-6-luna", "openai/gpt-6-luna"]\n', "'openai/gpt-6-luna' is listed twice"),
        ('models = ["openai/gpt-6-lunar"]\n', r"pool.toml: models: openai/gpt-6-lunar: .*for it\. Nearest names"),
        (
            'models = ["openai/gpt-6-luna"]\n[models.x]\ntier = "small"\n',
            r"not valid TOML: .*Beside \[models.NAME\] tables the list of models is called `catalogue`",
        ),
        (
            '[router]\ndecomposer = "a"\nallocator = "a"\ncatalogue = ["openai/gpt-6-luna"]\n[models.a]\n',
            "router.catalogue: a list of models stands above the first",
        ),
        (
            '[router]\ndecomposer = "openai/o3"\nallocator = "openai/o3"\n[models."openai/o3"]\ntier = "small"\n',
            r'models.openai/o3.endpoint: missing; add it, or .* catalogue = \["openai/o3"\]',
        ),
        (
            'models = ["openai/gpt-6-luna"]\n[router]\ndecomposer = "x"\nallocator = "x"\n',
            "router.decomposer = 'x' is not a model of this pool",
        ),
    ],
)
def test_a_list_that_cannot_be_used_is_told_with_what_to_do(tmp_path: Path, text: str, message: str):
    with pytest.raises(PoolFileError, match=message):
        pool_of(tmp_path, text)


def test_a_starter_pool_is_good_with_any_of_the_keys_alone(tmp_path: Path):
    for provider, facts in providers().items():
        environ = {facts.api_key_env: "k"}
        pool = pool_of(tmp_path, starter_pool(environ, DAY))
        assert {table.api_key_env for table in pool.models.values()} == {facts.api_key_env}, provider
        tiers = [table.tier for table in pool.models.values()]
        assert tiers == list(catalogue.tier_models(provider)) and len(tiers) >= 2
        assert pool.router.allocator in pool.models
        assert "k" not in pool.text.split()


def test_a_starter_pool_of_several_keys_prefers_a_router_that_returns_logprobs():
    names = starter_names({"ANTHROPIC_API_KEY": "a", "OPENAI_API_KEY": "o", "GOOGLE_API_KEY": "g"})
    assert names == [
        "openai/gpt-6-luna@none",
        "openai/gpt-6.1-terra@low",
        "openai/gpt-6.1-sol@medium",
        "anthropic/claude-haiku-5-5@none",
        "anthropic/claude-sonnet-5-5@low",
        "anthropic/claude-opus-5-5@medium",
        "gemini/gemini-3.5-flash-lite@low",
        "gemini/gemini-3.8-flash@low",
        "gemini/gemini-4-argon@medium",
    ]
    entries = {name: entry_of(name, DAY) for name in names}
    assert router_entry(entries) == "openai/gpt-6-luna@none"
    without = {name: entry for name, entry in entries.items() if not name.startswith("openai/")}
    assert router_entry(without) == "anthropic/claude-haiku-5-5@none", "no logprobs: the cheapest that does not think"


def test_no_key_is_said_with_all_that_was_looked_for():
    with pytest.raises(ConfigError, match=r"Looked for OPENAI_API_KEY \(openai\), .*GEMINI_API_KEY or GOOGLE_API_KEY"):
        starter_names({"OPENAI_API_KEY": ""})


def test_addresses_are_taken_as_the_vendors_own_clients_take_them():
    environ = {
        "OPENAI_BASE_URL": "http://127.0.0.1:1/v1/",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:2",
        "GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:3/",
        "GOOGLE_API_KEY": "g",
    }
    luna = entry_of("openai/gpt-6-luna", DAY, environ=environ)
    haiku = entry_of("anthropic/claude-haiku-5-5", DAY, environ=environ)
    flash = entry_of("gemini/gemini-3.8-flash", DAY, environ=environ)
    assert luna["endpoint"] == "http://127.0.0.1:1/v1"
    assert haiku["endpoint"] == "http://127.0.0.1:2/v1"
    assert (flash["endpoint"], flash["api_key_env"]) == ("http://127.0.0.1:3/v1beta", "GOOGLE_API_KEY")
    assert entry_of("openai/gpt-6-luna", DAY)["endpoint"] == "https://api.openai.com/v1"


def test_the_text_of_an_entry_reads_back_as_the_entry():
    for name in (
        "openai/gpt-6-luna@none",
        "anthropic/claude-opus-5-5",
        "fireworks/accounts/fireworks/models/gpt-oss-20b",
    ):
        entry = entry_of(name, DAY)
        assert tomllib.loads(entry_text(name, entry))["models"][name] == entry
        assert parse_name(name).whole == name.partition("@")[0]
    assert listed.written_out(Path("x"), "", {"models": {}}, DAY) is None


def test_a_measured_profile_is_put_beside_a_list(tmp_path: Path):
    pool = pool_of(tmp_path, '# mine\nmodels = ["openai/gpt-6-luna"]  # cheap\n')
    measured = [Calibration("openai/gpt-6-luna", 4, {"add": 3}, 1.0, 100.0, 10.0, 0.01)]
    write_profiles(pool, measured, 4, 0.05)
    text = pool.path.read_text("utf-8")
    assert text.startswith('# mine\ncatalogue = ["openai/gpt-6-luna"]  # cheap\n')
    after = load_pool(pool.path)
    assert after.models["openai/gpt-6-luna"].profile == {"add": 0.75}
    assert after.price("openai/gpt-6-luna") == pool.price("openai/gpt-6-luna")
    write_profiles(after, measured, 4, 0.05)
    assert pool.path.read_text("utf-8") == text, "the table that is there is used"


def test_a_price_list_of_another_release_has_the_day_on_which_it_was_installed():
    installed = published_prices.as_of("0.0.1", "2020-01-01")
    assert installed > "2026-01-01" and date.fromisoformat(installed)
    assert published_prices.as_of(published_prices.release(), "2020-01-01") == "2020-01-01"
