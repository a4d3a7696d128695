"""What kind of work a question, or a step of a plan, is: the entry of a model's profile that speaks about it. Pure.

Profiles (`profile` in a pool file) state accuracies by kind: `scan_command`, `scan_phrase`, `scan_join`, `expression`,
`add`, `multiply`, `equation`, `word_problem`. A text is read for its form alone; nothing is worked out. For questions
of other benchmarks the benchmark's name is the kind.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from r2.problems import arithmetic, scan, words

EQUATION = re.compile(r"solve for x: (\d{1,9}) \* x \+ (\d{1,9}) = (\d{1,9})", re.IGNORECASE)
TRANSLATE = re.compile(r"Translate '([^']+)'")
REPEAT = re.compile(r"Repeat the result of step (\d+) (?:(\d) times|(twice|thrice))")
JOIN = re.compile(r"Join (.*steps? .*)")
REFERENCE = re.compile(r"the results? of step (\d+)")
_ASKS = re.compile(r"(?:what is|compute|calculate)\s+", re.IGNORECASE)
_STEP_FORMS = tuple(
    (re.compile(pattern, re.IGNORECASE), form)
    for pattern, form in (
        (r"(?:compute|calculate) (.+)", "{0}"),
        (r"add (.+?) (?:to|and) (.+)", "({0}) + ({1})"),
        (r"subtract (.+?) from (.+)", "({1}) - ({0})"),
        (r"multiply (.+?) (?:by|and|with) (.+)", "({0}) * ({1})"),
    )
)
_STAND_IN = "55"
"""For a result that is not known yet."""


def kind_of(text: str) -> str:
    """The kind of a question or step; "" for any other text."""
    expression = step_expression(REFERENCE.sub(_STAND_IN, text), {})
    if expression is not None and (kind := expression_kind(expression)):
        return kind
    return _scan_step_kind(text) or _question_kind(text)


def steps_of(question: str) -> Counter[str]:
    """The kinds of the steps that a plan for this question has, with their numbers; empty where its form does not say
    so. A command has a step for each phrase, each repetition and each join; an expression one for each operation."""
    kind = kind_of(question)
    if kind == "scan_command":
        spoken = question.split()
        n_joins = sum(word in ("and", "after") for word in spoken)
        n_repeats = sum(word in scan.TIMES for word in spoken)
        return Counter(scan_phrase=1 + n_joins, scan_join=n_joins + n_repeats)
    if kind == "expression":
        operations = arithmetic.operations(arithmetic.parse(expression_in(question)))
        return Counter("multiply" if operation.op == "*" else "add" for operation in operations)
    return Counter()


def step_expression(task: str, results: Mapping[int, str]) -> str | None:
    """The expression that a step asks for, as people and plans write steps ("Subtract 9 from the result of step 1"),
    with the results it names put in ("?" for one that is missing); None for another text."""
    text = REFERENCE.sub(lambda match: f"({results.get(int(match[1]), '?')})", task).strip().rstrip(".")
    for pattern, form in _STEP_FORMS:
        if match := pattern.fullmatch(text):
            return form.format(*match.groups())
    return None


def expression_in(question: str) -> str:
    """The expression behind a story of ours, else the question without "What is" and all from its question mark on."""
    asked, mark, _ = question.strip().partition("?")
    return words.expression_of(asked + mark) or _ASKS.sub("", asked, count=1).rstrip(" .=")


def expression_kind(text: str) -> str:
    """As `operations_kind`; "" for what is no expression."""
    try:
        return operations_kind(arithmetic.operations(arithmetic.parse(text)))
    except ValueError:
        return ""


def operations_kind(operations: Sequence[arithmetic.Operation]) -> str:
    """`expression` for several operations, `multiply` or `add` for one, `add` for a number alone."""
    if len(operations) > 1:
        return "expression"
    return "multiply" if operations and operations[0].op == "*" else "add"


def command_kind(question: str) -> str:
    """`scan_phrase` for a SCAN command without a join or a repetition, else `scan_command`."""
    spoken = question.split()
    is_whole = any(word in ("and", "after") or word in scan.TIMES for word in spoken)
    return "scan_command" if is_whole else "scan_phrase"


def _question_kind(question: str) -> str:
    if scan.is_command(question):
        return command_kind(question)
    if (match := EQUATION.match(question)) and int(match[1]):
        return "equation"
    kind = expression_kind(text := expression_in(question))
    return "word_problem" if kind and text not in question else kind


def _scan_step_kind(task: str) -> str:
    if match := TRANSLATE.fullmatch(task):
        return "scan_phrase" if scan.is_command(match[1]) else ""
    return "scan_join" if REPEAT.fullmatch(task) or JOIN.fullmatch(task) else ""
