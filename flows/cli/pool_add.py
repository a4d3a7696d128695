"""`r2 pool add`: a new entry in a pool file, with its price and profile."""

import asyncio
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import options
from flows.cli.console import print_measured, say
from flows.cli.options import MONEY, POOL, ROUTER, flag
from flows.cli.pool import state_dir
from r2.errors import ConfigError, EndpointError
from r2.pool.file.config import endpoint_kind


def add(
    pool: Annotated[Path, typer.Argument(help="Pool file.")],
    name: Annotated[str, typer.Argument(help="Name of the new entry.")],
    endpoint: Annotated[
        str,
        flag(
            POOL,
            "--endpoint",
            metavar="ENDPOINT",
            help="Where the model is: policy:NAME, policy:NAME@VERSION, policy:FOLDER, local:NAME, local:FILE.gguf, or "
            "http(s)://host/v1.",
        ),
    ],
    tier: Annotated[str, flag(POOL, "--tier", metavar="TIER", help="Size class: small, medium or large.")],
    seed: options.PlainSeed = 0,
    models_dir: options.PlainModelsDir = options.DEFAULT_MODELS,
    served_model: Annotated[
        str,
        flag(
            POOL,
            "--served-model",
            metavar="NAME",
            help="The model field that is sent to a URL.",
            default="the entry's name",
        ),
    ] = "",
    prompt_mode: Annotated[
        str | None,
        flag(
            POOL,
            "--prompt-mode",
            metavar="MODE",
            help="How the entry is asked: direct, cot or bare.",
            default="the policy's own, else direct",
        ),
    ] = None,
    context_tokens: Annotated[
        int, flag(POOL, "--context-tokens", metavar="N", help="Context length of the entry's server.", min=256)
    ] = 2048,
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
            default="none",
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
    """Write a new entry into a pool file, with its price and profile.

    Comments stay. A file that would not be good is not written.

    Examples:

        r2 pool add pools/local.toml planner --endpoint policy:decomposer --tier small --measure
        r2 pool add my.toml big --endpoint https://host/v1 --tier large --price-input 2 --price-output 8
    """
    from r2.policies.registry import Registry
    from r2.pool.calibrate import SERVED_HERE, calibrate_pool, write_profiles
    from r2.pool.file.new_entry import adding
    from r2.pool.servers.local import SLOTS

    kind = endpoint_kind(endpoint)
    given, asked = _skills(skill or [], may_measure=measure)
    is_priced = price_input is not None and price_output is not None
    if not is_priced and not (measure and kind in SERVED_HERE):
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
    if kind == "policy":
        policy = Registry(policies_dir).load(endpoint.partition(":")[2])
        prompt_mode = prompt_mode or policy.card.prompt_mode
        is_embedded = policy.is_adapter
    entry: dict[str, Any] = {
        "endpoint": endpoint,
        "served_model": served_model,
        "tier": tier,
        "prompt_mode": prompt_mode or "direct",
        "price_usd_per_mtok": {
            "input": price_input or 0.0,
            "output": price_output or 0.0,
            "date": date.today().isoformat(),
            "source": price_source,
        },
        "api_key_env": api_key_env,
        "context_tokens": context_tokens,
        "max_in_flight": calls_in_flight or (SLOTS if is_embedded else 64),
        "logprobs": kind in SERVED_HERE,
        "solver": not router_only,
        "profile": given,
    }
    kept = {
        key: value for key, value in entry.items() if value not in ("", None, {}) and (key, value) != ("solver", True)
    }
    with adding(pool, name, kept, policies_dir) as config:
        if measure:
            config.check_keys()
            alone = config.only([name])
            measured = asyncio.run(calibrate_pool(alone, models_dir, state_dir(), n, seed, asked, say))
            if why := measured[0].why_unmeasured:
                raise EndpointError(f"{name}: could not be measured, and is not written: {why}")
            print_measured(f"{name}, {n} questions per skill", measured, n, core_hour_usd)
            write_profiles(alone, measured, n, core_hour_usd, with_prices=not is_priced)
    say(f"{name} added to {pool}")


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
