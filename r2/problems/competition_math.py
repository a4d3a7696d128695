"""MATH (Hendrycks et al., arXiv:2103.03874) and CHAMP (Mao et al., arXiv:2401.06961): answers that are numbers or
expressions.

Published MATH rows: {problem, solution, level, type}, the answer in the solution's last \\boxed{...}. Answers are
compared by `math-verify`; texts are short and without towers of powers when they reach it, because they come from
models.
"""

import logging
import re
import threading
from importlib.util import find_spec

from r2.errors import ConfigError
from r2.problem import Problem
from r2.problems.checks import same_number, yes_or_no
from r2.problems.math_process import same_mathematics
from r2.problems.record import Benchmark, HubDataset
from r2.problems.row import FieldError, Row, id_of, text_of

WORDING = "Answer with a number or an expression."
MAX_CHARACTERS = 200
SECONDS = 2
"""Limit of math-verify for each of its steps."""
CHECKED_KINDS = ("number", "yesno", "expression")
"""Kinds of CHAMP answers that can be checked; rows of the others are left out."""
_TOWER = re.compile(r"(\^|\*\*)[^+\-=,]*(\^|\*\*)|(\^|\*\*)\s*\{?\s*\d{4,}|!\s*!|\d{4,}\s*!")


def math_problem(row: Row, index: int) -> Problem:
    """A published row, or a flat one with `question` and `answer`."""
    if "solution" in row and "answer" not in row:
        target = last_boxed(text_of(row, "solution"))
        if target is None:
            raise FieldError("solution", "an answer in \\boxed{...}", row["solution"])
    else:
        target = text_of(row, "answer")
    return Problem(id_of(row, "math", index), text_of(row, "problem", "question"), index, target, "math")


def champ_problem(row: Row, index: int) -> Problem | None:
    """A row with `answer_kind`; None for a kind that no check can judge."""
    if text_of(row, "answer_kind") not in CHECKED_KINDS:
        return None
    question = text_of(row, "question", "problem_text")
    return Problem(id_of(row, "champ", index), question, index, text_of(row, "answer", "problem_answer"), "champ")


def last_boxed(text: str) -> str | None:
    """What the last \\boxed{...} holds, braces matched to any depth; None if there is none."""
    at = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if at < 0:
        return None
    depth, start = 0, text.index("{", at)
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + 1 : place].strip()
    return None


def is_correct(problem: Problem, answer: str) -> bool:
    """Equal as texts, yes-or-no answers or numbers, else equal by math-verify; a target that offers several forms
    accepts each."""
    target = problem.target or ""
    found = last_boxed(answer) or answer
    return _without_space(found) == _without_space(target) or any(_equal(found, form) for form in _forms(target))


def _forms(target: str) -> list[str]:
    """ "C(10, 5), or equivalently 252" offers two forms."""
    return [form.strip() for form in re.split(r",?\s+or\s+(?:equivalently\s+|an equivalent form such as\s+)?", target)]


def _equal(answer: str, target: str) -> bool:
    if _without_space(answer) == _without_space(target):
        return True
    if yes_or_no(target) is not None:
        return yes_or_no(answer) == yes_or_no(target)
    if re.fullmatch(r"[-+\u2212]?[\d,]*\.?\d+", target) and re.fullmatch(
        r"\$?[-+\u2212]?[\d,]*\.?\d+\$?", answer.strip()
    ):
        return same_number(answer, target)
    return _verified(answer, target)


def _verified(answer: str, target: str) -> bool:
    if any(len(text) > MAX_CHARACTERS or _TOWER.search(text) for text in (answer, target)):
        return False
    if find_spec("math_verify") is None:
        raise ConfigError(
            "math and champ are checked with math-verify, which is not installed. Install it: pip install math-verify "
            "(extra `problems`)."
        )
    if threading.current_thread() is not threading.main_thread():
        return same_mathematics(_as_latex(answer), _as_latex(target))
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    gold, found = (parse(_as_latex(text), parsing_timeout=SECONDS) for text in (target, answer))
    return bool(gold) and bool(found) and bool(verify(gold, found, timeout_seconds=SECONDS))


def _without_space(text: str) -> str:
    return re.sub(r"\s", "", text)


def _as_latex(text: str) -> str:
    return text if "$" in text else f"${text}$"


MATH = Benchmark(
    name="math",
    is_correct=is_correct,
    is_slow=True,
    wording=WORDING,
    answer_tokens=96,
    read=math_problem,
    hub=HubDataset("EleutherAI/hendrycks_math", "algebra", "test"),
    licence="MIT",
)
CHAMP = Benchmark(
    name="champ",
    is_correct=is_correct,
    is_slow=True,
    wording=WORDING,
    answer_tokens=96,
    read=champ_problem,
    licence="MIT",
)
