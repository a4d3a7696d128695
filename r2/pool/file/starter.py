"""The first pool file, for the keys that are set: what `r2 pool init` writes.

Three tiers of each provider whose key's variable is set, as the catalogue names them. How hard they think goes by tier
(ours): the small one as little as it can, the medium one little, the large one with medium effort.
"""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Final

from r2.errors import ConfigError
from r2.pool.file import catalogue
from r2.pool.file.entry_text import entry_text
from r2.pool.file.published_prices import PACKAGE, release
from r2.pool.file.router_choice import router_text

_EFFORTS: Final[Mapping[str, tuple[str, ...]]] = {
    "small": ("none", "minimal", "low"),
    "medium": ("low", "none"),
    "large": ("medium", "low"),
}
"""Tier -> efforts to choose from, the first that the model knows."""


def starter_names(environ: Mapping[str, str], only: Collection[str] = ()) -> list[str]:
    """Names of the catalogue for the keys that are set, of the providers in `only` where it names some. ConfigError,
    with all that was looked for, where none is set, or not each that was named."""
    known = catalogue.providers()
    for provider in only:
        if provider not in known:
            raise ConfigError(f"--provider {provider}: the catalogue knows {', '.join(known)}.")
        if catalogue.key_env_in(known[provider], environ) is None:
            raise ConfigError(f"--provider {provider}: its key is not set: {' or '.join(known[provider].key_envs)}.")
    names = []
    for provider, facts in known.items():
        if catalogue.key_env_in(facts, environ) is None or (only and provider not in only):
            continue
        for tier, model in catalogue.tier_models(provider).items():
            efforts = catalogue.facts_of(provider, model).efforts
            effort = next((effort for effort in _EFFORTS[tier] if effort in efforts), None)
            names.append(f"{provider}/{model}" + (f"@{effort}" if effort else ""))
    if not names:
        looked_for = ", ".join(f"{' or '.join(facts.key_envs)} ({name})" for name, facts in known.items())
        raise ConfigError(
            f"No provider's key is set. Looked for {looked_for}. Set one (export OPENAI_API_KEY=...) and try again. "
            "Models of your own need none: copy pools/hosted.example.toml, or take pools/local.toml."
        )
    return names


def starter_pool(environ: Mapping[str, str], today: date, only: Collection[str] = ()) -> str:
    """The text of the file: names of variables, never a key. Errors as `starter_names`."""
    entries = {name: catalogue.entry_of(name, today, environ=environ) for name in starter_names(environ, only)}
    head = (
        f"# Written by `r2 pool init` on {today}. Every line may be changed; docs/models.md says what each means.\n"
        f"# Prices are those of {PACKAGE} {release()} as of {catalogue.price_date()}, limits and abilities those of\n"
        f"# our table of {catalogue.table_date()}. `r2 pool prices --check` says what has changed since.\n"
    )
    budget = "[budget]\nmax_usd_per_day = 10.0            # all processes of this host together, per UTC day\n"
    return "\n".join([head, router_text(entries), budget, *(entry_text(n, entry) for n, entry in entries.items())])
