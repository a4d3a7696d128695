"""What a policy can do on held-out rows: its greedy replies against the labelled ones, as numbers with names.

Plans: share that parse, share equal to the label. Allocations: share that name a model for every step, share equal to
the label, share that cost the same. Specialists: share of exactly right results, over all and by kind of subtask. Paper
has none of these; all are ours.
"""

from collections import defaultdict
from collections.abc import Sequence

from r2.answering.allocation import parse_allocation
from r2.answering.prompts import MODEL_LETTERS, MODELS_MARK
from r2.errors import AllocationParseError, PlanParseError
from r2.ledger import Price
from r2.plan import format_plan, parse_plan
from r2.problem import Problem
from r2.problems.benchmark import judge
from r2.problems.checks import extract_answer
from r2.roster import ModelCard
from r2.training.data import ChatRow
from r2.training.sft.specialist import SolvedSubtask

SAME_COST = 0.01
"""Allocations whose summed prices differ by less than this share cost the same."""


def plan_scores(texts: Sequence[str], rows: Sequence[ChatRow]) -> dict[str, float]:
    """`valid_plan`, `exact_plan` and `same_length` as shares; nothing for no rows."""
    valid, exact, same_length = 0, 0, 0
    for text, row in zip(texts, rows, strict=True):
        label = parse_plan(row["completion"][0]["content"])
        try:
            plan = parse_plan(text)
        except PlanParseError:
            continue
        valid += 1
        exact += format_plan(plan) == format_plan(label)
        same_length += len(plan.subtasks) == len(label.subtasks)
    return _shares(len(rows), valid_plan=valid, exact_plan=exact, same_length=same_length)


def allocation_scores(texts: Sequence[str], rows: Sequence[ChatRow]) -> dict[str, float]:
    """`valid_allocation`, `exact_allocation`, `cost_equivalent` as shares, and `price_ratio`: summed prices of the
    valid ones over their labels'."""
    valid, exact, equivalent = 0, 0, 0
    mine_usd = label_usd = 0.0
    for text, row in zip(texts, rows, strict=True):
        shown = _shown_models(row["prompt"][-1]["content"])
        wanted = row["completion"][0]["content"]
        n_steps = wanted.count('"subtask"')
        label = parse_allocation(wanted, n_steps, shown)
        try:
            models = parse_allocation(text, n_steps, shown)
        except AllocationParseError:
            continue
        price = {card.name: card.blended_price for card in shown}
        mine, theirs = sum(price[m] for m in models), sum(price[m] for m in label)
        valid += 1
        exact += models == label
        equivalent += abs(mine - theirs) <= SAME_COST * theirs
        mine_usd, label_usd = mine_usd + mine, label_usd + theirs
    found = _shares(len(rows), valid_allocation=valid, exact_allocation=exact, cost_equivalent=equivalent)
    return found | ({"price_ratio": mine_usd / label_usd} if label_usd else {})


def subtask_scores(texts: Sequence[str], subtasks: Sequence[SolvedSubtask]) -> dict[str, float]:
    """`right` over all and `right_<kind>` by kind, by the benchmark's own check."""
    right: dict[str, list[bool]] = defaultdict(list)
    for text, solved in zip(texts, subtasks, strict=True):
        asked = Problem(
            solved.problem.problem_id,
            solved.task or solved.problem.question,
            0,
            solved.answer,
            solved.problem.benchmark,
        )
        is_right = judge(asked, extract_answer(text)) is True
        right[""].append(is_right)
        right[solved.kind].append(is_right)
    return {f"right_{kind}" if kind else "right": sum(found) / len(found) for kind, found in right.items()}


def _shares(n: int, **counts: int) -> dict[str, float]:
    return {name: count / n for name, count in counts.items()} if n else {}


def _shown_models(prompt: str) -> list[ModelCard]:
    """The models as an allocator's prompt lists them ("B: medium, 0.2 USD; ..."), with their blended prices; letters
    are their names."""
    lines = prompt.partition(MODELS_MARK)[2].strip().splitlines()
    cards = []
    for letter, line in zip(MODEL_LETTERS, lines, strict=False):
        if not line.startswith(f"{letter}: "):
            break
        usd = float(line.partition(", ")[2].partition(" USD")[0])
        cards.append(ModelCard(letter, "small", Price(usd, usd, usd, "", "shown")))
    return cards
