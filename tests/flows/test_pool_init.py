"""`r2 pool init`, `r2 pool add` of the catalogue's models, and `r2 pool prices`."""

from datetime import date
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli.app import app
from r2.errors import ConfigError, PoolFileError
from r2.pool.file import catalogue
from r2.pool.file.config import load_pool
from tests.support.paths import ROOT

KEYS = {facts.api_key_env: None for facts in catalogue.providers().values()} | {"GOOGLE_API_KEY": None}
ADDRESSES = {facts.base_url_env: None for facts in catalogue.providers().values() if facts.base_url_env}


def r2(*args: str | Path, **environ: str) -> Result:
    """The command with these variables and none other of a provider."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={**KEYS, **ADDRESSES, **environ})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_writes_a_pool_for_the_keys_that_are_set(folder: Path):
    done = r2("pool", "init", OPENAI_API_KEY="sk-secret-1", OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    assert done.exit_code == 0 and "openai/gpt-6-luna@none decomposes and allocates" in done.output
    text = (folder / "pool.toml").read_text("utf-8")
    assert "sk-secret-1" not in text
    assert {table.endpoint for table in load_pool("pool.toml").models.values()} == {"http://127.0.0.1:9/v1"}
    with pytest.raises(ConfigError, match=r"pool.toml: is there already, and is left as it is"):
        r2("pool", "init", OPENAI_API_KEY="sk-secret-1")
    assert (folder / "pool.toml").read_text("utf-8") == text


def test_init_without_a_key_says_what_it_looked_for_and_writes_nothing(folder: Path):
    with pytest.raises(ConfigError, match=r"No provider's key is set\. Looked for OPENAI_API_KEY \(openai\)"):
        r2("pool", "init")
    with pytest.raises(ConfigError, match=r"--provider anthropic: its key is not set: ANTHROPIC_API_KEY"):
        r2("pool", "init", "--provider", "anthropic", OPENAI_API_KEY="k")
    with pytest.raises(ConfigError, match=r"--provider openia: the catalogue knows openai, "):
        r2("pool", "init", "--provider", "openia", OPENAI_API_KEY="k")
    assert list(folder.iterdir()) == []
    r2("pool", "init", "a.toml", "--provider", "anthropic", OPENAI_API_KEY="k", ANTHROPIC_API_KEY="k")
    assert {table.dialect for table in load_pool("a.toml").models.values()} == {"anthropic"}


def test_init_copies_a_shipped_pool_file_which_then_takes_further_entries(folder: Path):
    done = r2("pool", "init", "mine.toml", "--copy-of", "pools/simulated.toml")
    assert "mine.toml: 10 models, a copy of pools/simulated.toml" in done.output
    assert (folder / "mine.toml").read_bytes() == (ROOT / "pools" / "simulated.toml").read_bytes()
    entry = ["planner", "--endpoint", "policy:tiny-decomposer@v3", "--tier", "small", "--router-only"]
    r2("pool", "add", "mine.toml", *entry, "--price-input", "0.01", "--price-output", "0.02")
    assert len(load_pool("mine.toml").models) == 11
    with pytest.raises(ConfigError, match=r"mine.toml: is there already"):
        r2("pool", "init", "mine.toml", "--copy-of", "pools/local.toml")
    with pytest.raises(ConfigError, match=r"Leave --provider out"):
        r2("pool", "init", "other.toml", "--copy-of", "pools/local.toml", "--provider", "openai")
    with pytest.raises(ConfigError, match=r"none.toml: no such pool file"):
        r2("pool", "init", "other.toml", "--copy-of", "none.toml")
    assert not (folder / "other.toml").exists()


def test_add_takes_models_of_the_catalogue_and_keeps_comments(folder: Path):
    r2("pool", "init", ANTHROPIC_API_KEY="k")
    path = folder / "pool.toml"
    path.write_text("# mine\n" + path.read_text("utf-8"), "utf-8")
    done = r2("pool", "add", "openai/gpt-6-luna", "groq/openai/gpt-oss-20b@low")
    assert "as of 2026-10-14 (genai-prices 0.2.3, openai/gpt-6-luna), context 922000 tokens" in done.output
    assert path.read_text("utf-8").startswith("# mine\n")
    models = load_pool(path).models
    assert models["openai/gpt-6-luna"].price_usd_per_mtok.input == 0.1
    assert models["groq/openai/gpt-oss-20b@low"].served_model == "openai/gpt-oss-20b"
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"model 'openai/gpt-6-luna' is there already"):
        r2("pool", "add", "pool.toml", "openai/gpt-6-luna")
    with pytest.raises(ConfigError, match=r"Nearest names: .*: r2 pool add openai/gpt-9 --price-input"):
        r2("pool", "add", "openai/gpt-9")
    with pytest.raises(ConfigError, match=r"--endpoint http://x/v1 needs --tier"):
        r2("pool", "add", "new", "--endpoint", "http://x/v1", "--price-input", "1", "--price-output", "1")
    with pytest.raises(ConfigError, match=r"name what to add"):
        r2("pool", "add", "pool.toml")
    assert path.read_bytes() == before


def test_add_takes_a_price_by_hand_for_a_model_that_nobody_knows(folder: Path):
    (folder / "list.toml").write_text('catalogue = ["openai/gpt-6-luna"]  # cheap\n', "utf-8")
    by_hand = ["--price-input", "1", "--price-output", "3", "--tier", "large", "--context-tokens", "64000"]
    r2("pool", "add", "list.toml", "openai/gpt-9", *by_hand)
    table = load_pool(folder / "list.toml").models["openai/gpt-9"]
    assert (table.tier, table.context_tokens, table.price_usd_per_mtok.output) == ("large", 64_000, 3.0)
    assert (table.endpoint, table.api_key_env) == ("https://api.openai.com/v1", "OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="together, for one NAME at a time"):
        r2("pool", "add", "list.toml", "openai/a", "openai/b", "--price-input", "1", "--price-output", "3")


def test_add_to_a_file_that_lists_its_models_adds_to_the_list(folder: Path):
    path = folder / "list.toml"
    path.write_text('# mine\nmodels = ["openai/gpt-6-luna@none"]  # cheap\n', "utf-8")
    r2("pool", "add", path, "anthropic/claude-haiku-5-5")
    assert path.read_text("utf-8") == (
        '# mine\nmodels = ["openai/gpt-6-luna@none", "anthropic/claude-haiku-5-5"]  # cheap\n'
    )


def test_prices_check_ends_with_1_where_a_price_is_another(folder: Path, monkeypatch: pytest.MonkeyPatch):
    r2("pool", "init", OPENAI_API_KEY="k")
    assert r2("pool", "prices", "--check").exit_code == 0
    real = catalogue.priced

    def dearer(name: catalogue.Name, today: date) -> tuple[dict[str, object], int | None]:
        table, context = real(name, today)
        return {**table, "input": 9.0, "date": "2027-01-02", "source": f"genai-prices 0.3.0, {name.whole}"}, context

    monkeypatch.setattr(catalogue, "priced", dearer)
    done = r2("pool", "prices", "--check")
    assert done.exit_code == 1 and "3 of 3 prices differ" in done.output and "2027-01-02" in done.output
    assert r2("pool", "prices").exit_code == 0
    assert r2("pool", "prices", "--write").exit_code == 0
    assert r2("pool", "prices", "--check").exit_code == 0
    assert load_pool("pool.toml").price("openai/gpt-6-luna@none").input == 9.0


def test_a_run_past_the_end_of_a_model_stops_before_its_first_call_and_the_dry_run_says_so(folder: Path):
    (folder / "q.jsonl").write_text('{"id": "a", "question": "Why?"}\n', "utf-8")
    (folder / "old.toml").write_text(
        """[router]
decomposer = "o1"
allocator = "o1"
[models.o1]
endpoint = "https://api.openai.com/v1"
dialect = "openai"
tier = "small"
served_model = "o1"
retires = "2026-10-23"
price_usd_per_mtok = {input = 1.0, output = 2.0, date = "2026-10-01", source = "by hand"}
""",
        "utf-8",
    )
    done = r2("answer", "q.jsonl", "--pool", "old.toml", "--dry-run")
    assert done.exit_code == 0
    assert "The run would stop before its first call: o1: the provider ended this model on 2026-10-23" in done.output
    with pytest.raises(PoolFileError, match=r"o1: the provider ended this model .* successor is openai/gpt-5.6-sol"):
        r2("answer", "q.jsonl", "--pool", "old.toml")
    assert not (folder / "lake").exists()
