"""StrategyQA, yes or no by implicit reasoning (Geva et al., arXiv:2101.02235). Published: one JSON list of {qid,
question, answer: bool}."""

from r2.problem import Problem
from r2.problems.checks import yes_or_no
from r2.problems.record import Benchmark, HubDataset
from r2.problems.row import FieldError, Row, id_of, text_of


def problem(row: Row, index: int) -> Problem:
    """A published row, or a flat one with "yes" or "no"."""
    answer = row.get("answer")
    target = ("yes" if answer else "no") if isinstance(answer, bool) else yes_or_no(str(answer))
    if target is None:
        raise FieldError("answer", "true, false, yes or no", answer)
    return Problem(id_of(row, "strategyqa", index), text_of(row, "question"), index, target, "strategyqa")


def is_correct(problem: Problem, answer: str) -> bool:
    """The answer begins with the right one of yes and no (or true and false)."""
    return yes_or_no(answer) == problem.target


BENCHMARK = Benchmark(
    name="strategyqa",
    is_correct=is_correct,
    n_choices=2,
    wording="Answer yes or no.",
    answer_tokens=48,
    read=problem,
    hub=HubDataset("ChilleD/StrategyQA", "default", "test"),
    licence="MIT",
    has_gold_rows=True,
)
