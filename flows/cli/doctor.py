"""`r2 doctor`: whether all that runs need is there and well. Needs no Prefect."""

import os
from typing import Annotated

import typer

from flows.cli import options
from flows.cli.options import OUTPUT, flag
from storage.sql.visible import visible


def doctor(
    lake: options.ReadLake = options.DEFAULT_LAKE,
    pool: Annotated[
        str | None,
        options.pool("none", "Its keys are looked for."),
    ] = None,
    as_json: Annotated[bool, flag(OUTPUT, "--json", help="As a JSON list, for programs.")] = False,
) -> None:
    """Look whether all that runs need is there: versions, disk, limits, server, keys, sandbox, clock.

    Each finding comes with its fix. Exit code 0 if all is well, 1 if not. Nothing is
    asked over the network but the Prefect API that is configured.

    Examples:

        r2 doctor
        r2 doctor --pool pool.toml --json
    """
    import orjson

    from flows.support.doctor import examined

    findings = list(examined(lake, pool, os.environ))
    if as_json:
        rows = [{"check": f.check, "is_well": f.is_well, "what": f.what, "fix": f.fix} for f in findings]
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
    else:
        for one in findings:
            print(visible(f"{'ok ' if one.is_well else 'FIX'}  {one.check:9}  {one.what}"))
            if one.fix:
                print(visible(f"{'':16}{one.fix}"))
    if not all(one.is_well for one in findings):
        raise typer.Exit(1)
