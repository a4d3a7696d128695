"""From a model's text to an answer, and from an answer to right or wrong. Total: any text gives some answer.

The checks are the plain ones that many benchmarks share; a benchmark with a check of its own brings it in
`r2/problems/`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

_ANSWER = re.compile(r"answer\s*(?:is)?\s*[:=]\s*", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_NUMBER = re.compile(r"[-+\u2212]?\s?\$?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d{1,3})?")
_ANSWER_IS = re.compile(r"\banswer(?:\s+is\s*[:=]?|\s*[:=])\s*", re.IGNORECASE)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*|__([^_\n]+)__")
_IS = re.compile(r"\s(?:is|are|was|were)\s", re.IGNORECASE)
_NOT = re.compile(r"\b(?:not|no|never|neither|nor)\b|n['\u2019]t\b", re.IGNORECASE)
_LETTER_FIRST = re.compile(r"[\s*_`(\[]*([A-Za-z])[\s*_`)\]]*(?:[.:,)]|\s[-\u2013\u2014]\s|$)")
_LETTER_NAMED = re.compile(r"\b(?:option|choice|answer)\s+(?:is\s+)?[*_`(\[]*([A-Z])\b")
_DECLINES = re.compile(
    r"\W*(?:(?:sorry|unfortunately|apologies)\b[,.\s]*(?:but\s+)?)?"
    r"(?:I(?:'m|\u2019m| am) (?:very )?(?:sorry|unable)|I (?:cannot|can't|can\u2019t|do not know|don't know|"
    r"don\u2019t know)|as an AI)\b",
    re.IGNORECASE,
)
_LONGEST_REFUSAL = 400
"""Characters of a whole answer that may be a refusal: a longer one says something after its first words."""
_REFUSAL = re.compile(
    r"\b(?:I(?:'m| am) (?:sorry|unable)|I (?:cannot|can't|do not know|don't know)|as an AI)\b", re.IGNORECASE
)


def extract_answer(text: str) -> str:
    """What a text answers: the last \\boxed{...}, else what follows the last "Answer:", else the last line that is not
    empty."""
    if boxed := _BOXED.findall(text):
        return str(boxed[-1]).strip()
    marks = list(_ANSWER.finditer(text))
    if marks and (rest := text[marks[-1].end() :].strip()):
        return rest.splitlines()[0].strip().strip("*`").strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].strip("*`").strip() if lines else ""


def whole_answer(text: str) -> str:
    """All that a model wrote, whatever it is: empty lines before it and white space after it are left out."""
    return re.sub(r"\A(?:[^\S\n]*\n)+", "", text).rstrip()


def short_answer(text: str, target: str | None = None, choices: tuple[str, ...] = ()) -> str:
    """What a whole answer comes to, for a check that compares it: the letter of a choice; the number, where the target
    is one; else what stands in \\boxed{...}, after the last "answer is" or "Answer:", in bold in the last line, or the
    last line itself ("The capital of France is Paris": what follows "is"). The target's value is not looked at, only
    whether it is a number.

    Ours: rules, no model is asked. An answer that is short already is itself.
    """
    cut = _cut(text)
    if choices:
        return _letter_in(text, cut, choices) or cut
    if target is not None and _NUMBER.fullmatch(target.strip()):
        lines = [cut, *reversed(text.splitlines())]
        return next((found[-1].strip() for line in lines if (found := _NUMBER.findall(line))), cut)
    parts = _IS.split(cut)
    return parts[1].strip() if target is not None and len(parts) == 2 and parts[1].strip() else cut


def _cut(text: str) -> str:
    if boxed := _BOXED.findall(text):
        return str(boxed[-1]).strip()
    marks = list(_ANSWER_IS.finditer(text))
    rest = text[marks[-1].end() :].strip() if marks else ""
    lines = [line.strip() for line in (rest or text).splitlines() if line.strip()]
    if not lines:
        return ""
    line = lines[0] if rest else lines[-1]
    bold = _BOLD.findall(line)
    if len(bold) == 1:
        line = bold[0][0] or bold[0][1]
    return line.strip("*`").strip()


def _letter_in(text: str, cut: str, choices: tuple[str, ...]) -> str | None:
    """The letter that a whole answer names: where it is cut to, in its first line, or as "option B"."""
    letters = [chr(ord("A") + i) for i in range(len(choices))]
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    for line in (cut, first):
        if match := _LETTER_FIRST.match(line):
            letter = match[1].upper()
            if letter in letters and (match[1].isupper() or len(line) <= 3):
                return letter
        named: set[str] = {letter for letter in re.findall(r"\(([A-Z])\)", line) if letter in letters}
        if len(named) == 1:
            return named.pop()
        for letter, choice in zip(letters, choices, strict=True):
            if same_text(line, choice):
                return letter
    if not _NOT.search(cut):
        said = f" {normal_text(cut)} "
        held = [letter for letter, choice in zip(letters, choices, strict=True) if f" {normal_text(choice)} " in said]
        if len(held) == 1:
            return held[0]
    named = {letter for letter in _LETTER_NAMED.findall(text) if letter in letters}
    return named.pop() if len(named) == 1 else None


def last_number(text: str) -> Decimal | None:
    """The last number in a text, thousands commas and currency signs dropped; None if there is none."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    cleaned = re.sub(r"[,$\s]", "", found[-1]).replace("\u2212", "-")
    try:
        return Decimal(cleaned)
    except InvalidOperation:
        return None


def no_number(text: str) -> str | None:
    """`no_number` for a text without one: the form of a result that must be a number."""
    return None if last_number(text) is not None else "no_number"


def same_number(answer: str, target: str) -> bool:
    """True if the last numbers of both agree within one part in a million (ours: models round)."""
    a, t = last_number(answer), last_number(target)
    if a is None or t is None:
        return False
    return abs(a - t) <= abs(t) * Decimal("1e-6")


def same_choice(answer: str, target: str, choices: tuple[str, ...]) -> bool:
    """True if the answer names the target's letter, or repeats its text. `target` may be a letter
    or a choice's text."""
    target_letter = _choice_letter(target, choices)
    return target_letter is not None and _choice_letter(answer, choices) == target_letter


def same_text(answer: str, target: str) -> bool:
    """True if both are equal after NFKC, case folding and dropping of articles, punctuation and spare spaces (SQuAD's
    rule)."""
    return normal_text(answer) == normal_text(target)


def exact_match(answer: str, targets: Iterable[str]) -> bool:
    """SQuAD's EM: the same text as any of the targets."""
    return any(same_text(answer, target) for target in targets)


def token_f1(answer: str, targets: Iterable[str]) -> float:
    """SQuAD's F1: harmonic mean of precision and recall over words, best over the targets; 0..1."""
    return max((_f1(normal_text(answer).split(), normal_text(target).split()) for target in targets), default=0.0)


def _f1(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    n_shared = sum((Counter(words) & Counter(gold)).values())
    return 2 * n_shared / (len(words) + len(gold))


def yes_or_no(text: str) -> str | None:
    """ "yes" or "no" where the text begins with it, or with true or false; None for anything else."""
    match = re.match(r"\W*(yes|no|true|false)\b", text, re.IGNORECASE)
    return None if match is None else {"true": "yes", "false": "no"}.get(found := match[1].lower(), found)


def default_check(answer: str, target: str, choices: tuple[str, ...] = ()) -> bool:
    """Check of questions that name no benchmark: choice letter if there are choices, number if the target is one, else
    text."""
    if choices:
        return same_choice(answer, target, choices)
    if _NUMBER.fullmatch(target.strip()):
        return same_number(answer, target)
    return same_text(answer, target)


def is_refusal(text: str) -> bool:
    """True if the text declines to answer, in the phrases models use."""
    return _REFUSAL.search(text) is not None


def declines(text: str) -> bool:
    """True if a whole answer is a refusal: short, and one from its first words on. Such words within a longer text are
    part of what was asked for."""
    return len(text) <= _LONGEST_REFUSAL and _DECLINES.match(text) is not None


def _choice_letter(text: str, choices: tuple[str, ...]) -> str | None:
    letters = [chr(ord("A") + i) for i in range(len(choices))]
    stripped = text.strip()
    if match := re.match(r"^\(?([A-Za-z])\)?(?:[.:,)\s]|$)", stripped):
        letter = match[1].upper()
        if letter in letters and (match[1].isupper() or len(stripped) <= 3):
            return letter
    if match := re.search(r"\(([A-Z])\)", stripped):
        return match[1] if match[1] in letters else None
    for letter, choice in zip(letters, choices, strict=True):
        if same_text(stripped, choice):
            return letter
    return None


def normal_text(text: str) -> str:
    """The words of a text as the text check compares them: folded, without articles and punctuation; "" for none."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.sub(r"[^\w\s]", " ", folded).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))
