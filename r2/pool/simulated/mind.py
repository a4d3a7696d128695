"""What a simulated model answers: it reads the prompt, really computes, and errs as an item-response model does. Pure.

P(right) = sigmoid(SLOPE * (ability - difficulty)), the logistic model of item-response theory (ours, as are all
constants here). Ability belongs to the model, and may differ by kind of work: so there are specialists. Difficulty
belongs to what a model is asked to do at once: digits and operations of an expression, length of a SCAN command, steps
of a plan. Every draw is keyed by (simulation seed, model, messages, request seed), so the same request has the same
answer wherever and whenever it is asked. What these models show about routing holds for simulated models; a claim about
real ones needs real ones. `r2/pool/simulated/process.py` serves them.
"""

import hashlib
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

from r2.answering.prompts import (
    ALLOCATE_SYSTEM,
    ANSWER_MARK,
    BARE_SYSTEM,
    DECOMPOSE_SYSTEM,
    DIRECT_PLAN,
    DIRECT_STEP,
    FINAL_TASK,
    FREE_COT,
    GRADE_SYSTEM,
    JUDGE_SYSTEM,
    MODELS_MARK,
    PROGRAM_ASK,
    PROPOSED_MARK,
    QUESTION_MARK,
    RATE_SYSTEM,
    RESULT_MARK,
    SOLVE_SYSTEM,
    STEPS_MARK,
    TASK_MARK,
    THINK_SYSTEM,
    VERIFY_SYSTEM,
)
from r2.plan import DIRECT, Plan, Subtask, format_plan
from r2.problems import arithmetic, scan, words
from r2.problems.kind import (
    EQUATION,
    JOIN,
    REFERENCE,
    REPEAT,
    TRANSLATE,
    command_kind,
    expression_in,
    kind_of,
    operations_kind,
    step_expression,
)
from r2.roster import Tier

SLOPE = 2.0
COT_BONUS = 1.0
"""Ability gained by thinking step by step, at several times the tokens."""
COT_TOKENS = 4.0
"""Times the price an allocator expects of an entry that thinks step by step."""
PLAN_DIFFICULTY = 0.5
"""Difficulty of planning two steps; each further one adds 0.25."""
PROMISED_ENOUGH = 0.99
"""Profile accuracy from which on an allocator looks at the price alone."""
STEP_UP = 0.012
"""Promised accuracy that is worth the next dearer model to an allocator."""
CERTAINTY_NOISE = 0.5
"""Standard deviation of how hard a model thinks its job is, around how hard it is: its token probabilities are
informative, not exact."""
THOUGHT_BONUS = 0.5
"""Ability gained by writing one thought first."""
SECOND_THOUGHTS = 0.15
"""Share of sampled verdicts that differ from what the model believes: samples of one belief, so that many of them do
not make it true."""
UNSURE = "I do not know."
SKILLS = (
    "scan_command",
    "scan_phrase",
    "scan_join",
    "expression",
    "add",
    "multiply",
    "equation",
    "word_problem",
)
"""Kinds of work for which a model may have an ability of its own: those of a profile (r2/problems/kind.py)."""
TIER_GUESS: dict[Tier, float] = {"small": 0.6, "medium": 0.85, "large": 0.97}
"""Accuracy an allocator expects where a model's line does not speak of the skill."""

_RESULT = re.compile(r"^Result of step (\d+): (.*)$", re.MULTILINE)
_CHECK = re.compile(r"Check the result of step (\d+)")
_THOUGHT = re.compile(r"^Thought \d+: .*It comes to (.+)\.$", re.MULTILINE)
_MODEL_LINE = re.compile(
    r"^([A-Za-z]): (small|medium|large), ([\d.e+-]+) USD(, thinks step by step)?(?:, writes a program)?(?:; (.*))?$",
    re.MULTILINE,
)
_SKILL = re.compile(r"(\w+) (\d+)%")
_NUMBERED = re.compile(r"^(\d+)\. (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Thought:
    """A reply: its text; for an allocation the probability of each letter at each subtask; how probable every other
    token was."""

    text: str
    letter_probabilities: tuple[Mapping[str, float], ...] = ()
    token_probability: float = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """What a prompt asks for: the right result, how hard it is (on ability's scale), and the skill it takes."""

    right: str
    difficulty: float
    skill: str


Able = Callable[[Job], float]
"""The ability that a model brings to a job."""


def think(
    model: str,
    ability: float,
    messages: Sequence[tuple[str, str]],
    seed: int,
    simulation_seed: int = 0,
    *,
    is_sampled: bool = False,
    by_kind: Mapping[str, float] | None = None,
    certainty_noise: float = CERTAINTY_NOISE,
) -> Thought:
    """The model's reply. Any messages get one; what it does not understand, it does not know. `by_kind` holds abilities
    at kinds of work, which there take the place of `ability`; `certainty_noise` as of `CERTAINTY_NOISE`."""

    def able(job: Job) -> float:
        return ability if by_kind is None else by_kind.get(job.skill, ability)

    key = "\x1f".join([str(simulation_seed), model, str(seed), *(part for message in messages for part in message)])
    chance = random.Random(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())
    system = messages[0][1] if messages and messages[0][0] == "system" else ""
    user = messages[-1][1] if messages else ""
    if system.startswith(DECOMPOSE_SYSTEM) or system == BARE_SYSTEM["decompose"]:
        return Thought(_plan(user, ability, chance, is_sampled=is_sampled))
    if system in (ALLOCATE_SYSTEM, BARE_SYSTEM["allocate"]):
        return _allocate(user, ability, chance)
    if system == JUDGE_SYSTEM:
        return Thought(_judgement(user, ability, chance))
    if system.endswith((VERIFY_SYSTEM, RATE_SYSTEM)):
        belief = random.Random(f"{simulation_seed}\x1f{model}\x1f{user}".encode("utf-8", "surrogatepass"))
        if system.endswith(RATE_SYSTEM):
            return Thought(
                f"{min(1.0, max(0.0, (0.8 if _believes(user, able, belief) else 0.3) + chance.gauss(0, 0.1))):.2f}"
            )
        says_so = _believes(user, able, belief) == (chance.random() >= SECOND_THOUGHTS)
        return Thought("correct" if says_so else "incorrect")
    if system.startswith(GRADE_SYSTEM):
        belief = random.Random(f"{simulation_seed}\x1f{model}\x1f{user}".encode("utf-8", "surrogatepass"))
        return Thought(f"I work it out and compare.\nScore: {1 if _believes(user, able, belief) else 0}")
    if system.endswith(THINK_SYSTEM):
        return Thought(_next_thought(user, able, chance))
    job = read_job(user)
    if job is None:
        return Thought(UNSURE)
    thinks_aside = FREE_COT in system
    thinks = thinks_aside or system.endswith(SOLVE_SYSTEM["cot"])
    its_ability = able(job) + COT_BONUS * thinks
    is_right = chance.random() < p_right(its_ability, job.difficulty)
    result = job.right if is_right else _spoilt(job.right, chance)
    certainty = p_right(its_ability, job.difficulty + chance.gauss(0, certainty_noise))
    if PROGRAM_ASK in system:  # it computes as ever, and writes a program that prints what it came to
        return Thought(f"print({result!r})", token_probability=certainty)
    if not thinks:
        return Thought(result, token_probability=certainty)
    n_parts = 2 + round(max(0.0, job.difficulty))
    parts = [f"Then I look at part {i} of it and carry the result along." for i in range(1, n_parts + 1)]
    thought = f"First I read what is asked. {' '.join(parts)}"
    said = f"<think>{thought}</think>\n\n{result}" if thinks_aside else f"{thought}\n{ANSWER_MARK} {result}"
    return Thought(said, (), certainty)


def p_right(ability: float, difficulty: float) -> float:
    """The item-response curve: 0.5 where ability equals difficulty."""
    return 1 / (1 + math.exp(-SLOPE * (ability - difficulty)))


def read_job(user: str) -> Job | None:
    """What the prompt's task (or, without one, its question) asks for; None if it is nothing these models know."""
    question = _after(user, QUESTION_MARK)
    if question is None:  # a prompt without marks is the question itself
        question = user.strip().partition("\n")[0]
    task = _after(user, TASK_MARK)
    if task is None:
        thought = _THOUGHT.findall(user)
        return Job(thought[-1], -2.0, "final") if thought else _question_job(question)
    results = {int(step): text.strip() for step, text in _RESULT.findall(user)}
    if task in (FINAL_TASK, DIRECT_STEP):
        return Job(results[max(results)], -2.0, "final") if results else _question_job(question)
    if match := _CHECK.fullmatch(task):
        return Job(results.get(int(match[1]), ""), -2.0, "final")
    return _arithmetic_step(task, results) or _scan_step(task, results)


def gold_steps(question: str) -> tuple[Plan, list[str]]:
    """The gold plan of a question these models know, with its steps' results; DIRECT and no results
    for any other text."""
    if scan.is_command(question):
        return scan.gold_plan(question)
    try:
        return arithmetic.gold_plan(arithmetic.parse(expression_in(question)))
    except ValueError:
        return DIRECT, []


def expected_skills(
    ability: float, by_kind: Mapping[str, float] | None = None, *, thinks: bool = False
) -> dict[str, float]:
    """Skill -> expected accuracy on generated questions and their gold steps: the truth a profile in a pool file
    states. `thinks`: of an entry that thinks step by step."""
    return {
        skill: fmean(p_right((by_kind or {}).get(skill, ability) + COT_BONUS * thinks, d) for d in difficulties)
        for skill, difficulties in sorted(_difficulties_by_skill().items())
    }


def expected_plans(ability: float) -> float:
    """Share of plans for generated questions that are right: what the profile of a decomposer states as `plan`."""
    problems = [*arithmetic.generate(1500, 77), *words.generate(500, 77), *scan.generate(500, 77)]
    return fmean(p_right(ability, _plan_difficulty(gold_steps(problem.question)[0])) for problem in problems)


@cache
def _difficulties_by_skill() -> Mapping[str, list[float]]:
    difficulties: dict[str, list[float]] = {}
    for problem in [*arithmetic.generate(1500, 77), *words.generate(500, 77), *scan.generate(500, 77)]:
        plan, results = gold_steps(problem.question)
        prompts = [QUESTION_MARK + problem.question]
        for subtask in plan.subtasks:
            shown = [RESULT_MARK.format(step=i + 1) + results[i] for i in subtask.needs]
            prompts.append("\n".join([*shown, TASK_MARK + subtask.text]))
        for job in map(read_job, prompts):
            if job is not None:
                difficulties.setdefault(job.skill, []).append(job.difficulty)
    return difficulties


def _question_job(question: str) -> Job | None:
    if scan.is_command(question):
        command, right = question.split(), scan.interpret(question)
        is_joined = "and" in command or "after" in command
        n_repeats = sum(word in scan.TIMES for word in command)
        if command_kind(question) == "scan_phrase":
            return _verb_phrase_job(question)
        difficulty = -1.0 + 1.5 * is_joined + 0.8 * n_repeats + 0.1 * len(right.split())
        return Job(right, difficulty, "scan_command")
    if (match := EQUATION.match(question)) and (factor := int(match[1])):
        return Job(str((int(match[3]) - int(match[2])) // factor), 1.0, "equation")
    job = _expression_job(text := expression_in(question))
    if job is None or text in question:
        return job
    return Job(job.right, job.difficulty + 0.8, "word_problem")


def _expression_job(text: str) -> Job | None:
    """Difficulty: the hardest operation, plus one for every further operation done at once."""
    try:
        expression = arithmetic.parse(text)
        right = str(arithmetic.value(expression))
    except ValueError:
        return None
    steps = arithmetic.operations(expression)
    if not steps:
        return Job(right, -2.0, "add")
    difficulty = max(map(_operation_difficulty, steps)) + 1.0 * (len(steps) - 1)
    return Job(right, difficulty, operations_kind(steps))


def _operation_difficulty(step: arithmetic.Operation) -> float:
    digits = [len(str(abs(arithmetic.value(side)))) for side in (step.left, step.right)]
    if step.op == "*":
        return -1.5 + 0.8 * sum(digits) + 0.3 * (min(digits) > 1)
    return -2.0 + 0.4 * max(digits)


def _arithmetic_step(task: str, results: Mapping[int, str]) -> Job | None:
    expression = step_expression(task, results)
    return None if expression is None else _expression_job(expression)


def _scan_step(task: str, results: Mapping[int, str]) -> Job | None:
    if match := TRANSLATE.fullmatch(task):
        return _verb_phrase_job(match[1]) if scan.is_command(match[1]) else None
    if match := REPEAT.fullmatch(task):
        n_times = int(match[2]) if match[2] else scan.TIMES[match[3]]
        return Job(" ".join([results.get(int(match[1]), "")] * n_times), -1.5, "scan_join")
    if match := JOIN.fullmatch(task):
        steps = [int(number) for number in re.findall(r"\d+", match[1])]
        return Job(" ".join(results.get(step, "") for step in steps), -1.5, "scan_join")
    return None


def _verb_phrase_job(phrase: str) -> Job:
    return Job(scan.interpret(phrase), -1.2 + 0.8 * ("around" in phrase) + 0.5 * ("opposite" in phrase), "scan_phrase")


def _spoilt(right: str, chance: random.Random) -> str:
    """A plausible wrong result, surely not the right one: a number a little off, or one action too many."""
    try:
        return str(int(right) + chance.choice((-10, -2, -1, 1, 2, 10)))
    except ValueError:
        return f"{right} {chance.choice(tuple(filter(None, scan.ACTION.values())))}".strip()


def _plan(user: str, ability: float, chance: random.Random, *, is_sampled: bool) -> str:
    """The gold plan, or where the draw says wrong one that stops a step short, or chatter without a plan. Where the
    request is sampled (temperature > 0), now and then a sound plan is written as DIRECT or with a step too many.
    """
    plan, _ = gold_steps(_after(user, QUESTION_MARK) or "")
    if chance.random() < p_right(ability, _plan_difficulty(plan)):
        if plan.subtasks and is_sampled and (whim := chance.random()) < 0.4:
            return DIRECT_PLAN if whim < 0.15 else format_plan(_with_a_step_too_many(plan))
        return format_plan(plan)
    if plan.is_direct or chance.random() < 0.3:
        return "Let me think about how to split this."
    return format_plan(Plan(plan.subtasks[:-1]))


def _plan_difficulty(plan: Plan) -> float:
    return PLAN_DIFFICULTY + 0.25 * max(0, len(plan.subtasks) - 2)


def _with_a_step_too_many(plan: Plan) -> Plan:
    last = len(plan.subtasks)
    return Plan((*plan.subtasks, Subtask(f"Join the result of step {last}", (last - 1,))))


def _judgement(user: str, ability: float, chance: random.Random) -> str:
    """Near 1 for a step that speaks of earlier results, near one half for one that stands alone; the weak are vague."""
    steps = _NUMBERED.findall(user.partition(STEPS_MARK)[2])
    uses = bool(steps) and REFERENCE.search(steps[-1][1]) is not None
    return f"{min(1.0, max(0.0, (0.95 if uses else 0.5) + chance.gauss(0, 0.3 * math.exp(-ability / 3)))):.2f}"


def _next_thought(user: str, able: Able, chance: random.Random) -> str:
    """A try at the whole question, right as an answer would be with a little thinking."""
    job = _question_job(_after(user, QUESTION_MARK) or "")
    if job is None:
        return UNSURE
    is_right = chance.random() < p_right(able(job) + THOUGHT_BONUS, job.difficulty)
    return f"I look at all of it at once. It comes to {job.right if is_right else _spoilt(job.right, chance)}."


def _believes(user: str, able: Able, belief: random.Random) -> bool:
    """Whether the model takes the proposed answer, or the last thought, for right. It sees through it with probability
    (1 + P(it answers the question right)) / 2: half the time where the question is far beyond it.
    """
    job = _question_job(_after(user, QUESTION_MARK) or "")
    shown = _after(user, PROPOSED_MARK) or next(iter(_THOUGHT.findall(user)[-1:]), None)
    if job is None or shown is None:
        return False
    sees_through = belief.random() < (1 + p_right(able(job), job.difficulty)) / 2
    return sees_through == (shown == job.right)


def _allocate(user: str, ability: float, chance: random.Random) -> Thought:
    """For each step the cheapest model whose line promises enough, with noise that falls with ability.

    The letters' probabilities are the softmax of what each would lose: 30 per unit of accuracy missing, `STEP_UP` per
    rank in price.
    """
    head, _, steps = user.partition(STEPS_MARK)
    question = _after(user, QUESTION_MARK) or ""
    shown = [
        (float(price) * (COT_TOKENS if thinks else 1.0), letter, TIER_GUESS[tier], dict(_SKILL.findall(skills)))
        for letter, tier, price, thinks, skills in _MODEL_LINE.findall(head.partition(MODELS_MARK)[2])
    ]
    if not shown:
        return Thought("[]")
    shown.sort(key=lambda model: model[:2])
    noise = 3 * math.exp(-ability)
    chosen, tables = [], []
    for number, text in _NUMBERED.findall(steps):
        skill = kind_of(question if text == DIRECT_STEP else text)
        scores: dict[str, float] = {}
        for rank, (_, letter, guess, skills) in enumerate(shown):
            promised = float(skills[skill]) / 100 if skill in skills else guess
            scores[letter] = -30 * (max(0.0, PROMISED_ENOUGH - promised) + STEP_UP * rank) + chance.gauss(0, noise)
        best = max(scores, key=lambda letter: scores[letter])
        weights = {letter: math.exp(score - scores[best]) for letter, score in scores.items()}
        total = sum(weights.values())
        tables.append({letter: weight / total for letter, weight in weights.items()})
        chosen.append(f'{{"subtask": {number}, "model": "{best}"}}')
    return Thought(f"[{', '.join(chosen)}]", tuple(tables))


def _after(text: str, mark: str) -> str | None:
    """The rest of the last line that begins with `mark`."""
    at = ("\n" + text).rfind("\n" + mark)
    return None if at < 0 else text[at + len(mark) :].partition("\n")[0].strip()
