"""CommonsenseQA, five choices (Talmor et al., arXiv:1811.00937). Published rows: {question: {stem, choices: [{label,
text}]}, answerKey}."""

from r2.problem import Problem
from r2.problems.checks import same_choice
from r2.problems.record import Benchmark, HubDataset
from r2.problems.row import FieldError, Row, id_of, text_of


def problem(row: Row, index: int) -> Problem:
    """A published row, a hub row ({question, choices: {label, text}}), or a flat one ({choices: {"A": ...}})."""
    question = row.get("question")
    nested = question if isinstance(question, dict) else row
    choices = _choices(nested.get("choices"))
    target = text_of(row, "answerKey", "answer").upper()
    if target not in choices:
        raise FieldError("answerKey", f"one of {', '.join(choices)}", target)
    texts = tuple(choices.values())
    letter = chr(ord("A") + list(choices).index(target))
    return Problem(id_of(row, "csqa", index), text_of(nested, "stem", "question"), index, letter, "csqa", texts)


def is_correct(problem: Problem, answer: str) -> bool:
    """The answer's letter, or its text, is the target's."""
    return same_choice(answer, problem.target or "", problem.choices)


def _choices(value: object) -> dict[str, str]:
    """Label -> text, in order."""
    if isinstance(value, list) and all(isinstance(c, dict) and "label" in c and "text" in c for c in value):
        return {str(choice["label"]): str(choice["text"]) for choice in value}
    if isinstance(value, dict) and isinstance(value.get("label"), list) and isinstance(value.get("text"), list):
        return dict(zip(map(str, value["label"]), map(str, value["text"]), strict=True))
    if isinstance(value, dict) and value:
        return {str(label): str(text) for label, text in value.items()}
    raise FieldError("choices", "choices with label and text", value)


BENCHMARK = Benchmark(
    name="csqa",
    is_correct=is_correct,
    wording="Answer with the letter of the best choice.",
    answer_tokens=24,
    read=problem,
    hub=HubDataset("tau/commonsense_qa", "default", "validation"),
    licence="MIT (code), see the data's own page",
)
