"""GSM8K, grade-school word problems (Cobbe et al., arXiv:2110.14168). Published rows: {question, answer: "reasoning
#### 18"}."""

from r2.problem import Problem
from r2.problems.checks import last_number, no_number, same_number
from r2.problems.record import Benchmark, HubDataset
from r2.problems.row import FieldError, Row, id_of, text_of


def problem(row: Row, index: int) -> Problem:
    """A published or flat row; the target is the number after "####". FieldError where there is none."""
    answer = text_of(row, "answer")
    target = answer.rpartition("####")[2].strip().replace(",", "")
    if last_number(target) is None:
        raise FieldError("answer", "a number, after '####' if there is more", answer)
    return Problem(id_of(row, "gsm8k", index), text_of(row, "question"), index, target, "gsm8k")


def is_correct(problem: Problem, answer: str) -> bool:
    """The last number of the answer is the target's."""
    return same_number(answer, problem.target or "")


BENCHMARK = Benchmark(
    name="gsm8k",
    is_correct=is_correct,
    malformed=no_number,
    wording="Answer with a number, without units.",
    answer_tokens=24,
    read=problem,
    hub=HubDataset("openai/gsm8k", "main", "test"),
    licence="MIT",
    has_gold_rows=True,
)
