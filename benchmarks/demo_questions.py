"""Writes questions of the demo's six kinds, five of each, in the order of the kinds.

    python benchmarks/demo_questions.py questions.jsonl --seed 1       flows/demo_questions.jsonl is this one
    python benchmarks/demo_questions.py questions.jsonl --seed 1 --seed 2       more seeds: ids are 1-sum-1, 2-sum-1
    python benchmarks/demo_questions.py training.jsonl --seed 100 --rows 600 --to-learn-from

Kinds: sums, products, expressions, linear equations, stories of one step and of two. With `--to-learn-from` the
numbers are others than in any file without it, and the stories are told in other words: what learns from those
questions has seen none of the demo's.
"""

import argparse
import itertools
import random
import sys
from collections.abc import Callable
from pathlib import Path

import orjson

from r2.problems import arithmetic

Made = tuple[str, int, str]
"""A question, its answer, its benchmark."""

DEMO_STORIES_1 = (
    ("A baker sells {a} rolls in the morning and {b} in the afternoon. How many rolls is that?", "{a} + {b}"),
    ("A box holds {s} pens. How many pens are in {t} boxes?", "{s} * {t}"),
    ("A farm has {a} hens and {b} ducks. How many birds is that?", "{a} + {b}"),
    ("A printer prints {s} pages a minute. How many pages does it print in {t} minutes?", "{s} * {t}"),
    ("A hall has {a} chairs, and {b} of them are taken. How many chairs are free?", "{a} - {b}"),
    ("A tank holds {a} litres. {b} litres run out. How many litres are left?", "{a} - {b}"),
    ("One ticket costs {s} dollars. How many dollars do {t} tickets cost?", "{s} * {t}"),
    ("Mia runs {a} metres, rests, and runs another {b} metres. How many metres does she run?", "{a} + {b}"),
)
DEMO_STORIES_2 = (
    (
        "A shelf holds {s} books. There are {t} shelves, and {c} books are lent out. How many books are on the shelves "
        "now?",
        "{s} * {t} - {c}",
    ),
    ("Tom has {a} coins. He spends {b} and then finds {c}. How many coins does he have now?", "{a} - {b} + {c}"),
    (
        "A train has {t} coaches with {s} seats each. {c} seats are broken. How many seats can be used?",
        "{s} * {t} - {c}",
    ),
    (
        "Lea reads {s} pages a day for {t} days. The book has {total} pages. How many pages are left?",
        "{total} - {s} * {t}",
    ),
    (
        "A class of {s} pupils goes to a museum. A ticket costs {t} dollars and the bus costs {c} dollars. How many "
        "dollars is the trip?",
        "{s} * {t} + {c}",
    ),
    ("A gardener plants {t} rows of {s} tulips and {c} roses. How many flowers are planted?", "{s} * {t} + {c}"),
    ("A bus starts with {a} people. {b} get off, then {c} get on. How many people are on the bus?", "{a} - {b} + {c}"),
    ("A cook has {total} eggs and bakes {t} cakes with {s} eggs each. How many eggs are left?", "{total} - {s} * {t}"),
)
OTHER_STORIES_1 = (
    ("A shop gets {a} lamps on Monday and {b} on Tuesday. How many lamps did it get?", "{a} + {b}"),
    ("A crate weighs {s} kilos. How many kilos do {t} crates weigh?", "{s} * {t}"),
    ("There were {a} birds in a tree and {b} flew away. How many birds stayed?", "{a} - {b}"),
    ("Paul saves {s} dollars a week. How many dollars does he save in {t} weeks?", "{s} * {t}"),
    ("A lorry carries {a} bricks, another {b}. How many bricks do both carry?", "{a} + {b}"),
    ("Of {a} letters, {b} are delivered. How many letters remain?", "{a} - {b}"),
)
OTHER_STORIES_2 = (
    (
        "A school buys {t} packs of {s} pencils and already has {c} pencils. How many pencils are there now?",
        "{s} * {t} + {c}",
    ),
    (
        "A hotel has {t} floors with {s} rooms each, and {c} rooms are closed. How many rooms are open?",
        "{s} * {t} - {c}",
    ),
    ("Nina had {a} stickers, gave {b} to a friend and bought {c}. How many stickers does she have?", "{a} - {b} + {c}"),
    (
        "A road of {total} metres gets {t} new pieces of {s} metres. How many metres are still old?",
        "{total} - {s} * {t}",
    ),
    (
        "Lunch costs {s} dollars for each of {t} guests, and the room costs {c} dollars. How many dollars is that in "
        "all?",
        "{s} * {t} + {c}",
    ),
    ("A library owns {a} films. {b} are lost and {c} are bought. How many films does it own?", "{a} - {b} + {c}"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help=".jsonl")
    parser.add_argument("--seed", type=int, action="append", help="may be given again [default: 1]")
    parser.add_argument("--rows", type=int, default=30, help="of each seed, a multiple of 6 [default: 30]")
    parser.add_argument("--to-learn-from", action="store_true", help="no number and no story of the demo's")
    given = parser.parse_args()
    if given.rows < 6 or given.rows % 6:
        parser.error(f"--rows {given.rows}: expected a multiple of 6, as many of each kind")
    seeds = given.seed or [1]
    rows = []
    for seed in seeds:
        for row in questions(given.rows // 6, seed, to_learn_from=given.to_learn_from):
            rows.append({**row, "id": f"{seed}-{row['id']}"} if len(seeds) > 1 else row)
    given.out.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
    return 0


def questions(n_each: int, seed: int, *, to_learn_from: bool = False) -> list[dict[str, object]]:
    """Rows with id, question, answer and benchmark; no question twice."""
    chance = random.Random(f"demo:{seed}")
    seen: set[str] = set()
    rows: list[dict[str, object]] = []
    for kind, make in kinds(chance, to_learn_from).items():
        for number in range(1, n_each + 1):
            question, answer, benchmark = next(made for made in iter(make, None) if made[0] not in seen)
            seen.add(question)
            rows.append({"id": f"{kind}-{number}", "question": question, "answer": answer, "benchmark": benchmark})
    return rows


def kinds(chance: random.Random, to_learn_from: bool) -> dict[str, Callable[[], Made]]:
    """How a question of each kind is made. The number drawn first is even in what learns and odd in the demo."""

    def number(low: int, high: int) -> int:
        """Between the two, of the parity that keeps the two worlds apart."""
        return chance.randrange(low // 2, high // 2) * 2 + (0 if to_learn_from else 1)

    def made(expression: str) -> Made:
        return f"What is {expression}?", arithmetic.evaluate(expression), "arithmetic"

    def sums() -> Made:
        return made(f"{number(20, 700)} + {chance.randint(21, 699)}")

    def products() -> Made:
        return made(f"{number(12, 70)} * {chance.randint(3, 46)}")

    def expressions() -> Made:
        a, b, c, d = number(12, 70), chance.randint(3, 15), 2 * chance.randint(6, 20), chance.randint(2, 9)
        forms = (
            f"{a} * {b} - {c}",
            f"({a} + {c}) * {d}",
            f"{a} + {b} * {d}",
            f"{a} * {b} - {c} * {d}",
            f"({a + c} - {b}) * {d} + {c}",
        )
        return made(chance.choice(forms))

    def equations() -> Made:
        slope, x, shift = chance.randint(2, 9), number(4, 30), chance.randint(2, 60)
        if slope * x > shift and chance.random() < 0.5:
            return f"Solve for x: {slope} * x - {shift} = {slope * x - shift}", x, "arithmetic"
        return f"Solve for x: {slope} * x + {shift} = {slope * x + shift}", x, "arithmetic"

    def told(stories: tuple[tuple[str, str], ...]) -> Callable[[], Made]:
        turns = itertools.cycle(chance.sample(stories, len(stories)))

        def make() -> Made:
            story, expression = next(turns)
            a, s, t = number(60, 200), number(11, 46), chance.randint(3, 15)
            numbers = {
                "a": a,
                "b": chance.randint(11, a - 11),
                "s": s,
                "t": t,
                "c": chance.randint(6, 30),
                "total": s * t + chance.randint(10, 90),
            }
            return story.format(**numbers), arithmetic.evaluate(expression.format(**numbers)), "word_problem"

        return make

    one, two = (OTHER_STORIES_1, OTHER_STORIES_2) if to_learn_from else (DEMO_STORIES_1, DEMO_STORIES_2)
    return {
        "sum": sums,
        "product": products,
        "expression": expressions,
        "equation": equations,
        "story": told(one),
        "two-step": told(two),
    }


if __name__ == "__main__":
    sys.exit(main())
