"""Judging by the user's own check: what it says of an answer, and a way to answer that ends with its verdict.

A function, a pattern or a comparison is asked at once; a judge is a model of the pool, and its calls are calls like any
other: journalled, priced, and in the ledger with the purpose `judge` (`verify` while a question is answered). The
benchmark's own check is made where the rows are (r2/answering/protocol.py).
"""

import re
from collections.abc import Generator

from r2.answering.prompts import grade_messages
from r2.answering.protocol import Solving, Wave
from r2.call import Call, Completion, Purpose
from r2.errors import failure
from r2.problem import Problem
from r2.problems.own_check import OwnCheck, Verdict

JUDGE_TOKENS = 256
"""Output limit of a judge: one sentence and a number."""
_SCORE = re.compile(r"\bscore[\s*`\"']*[:=][\s*`\"']*(\d+(?:\.\d+)?|\.\d+)", re.IGNORECASE)


def judged(problem: Problem, solving: Solving, check: OwnCheck | None) -> Solving:
    """The same way to answer, its answer judged by `check`. A problem without an answer is wrong; one whose judge could
    not be reached is deferred, so that it is judged by the next session, its answer kept in the journal."""
    outcome = yield from solving
    if check is None or outcome.verdict is not None or outcome.status == "deferred":
        return outcome
    if not check.can_judge(problem):
        outcome.verdict = Verdict(None)
    elif outcome.answer is None:
        outcome.verdict = Verdict(0.0)
    else:
        verdict, failed = yield from ask_check(problem, outcome.answer, check)
        if failed is not None and failure(failed.error_type).defers:
            outcome.answer, outcome.error_type = None, failed.error_type
            outcome.error_message = f"judge {check.judge}: {failed.error_message or failed.error_type}"
            return outcome
        outcome.verdict = verdict
        outcome.check_error = verdict.error or outcome.check_error
    return outcome


def ask_check(
    problem: Problem, answer: str, check: OwnCheck
) -> Generator[Wave, list[Completion], tuple[Verdict, Completion | None]]:
    """The check's verdict on an answer; with the completion of a judge's call that failed."""
    if check.says is not None:
        return check.says(problem, answer, None), None
    [completion] = yield [judge_call(problem, answer, check, "judge")]
    return verdict_of(completion, check), None if completion.is_ok else completion


def judge_call(problem: Problem, answer: str, check: OwnCheck, purpose: Purpose) -> Call:
    """Asks the judge, at temperature 0."""
    return Call(check.judge or "", grade_messages(problem, answer, check.rubric), purpose, JUDGE_TOKENS)


def verdict_of(completion: Completion, check: OwnCheck) -> Verdict:
    """The last score of a judge's reply."""
    if not completion.is_ok:
        return Verdict(None, f"judge {check.judge}: {completion.error_message or completion.error_type}")
    found = _SCORE.findall(completion.text)
    if not found or not 0 <= float(found[-1]) <= 1:
        said = " ".join(completion.text.split())[-80:]
        return Verdict(None, f"judge {check.judge}: no score from 0 to 1 in its reply, which ends {said!r}")
    return Verdict(float(found[-1]))
