"""Entries that answer with a program (`prompt_mode = "program"`; ours): the model writes a short Python program, the
program is run in the sandbox (r2/problems/sandbox.py), and what it prints is the result.

Whoever asks for a result this way gets the printed text in place of the model's own (`ask` of
r2/answering/protocol.py), so that every way to answer can use such an entry. The run is a call of its own, of the
purpose `program`, to the same entry: it is kept in the journal, and it costs the seconds of a core that it took, at the
price that `pools/local.toml` puts on an hour of a core. What the model was paid for is its tokens, as always.

A reply without any code (r2/answering/code.py) is the answer itself: `No` to a question of yes or no. Nothing is run.

A program that gives no result is a failure by name: `no_program` (the text is no Python), `program_crashed`,
`program_timeout`, `program_silent` (it printed nothing). The check that fails is named after it, as
`solve_program_crashed`, and a stronger model may be asked.
"""

from collections.abc import Sequence
from dataclasses import replace

from r2.answering.code import is_code, program_in
from r2.answering.prompts import PROGRAM_ASK
from r2.call import Attempt, Call, Completion
from r2.ledger import CORE_HOUR_USD
from r2.problems.sandbox import ProgramResult, SandboxLimits

LIMITS = SandboxLimits()
WORST_USD = (LIMITS.cpu_s + 1) * CORE_HOUR_USD / 3600
"""The most that one run costs: the kernel ends it at the limit."""
PYTHON = "python"
"""`response_model` of a run."""


def asks_for_program(call: Call) -> bool:
    """Whether the reply is to be run: by the words of its prompt, which a fallback entry is asked with too."""
    return call.purpose in ("solve", "final") and any(
        role == "system" and PROGRAM_ASK in text for role, text in call.messages
    )


def program_call(call: Call, completion: Completion) -> Call | None:
    """The run that follows a reply; None where there is nothing to run: a failed call, a reply that was cut, is empty
    or holds no code."""
    code = _whole(completion)
    if not code or not is_code(code):
        return None
    return Call(
        completion.model or call.model,
        (("assistant", code),),
        "program",
        1,
        subtask_index=call.subtask_index,
        sample_index=call.sample_index,
    )


def runs_of(answered: Sequence[tuple[Call, Completion]]) -> list[Call | None]:
    """The run that follows each of these replies; None where nothing is to be run."""
    return [program_call(call, got) if asks_for_program(call) else None for call, got in answered]


def with_results(
    answered: Sequence[tuple[Call, Completion]], runs: Sequence[Call | None], ran: Sequence[Completion]
) -> list[Completion]:
    """The replies as whoever asked sees them; `ran` has the completions of `runs`, without those that are None."""
    left = iter(ran)
    return [
        with_result(got, None if run is None else next(left)) if asks_for_program(call) else got
        for (call, got), run in zip(answered, runs, strict=True)
    ]


def with_result(completion: Completion, ran: Completion | None) -> Completion:
    """The reply as whoever asked sees it: its text is what the program printed, or what it says where it holds no code.
    Confidence stays that of the model's tokens. A reply that was cut has no text, so that no part of a program is taken
    for a result."""
    if not completion.is_ok:
        return completion
    if ran is None:
        return replace(completion, text=_whole(completion))
    return replace(completion, text=ran.text, error_type=ran.error_type, error_message=ran.error_message)


def _whole(completion: Completion) -> str:
    """The program or the words of a reply; "" where it has none or was cut."""
    return program_in(completion.text) if completion.is_ok and completion.finish_reason != "length" else ""


def ran_program(call: Call, found: ProgramResult, started_at: float, latency_s: float) -> Completion:
    """A run as the completion of its call, with what it cost."""
    attempt = Attempt(
        call.model,
        0,
        0,
        started_at,
        latency_s=latency_s,
        cost_usd=found.cpu_s * CORE_HOUR_USD / 3600,
        price_version=f"{CORE_HOUR_USD:g}/core-hour",
        response_model=PYTHON,
        finish_reason="stop" if found.error_type is None else "",
        error_type=found.error_type,
        error_message=found.error_message or None,
    )
    return Completion(
        found.printed or "",
        call.model,
        (attempt,),
        attempt.finish_reason,
        error_type=found.error_type,
        error_message=attempt.error_message,
    )


def code_of(messages: Sequence[tuple[str, str]]) -> str:
    """The program of a call of the purpose `program`."""
    return messages[-1][1]
