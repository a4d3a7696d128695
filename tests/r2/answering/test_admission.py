"""Near a money cap a run finishes what it began before it begins more."""

import asyncio
import math
import random

from r2.answering.admission import Admission


class Purse:
    """A cap as the client keeps it: a call is sent if its worst case still fits beside all that are on their way."""

    def __init__(self, cap_usd: float) -> None:
        self.cap_usd = cap_usd
        self.spent_usd = self.reserved_usd = 0.0

    def unspent_usd(self) -> float:
        return self.cap_usd - self.spent_usd

    def reserve(self, usd: float) -> bool:
        if self.spent_usd + self.reserved_usd + usd > self.cap_usd + 1e-12:
            return False
        self.reserved_usd += usd
        return True

    def settle(self, reserved: float, usd: float) -> None:
        self.reserved_usd -= reserved
        self.spent_usd += usd


async def run(
    purse: Purse, questions: list[list[tuple[float, float]]], at_once: int, guess_usd: float
) -> tuple[list[str], list[float]]:
    """Questions as lists of calls (worst, cost); "whole", "part" (begun and not finished) or "open" for each, and what
    was spent on each."""
    admission = Admission(purse.unspent_usd)
    ends = ["open"] * len(questions)
    spent_usd = [0.0] * len(questions)
    numbers = iter(range(len(questions)))
    is_over = False

    async def answer(number: int) -> None:
        nonlocal is_over
        begun = await admission.begin("cot", guess_usd)
        if begun is None:
            is_over = True
            return
        try:
            if is_over:
                return
            ends[number] = "part"
            for worst, cost in questions[number]:
                begun.sends(worst)
                while not purse.reserve(worst):
                    if purse.reserved_usd < 1e-12:
                        is_over = True
                        return
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
                purse.settle(worst, cost)
                begun.got(worst, cost)
                spent_usd[number] += cost
            ends[number] = "whole"
        finally:
            admission.end(begun, is_whole=ends[number] == "whole")

    async def work() -> None:
        for number in numbers:
            if is_over:
                return
            await answer(number)

    await asyncio.gather(*(work() for _ in range(at_once)))
    return ends, spent_usd


def test_where_money_is_for_three_questions_three_are_answered():
    # Four calls of 1 each that may cost 2: a question needs 5 at its last call, and leaves 4 spent.
    questions = [[(2.0, 1.0)] * 4 for _ in range(20)]
    ends, _ = asyncio.run(run(Purse(13.0), questions, at_once=20, guess_usd=10.0))
    assert ends.count("whole") == 3
    assert ends.count("part") == 0


def test_a_large_cap_holds_nobody_back():
    admission = Admission(lambda: 1000.0)

    async def scenario() -> int:
        async with asyncio.timeout(1):
            return len([await admission.begin("cot", 1.0) for _ in range(64)])

    assert asyncio.run(scenario()) == 64


def test_without_a_cap_nobody_waits():
    admission = Admission(lambda: math.inf)

    async def scenario() -> None:
        async with asyncio.timeout(1):
            for _ in range(1000):
                await admission.begin("cot", 1e9)

    asyncio.run(scenario())


def test_a_guess_is_no_reason_to_stop_and_what_was_seen_is():
    async def scenario() -> None:
        unspent = 1.0
        admission = Admission(lambda: unspent)
        first = await admission.begin("cot", 1000.0)
        assert first is not None, "nothing is under way: it begins whatever the guess"
        first.sends(0.5)
        first.got(0.5, 0.25)
        admission.end(first, is_whole=True)
        unspent = 0.4
        assert await admission.begin("cot", 0.0) is None, "the least that any needed was 0.5"

    asyncio.run(scenario())


def test_nearly_all_that_is_paid_is_paid_for_whole_questions():
    """Over 150 runs of questions whose sizes differ eightfold, with caps for 5 to 40 of them."""
    chance = random.Random(1)
    for_whole_usd = paid_usd = 0.0
    n_part = []
    for _ in range(150):
        questions = []
        for _ in range(60):
            worst = [chance.uniform(0.5, 2) for _ in range(chance.randint(1, 5))]
            questions.append([(most, most * chance.uniform(0.2, 1)) for most in worst])
        purse = Purse(chance.uniform(12, 100))
        ends, spent_usd = asyncio.run(run(purse, questions, chance.randint(1, 32), guess_usd=10.0))
        assert purse.spent_usd <= purse.cap_usd + 1e-9
        paid_usd += purse.spent_usd
        for_whole_usd += sum(usd for end, usd in zip(ends, spent_usd, strict=True) if end == "whole")
        n_part.append(ends.count("part"))
    assert for_whole_usd >= 0.93 * paid_usd, "0.72 where all begin at once"
    assert sum(n_part) / len(n_part) <= 2, "17 where all begin at once"
