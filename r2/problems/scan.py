"""SCAN: commands of a small language and the actions they stand for (Lake & Baroni, arXiv:1711.00350; the grammar is
public).

    command  ->  phrase | phrase and phrase | phrase after phrase          "x after y" runs y first
    phrase   ->  verb | verb twice | verb thrice                           binds tighter than and / after
    verb     ->  U | U D | U opposite D | U around D                       U: walk look run jump turn; D: left right

"turn" adds no action of its own: "turn left" is I_TURN_LEFT, "turn around left" is four of them. A bare "turn" is no
verb.
"""

import itertools
import random
import re
from collections.abc import Iterator

from r2.errors import ConfigError
from r2.plan import Plan, Subtask
from r2.problem import Problem
from r2.problems.record import Benchmark
from r2.problems.row import FieldError, Row, id_of, text_of
from r2.problems.source import Source

ACTION = {"walk": "I_WALK", "look": "I_LOOK", "run": "I_RUN", "jump": "I_JUMP", "turn": ""}
TURN = {"left": "I_TURN_LEFT", "right": "I_TURN_RIGHT"}
TIMES = {"twice": 2, "thrice": 3}
WORDING = """Translate the command into actions. Actions: I_WALK I_LOOK I_RUN I_JUMP I_TURN_LEFT I_TURN_RIGHT.
'jump left' is I_TURN_LEFT I_JUMP
'turn left' is I_TURN_LEFT
'jump opposite left' is I_TURN_LEFT I_TURN_LEFT I_JUMP
'turn opposite left' is I_TURN_LEFT I_TURN_LEFT
'jump around left' is I_TURN_LEFT I_JUMP I_TURN_LEFT I_JUMP I_TURN_LEFT I_JUMP I_TURN_LEFT I_JUMP
'turn around left' is I_TURN_LEFT I_TURN_LEFT I_TURN_LEFT I_TURN_LEFT
'jump twice' is I_JUMP I_JUMP, 'jump thrice' is I_JUMP I_JUMP I_JUMP
'walk after run' is I_RUN I_WALK: 'x after y' runs y first."""
PLAN_EXAMPLE = """Question: walk left twice after jump
1. Translate 'walk left'
2. Repeat the result of step 1 2 times (needs: 1)
3. Translate 'jump'
4. Join the result of step 3 and then the result of step 2 (needs: 2, 3)

Question: turn opposite right and look around left thrice
1. Translate 'turn opposite right'
2. Translate 'look around left'
3. Repeat the result of step 2 3 times (needs: 2)
4. Join the result of step 1 and then the result of step 3 (needs: 1, 3)

Question: turn right thrice
1. Translate 'turn right'
2. Repeat the result of step 1 3 times (needs: 1)"""
"""A teacher is shown it; the plans are `gold_plan`'s. The second keeps "opposite" and "around" with their verb, where a
small teacher cuts them off."""


def interpret(command: str) -> str:
    """The action sequence of a command, actions separated by one space. Raises ValueError for anything the grammar does
    not have."""
    words = command.split()
    for joiner in ("and", "after"):
        if joiner in words:
            at = words.index(joiner)
            first, second = _phrase(words[:at]), _phrase(words[at + 1 :])
            return " ".join([*second, *first] if joiner == "after" else [*first, *second])
    return " ".join(_phrase(words))


def is_command(text: str) -> bool:
    """True if the text is a command of the grammar."""
    try:
        interpret(text)
    except ValueError:
        return False
    return True


def is_correct(problem: Problem, answer: str) -> bool:
    """Exact action sequence, white space and case aside (Lake & Baroni's measure)."""
    return answer.upper().split() == (problem.target or "").upper().split()


def gold_plan(command: str) -> tuple[Plan, list[str]]:
    """A plan with small steps and the right result of each: translate every verb phrase, repeat it, join. DIRECT for a
    single verb phrase."""
    words = command.split()
    joiner = next((w for w in ("and", "after") if w in words), None)
    at = words.index(joiner) if joiner else len(words)
    subtasks: list[Subtask] = []
    results: list[str] = []
    ends: list[int] = []
    for phrase in (words[:at], words[at + 1 :]):
        if not phrase:
            continue
        n_times = TIMES.get(phrase[-1], 1)
        verb = phrase[:-1] if n_times > 1 else phrase
        subtasks.append(Subtask(f"Translate '{' '.join(verb)}'"))
        results.append(" ".join(_phrase(verb)))
        if n_times > 1:
            done = len(subtasks)
            subtasks.append(Subtask(f"Repeat the result of step {done} {n_times} times", (done - 1,)))
            results.append(" ".join([results[-1]] * n_times))
        ends.append(len(subtasks))
    if joiner:
        first, second = reversed(ends) if joiner == "after" else ends
        needs = tuple(sorted((first - 1, second - 1)))
        subtasks.append(Subtask(f"Join the result of step {first} and then the result of step {second}", needs))
        results.append(interpret(command))
    return (Plan(tuple(subtasks)), results) if len(subtasks) > 1 else (Plan(), [interpret(command)])


def commands() -> list[str]:
    """Every command of the grammar, 20,910 of them, in a fixed order."""
    verbs = [*(u for u in ACTION if u != "turn"), *(f"{u} {d}" for u in ACTION for d in TURN)]
    verbs += [f"{u} {how} {d}" for u in ACTION for how in ("opposite", "around") for d in TURN]
    phrases = [f"{verb}{times}" for verb in verbs for times in ("", " twice", " thrice")]
    return phrases + [
        f"{a} {joiner} {b}" for a, b in itertools.product(phrases, phrases) for joiner in ("and", "after")
    ]


def commands_of(split: str) -> list[str]:
    """Commands of a split: `simple` all; `length` those of more than 22 actions; `addjump` those with "jump" in a
    longer command, which training sees alone (Lake & Baroni's test sets, of which theirs are these). Raises ConfigError
    for another name.
    """
    if split == "simple":
        return commands()
    if split == "length":
        return [command for command in commands() if len(interpret(command).split()) > 22]
    if split == "addjump":
        return [command for command in commands() if "jump" in command.split() and command != "jump"]
    raise ConfigError(f"scan has no split {split!r}. Known: simple, length, addjump.")


def generate(n: int, seed: int, split: str = "simple") -> list[Problem]:
    """`n` different commands with their actions, sampled by seed. Raises ConfigError if the split has not as many."""
    among = commands_of(split)
    if n > len(among):
        raise ConfigError(f"scan has {len(among)} commands in its split {split}; {n} were asked for.")
    chosen = random.Random(seed).sample(among, n)
    name = f"scan-{seed}" if split == "simple" else f"scan-{split}-{seed}"
    return [Problem(f"{name}-{i}", command, i, interpret(command), "scan") for i, command in enumerate(chosen)]


def problem(row: Row, index: int) -> Problem:
    """A row of a published file (`IN: command OUT: actions`) or a flat one. FieldError for actions the grammar does not
    give."""
    command, actions = text_of(row, "question"), text_of(row, "answer")
    try:
        expected = interpret(command)
    except ValueError:
        raise FieldError("question", "a SCAN command", command) from None
    if actions.split() != expected.split():
        raise FieldError("answer", f"the actions of {command!r}", actions)
    return Problem(id_of(row, "scan", index), command, index, expected, "scan")


def _phrase(words: list[str]) -> list[str]:
    n_times = TIMES.get(words[-1], 1) if words else 1
    return _verb(words[:-1] if n_times > 1 else words) * n_times


def _verb(words: list[str]) -> list[str]:
    if not 1 <= len(words) <= 3 or words[0] not in ACTION:
        raise ValueError(f"not a SCAN phrase: {' '.join(words)!r}")
    act = [ACTION[words[0]]] if ACTION[words[0]] else []
    if len(words) == 1:
        if not act:
            raise ValueError("a bare 'turn' is no SCAN phrase")
        return act
    if words[-1] not in TURN:
        raise ValueError(f"not a SCAN phrase: {' '.join(words)!r}")
    turn = [TURN[words[-1]]]
    if len(words) == 2:
        return [*turn, *act]
    if words[1] == "opposite":
        return [*turn, *turn, *act]
    if words[1] == "around":
        return [*turn, *act] * 4
    raise ValueError(f"not a SCAN phrase: {' '.join(words)!r}")


def _not_actions(text: str) -> str | None:
    words = text.split()
    return None if words and all(word.startswith("I_") for word in words) else "not_actions"


def _from_source(source: Source, n: int, seed: int) -> Iterator[Problem]:
    source.only("split", "seed")
    return iter(generate(n, source.number("seed", seed), source.options.get("split", "simple")))


def _row_of_line(line: str) -> Row:
    match = re.fullmatch(r"IN: (.+) OUT: (.*)", line)
    if match is None:
        raise ValueError(f"expected 'IN: command OUT: actions', got {line[:60]!r}")
    return {"question": match[1], "answer": match[2]}


BENCHMARK = Benchmark(
    name="scan",
    is_correct=is_correct,
    malformed=_not_actions,
    wording=WORDING,
    plan_example=PLAN_EXAMPLE,
    answer_tokens=288,
    generate=_from_source,
    read=problem,
    read_line=_row_of_line,
    licence="BSD",
    gold_plan=gold_plan,
)
