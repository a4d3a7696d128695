"""`r2 policy ...`: the trained policies, their cards, and which version each name means; `sweep` is
flows/cli/sweep.py."""

from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.table import Table

from flows.cli.console import results, say
from flows.cli.sweep import sweep
from r2.errors import ConfigError
from r2.policies.registry import Policy, Registry

policy_app = typer.Typer(
    help="Trained policies: list, show, promote, roll back, sweep the cost knob.", no_args_is_help=True
)
FolderOption = Annotated[
    Path, typer.Option("--policies-dir", envvar="R2_POLICIES_DIR", help="Folder of the policy registry.")
]
DEFAULT_FOLDER = Path("policies")


def register(app: typer.Typer) -> None:
    """Adds `policy` to the command."""
    app.add_typer(policy_app, name="policy")
    policy_app.command(name="sweep")(sweep)


@policy_app.command(name="list")
def list_policies(policies_dir: FolderOption = DEFAULT_FOLDER) -> None:
    """Every version of every policy; the promoted one is marked."""
    registry = Registry(policies_dir)
    table = Table(title=str(policies_dir), title_justify="left")
    for heading in ("policy", "version", "", "kind", "base", "weights", "parent", "trained"):
        table.add_column(heading)
    for heading in ("USD", "hours"):
        table.add_column(heading, justify="right")
    for name in registry.names():
        current = registry.current(name)
        for version in registry.versions(name):
            policy = registry.load(f"{name}@{version}")
            card = policy.card
            table.add_row(
                name,
                version,
                "promoted" if version == current else "",
                card.kind,
                card.base,
                _weights(policy),
                card.parent or "-",
                card.created_at,
                f"{card.cost_usd:.6f}",
                f"{card.wall_s / 3600:.2f}",
            )
    if not table.row_count:
        say(f"{policies_dir} holds no policy yet. Train one: r2 sft")
        return
    results().print(table)


@policy_app.command()
def show(
    policy: Annotated[str, typer.Argument(help="NAME (the promoted version), NAME@v2, or a version's folder.")],
    policies_dir: FolderOption = DEFAULT_FOLDER,
) -> None:
    """A version's card, and the promotions and rollbacks of its name."""
    registry = Registry(policies_dir)
    found = registry.load(policy)
    card = found.card
    table = Table(title=f"{found.ref}  {found.path}", title_justify="left", show_header=False)
    table.add_column("")
    table.add_column("", overflow="fold")
    for field, value in card.model_dump(mode="json", exclude={"name", "version", "files_sha256"}).items():
        table.add_row(field, value if isinstance(value, str) else orjson.dumps(value).decode())
    table.add_row("weights", f"{_weights(found)}, sha256 {card.weights_sha256}")
    results().print(table)
    if history := registry.history(card.name):
        moves = Table(title="history", title_justify="left")
        for heading in ("at", "", "version", "before", "reason", "decision"):
            moves.add_column(heading, overflow="fold")
        for entry in history:
            moves.add_row(
                entry["at"],
                entry["action"],
                entry["version"],
                entry["previous"] or "-",
                entry["reason"],
                orjson.dumps(entry["decision"]).decode() if entry["decision"] else "-",
            )
        results().print(moves)


@policy_app.command()
def promote(
    name: Annotated[str, typer.Argument(help="The policy.")],
    version: Annotated[str, typer.Argument(help="Version it shall mean: v2.")],
    reason: Annotated[str, typer.Option(help="Why; kept in its history.")],
    policies_dir: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Make a version the one that `policy:NAME` means in pool files. Runs from then on are other runs."""
    if not reason.strip():
        raise ConfigError("--reason is empty; say why this version is promoted, its history keeps it.")
    registry = Registry(policies_dir)
    before = registry.current(name)
    promoted = registry.promote(name, version, reason, {"by": "r2 policy promote"})
    print(
        f"{promoted.ref} is promoted already"
        if before == version
        else f"{promoted.ref} promoted (before: {before or 'none'})"
    )


@policy_app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="The policy.")],
    reason: Annotated[str, typer.Option(help="Why; kept in its history.")] = "",
    policies_dir: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Go back to the version that was promoted before the present one."""
    registry = Registry(policies_dir)
    before = registry.current(name)
    print(f"{registry.rollback(name, reason).ref} promoted again (before: {before})")


def _weights(policy: Policy) -> str:
    n_bytes = sum((policy.path / name).stat().st_size for name in policy.card.files_sha256)
    return f"{'adapter' if policy.is_adapter else 'full'}, {n_bytes / 1e6:.1f} MB"
