"""The child of `r2/problems/sandbox.py`: limits itself, then runs what it was handed. Never imported by anything.

Reads one JSON line on stdin: {"bpf", "code", "mode", "argument", "limits"}. Modes: `evaluate` writes the repr of what
the code is worth (the value of an expression, or of its function `sol`); `verify` calls `sat` of the code on a literal
and writes the verdict; `program` runs the code and writes as JSON what it printed, or the error it ended with.
Everything is imported before the filter: afterwards no file can be opened.
"""

import ast
import bisect  # noqa: F401  (imports below are for the code that will run; nothing can be imported later)
import builtins
import collections  # noqa: F401
import contextlib
import copy  # noqa: F401
import ctypes
import datetime  # noqa: F401
import decimal  # noqa: F401
import fractions  # noqa: F401
import functools  # noqa: F401
import heapq  # noqa: F401
import io
import itertools  # noqa: F401
import json
import math  # noqa: F401
import operator  # noqa: F401
import random  # noqa: F401
import re  # noqa: F401
import resource
import statistics  # noqa: F401
import string  # noqa: F401
import sys
import typing

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_SIGKILL = 9


class _Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _confine(bpf: bytes, limits: dict[str, int]) -> None:
    for name, limit in limits.items():
        # Past its seconds it is sent SIGXCPU, and a second later, should its code hold that off, SIGKILL.
        hard = limit + 1 if name == "RLIMIT_CPU" else limit
        resource.setrlimit(getattr(resource, name), (limit, hard))
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(bpf) // 8, bpf)
    steps = (
        (_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0),
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    )
    for step in steps:
        if libc.prctl(*step) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({step[0]})")


def _names() -> dict[str, object]:
    names: dict[str, object] = {"__name__": "puzzle"}
    names |= {name: getattr(typing, name) for name in typing.__all__}
    return names


def _worth(code: str) -> object:
    names = _names()
    try:
        return eval(compile(code.strip(), "answer", "eval"), names)
    except SyntaxError:
        exec(compile(code, "answer", "exec"), names)
        return names["sol"]()  # type: ignore[operator]


def _printed(code: str) -> dict[str, str]:
    """What a program prints; where that is nothing and its last line is an expression, that one's value."""
    names = _names() | {"__name__": "__main__", "exit": sys.exit, "quit": sys.exit}
    output, last = io.StringIO(), None
    try:
        tree = ast.parse(code.strip())
        ends = tree.body[-1] if tree.body else None
        if isinstance(ends, ast.Expr):
            tree.body.pop()
        with contextlib.redirect_stdout(output):
            with contextlib.suppress(SystemExit):
                exec(compile(tree, "program", "exec"), names)
                if isinstance(ends, ast.Expr):
                    last = eval(compile(ast.Expression(ends.value), "program", "eval"), names)
            if not output.getvalue().strip() and last is not None:
                builtins.print(last)
    except BaseException as error:  # whatever it is, it is the program's
        return {"printed": "", "error": f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode()}
    return {"printed": output.getvalue().encode("utf-8", "replace").decode(), "error": ""}


def main() -> None:
    """Exit code 0 with the result on stdout; anything else is a failure of the code."""
    sys.set_int_max_str_digits(0)  # puzzles have long numbers; the CPU limit bounds what they cost
    job = json.loads(sys.stdin.readline())
    _confine(bytes.fromhex(job["bpf"]), job["limits"])
    if job["mode"] == "evaluate":
        result = repr(_worth(job["code"]))
    elif job["mode"] == "program":
        result = json.dumps(_printed(job["code"]))
    else:
        value = ast.literal_eval(job["argument"])
        names = _names()
        exec(compile(job["code"], "puzzle", "exec"), names)
        result = repr(names["sat"](value) is True)  # type: ignore[operator]
    sys.stdout.write(f"\n{job['mark']}{result}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
