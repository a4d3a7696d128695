"""What stands behind the imitations: writes the answer to a prompt, always the same one.

It sees system text and turns as any model does, and can do one-line sums, summaries of several paragraphs, JSON by a
schema, code, multiple choice, copy a text, and recall what was said earlier; anything else gets two paragraphs. Every
long text ends with `LAST_WORDS`, so that a test can see whether it arrived whole.
"""

import ast
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

Turn = tuple[str, str]
"""(role, text): role is "user" or "assistant"."""

LAST_WORDS = "That is the whole of it."

_COPY = re.compile(r"\ACopy this exactly:\n(.*)\Z", re.DOTALL)
_LABEL = re.compile(r"^(Context|Question|Choices|Task|Proposed answer|Result of step \d+): ?", re.MULTILINE)
_SUM = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:\s*[-+*/×x÷^]\s*\(?\s*-?\d[\d,]*(?:\.\d+)?\s*\)?)+")
_OPTION = re.compile(r"\(?\b([A-H])[).:]\s+(.+?)(?=\s+\(?[A-H][).:]\s|\n|$)")
_FACT = re.compile(r"\b(?:my|the) ([a-z][a-z ]{1,30}?) (?:is|was) (?:called )?([^.,;!?\n]+)", re.IGNORECASE)
_RECALL = re.compile(r"\bwhat(?: is|'s| was) (?:my|the) ([a-z][a-z ]{1,30}?)(?:\?| that| I|$)", re.IGNORECASE)
_THEN = re.compile(
    r"\bthen (add|plus|subtract|minus|multiply by|times|divide by) (\d+(?:\.\d+)?)"
    r"|^(?:\d+\. )?(add|subtract|multiply by|divide by) (\d+(?:\.\d+)?)",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER_WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


def answer(
    system: str, turns: Sequence[Turn], *, schema: Mapping[str, Any] | None = None, is_json: bool = False
) -> str:
    """The answer to the last turn."""
    last = turns[-1][1] if turns else ""
    if schema is None and (copied := _COPY.match(last)):
        return copied[1]
    parts = _labelled(last)
    schema = schema or _schema_in(f"{system}\n{last}")
    job = _job(system, last, parts)
    if job is not None and (schema is None or last.startswith("Models:")):
        return job
    if schema is not None:
        return json.dumps(value_of(schema, last), ensure_ascii=False)
    question = parts.get("Task") or parts.get("Question") or last
    if is_json:
        return json.dumps({"answer": _short(question, parts, turns) or "unknown"}, ensure_ascii=False)
    short = _short(question, parts, turns)
    if short is not None:
        return f"One thing after the other.\nAnswer: {short}" if "Answer:" in system else short
    lowered = question.lower()
    if re.search(r"\b(function|code|program|script|class)\b", lowered):
        return _code(question)
    if re.search(r"\bsummar", lowered):
        return _summary(last)
    return _default(question)


def _schema_in(prompt: str) -> Mapping[str, Any] | None:
    """The JSON Schema that the prompt asks to follow in words, as models without guided decoding are asked."""
    _, mark, after = prompt.partition("JSON Schema:\n")
    try:
        schema = json.JSONDecoder().raw_decode(after.lstrip())[0] if mark else None
    except ValueError:
        return None
    return schema if isinstance(schema, dict) else None


def thoughts(turns: Sequence[Turn], n_times: int) -> str:
    """What a reasoning model writes before its answer: as many sentences as asked for."""
    last = " ".join((turns[-1][1] if turns else "").split()[:8])
    return " ".join(f"Step {i}: the question begins with '{last}', so this is considered." for i in range(n_times))


def _labelled(text: str) -> dict[str, str]:
    """The parts of a prompt whose lines begin with a label."""
    found = list(_LABEL.finditer(text))
    parts: dict[str, str] = {}
    for label, after in zip(found, [*found[1:], None], strict=False):
        end = after.start() if after is not None else len(text)
        parts[label[1]] = text[label.end() : end].strip()
    return parts


def _job(system: str, last: str, parts: Mapping[str, str]) -> str | None:
    """Answers to prompts that ask for something about a question, and not for its answer."""
    if last.startswith("Models:") and "Steps:" in last:
        letters = re.findall(r"^([A-Za-z]): ", last.partition("Steps:")[0], re.MULTILINE) or ["A"]
        steps = re.findall(r"^(\d+)\. ", last.partition("Steps:")[2], re.MULTILINE) or ["1"]
        pick = letters[zlib.crc32(last.encode()) % len(letters)]
        return json.dumps([{"subtask": int(step), "model": pick} for step in steps])
    if "numbered step" in system or system == "plan":
        first, _, second = parts.get("Question", last).partition(", then ")
        return f"1. {first}\n2. {second} (needs: 1)" if second else "DIRECT"
    if "only a number from 0" in system:
        return "0.9"
    if "correct or incorrect" in system:
        own = _short(parts.get("Question", last), parts, (("user", last),))
        return "correct" if own is None or own in parts.get("Proposed answer", "") else "incorrect"
    return None


def _short(question: str, parts: Mapping[str, str], turns: Sequence[Turn]) -> str | None:
    """Answers of one line: a choice, a sum, something said earlier. None where the question wants more."""
    results = [text for label, text in parts.items() if label.startswith("Result of step")]
    if results and "final answer" in question:
        return results[-1]
    choice = _choice(question, parts)
    if choice is not None:
        return choice
    total = _sum(question)
    if total is not None or results:
        value = total if total is not None else _number(results[-1])
        for verb, number, verb_at_start, number_at_start in _THEN.findall(question):
            if value is not None:
                value = _apply(value, (verb or verb_at_start).lower(), Fraction(number or number_at_start))
        if value is not None:
            return _written(value)
    return _recalled(question, turns)


def _sum(text: str) -> Fraction | None:
    found = _SUM.search(text)
    if found is None:
        return None
    expression = found[0].replace(",", "").replace("×", "*").replace("x", "*").replace("÷", "/").replace("^", "**")
    try:
        return _evaluated(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _evaluated(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as value):
            return Fraction(str(value))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluated(operand)
        case ast.BinOp(left=left, op=operator, right=right):
            a, b = _evaluated(left), _evaluated(right)
            match operator:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
                case ast.Pow() if b.denominator == 1 and 0 <= b <= 64:
                    return a ** int(b)
    raise ValueError("no sum")


def _apply(value: Fraction, verb: str, number: Fraction) -> Fraction:
    if verb in ("add", "plus"):
        return value + number
    if verb in ("subtract", "minus"):
        return value - number
    return value * number if verb in ("multiply by", "times") else value / number


def _number(text: str) -> Fraction | None:
    found = re.search(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    return Fraction(found[0]) if found else None


def _written(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"


def _choice(question: str, parts: Mapping[str, str]) -> str | None:
    """The letter of the option that is right where that can be computed, else of the one the text speaks of most."""
    options = _OPTION.findall(parts.get("Choices") or question)
    if len(options) < 2 or options[0][0] != "A":
        return None
    stem = parts.get("Question") or question[: question.find(options[0][1])]
    total = _sum(stem)
    for letter, text in options:
        if total is not None and _number(text) == total:
            return str(letter)
    said = set(re.findall(r"[a-z]{4,}", (stem + parts.get("Context", "")).lower()))
    return str(max(options, key=lambda option: len(said & set(re.findall(r"[a-z]{4,}", option[1].lower()))))[0])


def _recalled(question: str, turns: Sequence[Turn]) -> str | None:
    asked = _RECALL.search(question)
    if asked is None:
        return None
    wanted = asked[1].strip().lower()
    said = [text for role, text in turns[:-1] if role == "user"] + [turns[-1][1][: turns[-1][1].find(asked[0])]]
    facts = {thing.strip().lower(): value.strip() for text in said for thing, value in _FACT.findall(text)}
    return facts.get(wanted)


def _summary(text: str) -> str:
    """Several paragraphs, as many as asked for (three where no number is given), with blank lines between them."""
    asked = re.search(r"\b(one|two|three|four|five|six|\d)\s+(?:short |long )?paragraphs?", text.lower())
    n_paragraphs = 3 if asked is None else _NUMBER_WORDS.get(asked[1]) or max(1, int(asked[1]))
    sentences = [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", text.partition(":")[2] or text)]
    sentences = [part for part in sentences if part] or ["Nothing was given."]
    paragraphs = []
    for place in range(n_paragraphs):
        own = sentences[place * len(sentences) // n_paragraphs :][: max(1, len(sentences) // n_paragraphs)]
        said = " ".join(sentence.rstrip(".!?") + "." for sentence in own)
        paragraphs.append(
            f"Part {place + 1} of {n_paragraphs}. The text says, in order and in its own words: {said} "
            "It goes on from there without a break. What matters in this part is stated above."
        )
    return "\n\n".join([*paragraphs, f"In short, {n_paragraphs} parts were given. {LAST_WORDS}"])


def _code(question: str) -> str:
    called = r"\b(?:called|named|function) `?(?!called\b|named\b|that\b|which\b|to\b|for\b|in\b)([a-z_][a-z0-9_]*)"
    named = re.search(called, question)
    name = named[1] if named else "solve"
    return (
        f"Here is `{name}`:\n\n"
        "```python\n"
        f"def {name}(values):\n"
        '    """The values, doubled, in order."""\n'
        "    doubled = []\n"
        "    for value in values:\n"
        "        doubled.append(2 * value)\n"
        "\n"
        "    return doubled\n"
        "\n"
        "\n"
        f"assert {name}([1, 2]) == [2, 4]\n"
        "```\n\n"
        f"It needs nothing but the standard library. {LAST_WORDS}"
    )


def _default(question: str) -> str:
    words = " ".join(question.split()[:12])
    return f"You asked: {words}\n\nThere are two sides to it. The first is known, the second is not. {LAST_WORDS}"


def value_of(schema: Mapping[str, Any], text: str) -> Any:
    """A value that fits the JSON schema, taken from the text where the text names it."""
    return _value(schema, "", text, schema, 0)


def _value(schema: Any, name: str, text: str, root: Mapping[str, Any], depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > 8:
        return None
    if "$ref" in schema:
        target: Any = root
        for step in str(schema["$ref"]).removeprefix("#").strip("/").split("/"):
            target = target.get(step, {}) if step else target
        return _value(target, name, text, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return _mentioned(schema["enum"], name, text)
    for several in ("anyOf", "oneOf"):
        if schema.get(several):
            first = next((s for s in schema[several] if s.get("type") != "null"), schema[several][0])
            return _value(first, name, text, root, depth + 1)
    if "allOf" in schema:
        merged = {key: value for part in schema["allOf"] for key, value in part.items()}
        return _value({**merged, **{k: v for k, v in schema.items() if k != "allOf"}}, name, text, root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    match kind:
        case "object":
            return {
                key: _value(inner, key, text, root, depth + 1) for key, inner in schema.get("properties", {}).items()
            }
        case "array":
            return _array(schema, name, text, root, depth)
        case "integer" | "number":
            return _amount(schema, name, text, kind)
        case "boolean":
            return re.search(rf"\bnot {re.escape(name)}\b|\b{re.escape(name)}\W{{1,3}}(no|false)\b", text, re.I) is None
        case "null":
            return None
    return _text(schema, name, text)


def _array(schema: Mapping[str, Any], name: str, text: str, root: Mapping[str, Any], depth: int) -> list[Any]:
    if "prefixItems" in schema:
        return [_value(item, name, text, root, depth + 1) for item in schema["prefixItems"]]
    said = _after(name, text)
    parts = [part.strip() for part in re.split(r",| and ", said) if part.strip()] if said else [text]
    parts = parts[: schema.get("maxItems", 20)]
    while len(parts) < schema.get("minItems", 1):
        parts.append(parts[-1])
    items = schema.get("items", {})
    is_text = isinstance(items, Mapping) and items.get("type") == "string" and "enum" not in items
    return [part if is_text and said else _value(items, name, part, root, depth + 1) for part in parts]


def _after(name: str, text: str) -> str:
    """What the text says after a field's name: "name: X" or "the name is X"."""
    words = re.sub(r"[_-]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).strip()
    if not words:
        return ""
    found = re.search(rf"\b{re.escape(words)}s?\W{{0,2}}(?:\s(?:is|was|are|were))?[\s:=]+([^\n.;]+)", text, re.I)
    return found[1].strip(' "') if found else ""


def _mentioned(values: Sequence[Any], name: str, text: str) -> Any:
    for where in (_after(name, text), text):
        for value in values:
            if isinstance(value, str) and value and re.search(rf"\b{re.escape(value)}\b", where, re.IGNORECASE):
                return value
    return values[0]


def _amount(schema: Mapping[str, Any], name: str, text: str, kind: str) -> int | float:
    found = _number(_after(name, text))
    if found is None:
        found = _number(text) or Fraction(0)
    value = max(found, Fraction(str(schema.get("minimum", found))))
    value = min(value, Fraction(str(schema.get("maximum", value))))
    return int(value) if kind == "integer" or value.denominator == 1 else float(value)


def _text(schema: Mapping[str, Any], name: str, text: str) -> str:
    if schema.get("format") == "date":
        found = re.search(r"\d{4}-\d{2}-\d{2}", text)
        return found[0] if found else "2026-01-01"
    said = _after(name, text).partition(",")[0].strip()
    value = said or " ".join(text.split()[:6]) or "unknown"
    value = value[: schema.get("maxLength", 200)]
    return value.ljust(schema.get("minLength", 0), ".")
