"""The questions of the proofs that a scorer and two policies learn to choose, and what each model of
pools/learning_kinds.toml makes of them.

Three kinds of question (SCAN commands, arithmetic, word problems) and three difficulties, a quarter easy, half medium,
a quarter hard. An easy one is for the small model, a medium one for the specialist of its kind, a hard one for the
large model: both kind and difficulty must be read from the text. Everything here is exact, since the models are
simulated: `table` asks every model every question, and knows how probable each was to be right.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from r2.answering.protocol import Router
from r2.answering.route import solver_call
from r2.answering.scorer import FloatArray, IntArray
from r2.pool.client import wire
from r2.pool.file.config import load_pool
from r2.pool.simulated.mind import COT_BONUS, p_right, read_job
from r2.pool.simulated.server import Conditions, SimulatedServer, simulated_models
from r2.problem import Problem
from r2.problems import arithmetic, scan, words
from r2.problems.benchmark import judge, result_in
from r2.problems.same_result import groups_of
from r2.settings import Reasoning

POOL = Path(__file__).parent.parent / "pools" / "learning_kinds.toml"
KINDS = ("scan", "arithmetic", "word_problem")
LEVELS = ("easy", "medium", "hard")
SHARES = {"easy": 1, "medium": 2, "hard": 1}
LAM = 0.4
"""Weight of cost_usd / cost_ref in the utility; cost_ref is what the large model alone costs."""
SPECIALIST = {"scan": "scan-specialist", "arithmetic": "sums-specialist", "word_problem": "words-specialist"}


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Every model asked every question once, as the router would ask it. Arrays are models x questions.

    `p_AQ` is the probability of being right that the simulation drew `right_AQ` from. `results_AQ` numbers each
    question's distinct results, -1 for what is none.
    """

    arms: tuple[str, ...]
    problems: tuple[Problem, ...]
    right_AQ: FloatArray
    p_AQ: FloatArray
    cost_usd_AQ: FloatArray
    tokens_AQ: FloatArray
    results_AQ: IntArray

    @property
    def kinds(self) -> list[str]:
        return [problem.benchmark for problem in self.problems]

    @property
    def levels(self) -> list[str]:
        return [level_of(problem) for problem in self.problems]

    @property
    def cost_ref_usd(self) -> FloatArray:
        """Of each question: what it costs on the large model."""
        return np.asarray(self.cost_usd_AQ[self.arms.index("large")])

    def utility(self) -> FloatArray:
        """Models x questions: 1[right] - lambda * cost / cost_ref."""
        return self.right_AQ - LAM * self.cost_usd_AQ / self.cost_ref_usd

    def expected_utility(self) -> FloatArray:
        """The same with the probability of being right in place of the draw."""
        return self.p_AQ - LAM * self.cost_usd_AQ / self.cost_ref_usd


def questions(n_per_kind: int, seed: int) -> list[Problem]:
    """So many different questions of each kind, a quarter easy, half medium, a quarter hard, in a seeded order."""
    chosen: list[Problem] = []
    for kind, make in _MAKE.items():
        for level in LEVELS:
            n = n_per_kind * SHARES[level] // sum(SHARES.values())
            texts: dict[str, str] = {}
            made = make(level, random.Random(f"{kind}:{level}:{seed}"))
            while len(texts) < n:
                question, target = next(made)
                texts[question] = target
            chosen += [Problem(f"{kind}-{level}-{i}", q, 0, a, kind) for i, (q, a) in enumerate(texts.items())]
    random.Random(f"order:{seed}").shuffle(chosen)
    return chosen


def level_of(problem: Problem) -> str:
    """Its difficulty, which its id says."""
    return problem.problem_id.split("-")[1]


def table(problems: Sequence[Problem]) -> Outcomes:
    """Asks every model every question, without HTTP. Tokens are the server's own counts, prices those of the pool."""
    pool = load_pool(POOL)
    roster = pool.roster()
    router = Router(roster, "large", "large", None, Reasoning())
    server, models = SimulatedServer(pool, Conditions()), simulated_models(pool)
    arms = tuple(card.name for card in roster.solvers)
    shape = (len(arms), len(problems))
    right, p, cost, tokens = (np.zeros(shape) for _ in range(4))
    texts: list[list[str | None]] = [[None] * len(arms) for _ in problems]
    for a, arm in enumerate(arms):
        for q, problem in enumerate(problems):
            call = solver_call(problem, router, arm, None, {}, "solve")
            served = pool.models[arm].endpoint.partition(":")[2]
            _, body = server.complete(orjson.loads(wire.request_body(call, pool.models[arm], served)))
            text = str(body["choices"][0]["message"]["content"])
            usage = body["usage"]
            price = roster[arm].price
            texts[q][a] = result_in(problem, text)
            right[a, q] = judge(problem, texts[q][a] or "") is True
            tokens[a, q] = usage["completion_tokens"]
            cost[a, q] = (price.input * usage["prompt_tokens"] + price.output * usage["completion_tokens"]) / 1e6
            job = read_job(call.messages[-1][1])
            assert job is not None
            able = models[served].abilities.get(job.skill, models[served].ability)
            p[a, q] = p_right(able + COT_BONUS, job.difficulty)
    groups = np.array([groups_of(problem, said) for problem, said in zip(problems, texts, strict=True)]).T
    return Outcomes(arms, tuple(problems), right, p, cost, tokens, groups)


def constants(utility_AQ: FloatArray) -> FloatArray:
    """Each model's mean utility where it is asked every question."""
    return np.asarray(utility_AQ.mean(axis=1))


def best_rule(utility_AQ: FloatArray, kinds: Sequence[str]) -> Mapping[str, int]:
    """For each benchmark the number of the model with the highest mean utility: the best rule that looks at the
    benchmark alone, chosen in hindsight."""
    named = np.array(kinds)
    return {kind: int(utility_AQ[:, named == kind].mean(axis=1).argmax()) for kind in dict.fromkeys(kinds)}


def optimum(outcomes: Outcomes) -> IntArray:
    """The best model of each kind and difficulty by expected utility, for each question."""
    expected = outcomes.expected_utility()
    cells = np.array([f"{k} {v}" for k, v in zip(outcomes.kinds, outcomes.levels, strict=True)])
    found = np.zeros(len(cells), np.int64)
    for cell in np.unique(cells):
        found[cells == cell] = int(expected[:, cells == cell].mean(axis=1).argmax())
    return found


def _scan(level: str, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Easy: two plain verbs, joined. Medium: both repeated. Hard: both repeated and both around, over 32 actions."""
    verbs = [u for u in scan.ACTION if u != "turn"]
    while True:
        parts = []
        for _ in range(2):
            verb = chance.choice(verbs)
            turn = chance.choice((" left", " right"))
            if level == "hard":
                parts.append(f"{verb} around{turn} {chance.choice(('twice', 'thrice'))}")
            else:
                way = chance.choice(("", turn) if level == "easy" else (turn, f" opposite{turn}"))
                parts.append(verb + way + (f" {chance.choice(('twice', 'thrice'))}" if level == "medium" else ""))
        command = f"{parts[0]} {chance.choice(('and', 'after'))} {parts[1]}"
        target = scan.interpret(command)
        if level != "hard" or len(target.split()) >= 32:
            yield command, target


def _arithmetic(level: str, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Easy: a sum of three numbers. Medium: a product and two more operations. Hard: two products of larger numbers
    and two more operations."""
    while True:
        a, b, c, d, e = (chance.randint(12, 99) for _ in range(5))
        one, two, three = (chance.choice("+-") for _ in range(3))
        if level == "easy":
            text = f"{a} {one} {b} {two} {c}"
        elif level == "medium":
            text = f"{a} {one} {b} * {c} {two} {d}"
        else:
            text = f"{10 * a + 3} * {b} {one} {c} {two} {10 * d + 7} * {e} {three} {a}"
        yield f"What is {text}?", str(arithmetic.evaluate(text))


def _words(level: str, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Easy: one sum. Medium: one product of two-digit numbers. Hard: a product of larger numbers and one more
    operation."""
    sums = [t for t in words.TEMPLATES if "*" not in t.expression and "c" not in t.expression]
    products = [t for t in words.TEMPLATES if t.expression == "{a} * {b}"]
    mixed = [t for t in words.TEMPLATES if "*" in t.expression and "{c}" in t.expression]
    while True:
        template = chance.choice({"easy": sums, "medium": products, "hard": mixed}[level])
        # No result passes 500,000: a check of numbers allows one part in a million, so that "one too many" would count.
        most = {"easy": (20, 99), "medium": (12, 99), "hard": (100, 999)}[level]
        least = {"easy": (2, 19), "medium": (12, 99), "hard": (100, 499)}[level]
        numbers = {"a": chance.randint(*most), "b": chance.randint(*least), "c": chance.randint(2, 99)}
        name, thing = chance.choice(("Ann", "Ben", "Cleo", "Dev")), chance.choice(("pens", "cards", "coins", "books"))
        yield (
            template.story.format(name=name, things=thing, **numbers),
            str(arithmetic.evaluate(template.expression.format(**numbers))),
        )


_MAKE: Mapping[str, Callable[[str, random.Random], Iterator[tuple[str, str]]]] = {
    "scan": _scan,
    "arithmetic": _arithmetic,
    "word_problem": _words,
}
