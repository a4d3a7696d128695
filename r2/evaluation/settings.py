"""An evaluation: which problems, which methods, which pool; the split of the problems, and how hard each of them is.
Pure.

Problems are split into dev and test by a hash of the question (ours). Dev problems choose each method's operating point
(r2/evaluation/operating_points.py) and fit the query router; test problems give the table and have no part in any
choice. `flows/evaluate_methods.py` runs what is declared here.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal

import orjson
from pydantic import Field, field_validator

from r2.errors import ConfigError
from r2.methods import DIRECT, methods, route
from r2.plan import Plan
from r2.problem import Problem
from r2.problems.benchmark import gold_plan_of
from r2.problems.leakage import normalised
from r2.problems.split import split_of
from r2.settings import AnswerSettings, Frozen, Positive, Reasoning

Difficulty = Literal["easy", "medium", "hard"]
UNTRAINED = "none"
"""What stands for no scorer among `scorers`."""
MEDIUM_FROM_STEPS, HARD_FROM_STEPS = 2, 4
"""Gold steps from which a problem is medium, and hard (ours): 0 or 1 is easy, the paper's plans have 3 to 8."""


def _rows_by_default() -> tuple[str, ...]:
    rows = [method for method in methods().values() if method.by_default]
    return (DIRECT, *(m.name for m in rows if m.family != "ours"), *(m.name for m in rows if m.family == "ours"))


class EvaluateSettings(Frozen):
    """One evaluation. What was evaluated before with the same problems and pool is not asked again."""

    problems: tuple[str, ...] = ()
    """Sources (r2/problems/source.py), mixed into one set. Empty: those of the recording that `pool` names."""
    limit: int | None = Field(default=None, ge=1)
    """Problems per source."""
    seed: int = 0
    """Of generated problems."""
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Only questions on the test side of the training split with this test share (r2/problems/split.py); None: all.
    With it, what a policy or a specialist was trained on cannot be among them."""
    split_seed: int = 0
    """Of the split into train and test that `held_out` refers to, and of the one into dev and test."""
    dev_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the problems that choose operating points and fit the query router; the table is made of the others."""
    pool: str = "pools/local.toml"
    lake: str = "lake"
    methods: tuple[str, ...] = Field(default_factory=_rows_by_default)
    """The rows. Without any: `direct` and every method that is a row by default, the judged ones last. `cot` and
    `direct` are a row for every solver of the pool, asked to think step by step or as the entry's prompt mode says;
    `cot:NAME` and `direct:NAME` for one. They are what everything is compared with, so without any of them all are
    run. `all` is every method there is (docs/evaluation.md)."""
    seeds: int = Field(default=1, ge=1)
    """Repetitions, with seeds 0, 1, ... for the models' sampling and for the methods' own draws."""
    subject: str | None = None
    """The row that the verdict is about; None: the last of method r2."""
    routers: tuple[str, ...] = ()
    """`NAME=DECOMPOSER:ALLOCATOR`, each a row of method r2; none: one row with the pool file's router."""
    scorers: tuple[str, ...] = ()
    """Trained scorers, as of `Reasoning.scorer`; each is a row of method r2, routed by the rule. `none`: the rule
    without one."""
    b: tuple[float, ...] = route.METHOD.values
    """Values of r2's cost knob that are tried on dev problems; only 0 where the allocator gives no log-probabilities.
    """
    margin: float = Field(default=0.02, ge=0, le=1)
    """An operating point is as good as the best constant if its dev accuracy is at most so much lower."""
    cost_weight: float = Field(default=0.1, ge=0)
    """Where no point is as good: utility is accuracy minus this times cost, in units of the dearest constant's cost."""
    reasoning: Reasoning = Reasoning()
    """What all methods share: output limits, temperature, escalations."""
    train_labels: str | None = None
    """Folder of the label sets that a router was trained on: its questions are looked for among the evaluated ones."""
    max_cost_usd: Positive | None = None
    """Hard cap on what is paid, over all sessions; a call that several methods share is paid once."""
    shard_size: int = Field(default=200, ge=1)
    max_in_flight: int = Field(default=64, ge=1)
    """Problems worked on at once, over all methods."""
    methods_in_flight: int = Field(default=8, ge=1)
    reuse: bool = True
    """Answers that other runs of the lake paid for are used again, too. Those that evaluations of the same problems
    paid for always are."""
    data_dir: str | None = None
    models_dir: str = "models"

    @field_validator("routers")
    @classmethod
    def _routers_read(cls, routers: tuple[str, ...]) -> tuple[str, ...]:
        for text in routers:
            parse_router(text)
        return routers

    def answering(self, input_path: str, reasoning: Reasoning) -> AnswerSettings:
        """One of its runs: a method at an operating point over the dev or the test problems."""
        return AnswerSettings(
            input=input_path,
            pool=self.pool,
            lake=self.lake,
            reasoning=reasoning,
            max_cost_usd=self.max_cost_usd,
            shard_size=self.shard_size,
            max_in_flight=self.max_in_flight,
            reuse=self.reuse,
            models_dir=self.models_dir,
        )

    def evaluation_id(self, problems_digest: str, pool_digest: str) -> str:
        """Identity: problems with their split, pool, and what all methods share. Methods are not in it, so that one can
        be added and pays only for calls that nobody made before."""
        shared = [problems_digest, pool_digest, self.split_seed, self.dev_share, self.seeds, self.reasoning.identity()]
        return f"evaluation-{hashlib.sha256(orjson.dumps(shared)).hexdigest()[:12]}"


def parse_router(text: str) -> tuple[str, str, str]:
    """(row's name, decomposer, allocator) of `NAME=DECOMPOSER:ALLOCATOR`. ValueError for anything else."""
    name, _, entries = text.partition("=")
    decomposer, _, allocator = entries.partition(":")
    if not (name and decomposer and allocator):
        raise ValueError(f"{text!r}: expected NAME=DECOMPOSER:ALLOCATOR, two entries of the pool")
    return name, decomposer, allocator


def is_dev(question: str, split_seed: int, dev_share: float) -> bool:
    """The side of a question, by a hash of its words. The salt keeps it independent of r2/problems/split.py's train and
    test."""
    key = f"dev:{split_seed}:{normalised(question)}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) / 2**64 < dev_share


def gold_steps(problem: Problem) -> int | None:
    """Steps of the problem's gold plan, 0 where it is to be answered directly; None where no gold plan follows from the
    question.

    For published benchmarks the plan is in the row: `band` of its length.
    """
    plan = gold_plan_of(problem)
    return None if plan is None else len(plan.subtasks)


def band(n_steps: int) -> Difficulty:
    """easy up to one step, medium up to three, hard from four."""
    return "hard" if n_steps >= HARD_FROM_STEPS else "medium" if n_steps >= MEDIUM_FROM_STEPS else "easy"


def band_of(plan: Plan) -> Difficulty:
    return band(len(plan.subtasks))


def terciles(right_share: Mapping[str, float]) -> dict[str, Difficulty]:
    """Difficulty where there is no gold plan: problem -> share of the constants that are right, cut into thirds of
    equal size.

    Equal shares are equally hard: a whole group of them goes where its middle falls.
    """
    ordered = sorted(right_share.items(), key=lambda item: -item[1])
    names: tuple[Difficulty, ...] = ("easy", "medium", "hard")
    places: dict[float, list[int]] = {}
    for place, (_, share) in enumerate(ordered):
        places.setdefault(share, []).append(place)
    third = {share: names[min(2, int(3 * (sum(at) / len(at) + 0.5) / len(ordered)))] for share, at in places.items()}
    return {problem_id: third[share] for problem_id, share in ordered}


def split(problems: Iterable[Problem], split_seed: int, dev_share: float) -> tuple[list[Problem], list[Problem]]:
    """(dev, test), each in input order. ConfigError where one of them would be empty."""
    sides: tuple[list[Problem], list[Problem]] = ([], [])
    for problem in problems:
        sides[not is_dev(problem.question, split_seed, dev_share)].append(problem)
    if not all(sides):
        n = len(sides[0]) + len(sides[1])
        raise ConfigError(
            f"{n} problems with a dev share of {dev_share}: one side of the split is empty. Give more problems "
            "(--limit)."
        )
    return sides


def held_out(problems: Iterable[Problem], settings: EvaluateSettings) -> Iterator[Problem]:
    """The problems that training with the same split has not seen, all where `held_out` is not set."""
    share = settings.held_out
    return (p for p in problems if share is None or split_of(p.question, settings.split_seed, share) == "test")
