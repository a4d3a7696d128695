"""What is wanted of the answer to a problem: all of it or a short result, under which system text, matching which
schema; and how an answer that is cut or does not match is asked for again. No I/O but to read the user's files, once.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from r2.answering.prompts import mending_messages
from r2.answering.protocol import QuestionBudget, Router
from r2.call import Call, Completion
from r2.errors import ConfigError
from r2.problem import Problem
from r2.problems.benchmark import is_free
from r2.problems.schema import AnswerSchema, load_schema, parse_schema
from r2.settings import Reasoning

TRUNCATED, SCHEMA = "truncated", "schema"
"""The failed checks of an answer that ends at its limit, and of one that does not match its schema."""

ANY_OBJECT = '{"type":"object"}'
"""The schema of a row that asks for any JSON object."""


def load_wanted(reasoning: Reasoning) -> tuple[str, AnswerSchema | None]:
    """(system text, schema) of the settings; "" and None where there is none. ConfigError, before anything is asked,
    for a file that cannot be used."""
    system = "" if reasoning.system_file is None else _system_text(reasoning.system_file)
    return system, None if reasoning.schema_file is None else load_schema(reasoning.schema_file)


def wanted_digest(reasoning: Reasoning) -> str:
    """What system text and schema add to the identity of a run: "" without any. ConfigError as of `load_wanted`."""
    system, schema = load_wanted(reasoning)
    if not system and schema is None:
        return ""
    content = json.dumps([system, None if schema is None else schema.digest])
    return f"+wanted:{hashlib.sha256(content.encode()).hexdigest()}"


def _system_text(path: str) -> str:
    try:
        text = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--system {path}: cannot be read: {error}.") from None
    if not text:
        raise ConfigError(f"--system {path}: the file is empty. Leave the flag out, or write the system text into it.")
    return text


def schema_of(problem: Problem, router: Router) -> AnswerSchema | None:
    """What the answer must match: the row's own schema, else the run's; None: nothing."""
    if problem.asked is not None and problem.asked.schema is not None:
        return parse_schema(problem.asked.schema)
    if problem.asked is not None and problem.asked.json_object:
        return parse_schema(ANY_OBJECT)
    return router.schema


def is_whole(problem: Problem, router: Router) -> bool:
    """Its answer is taken in full: it has no benchmark, or must match a schema."""
    return is_free(problem) or schema_of(problem, router) is not None


def composes(problem: Problem, router: Router) -> bool:
    """Its plans end with a final call, which writes the answer from the steps' results."""
    return router.finalizer is not None or (router.composes and is_whole(problem, router))


@dataclass(slots=True)
class Again:
    """What was tried of one result beside asking for it: each remedy is tried once, of each entry."""

    is_doubled: bool = False
    """From the first cut on every call asks for twice the limit."""
    mended: set[str] = field(default_factory=set)

    def call(
        self,
        problem: Problem,
        check: str,
        call: Call,
        completion: Completion,
        schema: AnswerSchema | None,
        router: Router,
        budget: QuestionBudget,
    ) -> Call | None:
        """The call that asks the same entry once more, None where nothing is left to try: a cut answer at twice the
        limit, within what the entry can generate and the question's budget; one that does not match its schema with
        the error shown. A limit that the row itself sets is the row's wish, and stays."""
        further: Call | None = None
        if check == TRUNCATED and not self.is_doubled and (schema is not None or is_free(problem)):
            if has_own_limit(problem):
                return None
            self.is_doubled = True
            room = router.roster[call.model].answer_limit(call.messages, 2 * call.max_output_tokens)
            further = replace(call, max_output_tokens=room) if room > call.max_output_tokens else None
        elif check == SCHEMA and schema is not None and call.model not in self.mended:
            self.mended.add(call.model)
            error = schema.find(completion.text).error or ""
            messages = mending_messages(call.messages, completion.text, error, schema.text)
            room = router.roster[call.model].answer_limit(messages, call.max_output_tokens)
            further = replace(call, messages=messages, max_output_tokens=room)
        return further if further is not None and budget.fits(further) else None


def has_own_limit(problem: Problem) -> bool:
    """The row says how long its answer may be."""
    return problem.asked is not None and problem.asked.max_output_tokens is not None
