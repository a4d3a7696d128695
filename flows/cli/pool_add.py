"""`r2 pool add`: new entries in a pool file: hosted models of the catalogue by name, and models of the user's own."""

import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import options
from flows.cli.console import print_measured, say
from flows.cli.options import MONEY, POOL, ROUTER, flag
from flows.cli.pool import state_dir
from r2.errors import ConfigError, EndpointError
from r2.pool.file.config import PoolConfig, endpoint_kind

STARTED = "pool.toml"
"""What `r2 pool init` writes, and `r2 pool add` adds to where no pool file is named."""


def add(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[POOL.toml] NAME...",
            help=f"Pool file, default {STARTED}. Then models of the catalogue, as PROVIDER/MODEL or "
            "PROVIDER/MODEL@EFFORT. With --endpoint: the name of one new entry.",
        ),
    ],
    endpoint: Annotated[
        str | None,
        flag(
            POOL,
            "--endpoint",
            metavar="ENDPOINT",
            help="Where a model is that the catalogue does not have: policy:NAME, policy:NAME@VERSION, policy:FOLDER, "
            "local:NAME, local:FILE.gguf, or http(s)://host/v1.",
            default="the catalogue's",
        ),
    ] = None,
    tier: Annotated[
        str | None,
        flag(
            POOL,
            "--tier",
            metavar="TIER",
            help="Size class: small, medium or large. With --endpoint it must be given.",
            default="the catalogue's",
        ),
    ] = None,
    seed: options.PlainSeed = 0,
    models_dir: options.PlainModelsDir = options.DEFAULT_MODELS,
    served_model: Annotated[
        str,
        flag(
            POOL,
            "--served-model",
            metavar="NAME",
            help="The model field that is sent to a URL.",
            default="the entry's name, or the catalogue's",
        ),
    ] = "",
    prompt_mode: Annotated[
        str | None,
        flag(
            POOL,
            "--prompt-mode",
            metavar="MODE",
            help="How the entry is asked: direct, cot, bare or program.",
            default="the policy's own, else direct",
        ),
    ] = None,
    context_tokens: Annotated[
        int | None,
        flag(
            POOL,
            "--context-tokens",
            metavar="N",
            help="Context length of the entry's server: what does not fit is not sent to it.",
            min=256,
            default="2048 for servers that r2 starts, else the catalogue's, else not known",
        ),
    ] = None,
    calls_in_flight: Annotated[
        int | None,
        flag(
            POOL,
            "--calls-in-flight",
            metavar="N",
            help="Calls to the entry at once: its max_in_flight in the pool file.",
            min=1,
            default="4 for llama.cpp, else 64",
        ),
    ] = None,
    api_key_env: Annotated[
        str | None,
        flag(
            POOL,
            "--api-key-env",
            metavar="VARIABLE",
            help="Name of the environment variable that holds the key.",
            default="the catalogue's, else none",
        ),
    ] = None,
    skill: Annotated[
        list[str] | None,
        flag(
            POOL,
            "--skill",
            metavar="NAME",
            help="A skill to measure. With --measure; NAME=ACCURACY states it instead. Repeatable.",
            default="all",
        ),
    ] = None,
    measure: Annotated[
        bool,
        flag(
            POOL, "--measure", help="Measure the price (of what this machine computes) and the profile, as calibrate."
        ),
    ] = False,
    n: Annotated[int, flag(POOL, "--n", metavar="N", help="Questions per skill. With --measure.", min=1)] = 20,
    router_only: Annotated[
        bool,
        flag(ROUTER, "--router-only", help="The entry decomposes or allocates, and is given no subtasks."),
    ] = False,
    policies_dir: options.PlainPoliciesDir = options.DEFAULT_POLICIES,
    price_input: Annotated[
        float | None,
        flag(MONEY, "--price-input", metavar="USD", help="Price of a million prompt tokens.", min=0),
    ] = None,
    price_output: Annotated[
        float | None,
        flag(MONEY, "--price-output", metavar="USD", help="Price of a million generated tokens.", min=0),
    ] = None,
    price_source: Annotated[
        str, flag(MONEY, "--price-source", metavar="TEXT", help="Where the price was read.")
    ] = "given to r2 pool add",
    core_hour_usd: options.CoreHourUsd = 0.05,
) -> None:
    """Write new entries into a pool file, with their prices.

    Hosted models get price, context and what they take from the catalogue. Comments stay. A file that would not be
    good is not written.

    Examples:

        r2 pool add openai/gpt-6-luna@none anthropic/claude-opus-5-5
        r2 pool add pools/local.toml planner --endpoint policy:decomposer --tier small --measure
        r2 pool add my.toml big --endpoint https://host/v1 --tier large --price-input 2 --price-output 8
    """
    import asyncio

    from r2.pool.calibrate import price_of_calibration, write_profiles
    from r2.pool.file.new_entry import adding
    from tasks.evaluation.calibrate_once import calibrate_once

    pool, names = _words(words)
    given, asked = _skills(skill or [], may_measure=measure)
    price = _price(names, price_input, price_output, price_source)
    flags: dict[str, Any] = {
        "served_model": served_model,
        "tier": tier,
        "prompt_mode": prompt_mode,
        "api_key_env": api_key_env,
        "context_tokens": context_tokens,
        "max_in_flight": calls_in_flight,
        "profile": given,
        "solver": False if router_only else None,
    }
    by_hand = {key: value for key, value in flags.items() if value not in ("", None, {})}
    if endpoint is not None:
        if len(names) != 1:
            raise ConfigError(f"--endpoint {endpoint}: give one NAME for it, not {', '.join(names)}.")
        entries = {names[0]: _served(names[0], endpoint, by_hand, price, policies_dir, measure=measure)}
        listed: tuple[str, ...] = ()
    else:
        entries = _hosted(names, by_hand, price)
        listed = () if by_hand or price else tuple(names)
    with adding(pool, entries, policies_dir, listed=listed) as config:
        if measure:
            config.check_keys()
            alone = config.only(names)
            n_calls, about_usd, most_usd = price_of_calibration(alone, n, seed, asked)
            say(f"{n_calls} calls: about {about_usd:.6f} USD, at most {most_usd:.6f} USD")
            measured = asyncio.run(calibrate_once(alone, models_dir, state_dir(), n, seed, asked, say))
            for one in measured:
                if one.why_unmeasured:
                    raise EndpointError(f"{one.model}: could not be measured, and is not written: {one.why_unmeasured}")
            print_measured(f"{', '.join(names)}, {n} questions per skill", measured, n, core_hour_usd)
            write_profiles(alone, measured, n, core_hour_usd, with_prices=price is None)
    for name in names:
        say(f"{name} added to {pool}: {_in_words(config, name)}" if endpoint is None else f"{name} added to {pool}")


def _words(words: list[str]) -> tuple[Path, list[str]]:
    """The pool file and the names. ConfigError where no name is given."""
    first = Path(words[0])
    has_file = first.suffix == ".toml" or first.is_file()
    pool, names = (first, words[1:]) if has_file else (Path(STARTED), words)
    if not names:
        raise ConfigError(
            f"r2 pool add {pool}: name what to add, such as openai/gpt-6-luna, or an entry --endpoint is for."
        )
    return pool, list(dict.fromkeys(names))


def _price(names: list[str], usd_in: float | None, usd_out: float | None, source: str) -> dict[str, Any] | None:
    """A price given by hand; None where none is."""
    if usd_in is None and usd_out is None:
        return None
    if usd_in is None or usd_out is None or len(names) != 1:
        raise ConfigError("A price by hand is --price-input and --price-output together, for one NAME at a time.")
    return {"input": usd_in, "output": usd_out, "date": date.today().isoformat(), "source": source}


def _hosted(names: list[str], by_hand: dict[str, Any], price: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Entries of the catalogue with what flags say in their place."""
    from r2.pool.file.catalogue import entry_of

    if len(names) > 1 and (single := sorted({"served_model", "context_tokens", "profile"} & set(by_hand))):
        raise ConfigError(f"{single[0]} by hand is for one NAME at a time, not for {', '.join(names)}.")
    entries = {}
    for name in names:
        try:
            entries[name] = {**entry_of(name, datetime.now(UTC).date(), price=price, environ=os.environ), **by_hand}
        except ConfigError as error:
            raise ConfigError(
                f"{error} With this command: r2 pool add {name} --price-input USD --price-output USD. A model that no "
                "provider of the catalogue serves: --endpoint."
                if price is None
                else str(error)
            ) from None
    return entries


def _served(
    name: str,
    endpoint: str,
    by_hand: dict[str, Any],
    price: dict[str, Any] | None,
    policies_dir: Path,
    *,
    measure: bool,
) -> dict[str, Any]:
    """The entry of a model at an address of the user's own, on this machine or elsewhere."""
    from r2.policies.registry import Registry
    from r2.pool.calibrate import SERVED_HERE
    from r2.pool.servers.local import SLOTS

    kind = endpoint_kind(endpoint)
    if "tier" not in by_hand:
        raise ConfigError(f"{name}: --endpoint {endpoint} needs --tier: small, medium or large.")
    if price is None and not (measure and kind in SERVED_HERE):
        raise ConfigError(
            (
                f"{name}: a model without a price would make every total wrong. Give --price-input and --price-output "
                "(USD per million tokens)"
            )
            + (
                ", or --measure."
                if kind in SERVED_HERE
                else f"; --measure prices {' and '.join(SERVED_HERE)} entries only."
            )
        )
    is_embedded = kind == "local"
    mode = by_hand.get("prompt_mode")
    if kind == "policy":
        policy = Registry(policies_dir).load(endpoint.partition(":")[2])
        mode = mode or policy.card.prompt_mode
        is_embedded = policy.is_adapter
    unmeasured = {"input": 0.0, "output": 0.0, "date": date.today().isoformat(), "source": "not measured yet"}
    entry: dict[str, Any] = {
        "endpoint": endpoint,
        "served_model": by_hand.get("served_model", ""),
        "tier": by_hand["tier"],
        "prompt_mode": mode or "direct",
        "price_usd_per_mtok": price or unmeasured,
        "api_key_env": by_hand.get("api_key_env"),
        "context_tokens": by_hand.get("context_tokens", 2048 if kind in SERVED_HERE else None),
        # A vLLM server's entries share what it works on at once, unless they say otherwise.
        "max_in_flight": by_hand.get("max_in_flight", None if kind == "vllm" else SLOTS if is_embedded else 64),
        "logprobs": kind in (*SERVED_HERE, "vllm"),
        "solver": by_hand.get("solver"),
        "profile": by_hand.get("profile"),
    }
    return {key: value for key, value in entry.items() if value not in ("", None, {})}


def _in_words(config: PoolConfig, name: str) -> str:
    """What was taken from the catalogue, with the day of the price."""
    table = config.models[name]
    price = table.price_usd_per_mtok
    context = (
        f"context {table.context_tokens} tokens"
        if "context_tokens" in table.model_fields_set
        else "context not known: give --context-tokens, so that nothing is sent that does not fit"
    )
    usd = f"{price.input:g} USD in, {price.output:g} out per million tokens as of {price.date} ({price.source})"
    return f"{usd}, {context}"


def _skills(texts: list[str], *, may_measure: bool) -> tuple[dict[str, float], list[str]]:
    """NAME=ACCURACY pairs, and names alone."""
    given: dict[str, float] = {}
    asked: list[str] = []
    for text in texts:
        name, mark, value = text.partition("=")
        try:
            if mark:
                given[name] = float(value)
                continue
        except ValueError:
            raise ConfigError(f"--skill {text}: expected NAME=ACCURACY with an accuracy of 0 to 1.") from None
        if not may_measure:
            raise ConfigError(f"--skill {text}: expected NAME=ACCURACY; a name alone is measured, with --measure.")
        asked.append(name)
    return given, asked
