"""New traffic that something can be learned from: questions of the lake with a check or feedback, and with a right
answer that everybody's answer can be compared with.

The right answer is the row's own; else the answer that people called right. Left out, each said with its number: free
text, rows that asked in their own way, and questions where the verdicts say the right answer is not known.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from r2.problem import Problem
from r2.problems.benchmark import is_free
from r2.problems.split import question_key
from storage.runs.checked_trials import planned
from storage.sql.query import connect, damage_named

REFRESH: Final = "_refresh"
"""Folder of the loop's rounds in a lake; what lies there is no traffic."""
_TRAFFIC: Final = f"""
    select t.run_id, t.problem_id, t.answer, t.is_correct, f.is_right
    from trajectories as t join runs_latest as r using (run_id)
    left join feedback_verdicts as f using (run_id, problem_id, rollout)
    where r.kind = 'answer' and not contains(r.input_path, '{REFRESH}/') and t.phase is null and t.status = 'answered'
          and coalesce(f.is_right, t.is_correct) is not null
    order by t.started_at desc, t.run_id, t.input_index
"""


@dataclass(frozen=True, slots=True)
class FreshQuestion:
    """`key`: `question_key`. `problem` has the right answer as its target, and its id in the run that it is from."""

    key: str
    problem: Problem
    run_id: str


@dataclass(frozen=True, slots=True)
class FreshQuestions:
    """Newest first. `left_out`: reason -> questions."""

    questions: tuple[FreshQuestion, ...]
    left_out: dict[str, int]


def fresh_questions(lake: Path, known: Collection[str]) -> FreshQuestions:
    """Each question once, without those whose key is `known`."""
    found: dict[str, FreshQuestion] = {}
    left_out: Counter[str] = Counter()
    problems: dict[str, dict[str, Problem]] = {}
    seen = set(known)
    with connect(lake, views=["feedback_verdicts"]) as db, damage_named(lake):
        for run_id, problem_id, answer, is_correct, is_right in db.execute(_TRAFFIC).fetchall():
            if run_id not in problems:
                problems[run_id] = planned(lake, run_id)[1]
            problem = problems[run_id].get(problem_id)
            key = "" if problem is None else question_key(problem)
            if problem is None or key in seen:
                continue
            seen.add(key)
            target, why = _right_answer(problem, answer, is_correct, is_right)
            if why:
                left_out[why] += 1
            else:
                found[key] = FreshQuestion(key, replace(problem, target=target), run_id)
    return FreshQuestions(tuple(found.values()), dict(left_out))


def _right_answer(problem: Problem, answer: Any, is_correct: Any, is_right: Any) -> tuple[str | None, str]:
    """(the right answer, "") or (None, why there is none)."""
    if problem.asked is not None or (is_free(problem) and not problem.choices):
        return None, "in free text, or asked in the row's own way"
    if is_right is not None and is_correct is not None and is_right is not is_correct:
        return None, "people say the opposite of the check"
    if problem.target is not None:
        return problem.target, ""
    if is_right:
        return str(answer), ""
    return None, "judged wrong, and nobody has said what is right"
