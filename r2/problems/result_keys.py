"""When two results are the same: each result's key, equal for two results exactly where the benchmark's own check could
not tell them apart. Pure.

Used where results of several models are compared with each other and not with a gold answer: agreement of recorded
answers. Numbers are equal to seven digits (the checks allow one part in a million); Python literals by value and type,
an unquoted text as a string; every other result by its words, as the text check compares them.
"""

import ast
import warnings
from collections.abc import Callable

from r2.problems.benchmark import benchmarks
from r2.problems.checks import last_number, no_number, normal_text

LITERALS = ("cruxeval_output", "cruxeval_input", "cruxeval")
"""Benchmarks whose results are Python literals. They have no module of their own: we do not ask them."""
NUMBERS = ("grade-school-math",)
"""Other names of benchmarks whose results are numbers (RouterBench's name of GSM8K)."""
_LONGEST_LITERAL = 10_000


def result_key(benchmark: str, text: str | None) -> str | None:
    """The key of a result's text; None for one that is no result, and so agrees with nobody: no text, an empty one, no
    number where the benchmark wants one. For Python literals an empty text is the empty string."""
    if text is None:
        return None
    return _key_of(benchmark)(text)


def _key_of(benchmark: str) -> Callable[[str], str | None]:
    if benchmark in LITERALS:
        return _literal_key
    record = benchmarks().get(benchmark)
    if benchmark in NUMBERS or (record is not None and record.malformed is no_number):
        return _number_key
    return _text_key


def _number_key(text: str) -> str | None:
    number = last_number(text)
    return None if number is None else f"{float(number):.7g}"


def _text_key(text: str) -> str | None:
    """The words, or the text itself where it has none but articles ("A" may be a choice)."""
    return normal_text(text) or text.strip().casefold() or None


def _literal_key(text: str) -> str:
    stripped = text.strip()
    if len(stripped) > _LONGEST_LITERAL:
        return stripped
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of "1if" and unknown escapes in somebody's text
            return _canonical(ast.literal_eval(stripped))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return repr(stripped.strip("'\""))


def _canonical(value: object) -> str:
    """The same text for equal values of equal types; -0 is 0."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{_canonical(k)}:{_canonical(v)}" for k, v in value.items())) + "}"
    if isinstance(value, set):
        return "set(" + ",".join(sorted(map(_canonical, value))) + ")"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ",".join(map(_canonical, value)) + ")"
    return repr(value + 0.0) if isinstance(value, float) else repr(value)
