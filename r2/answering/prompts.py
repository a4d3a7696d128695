"""The texts every model is asked with, and the marks by which they can be told apart again.

Static text comes first in every prompt, so that servers with a prefix cache read it once. The marks (`QUESTION_MARK`
and so on) are also what the simulated models read: they see exactly the prompts that real models see.
"""

import re
from collections.abc import Mapping, Sequence

from r2.call import Message
from r2.plan import Plan
from r2.problem import Problem
from r2.roster import PLAN_SKILL, ModelCard, PromptMode

QUESTION_MARK = "Question: "
CONTEXT_MARK = "Context: "
CHOICES_MARK = "Choices: "
RESULT_MARK = "Result of step {step}: "
TASK_MARK = "Task: "
MODELS_MARK = "Models:"
STEPS_MARK = "Steps:"
ANSWER_MARK = "Answer:"
PROPOSED_MARK = "Proposed answer: "
THOUGHT_MARK = "Thought {level}: "
DIRECT_PLAN = "DIRECT"
DIRECT_STEP = "Answer the question"
"""The single step the allocator is shown for a direct plan."""
FINAL_TASK = "Using these results, give the final answer to the question."

DECOMPOSE_SYSTEM = f"""Split a question into short steps for small models. One numbered step per line.
A step must be one small job with a clear result. If a step uses earlier results, end it with (needs: 1, 2).
If one model can answer the question at once, write only {DIRECT_PLAN}.

{QUESTION_MARK}What is 17 + 25?
{DIRECT_PLAN}

{QUESTION_MARK}A box holds 12 pens. Ann has 4 boxes and gives away 9 pens. How many pens are left?
1. Compute 12 * 4
2. Subtract 9 from the result of step 1 (needs: 1)"""

ALLOCATE_SYSTEM = """Choose the cheapest model that will get each step right. Reply with JSON only, for example:
[{"subtask": 1, "model": "A"}, {"subtask": 2, "model": "B"}]"""

JUDGE_SYSTEM = """You judge plans. Does the last step follow from the question and the steps before it, and use them?
Reply with only a number from 0 (not at all) to 1 (fully)."""

VERIFY_SYSTEM = f"""You check answers. Is the proposed answer to the question correct? \
Reply with only one word: correct or incorrect.

{QUESTION_MARK}What is 17 + 25?
{PROPOSED_MARK}42
correct

{QUESTION_MARK}A box holds 12 pens. Ann has 4 boxes and gives away 9 pens. How many pens are left?
{PROPOSED_MARK}48
incorrect"""

GRADE_SYSTEM = """You grade an answer to a question by a rubric, and by nothing else.
Say in one short sentence what decides. Then end with a line 'Score: <number>', from 0 (fails it) to 1 (meets it).

Rubric:
"""

THINK_SYSTEM = (
    "You answer a question in short thoughts. Write only the next thought: one or two sentences, with what it comes to."
)
RATE_SYSTEM = """You judge thoughts. How surely does the last thought lead to the right answer to the question?
Reply with only a number from 0 (surely not) to 1 (surely)."""

BARE_SYSTEM = {"decompose": "plan", "allocate": "allocate", "solve": "solve"}
"""System texts of entries with the prompt mode `bare` (ours): a model fine-tuned on a job needs only its name, and the
prompt a tenth of the tokens."""
PROGRAM_ASK = "Write a short Python program that prints only the answer. Code only, no words."
"""The first line of every prompt for a program, and how such a prompt is known."""
PROGRAM_SYSTEM = f"""{PROGRAM_ASK}

{QUESTION_MARK}What is 48 * 37 - 159?
print(48 * 37 - 159)

{QUESTION_MARK}A box holds 12 pens. Ann has 4 boxes and gives away 9 pens. How many pens are left?
print(12 * 4 - 9)

{QUESTION_MARK}Solve for x: 3 * x + 7 = 22
print((22 - 7) / 3)

{QUESTION_MARK}How often does the letter r occur in "strawberry"?
print("strawberry".count("r"))

{QUESTION_MARK}Sort from small to large: 31, 4, 15
print(*sorted([31, 4, 15]), sep=", ")"""
"""Of entries that answer with a program (ours). Five examples of one line, of the kinds that are often asked: without
examples small models mostly write words, and examples with named variables make them worse (docs/models.md)."""
SOLVE_SYSTEM: dict[PromptMode, str] = {
    "direct": "Reply with only the result, nothing else.",
    "cot": f"Think step by step in a few short lines. Then end with a line '{ANSWER_MARK} <result>'.",
    "bare": BARE_SYSTEM["solve"],
    "program": PROGRAM_SYSTEM,
}
FREE_COT = "Think step by step first, between <think> and </think>. After that write the whole answer."
"""Of entries that think step by step, for rows without a benchmark: what is between the marks is no part of the
answer."""
STEP_SYSTEM = "You do one step of a larger job. Do the task, all of it and nothing else."
COMPOSE_SYSTEM = (
    "Write the whole answer to the question from the results of its steps, in the form that the question asks for. Do "
    "not speak of the steps."
)
JSON_FORM = "Reply with JSON only."
SCHEMA_MARK = "It must match this JSON Schema:"
_MENTION = re.compile(r"\b(?:the )?result of step (\d{1,3})\b", re.IGNORECASE)
MODEL_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def decompose_messages(problem: Problem, mode: PromptMode = "direct") -> tuple[Message, ...]:
    """Asks for a plan (paper: task decomposer; wording ours)."""
    system = BARE_SYSTEM["decompose"] if mode == "bare" else DECOMPOSE_SYSTEM
    return (("system", system), ("user", _question_block(problem)))


def teach_messages(problem: Problem, example: str) -> tuple[Message, ...]:
    """Asks a teacher for a plan: the decomposer's prompt with the benchmark's own worked example, which the decomposer
    learns to do without (ours)."""
    system = f"{DECOMPOSE_SYSTEM}\n\n{example}" if example else DECOMPOSE_SYSTEM
    return (("system", system), ("user", _question_block(problem)))


def allocate_messages(
    problem: Problem, plan: Plan, models: Sequence[ModelCard], mode: PromptMode = "direct"
) -> tuple[Message, ...]:
    """Asks for one model per subtask. `models` in the order shown: letter A is `models[0]`.

    Letters stand for names (ours): the reply is short, and each letter is one token, so that log-probabilities over
    models can be read off one position.
    """
    lines = [f"{letter}: {_profile(card)}" for letter, card in zip(MODEL_LETTERS, models, strict=False)]
    texts = [subtask.text for subtask in plan.subtasks] or [DIRECT_STEP]
    steps = [f"{number}. {text}" for number, text in enumerate(texts, start=1)]
    body = "\n".join([MODELS_MARK, *lines, "", _question_block(problem), STEPS_MARK, *steps])
    return (("system", BARE_SYSTEM["allocate"] if mode == "bare" else ALLOCATE_SYSTEM), ("user", body))


def solve_messages(
    problem: Problem,
    task: str | None,
    results: Mapping[int, str],
    mode: PromptMode,
    wording: str = "",
    system: str = "",
    examples: Sequence[tuple[str, str]] = (),
) -> tuple[Message, ...]:
    """Asks for one subtask's result, or with `task` None for the answer to the whole question.

    `results` maps 1-based step numbers to the earlier results this subtask needs, and only those (ours: shorter
    prompts). `wording` is the benchmark's own instruction, such as SCAN's grammar; a bare prompt does without. Nor does
    a bare prompt for a subtask repeat the question, and "the result of step 1" is replaced by that result: a specialist
    is trained on subtasks that say all they need, and a small model copies what stands where it is needed, but does not
    look up what is listed elsewhere. `system` is the user's own system text, which comes first. `examples` are
    questions with the replies that an entry should give, shown as earlier turns; those of a program stand in place of
    ours.
    """
    how = PROGRAM_ASK if mode == "program" and examples else SOLVE_SYSTEM[mode]
    ours = f"{wording}\n{how}" if wording and mode != "bare" else how
    system = f"{system}\n\n{ours}" if system else ours
    alone = mode == "bare" and task is not None and task != FINAL_TASK
    lines = ([CONTEXT_MARK + problem.context] if problem.context else []) if alone else [_question_block(problem)]
    if alone and task is not None:
        task, results = _filled_in(task, results)
    lines += [RESULT_MARK.format(step=step) + text for step, text in sorted(results.items())]
    if task is not None:
        lines.append(TASK_MARK + task)
    return (("system", system), *turns_of(examples, QUESTION_MARK), ("user", "\n".join(lines)))


def free_messages(
    problem: Problem,
    task: str | None,
    results: Mapping[int, str],
    mode: PromptMode,
    *,
    wording: str = "",
    system: str = "",
    form: str = "",
    examples: Sequence[tuple[str, str]] = (),
) -> tuple[Message, ...]:
    """The same for an answer that is wanted in full, as that of a row without a benchmark: nothing asks for brevity,
    and a plain question goes to the model as the user wrote it, with no system message but the user's own (ours).

    `form` says what the answer must look like, where it must be JSON. An entry of the mode `bare` gets the marks that
    it was trained on.
    """
    if mode == "bare":
        [_, (_, asked)] = solve_messages(problem, task, results, mode)
        parts = [system, BARE_SYSTEM["solve"], form]
    else:
        asked = _own_words(problem) if task is None else solve_messages(problem, task, results, mode)[-1][1]
        ours = "" if task is None else COMPOSE_SYSTEM if task == FINAL_TASK else STEP_SYSTEM
        how = {"cot": FREE_COT, "program": PROGRAM_ASK if examples else PROGRAM_SYSTEM}.get(mode, "")
        parts = [system, wording, ours, how, form]
    said = "\n\n".join(filter(None, parts))
    asking = (*turns_of(examples), ("user", asked))
    return (("system", said), *asking) if said else asking


def turns_of(examples: Sequence[tuple[str, str]], mark: str = "") -> tuple[Message, ...]:
    """Worked examples as earlier turns of the conversation, each question after the mark (Brown et al.,
    arXiv:2005.14165, in the form of chat models)."""
    turns: list[Message] = []
    for question, reply in examples:
        turns += [("user", mark + question), ("assistant", reply)]
    return tuple(turns)


def json_form(schema: str | None) -> str:
    """Asks for JSON, and with `schema` says which: for servers that cannot be held to it."""
    return JSON_FORM if schema is None else f"{JSON_FORM} {SCHEMA_MARK}\n{schema}"


def mending_messages(messages: tuple[Message, ...], reply: str, error: str, schema: str) -> tuple[Message, ...]:
    """The conversation that led to `reply`, and what is wrong with it (ours)."""
    is_shown = any(SCHEMA_MARK in text for _, text in messages)
    said = (
        f"This does not match the JSON Schema: {error}.\nReply with the whole JSON again, corrected, and nothing else."
    )
    if not is_shown:
        said = f"{said}\n{SCHEMA_MARK}\n{schema}"
    return (*messages, ("assistant", reply), ("user", said))


def _own_words(problem: Problem) -> str:
    """The question as it is; with its context and choices, where it has some, each under its mark."""
    return _question_block(problem) if problem.context or problem.choices else problem.question


def _filled_in(task: str, results: Mapping[int, str]) -> tuple[str, dict[int, str]]:
    """The task with the results it mentions in their places, and the results it does not mention."""
    mentioned = {int(number) for number in _MENTION.findall(task)} & set(results)
    filled = _MENTION.sub(lambda found: results.get(int(found[1]), found[0]), task)
    return filled, {step: text for step, text in results.items() if step not in mentioned}


def judge_messages(problem: Problem, plan: Plan, index: int) -> tuple[Message, ...]:
    """Asks whether subtask `index` follows from the question and the subtasks before it (paper: Coe, undefined; wording
    ours)."""
    steps = [f"{number}. {subtask.text}" for number, subtask in enumerate(plan.subtasks[: index + 1], start=1)]
    return (("system", JUDGE_SYSTEM), ("user", "\n".join([_question_block(problem), STEPS_MARK, *steps])))


def verify_messages(problem: Problem, answer: str, wording: str = "", *, is_whole: bool = False) -> tuple[Message, ...]:
    """Asks whether an answer is right (AutoMix: few-shot self-verification; examples and wording ours). `is_whole`: its
    lines are kept."""
    return (
        ("system", f"{wording}\n{VERIFY_SYSTEM}" if wording else VERIFY_SYSTEM),
        (
            "user",
            f"{_question_block(problem)}\n{PROPOSED_MARK}{answer.strip() if is_whole else ' '.join(answer.split())}",
        ),
    )


def grade_messages(problem: Problem, answer: str, rubric: str) -> tuple[Message, ...]:
    """Asks a judge for a score by the user's rubric, which comes first so that a prefix cache reads it once (ours). The
    gold answer is not shown: a judge is trusted by how often it agrees with gold answers it has not seen."""
    body = f"{_question_block(problem)}\n{PROPOSED_MARK}{answer.strip()}"
    return (("system", GRADE_SYSTEM + rubric.strip()), ("user", body))


def think_messages(problem: Problem, thoughts: Sequence[str], wording: str = "") -> tuple[Message, ...]:
    """Asks for the next thought after `thoughts` (tree of thoughts; wording ours)."""
    system = f"{wording}\n{THINK_SYSTEM}" if wording else THINK_SYSTEM
    return (("system", system), ("user", "\n".join([_question_block(problem), *_thought_lines(thoughts)])))


def rate_messages(problem: Problem, thoughts: Sequence[str], wording: str = "") -> tuple[Message, ...]:
    """Asks how surely the last of `thoughts` leads to the right answer (tree of thoughts: value
    prompt; wording ours)."""
    system = f"{wording}\n{RATE_SYSTEM}" if wording else RATE_SYSTEM
    return (("system", system), ("user", "\n".join([_question_block(problem), *_thought_lines(thoughts)])))


def with_thoughts(messages: tuple[Message, ...], thoughts: Sequence[str]) -> tuple[Message, ...]:
    """A solver's prompt for the whole question, with thoughts to answer from."""
    *before, (role, text) = messages
    return (*before, (role, "\n".join([text, *_thought_lines(thoughts)])))


def _thought_lines(thoughts: Sequence[str]) -> list[str]:
    return [
        THOUGHT_MARK.format(level=level) + " ".join(thought.split()) for level, thought in enumerate(thoughts, start=1)
    ]


def _question_block(problem: Problem) -> str:
    lines = []
    if problem.context:
        lines.append(CONTEXT_MARK + problem.context)
    lines.append(QUESTION_MARK + problem.question)
    if problem.choices:
        lines.append(CHOICES_MARK + " ".join(f"({MODEL_LETTERS[i]}) {c}" for i, c in enumerate(problem.choices)))
    return "\n".join(lines)


def _profile(card: ModelCard) -> str:
    """One line a model can be chosen by: tier, price, measured skills. Never its name: names teach nothing new pools
    have."""
    skills = ", ".join(
        f"{skill} {accuracy:.0%}" for skill, accuracy in sorted(card.skills.items()) if skill != PLAN_SKILL
    )
    mode = {"cot": ", thinks step by step", "program": ", writes a program"}.get(card.prompt_mode, "")
    return f"{card.tier}, {card.blended_price:.3g} USD{mode}" + (f"; {skills}" if skills else "")
