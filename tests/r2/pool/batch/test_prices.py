"""What a call costs by batch, worked by hand."""

from pathlib import Path

import pytest

from r2.ledger import Usage, cost_usd
from r2.pool.batch.prices import asked_by_batch, batch_price
from r2.pool.file.config import PoolConfig, load_pool
from tests.support.providers.anthropic import HAIKU_45, Anthropic
from tests.support.providers.bill import Tokens, cost
from tests.support.providers.gemini import PRO_25, Gemini
from tests.support.providers.groq import GPT_OSS_20B, Groq
from tests.support.providers.imitation import Imitation, Model
from tests.support.providers.openai import GPT_6_LUNA, OpenAI
from tests.support.sent_batches import ENTRY, pool_of

LIVE = "input = 2.0, cached_input = 0.5, cache_write = 2.5, output = 8.0"
LONG = "long = [{above_tokens = 1000, input = 4.0, cached_input = 1.0, output = 12.0}]"


def pool_with(folder: Path, *, price: str = LIVE, lines: str = "", dialect: str = "openai") -> PoolConfig:
    path = folder / "pool.toml"
    path.write_text(
        f'[router]\ndecomposer = "one"\nallocator = "one"\n[models.one]\nendpoint = "https://x.org/v1"\n'
        f'dialect = "{dialect}"\ntier = "small"\n{lines}\n'
        f'price_usd_per_mtok = {{{price}, date = "2026-11-01", source = "by hand"}}\n',
        "utf-8",
    )
    return load_pool(path)


def rates(pool: PoolConfig) -> tuple[float, float, float | None, float]:
    price = batch_price(pool, "one")
    return price.input, price.cached_input, price.cache_write, price.output


def test_without_rates_of_its_own_a_batch_costs_half(tmp_path: Path):
    assert rates(pool_with(tmp_path)) == (1.0, 0.25, 1.25, 4.0)
    assert batch_price(pool_with(tmp_path), "one").source == "by hand, batch at 0.5 of it"


def test_the_entry_says_another_share(tmp_path: Path):
    assert rates(pool_with(tmp_path, lines="batch_price = 0.25")) == (0.5, 0.125, 0.625, 2.0)
    named = LIVE + ", batch = {input = 0.9, output = 3.0}"
    assert rates(pool_with(tmp_path, price=named, lines="batch_price = 0.25")) == (0.5, 0.125, 0.625, 2.0)


def test_xai_takes_a_fifth_off(tmp_path: Path):
    assert rates(pool_with(tmp_path, dialect="xai")) == pytest.approx((1.6, 0.4, 2.0, 6.4))


@pytest.mark.parametrize("dialect", ["groq", "gemini"])
def test_where_the_discounts_do_not_add_up_cached_tokens_cost_what_they_cost_live(dialect: str, tmp_path: Path):
    assert rates(pool_with(tmp_path, dialect=dialect)) == (1.0, 0.5, 1.25, 4.0)
    named = LIVE + ", batch = {input = 0.9, output = 3.0}"
    assert rates(pool_with(tmp_path, price=named, dialect=dialect)) == (0.9, 0.5, None, 3.0)


def test_rates_of_the_price_list_are_taken_as_they_are(tmp_path: Path):
    named = LIVE + ", batch = {input = 0.9, cached_input = 0.2, cache_write = 1.0, output = 3.0}"
    assert rates(pool_with(tmp_path, price=named)) == (0.9, 0.2, 1.0, 3.0)
    bare = LIVE + ", batch = {input = 0.9, output = 3.0}"
    assert rates(pool_with(tmp_path, price=bare)) == (0.9, 0.9, None, 3.0)  # no word of the cache: as fresh


def test_long_prompts_have_batch_prices_too(tmp_path: Path):
    usage = Usage(2000, 0, 100)
    shared = batch_price(pool_with(tmp_path, price=f"{LIVE}, {LONG}"), "one")
    assert cost_usd(shared, usage) == pytest.approx((2000 * 2.0 + 100 * 6.0) / 1e6)
    own = "batch = {input = 1.0, output = 4.0, long = [{above_tokens = 1000, input = 1.5, output = 5.0}]}"
    listed = batch_price(pool_with(tmp_path, price=f"{LIVE}, {LONG}, {own}"), "one")
    assert cost_usd(listed, usage) == pytest.approx((2000 * 1.5 + 100 * 5.0) / 1e6)
    older = batch_price(pool_with(tmp_path, price=f"{LIVE}, {LONG}, batch = {{input = 0.5, output = 2.0}}"), "one")
    assert cost_usd(older, usage) == pytest.approx((2000 * 1.0 + 100 * 3.0) / 1e6)  # a quarter, as of the short ones


def test_neither_key_makes_another_run_and_a_share_of_nothing_is_refused(tmp_path: Path):
    plain = pool_with(tmp_path).digest
    assert pool_with(tmp_path, lines='batch_price = 0.25\nbatch_model = "b"').digest == plain
    with pytest.raises(Exception, match="batch_price"):
        pool_with(tmp_path, lines="batch_price = 0")


def test_what_a_job_asks_for(tmp_path: Path):
    table = pool_with(tmp_path).models["one"]
    assert asked_by_batch(table, "served") == "served"
    assert asked_by_batch(pool_with(tmp_path, lines='batch_model = "b"').models["one"], "served") == "b"


@pytest.mark.parametrize(
    ("make", "model"), [(OpenAI, GPT_6_LUNA), (Anthropic, HAIKU_45), (Gemini, PRO_25), (Groq, GPT_OSS_20B)]
)
@pytest.mark.parametrize("n_prompt", [2_000, 300_000])
def test_our_price_is_the_imitations_own_to_the_cent(
    make: type[Imitation], model: Model, n_prompt: int, tmp_path: Path
):
    server = make()
    assert server.batches is not None
    price = batch_price(pool_of(server, model.name, tmp_path), ENTRY)
    has_writes = model.prices.base.cache_write != model.prices.base.input
    tokens = Tokens(fresh=n_prompt - 1500, cached=1000, written=500 if has_writes else 0, thinking=70, answer=30)
    billed = cost(server.batches.prices(model.name, model.prices), tokens)
    usage = Usage(tokens.prompt, 1000, 100, cache_write_tokens=tokens.written)
    assert cost_usd(price, usage) == pytest.approx(float(billed), rel=1e-12)
