"""`r2 policy ...`: the trained policies, their cards, and which version each name means; `sweep` is
flows/cli/sweep.py."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from flows.cli import options
from flows.cli.console import results, say
from flows.cli.options import OUTPUT, flag
from r2.errors import ConfigError
from r2.policies.registry import Policy, Registry, shipped_policies

WIDTH_OF_ALL = 132
"""Columns of a terminal from which the list has all its columns."""
_REASON = flag(OUTPUT, "--reason", metavar="TEXT", help="Why. The history of the policy keeps it.")


def list_policies(policies_dir: options.PlainPoliciesDir = options.DEFAULT_POLICIES) -> None:
    """Every version of every policy; the promoted one is marked.

    Example:

        r2 policy list
    """
    console = results()
    is_wide = console.width >= WIDTH_OF_ALL
    table = Table(title=str(policies_dir), title_justify="left")
    for heading in ("policy", "", "kind", "trained", *(("base", "parent") if is_wide else ())):
        table.add_column(heading, overflow="fold")
    for heading in ("USD", *(("hours",) if is_wide else ())):
        table.add_column(heading, justify="right", overflow="fold")
    for policy, is_promoted, is_shipped in _every(Registry(policies_dir), shipped_policies()):
        card = policy.card
        table.add_row(
            policy.ref,
            ", ".join(["promoted"] * is_promoted + ["shipped"] * is_shipped),
            card.kind,
            card.created_at[:10],
            *((card.base, card.parent or "-") if is_wide else ()),
            f"{card.cost_usd:.6f}",
            *((f"{card.wall_s / 3600:.2f}",) if is_wide else ()),
        )
    console.print(table)
    say("All of a card: r2 policy show NAME@VERSION")


def _every(own: Registry, shipped: Registry) -> Iterator[tuple[Policy, bool, bool]]:
    """Each version with whether it is promoted and whether it is a shipped one. A name of the user's own hides the
    promotion of the shipped policy of that name, and a version of their own the shipped version."""
    for name in sorted({*own.names(), *shipped.names()}):
        versions = own.versions(name)
        for version in versions:
            yield own.load(f"{name}@{version}"), version == own.current(name), False
        for version in shipped.versions(name):
            if version not in versions:
                yield shipped.load(f"{name}@{version}"), not versions and version == shipped.current(name), True


def show(
    policy: Annotated[str, typer.Argument(help="NAME (the promoted version), NAME@v2, or a version's folder.")],
    policies_dir: options.PlainPoliciesDir = options.DEFAULT_POLICIES,
) -> None:
    """A version's card, and the promotions and rollbacks of its name.

    Example:

        r2 policy show scan-specialist
    """
    registry = Registry(policies_dir)
    found = registry.load(policy)
    card = found.card
    table = Table(title=f"{found.ref}  {found.path}", title_justify="left", show_header=False)
    table.add_column("", overflow="fold")
    table.add_column("", overflow="fold")
    for field, value in _facts(card.model_dump(mode="json", exclude={"name", "version"})):
        table.add_row(field, value)
    table.add_row("weights", f"{_weights(found)}, sha256 {card.weights_sha256}")
    results().print(table)
    if history := Registry(found.path.parent.parent).history(card.name):
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
                "\n".join(f"{name} {value}" for name, value in _facts(entry["decision"])) or "-",
            )
        results().print(moves)


def promote(
    name: Annotated[str, typer.Argument(help="The policy.")],
    version: Annotated[str, typer.Argument(help="Version it shall mean: v2.")],
    reason: Annotated[str, _REASON],
    policies_dir: options.PlainPoliciesDir = options.DEFAULT_POLICIES,
) -> None:
    """Make a version the one that `policy:NAME` means in pool files.

    Runs from then on are other runs.

    Example:

        r2 policy promote decomposer v2 --reason "fewer steps on held-out problems"
    """
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


def rollback(
    name: Annotated[str, typer.Argument(help="The policy.")],
    reason: Annotated[str, _REASON] = "",
    policies_dir: options.PlainPoliciesDir = options.DEFAULT_POLICIES,
) -> None:
    """Go back to the version that was promoted before the present one.

    Example:

        r2 policy rollback decomposer --reason "plans of v2 are longer"
    """
    registry = Registry(policies_dir)
    before = registry.current(name)
    print(f"{registry.rollback(name, reason).ref} promoted again (before: {before})")


def _facts(values: Mapping[str, Any], of: str = "") -> Iterator[tuple[str, str]]:
    """Each value with its name; one within another as `config.steps`."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _facts(value, f"{of}{name}.")
        elif isinstance(value, str):
            yield of + name, value
        else:
            yield of + name, f"{value:.6g}" if isinstance(value, float) else orjson.dumps(value).decode()


def _weights(policy: Policy) -> str:
    n_bytes = sum((policy.path / name).stat().st_size for name in policy.card.files_sha256)
    return f"{'adapter' if policy.is_adapter else 'full'}, {n_bytes / 1e6:.1f} MB"
