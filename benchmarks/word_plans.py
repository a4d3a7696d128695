"""Writes the rows that a decomposer of word problems is trained on, and those that say whether it may be used.

    python benchmarks/word_plans.py gsm8k_socratic.jsonl words
    r2 sft --labels words --policy decomposer --name word-decomposer --steps 320 --threads 1

Plans are the gold sub-questions of GSM8K rows (the socratic form), and of stories that are generated here. Rows that
are recorded (benchmarks/recorded) are left out: the comparison on those is of questions that no training saw. Of the
others 100, those whose questions have the smallest hashes, go to `dev.jsonl` and are not trained on.
"""

import argparse
import gzip
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.record import question_sha
from benchmarks.recorded_table import RECORDED
from r2.answering.prompts import decompose_messages
from r2.errors import InputFileError, R2Error
from r2.plan import Plan, Subtask, format_plan
from r2.problem import Problem
from r2.problems.source import parse_source
from storage.runs.label_sets import SCHEMA
from storage.sources.problem_files import gold_plans_of, row_of

N_DEV = 100
NAMES = ("Ada", "Ben", "Carla", "Deniz", "Emil", "Farah", "Goran", "Hana", "Ines", "Jonas", "Kofi", "Lena", "Mateo")
THINGS = ("apples", "books", "cards", "cups", "eggs", "marbles", "pencils", "plates", "shells", "stickers", "tickets")
Story = tuple[str, list[tuple[str, tuple[int, ...]]]]
"""A question, and its sub-questions with the 0-based steps that each needs."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gsm8k", help="GSM8K rows with their sub-questions")
    parser.add_argument("out", type=Path, help="folder for decomposer.parquet and dev.jsonl")
    parser.add_argument("--stories", type=int, default=300, help="generated word problems [default: 300]")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        train, dev = rows_of(given.gsm8k)
    except R2Error as error:
        sys.stderr.write(f"{error}\n")
        return 2
    stories = [labelled(made, f"story-{i}") for i, made in enumerate(stories_of(given.stories, given.seed))]
    given.out.mkdir(parents=True, exist_ok=True)
    rows = [label(problem, plan) for problem, plan in [*train, *stories]]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), given.out / "decomposer.parquet", compression="zstd")
    lines = [orjson.dumps(row_of(problem) | steps(plan), option=orjson.OPT_APPEND_NEWLINE) for problem, plan in dev]
    (given.out / "dev.jsonl").write_bytes(b"".join(lines))
    sys.stdout.write(f"{given.out}: {len(train)} plans of GSM8K and {len(stories)} of stories; {len(dev)} dev rows\n")
    return 0


def rows_of(source: str) -> tuple[list[tuple[Problem, Plan]], list[tuple[Problem, Plan]]]:
    """(trained on, dev): the rows with a gold plan that are not recorded. InputFileError where they are too few."""
    with gzip.open(RECORDED / "gsm8k.questions.jsonl.gz") as file:
        recorded = {str(orjson.loads(line)["question"]) for line in file}
    named = source if source.startswith("gsm8k:") else f"gsm8k:{source}"
    found = [each for each in gold_plans_of(parse_source(named), None, 0) if each[0].question not in recorded]
    if len(found) <= N_DEV:
        raise InputFileError(
            f"{source}: {len(found)} rows have sub-questions and are not recorded; more than {N_DEV} are needed, for "
            f"{N_DEV} of them are kept for dev. Give GSM8K's socratic form."
        )
    dev = {problem.problem_id for problem, _ in sorted(found, key=lambda each: question_sha(each[0]))[:N_DEV]}
    return (
        [each for each in found if each[0].problem_id not in dev],
        [each for each in found if each[0].problem_id in dev],
    )


def steps(plan: Plan) -> dict[str, object]:
    """A gold plan as rows have it."""
    return {
        "decomposition": [
            {"question": one.text, "depends_on": [need + 1 for need in one.needs]} for one in plan.subtasks
        ]
    }


def labelled(story: Story, problem_id: str) -> tuple[Problem, Plan]:
    question, steps = story
    plan = Plan(tuple(Subtask(text, needs) for text, needs in steps))
    return Problem(problem_id, question, benchmark="gsm8k"), plan


def label(problem: Problem, plan: Plan) -> dict[str, object]:
    """A row of a label set: the decomposer's prompt and the plan."""
    said = [{"role": role, "content": text} for role, text in decompose_messages(problem)]
    answer = [{"role": "assistant", "content": format_plan(plan)}]
    return {"prompt": said, "completion": answer, "problem_id": problem.problem_id, "split": "train"}


def stories_of(n: int, seed: int) -> Iterator[Story]:
    """`n` stories of two to four steps, in turns of each form; no question twice."""
    chance, seen = random.Random(f"word plans:{seed}"), set[str]()
    while len(seen) < n:
        made = FORMS[len(seen) % len(FORMS)](chance)
        if made[0] not in seen:
            seen.add(made[0])
            yield made


def _who(chance: random.Random) -> tuple[str, str, str]:
    name, other = chance.sample(NAMES, 2)
    return name, other, chance.choice(THINGS)


def _shared(chance: random.Random) -> Story:
    name, other, things = _who(chance)
    packs, each, given = chance.randint(3, 15), chance.randint(4, 24), chance.randint(2, 11)
    return (
        f"{name} buys {packs} packs of {things} with {each} {things} in each pack. {name} gives {given} {things} to "
        f"{other}. How many {things} does {name} have left?",
        [(f"How many {things} did {name} buy?", ()), (f"How many {things} does {name} have left?", (0,))],
    )


def _sold(chance: random.Random) -> Story:
    name, _, things = _who(chance)
    had, kept, price = chance.randint(30, 90), chance.randint(3, 25), chance.randint(2, 9)
    return (
        f"{name} has {had} {things}. {name} keeps {kept} of them and sells the rest for ${price} each. How much money "
        f"does {name} make?",
        [(f"How many {things} does {name} sell?", ()), (f"How much money does {name} make?", (0,))],
    )


def _times(chance: random.Random) -> Story:
    name, other, things = _who(chance)
    n, factor = chance.randint(5, 40), chance.choice(("twice", "three times", "half", "four times"))
    return (
        f"{name} has {2 * n} {things}. {other} has {factor} as many {things} as {name}. How many {things} do they have "
        "together?",
        [
            (f"How many {things} does {other} have?", ()),
            (f"How many {things} do {name} and {other} have together?", (0,)),
        ],
    )


def _weeks(chance: random.Random) -> Story:
    name, _, things = _who(chance)
    morning, evening, weeks = chance.randint(2, 9), chance.randint(2, 9), chance.randint(2, 8)
    return (
        f"Every day {name} makes {morning} {things} in the morning and {evening} {things} in the evening. How many "
        f"{things} does {name} make in {weeks} weeks?",
        [
            (f"How many {things} does {name} make each day?", ()),
            (f"How many {things} does {name} make in a week?", (0,)),
            (f"How many {things} does {name} make in {weeks} weeks?", (1,)),
        ],
    )


def _change(chance: random.Random) -> Story:
    name, _, things = _who(chance)
    other = chance.choice([one for one in THINGS if one != things])
    n, price, m, cost = chance.randint(2, 9), chance.randint(2, 9), chance.randint(2, 9), chance.randint(2, 9)
    paid = 10 * ((n * price + m * cost) // 10 + chance.randint(1, 5))
    return (
        f"{name} buys {n} {things} for ${price} each and {m} {other} for ${cost} each, and pays with ${paid}. How much "
        f"change does {name} get?",
        [
            (f"How much do the {things} cost?", ()),
            (f"How much do the {other} cost?", ()),
            ("How much does everything cost?", (0, 1)),
            (f"How much change does {name} get?", (2,)),
        ],
    )


def _percent(chance: random.Random) -> Story:
    name, _, things = _who(chance)
    n, share, price = 20 * chance.randint(2, 15), chance.choice((10, 20, 25, 50)), chance.randint(2, 6)
    return (
        f"A shop has {n} {things}. {name} buys {share}% of them at ${price} each. How much does {name} pay?",
        [(f"How many {things} does {name} buy?", ()), (f"How much does {name} pay?", (0,))],
    )


def _pay(chance: random.Random) -> Story:
    name, _, _ = _who(chance)
    hours, days, wage, spent = chance.randint(3, 9), chance.randint(2, 6), chance.randint(9, 25), chance.randint(20, 80)
    return (
        f"{name} works {hours} hours a day for {days} days and earns ${wage} an hour. Then {name} spends ${spent} on a "
        f"coat. How much money does {name} have left?",
        [
            (f"How many hours does {name} work?", ()),
            (f"How much money does {name} earn?", (0,)),
            (f"How much money does {name} have left?", (1,)),
        ],
    )


def _more(chance: random.Random) -> Story:
    name, other, things = _who(chance)
    n, further, each = chance.randint(6, 40), chance.randint(3, 20), chance.randint(2, 5)
    return (
        f"{name} collects {n} {things}. {other} collects {further} more {things} than {name}. They put all of them in "
        f"bags of {each}. How many bags can they fill?",
        [
            (f"How many {things} does {other} collect?", ()),
            (f"How many {things} do they collect together?", (0,)),
            ("How many bags can they fill?", (1,)),
        ],
    )


FORMS: tuple[Callable[[random.Random], Story], ...] = (
    _shared,
    _sold,
    _times,
    _weeks,
    _change,
    _percent,
    _pay,
    _more,
)


if __name__ == "__main__":
    sys.exit(main())
