"""`r2`, `storage` and `tasks` are everyone's names. Once `flows` is imported they mean the packages beside it, whatever
PYTHONPATH or the working folder holds: a project with a `tasks/` folder of its own can use the command `r2`."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

NAMES = ("r2", "storage", "tasks")
_ROOT = Path(__file__).parent.parent.parent


class _BesideFlows:
    """Finds the three names, and leaves everything else to the finders after it. Without its base class, whose module
    loads what every command would wait for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [str(_ROOT)]) if fullname in NAMES else None


def _refuse_others() -> None:
    """ImportError where a package of such a name is loaded already and is not ours: it cannot be replaced."""
    for name in NAMES:
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in sys.modules and (file is None or Path(file).parent != _ROOT / name):
            raise ImportError(
                f"another project's package {name!r} is loaded ({file or 'it has no file'}); flows needs the one in "
                f"{_ROOT / name}. Import flows first, or use the command r2, which is a process of its own."
            )


_refuse_others()
sys.meta_path.insert(0, _BesideFlows())
