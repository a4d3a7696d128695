"""The child of `r2/problems/own_function.py`: runs a function of the user's, or a pattern, on one answer after the
other. Never imported by anything.

The first JSON line on stdin says what is run: {"path", "function", "source"} or {"pattern"}. The reply is
{"takes_step"} or {"error"}. Then each line {"row", "answer", "step"} is answered by {"score"} or {"error"}. What the
user's code prints goes to standard error, and it reads nothing: both pipes are the parent's. It ends when its parent
does.
"""

import inspect
import json
import linecache
import math
import os
import re
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

Says = Callable[[Any, str, str | None], object]
LONGEST_MESSAGE = 400


def main() -> None:
    """Answers until its input ends."""
    lines, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def reply(**said: object) -> None:
        replies.write(json.dumps(said) + "\n")
        replies.flush()

    job = json.loads(lines.readline())
    threading.Thread(target=_end_with, args=(job["parent"],), daemon=True).start()
    file = job.get("path", "")
    try:
        says, takes_step = _pattern(job["pattern"]) if "pattern" in job else _function(job)
    except BaseException as error:  # whatever the user's file raises, SystemExit too, is told to the parent
        reply(error=_said(error, file))
        return
    reply(takes_step=takes_step)
    for line in lines:
        asked = json.loads(line)
        try:
            reply(score=_score(says(asked["row"], asked["answer"], asked["step"])))
        except BaseException as error:
            reply(error=_said(error, file))


def _end_with(parent: int) -> NoReturn:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _pattern(pattern: str) -> tuple[Says, bool]:
    found = re.compile(pattern)
    return (lambda row, answer, step: found.search(answer) is not None), False


def _function(job: dict[str, str]) -> tuple[Says, bool]:
    """The function of the user's file, and whether it has a parameter `step`."""
    path, name = job["path"], job["function"]
    sys.path[:0] = [str(Path(path).parent)]
    sys.path.append(str(Path(__file__).parents[2]))
    linecache.cache[path] = (len(job["source"]), None, job["source"].splitlines(keepends=True), path)
    module = types.ModuleType(Path(path).stem)
    module.__file__ = path
    sys.modules.setdefault(module.__name__, module)  # dataclasses look themselves up there
    exec(compile(job["source"], path, "exec"), module.__dict__)
    function = getattr(module, name, None)
    if not callable(function):
        raise _Unfit(f"it has no function {name!r}. It has: {', '.join(_functions_of(module)) or 'none'}")
    if inspect.iscoroutinefunction(function):
        raise _Unfit(f"{name} is async; write a plain function")
    parameters = inspect.signature(function).parameters
    takes_step = "step" in parameters
    try:
        inspect.signature(function).bind({}, "", **({"step": None} if takes_step else {}))
    except TypeError:
        raise _Unfit(
            f"{name}({', '.join(parameters)}): expected the parameters row and answer, and step if you like"
        ) from None
    if takes_step:
        return (lambda row, answer, step: function(row, answer, step=step)), True
    return (lambda row, answer, step: function(row, answer)), False


def _functions_of(module: types.ModuleType) -> list[str]:
    """Those that the file itself defines."""
    return [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]


class _Unfit(Exception):
    """What the user has to mend, in words that need no place in the file."""


def _score(said: object) -> float:
    """0..1. `_Unfit` for anything else."""
    value = said.item() if hasattr(said, "item") else said  # a number of numpy's
    if isinstance(value, bool | int | float) and math.isfinite(value) and 0 <= value <= 1:
        return float(value)
    raise _Unfit(f"returned {said!r:.60}; expected True, False or a number from 0 to 1")


def _said(error: BaseException, file: str) -> str:
    """The error with the line of the user's file that it comes from."""
    if isinstance(error, _Unfit):
        return str(error)[:LONGEST_MESSAGE]
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if isinstance(error, SyntaxError) and error.filename == file:
        lines = [error.lineno]
    place = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}"[:LONGEST_MESSAGE] + place


if __name__ == "__main__":
    main()
