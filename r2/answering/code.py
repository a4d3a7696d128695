"""Whether a reply that was to be a program holds one: models that are asked for code now and then answer in words.

Code is what may compute or print: a call, an assignment, a statement, an operation on values. Single names and values,
JSON, and names joined by operators (`No`, `B`, `n**2 + 1`) are words: as a program they could end with themselves or
with an error. A text that is no Python is code where one of its lines looks like it, for a broken program is no answer.
In doubt it is code.
"""

import ast
import json
import re
import warnings

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:\n\s*```|\Z)", re.DOTALL)
_LOOKS_LIKE_CODE = re.compile(
    r"\w\("
    r"|^\s*[A-Za-z_][\w.]*(?:\[[^\]]*\])?(?:,\s*\w+)*\s*[-+*/%|&]{0,2}=(?![=>])"
    r"|^\s*(?:@\w|(?:class|def|elif|else|except|for|from|if|import|lambda|print|return|try|while|with)\b)",
    re.MULTILINE,
)
"""A call, an assignment, or a line that begins as one of Python's statements."""
_OPERATIONS = (ast.BinOp, ast.BoolOp, ast.Compare, ast.UnaryOp)
_WORDS = (
    *_OPERATIONS,
    ast.Attribute,
    ast.Constant,
    ast.Dict,
    ast.List,
    ast.Name,
    ast.Set,
    ast.Tuple,
    ast.boolop,
    ast.cmpop,
    ast.expr_context,
    ast.operator,
    ast.unaryop,
)
"""Parts of an expression of names and values."""


def program_in(text: str) -> str:
    """The program in a reply: the first fenced block, else all of it; "" where there is nothing."""
    fenced = _FENCE.search(text)
    return (fenced[1] if fenced else text).strip()


def is_code(text: str) -> bool:
    """Whether what `program_in` found is a program, and not words."""
    if _is_json(text):
        return False
    try:
        with warnings.catch_warnings():  # what Python says of a model's code concerns nobody
            warnings.simplefilter("ignore")
            statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _LOOKS_LIKE_CODE.search(text) is not None
    return not statements or any(map(_may_compute, statements))


def _is_json(text: str) -> bool:
    """A JSON value; but a lone string is Python's as well, and what it says is without its quotes."""
    try:
        return not isinstance(json.loads(text), str)
    except (ValueError, RecursionError):
        return False


def _may_compute(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.AnnAssign) and statement.value is None:
        return _may_compute(ast.Expr(statement.annotation))  # "Answer: No"
    if not isinstance(statement, ast.Expr):
        return True
    parts = list(ast.walk(statement.value))
    if not all(isinstance(part, _WORDS) for part in parts):
        return True
    has_names = any(isinstance(part, ast.Name) for part in parts)
    is_text = isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
    return is_text or (not has_names and any(isinstance(part, _OPERATIONS) for part in parts))
