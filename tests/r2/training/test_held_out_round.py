"""The comparison on held-out problems: an outage is asked again and never scored; an allocator that learns with random
orders sees another one each time."""

from dataclasses import replace
from typing import Any

import pytest

from r2.answering.allocation import parse_allocation
from r2.answering.route import shown_models
from r2.errors import TrainingError
from r2.policies.registry import Policy, PolicyCard
from r2.pool.file.config import load_pool
from r2.problem import Problem
from r2.training.grpo.batch import Draw
from r2.training.grpo.partners import Parts
from r2.training.grpo.rollouts import RolloutRequest
from r2.training.grpo.settings import GrpoSettings
from r2.training.grpo.stages import Round, evaluate, has_random_order, prompts_of, request_of, seen_at
from r2.training.sampled import SampledText
from tests.support.paths import ROOT
from tests.support.scripted import completion, router

PROBLEMS = [Problem(f"p{i}", "What is 3 * 4?", i, "12", "arithmetic") for i in range(4)]
PLANS = {place: SampledText("DIRECT", 30, 2) for place in range(4)}


class Ups:
    """A pool that is out for some problems the first times they are asked."""

    def __init__(self, outages: dict[str, list[str]]) -> None:
        self.outages = outages
        """Problem -> the model whose call fails, once per entry."""
        self.asked: list[list[str]] = []
        self.partners: dict[str, Any] = {}

    def reference_costs(self, problems: list[Problem]) -> list[float | None]:
        return [1e-3 for _ in problems]

    def run(self, requests: list[RolloutRequest], *, with_review: bool = True) -> list[Any]:
        import asyncio

        from r2.training.grpo.reward import rollout

        assert not with_review
        self.asked.append([request.problem.problem_id for request in requests])

        async def one(request: RolloutRequest) -> Any:
            down = self.outages.get(request.problem.problem_id, [])
            out = down.pop(0) if down else ""

            async def complete(call: Any) -> Any:
                if call.model == out:
                    return completion("", call.model, error_type="server_error")
                texts = {"decompose": "DIRECT", "allocate": '[{"subtask":1,"model":"A"}]'}
                return completion(texts.get(call.purpose, "12"), call.model)

            return await rollout(
                request.problem, {}, replace(router(), decomposer="large", allocator="large"), complete
            )

        return [asyncio.run(one(request)) for request in requests]


def round_of(rollouts: Any, card: PolicyCard | None = None, **fields: object) -> tuple[Round, Parts]:
    policies: Any = {} if card is None else {"allocator": Policy(ROOT, card)}
    parts = Parts(router(), policies)
    chosen = GrpoSettings.model_validate({"problems": "arithmetic", **fields})
    pool = load_pool(ROOT / "pools/simulated.toml")
    return Round({"number": 2}, ROOT, chosen, pool, parts, PROBLEMS, PROBLEMS, rollouts, {}), parts


def test_a_problem_that_met_an_outage_is_asked_again_and_the_others_are_not():
    pool = Ups({"p1": ["small"], "p3": ["small", "small"]})
    round_, parts = round_of(pool)

    held, trajectories = evaluate(round_, parts, pauses_s=(0.0, 0.0))

    assert pool.asked == [["p0", "p1", "p2", "p3"], ["p1", "p3"], ["p3"]]
    assert held.problem_ids == ("p0", "p1", "p2", "p3")
    assert held.is_correct == (1.0,) * 4
    assert len(set(held.cost_usd)) == 1, "what a stronger model answered meanwhile is not what is compared"
    assert [t.problem.problem_id for t in trajectories] == ["p0", "p1", "p2", "p3"]


def test_a_pool_that_stays_out_ends_the_round_and_scores_nothing():
    round_, parts = round_of(Ups({"p1": ["small"] * 9}))

    with pytest.raises(TrainingError, match="the pool failed for 1 of 4 held-out problems, 2 times"):
        evaluate(round_, parts, pauses_s=(0.0,))


def allocator(augment: int | None) -> PolicyCard:
    config = {} if augment is None else {"augment": augment}
    return PolicyCard(name="allocator", kind="allocator", base="tiny", config=config)


@pytest.mark.parametrize(
    ("augment", "asked", "is_random"),
    [(None, None, False), (4, None, False), (8, None, True), (4, True, True), (8, False, False)],
)
def test_orders_are_random_where_sft_showed_eight_of_each_row_or_the_settings_say_so(augment, asked, is_random):
    round_, _ = round_of(None, allocator(augment), random_order=asked)

    assert has_random_order(round_) is is_random


def test_each_visit_of_a_prompt_has_an_order_of_its_own_in_which_its_rollouts_are_read():
    round_, parts = round_of(None, allocator(8))
    [first, *_] = prompts_of(round_, "allocator", PLANS)
    seen = seen_at(round_, "allocator", PLANS)

    orders = set()
    for visit in range(12):
        prompt = seen(first, visit)
        request = request_of(round_, "allocator", Draw(prompt, 0, PLANS[0]), 0, PLANS)
        assert request.order_seed == prompt.order_seed
        settings = parts.router.settings.model_copy(update={"order_seed": request.order_seed})
        shown = shown_models(prompt.problem, replace(parts.router, settings=settings))
        [chosen] = parse_allocation('[{"subtask":1,"model":"A"}]', 1, shown)
        profile = next(line for line in prompt.messages[-1]["content"].split("\n") if line.startswith("A: "))
        assert f"{parts.router.roster[chosen].tier}," in profile, "the letter means the model that was shown first"
        orders.add(tuple(card.name for card in shown))
    assert seen(first, 0) == first
    assert len(orders) > 1


def test_a_decomposer_and_an_allocator_that_learnt_one_order_are_asked_as_they_are_served():
    round_, _ = round_of(None, allocator(4))
    [first, *_] = prompts_of(round_, "allocator", PLANS)

    assert first.order_seed is None
    assert seen_at(round_, "allocator", PLANS)(first, 3) is first
