"""What a row asks for itself (`Problem.asked`), honoured: its conversation, its parameters, its number of answers.

`with_own` puts a row's own into a call. `as_asked` wraps a way to answer: it asks for the further answers that a row
wants, cuts at stop texts that an entry could not be sent, and says what could not be honoured.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from r2.answering.prompts import RESULT_MARK, TASK_MARK
from r2.answering.protocol import Answer, Outcome, QuestionBudget, Router, Solving, Stop, Wave, ask
from r2.answering.wanted import schema_of
from r2.call import Call, Completion, Message
from r2.problem import Asked, Problem
from r2.problems.benchmark import result_in
from r2.roster import Roster

UNSUPPORTED: Final = "unsupported_field"
"""The error type of a row that asks for what nobody can give."""
NO_ENTRY: Final = (
    "logprobs: no model of the pool gives log-probabilities. Set logprobs = true for an entry whose server does, or "
    "take the field out of the row"
)
OWN_TEMPERATURE: Final = 1.0
"""Of a row that wants several answers, or says `top_p` alone: at temperature 0 it would get one and the same."""


def with_own(call: Call, problem: Problem, roster: Roster, *, is_answer: bool) -> Call:
    """The call with what the row asks for itself.

    `is_answer`: its text is the answer to the question, and not a step on the way. Then the output limit, stop texts,
    form and log-probabilities are the row's, too.
    """
    asked = problem.asked
    if asked is None:
        return call
    temperature = asked.temperature
    if temperature is None:
        is_drawn = asked.top_p is not None or (asked.n or 1) > 1
        temperature = OWN_TEMPERATURE if is_drawn and call.temperature == 0 else call.temperature
    own = replace(
        call,
        temperature=temperature,
        top_p=asked.top_p,
        seed=call.seed if asked.seed is None else asked.seed,
        effort=asked.effort,
    )
    if is_answer:
        own = replace(
            own,
            max_output_tokens=roster[call.model].answer_limit(call.messages, asked.max_output_tokens)
            if asked.max_output_tokens is not None
            else call.max_output_tokens,
            stop=asked.stop,
            json_schema=None if asked.json_object else call.json_schema,
            json_object=asked.json_object,
            top_logprobs=max(asked.top_logprobs or 0, 1, call.top_logprobs) if asked.logprobs else call.top_logprobs,
        )
    return replace(own, asked_for=_names(asked, is_answer=is_answer))


def is_conversation(problem: Problem) -> bool:
    """The row has messages of its own."""
    return problem.asked is not None and bool(problem.asked.messages)


def speaks_of_json(problem: Problem) -> bool:
    """The row's messages have the word, without which some servers refuse to be held to a JSON object."""
    return problem.asked is not None and any("json" in said.lower() for _, said in problem.asked.messages)


def own_system(problem: Problem) -> str:
    """The system text of a row that is one question; "" where it has none."""
    return (problem.asked.system or "") if problem.asked is not None else ""


def conversation(
    problem: Problem, task: str | None, results: Mapping[int, str], *, system: str = "", form: str = ""
) -> tuple[Message, ...]:
    """The row's messages as it has them; with the results of steps, and what to do with them, behind the last one.

    `system` is the run's system text, for a conversation without one. `form` says what the answer must look like, for
    an entry that cannot be held to it: it is added to the system text.
    """
    messages = () if problem.asked is None else problem.asked.messages
    if system and all(role != "system" for role, _ in messages):
        messages = (("system", system), *messages)
    if form:
        has_system = bool(messages) and messages[0][0] == "system"
        first = f"{messages[0][1]}\n\n{form}" if has_system else form
        messages = (("system", first), *messages[has_system:])
    if task is None or not messages:
        return messages
    *before, (role, said) = messages
    lines = [said, "", *(RESULT_MARK.format(step=step) + text for step, text in sorted(results.items()))]
    return (*before, (role, "\n".join([*lines, TASK_MARK + task])))


def _names(asked: Asked, *, is_answer: bool) -> frozenset[str]:
    """What the row asks for, by the names that rows use."""
    named = {
        "temperature": asked.temperature is not None,
        "top_p": asked.top_p is not None,
        "seed": asked.seed is not None,
        "reasoning_effort": asked.effort is not None,
        "max_tokens": is_answer and asked.max_output_tokens is not None,
        "stop": is_answer and bool(asked.stop),
        "logprobs": is_answer and asked.logprobs,
    }
    return frozenset(name for name, is_asked in named.items() if is_asked)


def answering_entry(model: str, problem: Problem, roster: Roster) -> str:
    """Who answers in the place of `model`: for a row that wants log-probabilities the nearest stronger entry that gives
    them, else the strongest one that does; the entry itself where none does (`as_asked` has said so before)."""
    if problem.asked is None or not problem.asked.logprobs or roster[model].has_logprobs:
        return model
    above = roster.stronger(model)
    while above is not None:
        if roster[above].has_logprobs:
            return above
        above = roster.stronger(above)
    giving = [card.name for card in roster.solvers if card.has_logprobs]
    return giving[-1] if giving else model


def as_asked(problem: Problem, solving: Solving, router: Router) -> Solving:
    """The same way to answer, with what the row asks for beside its answer. A row without own settings is untouched."""
    asked = problem.asked
    if asked is None:
        return (yield from solving)
    if asked.logprobs and not any(card.has_logprobs for card in router.roster.solvers):
        return Outcome(error_type=UNSUPPORTED, error_message=NO_ENTRY)
    pairs: list[tuple[Call, Completion]] = []
    outcome = yield from _listened(solving, pairs)
    answering = _answering(pairs, outcome)
    if answering is None or outcome.answer is None:
        return outcome
    answered = [answering]
    if (asked.n or 1) > 1:
        budget = QuestionBudget(router)
        budget.pay([completion for _, completion in pairs])
        try:
            answered += yield from _further(problem, *answering, asked, budget, outcome)
        except Stop as stop:
            outcome.answer, outcome.error_type, outcome.error_message = None, stop.error_type, str(stop)
            return outcome
    if asked.logprobs and not all(completion.token_logprobs for _, completion in answered):
        silent = next(completion.model for _, completion in answered if not completion.token_logprobs)
        outcome.answer, outcome.error_type = None, UNSUPPORTED
        outcome.error_message = (
            f"logprobs: the reply of {silent} came without log-probabilities. Correct logprobs in the pool file, or "
            "take the field out of the row"
        )
        return outcome
    if asked.logprobs or (asked.n or 1) > 1:
        texts = [outcome.answer, *(_result(problem, completion, router) for _, completion in answered[1:])]
        outcome.answers = [
            Answer(text, _finish(completion), _shown_logprobs(completion, asked))
            for text, (_, completion) in zip(texts, answered, strict=True)
        ]
    outcome.notes += _notes(answered)
    return outcome


def _listened(solving: Solving, pairs: list[tuple[Call, Completion]]) -> Solving:
    """The same, with every call and its completion noted, texts cut at the row's stop texts."""
    try:
        wave = next(solving)
        while True:
            completions = [_cut(call, got) for call, got in zip(wave, (yield wave), strict=True)]
            pairs += zip(wave, completions, strict=True)
            wave = solving.send(completions)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


def _cut(call: Call, completion: Completion) -> Completion:
    """The text up to the first stop text, where the entry could not be sent them."""
    if "stop" not in completion.not_sent:
        return completion
    ends = [place for stop in call.stop if (place := completion.text.find(stop)) >= 0]
    return replace(completion, text=completion.text[: min(ends)], finish_reason="stop") if ends else completion


def _answering(pairs: Sequence[tuple[Call, Completion]], outcome: Outcome) -> tuple[Call, Completion] | None:
    """The call whose text is the answer: the last one that holds it."""
    solved = [pair for pair in pairs if pair[0].purpose in ("solve", "final") and pair[1].is_ok]
    holding = [pair for pair in solved if outcome.answer is not None and outcome.answer in pair[1].text]
    found = holding or solved
    return found[-1] if found else None


def _result(problem: Problem, completion: Completion, router: Router) -> str:
    """What the text comes to, as for the first answer; "" for none, and for one that does not match its schema."""
    schema = schema_of(problem, router)
    text = result_in(problem, completion.text, is_whole=schema is not None)
    return text if schema is None else schema.find(text).text or ""


def _finish(completion: Completion) -> str:
    return "length" if completion.finish_reason == "length" else "stop"


def _further(
    problem: Problem, call: Call, completion: Completion, asked: Asked, budget: QuestionBudget, outcome: Outcome
) -> Generator[Wave, list[Completion], list[tuple[Call, Completion]]]:
    """The row's further answers, by the model that gave the first. One that fails for good is said, and left out."""
    model = completion.model if completion.model in budget.router.roster.by_name else call.model
    wave = [replace(call, model=model, sample_index=call.sample_index + k) for k in range(1, asked.n or 1)]
    answered = yield from ask(wave, budget)
    got = [(sent, _cut(sent, one)) for sent, one in answered]
    good = [(sent, one) for sent, one in got if one.is_ok and _result(problem, one, budget.router)]
    if len(good) < len(got):
        failed = next(one for sent, one in got if (sent, one) not in good)
        why = failed.error_message or failed.error_type or "a reply without an answer"
        outcome.notes.append(f"n: {1 + len(good)} of {asked.n} answers came ({why})")
    return good


def _shown_logprobs(
    completion: Completion, asked: Asked
) -> tuple[tuple[str, float, tuple[tuple[str, float], ...]], ...]:
    if not asked.logprobs:
        return ()
    n_top = asked.top_logprobs or 0
    return tuple((token.token, token.logprob, token.alternatives[:n_top]) for token in completion.token_logprobs)


def _notes(answered: Sequence[tuple[Call, Completion]]) -> list[str]:
    """What could not be sent, once per entry and name."""
    said: dict[str, None] = {}
    for _, completion in answered:
        for name in completion.not_sent:
            how = "; its text ends before the first stop text all the same" if name == "stop" else ""
            said[f"{name}: not sent, {completion.model} does not take it{how}"] = None
    return list(said)
