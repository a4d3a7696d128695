"""`r2 grpo --policy scorer`: a scorer's choices fine-tuned on checked answers. Results on stdout, progress on
stderr."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.cli.console import figures, results, say, starting
from r2.errors import ConfigError
from storage.lake.stores import check_lake

TAKEN = (
    "outcomes",
    "scorer",
    "pool",
    "lake",
    "policies_dir",
    "seed",
    "split_seed",
    "test_share",
    "steps",
    "group_size",
)
"""Flags that mean the same here as in the settings; `lr` is `learning_rate`."""
ELSEWHERE = ("policy", "dry_run", "lr", "data_dir", "models_dir")


def tune(given: Mapping[str, Any]) -> int:
    """Trains and prints what the flags ask for; the exit code. ConfigError for a flag that has no meaning here."""
    from r2.settings import load
    from r2.training.grpo.scorer_settings import TuneSettings

    if other := [
        name for name, value in given.items() if name not in (*TAKEN, *ELSEWHERE) and value not in (None, False)
    ]:
        flag = "--" + {"n_held_out": "held_out", "lam": "lambda"}.get(other[0], other[0]).replace("_", "-")
        raise ConfigError(
            f"{flag}: has no meaning for a scorer, which is tuned on checked answers alone: leave it out."
        )
    flags = {name: given[name] for name in TAKEN} | {"learning_rate": given["lr"]}
    flags["outcomes"] = tuple(map(str, given["outcomes"])) if given["outcomes"] else None
    settings = load(TuneSettings, None, flags)
    starting()
    # Here and not above: --help need not wait for it.
    from r2.atomic import check_folder
    from tasks.training.scorer_grpo import tune_rows, tune_scorer

    if given["dry_run"]:
        rows = tune_rows(settings)
        for remark in rows.remarks:
            say(remark)
        n_arms = len(rows.learned.models)
        print(f"{rows.learned.n_problems} questions to learn from, {rows.held_out.n_problems} held out, {n_arms} arms")
        print("No model is asked.")
        return 0
    check_folder(Path(settings.policies_dir), "--policies-dir")
    check_lake(settings.lake)
    found = tune_scorer(settings, say)
    for remark in found.remarks:
        say(remark)
    card = found.policy.card
    table = figures(f"{found.policy.ref}, from {card.parent}, run {card.config['run_id']}")
    for metric, value in card.metrics.items():
        table.add_row(metric, f"{value:.6g}")
    table.add_row("its seconds, USD", f"{card.cost_usd:.6f}")
    table.add_row("promoted", "yes" if found.is_promoted else "no")
    results().print(table)
    print(found.policy.path)
    print(found.reason)
    places = shlex.join(["--policies-dir", settings.policies_dir])
    if found.is_promoted:
        say(f"Next: r2 answer FILE --scorer {card.name}. All of its card: r2 policy show {card.name}")
    else:
        say(f"Promote it with: r2 policy promote {card.name} {card.version} --reason TEXT {places}")
    return 0
