"""MuSiQue, questions of two to four hops (Trivedi et al., arXiv:2108.00573). Published rows: {question, answer,
answer_aliases, paragraphs: [{title, paragraph_text, is_supporting}], question_decomposition}."""

from r2.problem import Problem
from r2.problems.checks import exact_match, token_f1
from r2.problems.record import Benchmark, HubDataset
from r2.problems.row import FieldError, Row, id_of, list_of, text_of

MAX_CONTEXT_CHARACTERS = 12_000
"""Twenty paragraphs fit; more is cut at a paragraph."""


def problem(row: Row, index: int) -> Problem:
    """A published or flat row, with its paragraphs as context and its aliases."""
    aliases = tuple(str(alias) for field in ("answer_aliases", "aliases") for alias in list_of(row, field))
    return Problem(
        id_of(row, "musique", index),
        text_of(row, "question"),
        index,
        text_of(row, "answer"),
        "musique",
        context=_context(row),
        aliases=aliases,
    )


def is_correct(problem: Problem, answer: str) -> bool:
    """SQuAD's exact match, best over the aliases."""
    return exact_match(answer, _targets(problem))


def f1(problem: Problem, answer: str) -> float:
    """SQuAD's F1, best over the aliases."""
    return token_f1(answer, _targets(problem))


def _targets(problem: Problem) -> list[str]:
    return [problem.target or "", *problem.aliases]


def _context(row: Row) -> str:
    paragraphs = list_of(row, "paragraphs") or list_of(row, "context")
    lines, length = [], 0
    for paragraph in paragraphs:
        if not isinstance(paragraph, dict):
            raise FieldError("paragraphs", "objects with title and paragraph_text", paragraph)
        line = f"{text_of(paragraph, 'title')}: {text_of(paragraph, 'paragraph_text', 'text')}".replace("\n", " ")
        length += len(line) + 1
        if length > MAX_CONTEXT_CHARACTERS:
            break
        lines.append(line)
    return " ".join(lines)


BENCHMARK = Benchmark(
    name="musique",
    is_correct=is_correct,
    wording="Answer with as few words as possible.",
    answer_tokens=48,
    read=problem,
    hub=HubDataset("dgslibisey/MuSiQue", "default", "validation"),
    licence="CC BY 4.0",
    has_gold_rows=True,
)
