"""The stages of one GRPO round: plans, prompts, pilot, samples, the comparison on held-out problems. Each result is a
file that is written once."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import orjson

from r2.answering.allocation import allocation_tokens
from r2.answering.prompts import allocate_messages, decompose_messages
from r2.answering.protocol import Trajectory
from r2.answering.route import shown_models
from r2.errors import PlanParseError, TrainingError
from r2.plan import DIRECT, Plan, parse_plan
from r2.policies.registry import Policy
from r2.pool.file.config import PoolConfig
from r2.problem import Problem
from r2.training.data import ChatMessage
from r2.training.grpo.batch import Draw, Rollout, TrainingPrompt
from r2.training.grpo.partners import ENTRY, Parts
from r2.training.grpo.promotion import HeldOut
from r2.training.grpo.rejection import best_rows
from r2.training.grpo.reward import PURPOSE_OF, all_read, met_outage, rollout_seed, weighted
from r2.training.grpo.rollouts import RolloutRequest, Rollouts
from r2.training.grpo.rounds import write_json
from r2.training.grpo.settings import GrpoSettings, Role
from r2.training.grpo.trainer import TrainedRound
from r2.training.sampled import SampledText
from r2.training.sampling import LocalPolicy, Partner, load_policy

PAUSES_S = (5.0, 30.0, 120.0)
"""Before a held-out problem that met an outage is asked again."""
SHUFFLES = 8
"""Orders that SFT must have shown of each row for an allocator to be expected to read profiles."""


@dataclass(slots=True)
class Round:
    """What a round works with."""

    spec: Mapping[str, Any]
    folder: Path
    settings: GrpoSettings
    pool: PoolConfig
    parts: Parts
    train_problems: list[Problem]
    held_out: list[Problem]
    rollouts: Rollouts
    loaded: dict[str, LocalPolicy]

    @property
    def number(self) -> int:
        return int(self.spec["number"])

    def local(self, policy: Policy) -> LocalPolicy:
        """A version's weights, loaded once."""
        if policy.ref not in self.loaded:
            self.loaded[policy.ref] = load_policy(policy, Path(self.settings.models_dir))
        return self.loaded[policy.ref]

    def seat(self, parts: Parts) -> None:
        """From now on these versions answer for the router's parts."""
        self.rollouts.partners = {
            ENTRY[role]: Partner(self.local(policy), parts.router.roster) for role, policy in parts.policies.items()
        }


def check_frozen(number: int, digests: Mapping[str, tuple[str, str]]) -> None:
    """TrainingError if a frozen policy has other weights after the round than before it."""
    for ref, (first, last) in digests.items():
        if first != last:
            raise TrainingError(
                f"round {number}: the frozen policy {ref} changed while its partner was trained ({first[:12]} became "
                f"{last[:12]}). Nothing of the "
                "round is promoted; this is a bug, please report it."
            )


def evaluate(
    round_: Round, parts: Parts, *, order_seed: int | None = None, pauses_s: Sequence[float] = PAUSES_S
) -> tuple[HeldOut, list[Trajectory]]:
    """Every held-out problem answered greedily by `solve` with these versions, as a served router would; no review, no
    sampling. With `order_seed` the allocator is shown the models in a random order for each problem.

    A problem for which the pool failed, in any of its calls, is asked again after each of the pauses, and never scored:
    TrainingError where it still fails then.
    """
    round_.seat(parts)
    problems = round_.held_out
    requests = [
        RolloutRequest(p, {}, rollout_seed(round_.settings.seed, 0, 0, p.problem_id, 0), order_seed) for p in problems
    ]
    references: dict[int, float] = {}
    trajectories: dict[int, Trajectory] = {}
    open_ = list(range(len(problems)))
    for pause_s in (0.0, *pauses_s):
        time.sleep(pause_s)
        costs = round_.rollouts.reference_costs([problems[i] for i in open_])
        done = round_.rollouts.run([requests[i] for i in open_], with_review=False)
        for i, cost, trajectory in zip(open_, costs, done, strict=True):
            if cost is not None and not met_outage(trajectory):
                references[i], trajectories[i] = cost, trajectory
        open_ = [i for i in open_ if i not in trajectories]
        if not open_:
            break
    if open_:
        raise TrainingError(
            f"round {round_.number}: the pool failed for {len(open_)} of {len(problems)} held-out problems, "
            f"{1 + len(pauses_s)} times in {sum(pauses_s):.0f} s, so that the versions cannot be compared. Run the "
            "same command again when it is up; what was paid is kept."
        )
    answered = [trajectories[i] for i in range(len(problems))]
    cost_usd = [trajectory.answering_cost_usd for trajectory in answered]
    return HeldOut(
        tuple(p.problem_id for p in problems),
        tuple(trajectory.right for trajectory in answered),
        tuple(cost_usd),
        tuple(usd / references[i] for i, usd in enumerate(cost_usd)),
        tuple(float(all_read(trajectory)) for trajectory in answered),
    ), answered


def save(trained: TrainedRound, folder: Path) -> None:
    """As SFT saves: an adapter in half precision, or all weights with their tokenizer."""
    from r2.training.sft.trainer import TrainingResult
    from r2.training.sft.trainer import save as save_weights

    save_weights(
        TrainingResult(trained.model, trained.tokenizer, trained.first_step, trained.wall_s, 0, trained.weights), folder
    )


def fine_tune(
    round_: Round,
    role: Role,
    chosen: Sequence[TrainingPrompt],
    plans: Mapping[int, SampledText],
    model: Any,
    tokenizer: Any,
    keep: Any,
) -> TrainedRound:
    """Rejection-sampling fine-tuning: as many rollouts as GRPO would make, then as many supervised steps."""
    from r2.training.sft import trainer as sft
    from r2.training.sft.settings import SftSettings

    settings = round_.settings
    n_prompts = min(len(chosen), settings.steps * settings.prompts_per_step)
    rolled = _sample(round_, role, chosen[:n_prompts], plans, settings.group_size, "rejection")
    keep(rolled)
    rows = best_rows(rolled, settings.weights)
    if not rows:
        raise TrainingError(
            f"round {round_.number}: no sampled {role} text led to a right answer; there is nothing to fine-tune on."
        )
    # "full": all that can be trained of what is given, which for an adapter is the adapter that is on it already.
    fields = SftSettings(
        steps=settings.steps,
        batch_size=min(32, len(rows)),
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        threads=settings.threads,
        save_steps=settings.save_steps,
        weights="full",
        trainer={"train_sampling_strategy": "random"},
    )
    done = sft.train(rows, model, tokenizer, round_.folder / role, fields)
    return TrainedRound(done.model, done.tokenizer, done.first_step, done.wall_s, ())


def plans_of(round_: Round) -> dict[int, SampledText]:
    """One plan per problem, sampled from the frozen decomposer: what the allocator is trained on. Written once."""
    path = round_.folder / "plans.json"
    if not path.exists():
        policy = round_.parts.policies.get("decomposer")
        if policy is None:
            written = [_plan_in(trajectory) for trajectory in round_.rollouts.plan(round_.train_problems)]
        else:
            messages = [decompose_messages(problem, policy.card.prompt_mode) for problem in round_.train_problems]
            settings = round_.settings
            temperature = settings.temperature if settings.plan_temperature is None else settings.plan_temperature
            written = round_.local(policy).write(
                messages,
                settings.reasoning.plan_tokens,
                temperature=temperature,
                seed=round_.settings.seed + 1000 * round_.number,
            )
        write_json(path, [asdict(sampled) for sampled in written])
    return dict(enumerate(SampledText(**fields) for fields in orjson.loads(path.read_bytes())))


def _plan_in(trajectory: Any) -> SampledText:
    """The plan a pool entry wrote, as a sampled text."""
    for call, completion in trajectory.pairs:
        if call.purpose == "decompose":
            usage = completion.usage
            is_cut = completion.finish_reason == "length"
            return SampledText(completion.text, usage.input_tokens, usage.output_tokens, is_cut)
    return SampledText("", 0, 0)


def prompts_of(round_: Round, role: Role, plans: Mapping[int, SampledText]) -> list[TrainingPrompt]:
    """What the policy is asked, exactly as `solve` asks it."""
    mode = round_.parts.policies[role].card.prompt_mode
    prompts: list[TrainingPrompt] = []
    for place, problem in enumerate(round_.train_problems):
        if role == "decomposer":
            messages = [ChatMessage(role=who, content=text) for who, text in decompose_messages(problem, mode)]
            prompts.append(TrainingPrompt(place, problem, messages))
        else:
            prompts.append(_allocators(round_, place, problem, plans, 0))
    return prompts


def seen_at(
    round_: Round, role: Role, plans: Mapping[int, SampledText]
) -> Callable[[TrainingPrompt, int], TrainingPrompt]:
    """How a prompt looks at its n-th visit: an allocator that learns with random orders sees another one each time."""
    if role == "decomposer" or not has_random_order(round_):
        return lambda prompt, visit: prompt
    return lambda prompt, visit: _allocators(round_, prompt.place, prompt.problem, plans, visit)


def has_random_order(round_: Round) -> bool:
    """Whether the allocator is shown the models in random orders while it learns."""
    asked = round_.settings.random_order
    if asked is not None:
        return asked
    policy = round_.parts.policies.get("allocator")
    return policy is not None and int(policy.card.config.get("augment", 0)) >= SHUFFLES


def _allocators(
    round_: Round, place: int, problem: Problem, plans: Mapping[int, SampledText], visit: int
) -> TrainingPrompt:
    router, order_seed = round_.parts.router, None
    if has_random_order(round_):
        order_seed = 1_000_000 * round_.settings.seed + 1000 * round_.number + visit
        router = replace(router, settings=router.settings.model_copy(update={"order_seed": order_seed}))
    mode = round_.parts.policies["allocator"].card.prompt_mode
    messages = allocate_messages(problem, _read(plans[place]), shown_models(problem, router), mode)
    return TrainingPrompt(place, problem, [ChatMessage(role=who, content=text) for who, text in messages], order_seed)


def _read(sampled: SampledText) -> Plan:
    try:
        return parse_plan(sampled.text)
    except PlanParseError:
        return DIRECT


def most_steps(plans: Mapping[int, SampledText]) -> int:
    return max((len(_read(sampled).subtasks) for sampled in plans.values()), default=1) or 1


def request_of(round_: Round, role: Role, draw: Draw, step: int, plans: Mapping[int, SampledText]) -> RolloutRequest:
    texts = {PURPOSE_OF[role]: draw.sampled}
    if role == "allocator":
        texts[PURPOSE_OF["decomposer"]] = plans[draw.prompt.place]
    problem = draw.prompt.problem
    seed = rollout_seed(round_.settings.seed, round_.number, step, problem.problem_id, draw.rollout)
    return RolloutRequest(problem, texts, seed, draw.prompt.order_seed)


def output_limit(round_: Round, role: Role, plans: Mapping[int, SampledText]) -> int:
    """Most tokens of a text that the role's policy samples."""
    return round_.settings.reasoning.plan_tokens if role == "decomposer" else allocation_tokens(most_steps(plans))


def _sample(
    round_: Round, role: Role, prompts: Sequence[TrainingPrompt], plans: Mapping[int, SampledText], n: int, why: str
) -> list[Rollout]:
    """`n` rollouts of each prompt with the round's starting policy."""
    policy, settings = round_.local(round_.parts.policies[role]), round_.settings
    limit = output_limit(round_, role, plans)
    asked = [[(said["role"], said["content"]) for said in prompt.messages] for prompt in prompts for _ in range(n)]
    seed = rollout_seed(settings.seed, round_.number, 0, why, 0)
    written = policy.write(asked, limit, temperature=settings.temperature, seed=seed)  # type: ignore[arg-type]
    draws = [Draw(prompt, i, written[at * n + i]) for at, prompt in enumerate(prompts) for i in range(n)]
    scored = round_.rollouts.score([request_of(round_, role, draw, -1, plans) for draw in draws], role)
    return [Rollout(0, draw, one) for draw, one in zip(draws, scored, strict=True)]


def pilot_of(
    round_: Round, role: Role, prompts: Sequence[TrainingPrompt], plans: Mapping[int, SampledText]
) -> dict[str, Any]:
    """Which problems can teach (dynamic sampling: docs/method.md, section 5): a few rollouts of each, kept by success
    rate or spread of reward. Written once."""
    path, rule = round_.folder / role / "pilot.json", round_.settings.filter
    if path.exists():
        return dict(orjson.loads(path.read_bytes()))
    if rule.by == "nothing":
        pilot: dict[str, Any] = {"places": [prompt.place for prompt in prompts], "n_looked_at": 0}
        write_json(path, pilot)
        return pilot
    rolled = _sample(round_, role, prompts, plans, rule.n_rollouts, "pilot")
    places, success = [], []
    for at, prompt in enumerate(prompts):
        mine = rolled[at * rule.n_rollouts : (at + 1) * rule.n_rollouts]
        right = [one.scored.terms.right for one in mine if one.scored.terms.right is not None]
        rewards = [r for one in mine if (r := weighted(one.scored.terms, round_.settings.weights)) is not None]
        if not right:
            continue
        success.append(fmean(right))
        can_teach = rule.low <= success[-1] <= rule.high or (rule.by == "reward" and pstdev(rewards) > 1e-6)
        if can_teach:
            places.append(prompt.place)
    valid = [one.scored.terms.well_formed for one in rolled if one.scored.terms.well_formed is not None]
    pilot = {
        "places": places,
        "n_looked_at": len(prompts),
        "n_kept": len(places),
        "success": fmean(success) if success else 0.0,
        "valid_share": fmean(valid) if valid else 0.0,
    }
    write_json(path, pilot)
    return pilot
