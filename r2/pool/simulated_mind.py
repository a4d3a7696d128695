"""What a simulated model answers: it reads the prompt, really computes, and errs as an item-response model does. Pure and deterministic.

P(right) = sigmoid(SLOPE * (ability - difficulty)), the two-parameter model of item-response theory. Ability belongs to the model, difficulty
to what it is asked to do at once: digits and operations of an expression, length of a SCAN command. Every draw is keyed by
(simulation seed, model, messages, request seed), so the same request has the same answer wherever and whenever it is asked. What these models
show about routing holds for simulated models; a claim about real ones needs real ones.
"""

import hashlib
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r2.plan import DIRECT, Plan, format_plan
from r2.problems import arithmetic, scan, words
from r2.prompts import (
    ALLOCATE_SYSTEM,
    ANSWER_MARK,
    DECOMPOSE_SYSTEM,
    DIRECT_STEP,
    FINAL_TASK,
    MODELS_MARK,
    QUESTION_MARK,
    SOLVE_SYSTEM,
    STEPS_MARK,
    TASK_MARK,
)

SLOPE = 2.0
COT_BONUS = 1.0
"""Ability gained by thinking step by step, at several times the tokens."""
PLAN_DIFFICULTY = 0.5
"""Difficulty of planning two steps; each further one adds 0.25."""

_RESULT = re.compile(r"^Result of step (\d+): (.*)$", re.MULTILINE)
_REFERENCE = re.compile(r"the results? of step (\d+)")
_MODEL_LINE = re.compile(r"^([A-Za-z]): (small|medium|large), ([\d.e+-]+) USD(, thinks step by step)?(?:; (.*))?$", re.MULTILINE)
_NUMBERED = re.compile(r"^(\d+)\. (.+)$", re.MULTILINE)
_TIER_GUESS = {"small": 0.6, "medium": 0.85, "large": 0.97}


@dataclass(frozen=True, slots=True)
class Thought:
    """A reply: its text, and for an allocation the probability of each letter at each subtask."""

    text: str
    letter_probabilities: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """What a prompt asks for: the right result, how hard it is, and a plausible wrong one."""

    right: str
    wrong: str
    difficulty: float
    skill: str


def think(model: str, ability: float, messages: Sequence[tuple[str, str]], seed: int, simulation_seed: int = 0) -> Thought:
    """The model's reply. Any messages get one; what it does not understand it does not know."""
    key = repr((simulation_seed, model, list(messages), seed)).encode("utf-8", "replace")
    chance = random.Random(hashlib.sha256(key).digest())
    system = messages[0][1] if messages and messages[0][0] == "system" else ""
    user = messages[-1][1] if messages else ""
    if system == DECOMPOSE_SYSTEM:
        return Thought(_plan(user, ability, chance))
    if system == ALLOCATE_SYSTEM:
        return _allocate(user, ability, chance)
    is_cot = system.endswith(SOLVE_SYSTEM["cot"])
    job = read_job(user, chance)
    if job is None:
        return Thought("I do not know.")
    is_right = chance.random() < p_right(ability + COT_BONUS * is_cot, job.difficulty)
    result = job.right if is_right else job.wrong
    if not is_cot:
        return Thought(result)
    steps = " ".join(f"Then I look at part {i + 1} of it and carry the result along." for i in range(2 + round(max(0.0, job.difficulty))))
    return Thought(f"First I read what is asked. {steps}\n{ANSWER_MARK} {result}")


def p_right(ability: float, difficulty: float) -> float:
    """Two-parameter logistic item response."""
    return 1 / (1 + math.exp(-SLOPE * (ability - difficulty)))


def read_job(user: str, chance: random.Random) -> Job | None:
    """What the prompt's task (or, without one, its question) asks for; None if it is nothing these models know."""
    results = {int(n): text.strip() for n, text in _RESULT.findall(user)}
    question = _after(user, QUESTION_MARK)
    task = _after(user, TASK_MARK)
    if task is None:
        return _question_job(question or "", chance)
    if task == FINAL_TASK:
        return Job(results[max(results)], "0", -2.0, "final") if results else _question_job(question or "", chance)
    return _arithmetic_step(task, results, chance) or _scan_step(task, results, chance)


def difficulty_of(expression: arithmetic.Expression) -> float:
    """Hardest operation of the expression, plus one for every further operation done at once."""
    steps = arithmetic.operations(expression)
    if not steps:
        return -2.0
    return max(_operation_difficulty(step) for step in steps) + 1.0 * (len(steps) - 1)


def _operation_difficulty(step: arithmetic.Operation) -> float:
    digits = [len(str(abs(arithmetic.value(side)))) for side in (step.left, step.right)]
    if step.op == "*":
        return -1.5 + 0.8 * sum(digits) + 0.3 * (min(digits) > 1)
    return -2.0 + 0.4 * max(digits)


def _question_job(question: str, chance: random.Random) -> Job | None:
    if scan.is_command(question):
        right = scan.interpret(question)
        phrases = 1 + sum(w in ("and", "after") for w in question.split())
        repeats = sum(w in scan.TIMES for w in question.split())
        difficulty = -1.0 + 1.5 * (phrases - 1) + 0.8 * repeats + 0.1 * len(right.split())
        return Job(right, _shuffled(right, chance), difficulty, "scan_command")
    story = words.expression_of(question)
    text = story if story is not None else question.strip().rstrip("?.=").removeprefix("What is").removeprefix("Compute")
    job = _expression_job(text, chance)
    if job is None or story is None:
        return job
    return Job(job.right, job.wrong, job.difficulty + 0.8, "word_problem")


def _arithmetic_step(task: str, results: Mapping[int, str], chance: random.Random) -> Job | None:
    """Steps as gold plans and people write them: "Compute 3 * the result of step 1", "Subtract 9 from the result of step 1"."""
    text = _REFERENCE.sub(lambda m: f"({results.get(int(m[1]), '?')})", task).strip().rstrip(".")
    for pattern, form in (
        (r"Compute (.+)", "{0}"),
        (r"Add (.+?) (?:to|and) (.+)", "{0} + {1}"),
        (r"Subtract (.+) from (.+)", "{1} - {0}"),
        (r"Multiply (.+?) (?:by|and) (.+)", "{0} * {1}"),
    ):
        if match := re.fullmatch(pattern, text, re.IGNORECASE):
            return _expression_job(form.format(*match.groups()), chance)
    return None


def _expression_job(text: str, chance: random.Random) -> Job | None:
    try:
        expression = arithmetic.parse(text)
        right = arithmetic.value(expression)
        difficulty = difficulty_of(expression)
    except ValueError:
        return None
    skill = "multiply" if "*" in text else "add"
    return Job(str(right), str(right + chance.choice((-10, -2, -1, 1, 2, 10))), difficulty, skill)


def _scan_step(task: str, results: Mapping[int, str], chance: random.Random) -> Job | None:
    if match := re.fullmatch(r"Translate '([^']+)'", task):
        if not scan.is_command(match[1]):
            return None
        right = scan.interpret(match[1])
        return Job(right, _shuffled(right, chance), -1.2 + 0.8 * ("around" in match[1]) + 0.5 * ("opposite" in match[1]), "scan_phrase")
    if match := re.fullmatch(r"Repeat the result of step (\d+) (\d) times", task):
        right = " ".join([results.get(int(match[1]), "")] * int(match[2]))
        return Job(right, _shuffled(right, chance), -1.5, "scan_join")
    if match := re.fullmatch(r"Join the result of step (\d+) and then the result of step (\d+)", task):
        right = " ".join(results.get(int(n), "") for n in match.groups())
        return Job(right, _shuffled(right, chance), -1.5, "scan_join")
    return None


def _shuffled(actions: str, chance: random.Random) -> str:
    """A sequence that is surely not the right one: one action too many."""
    return f"{actions} {chance.choice(('I_WALK', 'I_RUN', 'I_TURN_LEFT'))}".strip()


def _plan(user: str, ability: float, chance: random.Random) -> str:
    plan, _ = gold_steps(_after(user, QUESTION_MARK) or "")
    difficulty = PLAN_DIFFICULTY + 0.25 * max(0, len(plan.subtasks) - 2)
    if chance.random() < p_right(ability, difficulty):
        return format_plan(plan)
    if plan.is_direct or chance.random() < 0.3:
        return "Let me think about how to split this."
    return format_plan(Plan(plan.subtasks[:-1]))


def _allocate(user: str, ability: float, chance: random.Random) -> Thought:
    """For each step the cheapest model that its line promises to be right with, with noise that falls with ability."""
    models, _, rest = user.partition(STEPS_MARK)
    shown = [
        (letter, tier, float(price), _skills(skills)) for letter, tier, price, _, skills in _MODEL_LINE.findall(models.partition(MODELS_MARK)[2])
    ]
    question = _after(user, QUESTION_MARK) or ""
    if not shown:
        return Thought("[]")
    chosen, tables = [], []
    for number, text in _NUMBERED.findall(rest):
        skill = _skill_of(question if text == DIRECT_STEP else text, chance)
        noise = 0.5 / (1 + max(0.0, ability))
        scores = {}
        by_price = sorted(shown, key=lambda m: m[2])
        for rank, (letter, tier, _, skills) in enumerate(by_price):
            promised = skills.get(skill, _TIER_GUESS[tier])
            scores[letter] = -30 * max(0.0, 0.95 - promised) - 0.7 * rank + chance.gauss(0, noise)
        top = max(scores.values())
        weights = {letter: math.exp(score - top) for letter, score in scores.items()}
        total = sum(weights.values())
        tables.append({letter: weight / total for letter, weight in weights.items()})
        best = max(scores, key=lambda letter: scores[letter])
        chosen.append(f'{{"subtask": {number}, "model": "{best}"}}')
    return Thought(f"[{', '.join(chosen)}]", tuple(tables))


def _skill_of(text: str, chance: random.Random) -> str:
    """The profile entry that speaks about a step. References to earlier results count as two-digit numbers."""
    filled = _REFERENCE.sub("55", text)
    job = _arithmetic_step(filled, {}, chance) or _scan_step(text, {}, chance) or _question_job(text, chance)
    if job is None:
        return "unknown"
    if job.skill == "multiply" and job.difficulty > 1.5:
        return "long_expression"
    return job.skill


def _skills(text: str) -> dict[str, float]:
    return {name: float(share) / 100 for name, share in re.findall(r"(\w+) (\d+)%", text or "")}


def _after(text: str, mark: str) -> str | None:
    """The rest of the last line that begins with `mark`."""
    found = [line[len(mark) :].strip() for line in text.splitlines() if line.startswith(mark)]
    return found[-1] if found else None


def expected_skills(ability: float) -> dict[str, float]:
    """Skill -> expected accuracy of a simulated model on generated steps and questions: what its profile in a pool file says."""
    chance = random.Random(0)
    difficulties: dict[str, list[float]] = {}
    for problem in [*arithmetic.generate(1500, 77), *words.generate(500, 77), *scan.generate(500, 77)]:
        plan, results = gold_steps(problem.question)
        tasks = [QUESTION_MARK + problem.question]
        for subtask in plan.subtasks:
            shown = [f"Result of step {i + 1}: {results[i]}" for i in subtask.needs]
            tasks.append("\n".join([QUESTION_MARK, *shown, TASK_MARK + subtask.text]))
        for task in tasks[1:] or tasks:
            job = read_job(task, chance)
            if job is not None:
                difficulties.setdefault(job.skill, []).append(job.difficulty)
        if plan.subtasks and (whole := read_job(tasks[0], chance)) is not None and whole.skill in ("word_problem", "scan_command"):
            difficulties.setdefault(whole.skill, []).append(whole.difficulty)
    return {skill: sum(p_right(ability, d) for d in ds) / len(ds) for skill, ds in difficulties.items()}


def gold_steps(question: str) -> tuple[Plan, list[str]]:
    """The gold plan of a generated question with its steps' results; DIRECT and no results for any other text."""
    if scan.is_command(question):
        return scan.gold_plan(question)
    text = words.expression_of(question) or question.strip().rstrip("?.=").removeprefix("What is")
    try:
        return arithmetic.gold_plan(arithmetic.parse(text))
    except ValueError:
        return DIRECT, []


if __name__ == "__main__":
    for ability in (1.2, 2.0, 2.8, 3.4, 4.0, 4.6, 5.2, 5.8, 6.6):
        skills = ", ".join(f"{skill} = {min(0.99, share):.2f}" for skill, share in expected_skills(ability).items())
        print(f"ability {ability}: {{{skills}}}")
