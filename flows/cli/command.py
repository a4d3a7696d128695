"""The class of every command: its flags in the order of their panels, and the flags of earlier versions. One of those
whose meaning is unchanged keeps working and is not shown; one whose meaning changed is refused with the new one's
name."""

from collections.abc import Mapping, Set
from typing import Any

from typer.core import TyperCommand, TyperOption

from flows.cli.options import OUTPUT, PANELS

RENAMED: Mapping[str, Mapping[str, str]] = {
    "demo": {"--folder": "--out"},
    "pool add": {"--max-in-flight": "--calls-in-flight"},
    "sft": {"--out": "--policies-dir", "--executed": "--n-executed"},
}
"""Command -> old flag -> the flag that means the same."""

_HELD_OUT = (
    "--held-out is a share of the problems (r2 evaluate, r2 policy sweep). The number of held-out questions is now "
    "--n-held-out."
)
CHANGED: Mapping[str, Mapping[str, str]] = {"grpo": {"--held-out": _HELD_OUT}, "sft": {"--held-out": _HELD_OUT}}
"""Command -> flag whose meaning changed -> what to say, with the new flag."""

SEVERAL: Mapping[str, tuple[str, ...]] = {
    "evaluate": ("--outcomes", "--test"),
    "sft": ("--outcomes",),
    "grpo": ("--outcomes",),
}
"""Command -> flags that take several values one after the other, as a shell writes out `*.parquet`."""


def command_class(name: str) -> type[TyperCommand]:
    """The class of the command `name`, which knows its old flags."""
    known = {"renamed": RENAMED.get(name, {}), "changed": CHANGED.get(name, {}), "several": SEVERAL.get(name, ())}
    return type("Command", (_Command,), known)


class _Command(TyperCommand):
    renamed: Mapping[str, str] = {}
    changed: Mapping[str, str] = {}
    several: tuple[str, ...] = ()

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        """--help, in a panel with others and not in one of its own."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = OUTPUT
        return option

    def get_params(self, ctx: Any) -> list[Any]:
        """The arguments, then the flags in the order of their panels."""
        return sorted(super().get_params(ctx), key=_place)

    def make_parser(self, ctx: Any) -> Any:
        parser = super().make_parser(ctx)
        by_flag: dict[str, Any] = {name: param for param in self.params for name in param.opts}
        for old, new in self.renamed.items():
            param = by_flag[new]
            action = "append" if param.multiple else "store"
            parser.add_option(obj=param, opts=[old], dest=param.name, action=action, nargs=param.nargs)
        return parser

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for word in args:
            flag = word.partition("=")[0]
            if flag in self.changed:
                ctx.fail(self.changed[flag])
        lists = {name for param in self.params if _is_list(param) for name in param.opts}
        return super().parse_args(ctx, _joined(_repeated(args, self.several), lists))


def _repeated(words: list[str], flags: tuple[str, ...]) -> list[str]:
    """Several values after one of the flags: the flag again before each of them."""
    found: list[str] = []
    current = ""
    for word in words:
        if word.startswith("-"):
            current = word.partition("=")[0]
        elif current in flags and found[-1] != current:
            found.append(current)
        found.append(word)
    return found


def _is_list(param: Any) -> bool:
    """One value with commas in it, as `A,B`; not a flag that is repeated for each value."""
    return isinstance(param, TyperOption) and not param.multiple and (param.metavar or "").endswith(",...")


def _joined(words: list[str], lists: Set[str]) -> list[str]:
    """A flag that takes a list, given twice: one list of both, in the place of the first."""
    found: list[str] = []
    places: dict[str, int] = {}  # flag -> where its value is in `found`
    left = iter(words)
    for word in left:
        if word == "--":
            return [*found, word, *left]
        name, has_value, rest = word.partition("=")
        if name not in lists:
            found.append(word)
            continue
        value = rest if has_value else next(left, None)
        if value is None:  # the last word: the parser says that a value is missing
            found.append(word)
        elif name in places:
            found[places[name]] += f",{value}"
        else:
            found += [name, value]
            places[name] = len(found) - 1
    return found


def _place(param: Any) -> int:
    return PANELS.index(param.rich_help_panel) if isinstance(param, TyperOption) else -1
