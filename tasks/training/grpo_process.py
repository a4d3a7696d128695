"""One round of GRPO in a process of its own: pilot, training, comparison on held-out problems. `python -m tasks.training.grpo_process SPEC.json`.

A fresh process frees the memory of the round before and isolates crashes. Every stage leaves a file and is not done again: `plans.json` (the frozen
decomposer's, for an allocator's round), `pilot.json` (which problems are trained on), checkpoints, `candidate.json`, and last `result.json`.
Rollouts go to the lake as run `<run_id>-r<round>-<role>`, one unit per checkpoint; pool calls are journalled over all rounds.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import orjson

from r2.problems.benchmark import judge
from r2.call import Completion
from r2.errors import ConfigError, PlanParseError, R2Error, TrainingError
from r2.plan import DIRECT, Plan, parse_plan
from r2.pool.file.config import PoolConfig, load_pool
from r2.lifeline import die_with_parent
from r2.problem import Problem
from r2.answering.prompts import allocate_messages, decompose_messages
from r2.settings import Columns
from r2.answering.route import shown_models
from r2.problems.split import split_of
from r2.training import device, ranks
from r2.training.grpo.batch import Draw, Prompt, Rolled
from r2.training.data import Said
from r2.training.grpo.trainer import TrainedRound, train
from r2.training.grpo.settings import GrpoSettings, Role
from r2.training.launch import REFUSED
from r2.training.grpo.partners import ENTRY, Parts, parts_of, with_policy
from r2.policies.registry import Policy, PolicyCard, Registry, file_sha256
from r2.training.grpo.rejection import best_rows
from r2.training.grpo.reward import PURPOSE_OF, Sampled, all_read, rollout_seed, weighted
from r2.training.grpo.rollouts import Request, Rollouts, open_rollouts
from r2.training.grpo.rounds import HeldOut, Result, write_atomically
from r2.training.sampling import LocalPolicy, Partner, load_policy, load_trainable
from storage.runs.journal import Journal
from storage.lake.lake import Lake
from storage.sources.questions import BadRow, read_questions
from storage.runs.rollouts import close_rollouts, commit_curve, commit_held_out, commit_rollouts
from tasks.answering.session import state_dir

_OF_A_PLACE = {"policies_dir", "models_dir", "data_dir", "lake"}
"""Settings that belong to where it ran: a card that is shared says nothing of its maker's folders."""


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
    lake: Lake
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


def main(spec_path: Path) -> None:
    """Does what is left of the round."""
    with _opened(spec_path) as round_:
        if ranks.is_writer():
            run(round_)
        else:
            follow(round_)


def run(round_: Round) -> None:
    """The round's stages in order."""
    started = time.monotonic()
    frozen = {
        policy.ref: round_.local(policy).digest()
        for role, policy in round_.parts.policies.items()
        if role not in round_.spec["roles"]
    }
    candidates: dict[Role, Policy] = {}
    alarms: list[str] = []
    facts: dict[str, Any] = {}
    for role in round_.spec["roles"]:
        round_.seat(round_.parts)
        candidates[role], noted = _candidate(round_, role)
        alarms += noted.pop("alarms")
        facts[role] = noted
    before = evaluate(round_, round_.parts)
    after_parts = round_.parts
    for role, policy in candidates.items():
        after_parts = with_policy(after_parts, role, policy)
    after = evaluate(round_, after_parts) if candidates else before
    digests = {ref: (digest, round_.loaded[ref].digest()) for ref, digest in frozen.items()}
    check_frozen(round_.number, digests)
    commit_held_out(round_.lake, f"{round_.spec['run_id']}-r{round_.number}", round_.number, before[0].summary(round_.settings.price_of_cost),
                    after[0].summary(round_.settings.price_of_cost), before[1], after[1], round_.parts.router.roster,
                    _pair_name(round_.parts), _pair_name(after_parts))  # fmt: skip
    result = Result(
        {role: policy.ref for role, policy in candidates.items()}, before[0], after[0], digests, tuple(alarms), round_.rollouts.spent_usd,
        time.monotonic() - started, facts,
    )  # fmt: skip
    write_atomically(round_.folder / "result.json", asdict(result))


def follow(round_: Round) -> None:
    """What a rank that does not write does: it reads the plans and the pilot that the writer made, and trains with it on its own part of each
    batch, with its own calls to the pool. The comparison on held-out problems is the writer's."""
    for role in round_.spec["roles"]:
        folder = round_.folder / role
        if (folder / "candidate.json").exists():
            continue
        round_.seat(round_.parts)
        ranks.wait_for(folder / "pilot.json")  # written after the plans
        plans = _plans(round_) if role == "allocator" else {}
        prompts = _prompts(round_, role, plans)
        _learn(round_, role, [prompts[place] for place in _pilot(round_, role, prompts, plans)["places"]], plans)


def check_frozen(number: int, digests: Mapping[str, tuple[str, str]]) -> None:
    """TrainingError if a policy that was to stand still has other weights after the round than before it."""
    for ref, (first, last) in digests.items():
        if first != last:
            raise TrainingError(
                f"round {number}: the frozen policy {ref} changed while its partner was trained ({first[:12]} became {last[:12]}). Nothing of the "
                "round is promoted; this is a bug, please report it."
            )


def evaluate(round_: Round, parts: Parts) -> tuple[HeldOut, list[Any]]:
    """Every held-out problem answered greedily by `solve` with these versions, as a served router would; no review, no sampling."""
    round_.seat(parts)
    problems = round_.held_out
    references = round_.rollouts.reference_costs(problems)
    trajectories = round_.rollouts.run(
        [Request(p, {}, rollout_seed(round_.settings.seed, 0, 0, p.problem_id, 0)) for p in problems], with_review=False
    )
    right = [float(t.outcome.answer is not None and judge(t.problem, t.outcome.answer) is True) for t in trajectories]
    cost = [sum(c.cost_usd for wave in t.waves for _, c in wave) for t in trajectories]
    if any(ref is None for ref in references):
        raise TrainingError(
            f"round {round_.number}: the pool failed for {sum(r is None for r in references)} of {len(references)} held-out problems' reference "
            "cost. Run the same command again when it is up; what was paid is kept."
        )
    share = [usd / (ref or 1.0) for usd, ref in zip(cost, references, strict=True)]
    read = [float(all_read(t)) for t in trajectories]
    return HeldOut(
        tuple(p.problem_id for p in problems), tuple(right), tuple(cost), tuple(share), tuple(read)
    ), trajectories


def _candidate(round_: Round, role: Role) -> tuple[Policy, dict[str, Any]]:
    """The version this round trained, from the registry if it is there already."""
    note = round_.folder / role / "candidate.json"
    registry = Registry(round_.settings.policies_dir)
    if note.exists():
        stored = orjson.loads(note.read_bytes())
        return registry.load(stored.pop("ref")), stored
    (round_.folder / role).mkdir(exist_ok=True)
    parent = round_.parts.policies[role]
    plans = _plans(round_) if role == "allocator" else {}
    prompts = _prompts(round_, role, plans)
    pilot = _pilot(round_, role, prompts, plans)
    chosen = [prompts[place] for place in pilot["places"]]
    if len(chosen) < round_.settings.prompts_per_step:
        raise TrainingError(
            f"round {round_.number}: {len(chosen)} of {len(prompts)} problems can teach the {role}, fewer than one step needs "
            f"({round_.settings.prompts_per_step}). Widen the filter (filter.by, filter.low, filter.high), or bring more problems."
        )
    started = time.monotonic()
    trained = _learn(round_, role, chosen, plans)
    curve = commit_curve(
        round_.lake,
        f"{round_.spec['run_id']}-r{round_.number}-{role}",
        role,
        round_.number,
        round_.folder / role / "curve.jsonl",
    )
    card = PolicyCard(
        name=parent.card.name, kind=role, base=parent.card.base, prompt_mode=parent.card.prompt_mode, parent=parent.ref,
        data_sha256={round_.settings.problems: file_sha256(_problem_file(round_.folder))}, seed=round_.settings.seed,
        config={**round_.settings.model_dump(mode="json", exclude=_OF_A_PLACE), "run_id": round_.spec["run_id"], "round": round_.number},
        metrics=curve, cost_usd=round_.rollouts.spent_usd, wall_s=time.monotonic() - started,
    )  # fmt: skip
    policy = _known(registry, card) or registry.create(card.name, card, lambda folder: save(trained, folder))
    noted = {
        "alarms": list(trained.alarms),
        "pilot": {k: v for k, v in pilot.items() if k != "places"},
        "train_s": trained.wall_s,
        "last": curve,
    }
    write_atomically(note, {"ref": policy.ref, **noted})
    return policy, noted


def _known(registry: Registry, card: PolicyCard) -> Policy | None:
    """The version that this round wrote before it was killed."""
    for version in registry.versions(card.name):
        policy = registry.load(f"{card.name}@{version}")
        if (policy.card.config.get("run_id"), policy.card.config.get("round")) == (
            card.config["run_id"],
            card.config["round"],
        ):
            return policy
    return None


def save(trained: TrainedRound, folder: Path) -> None:
    """As SFT saves: an adapter in half precision, or all weights with their tokenizer."""
    from r2.training.sft.trainer import Trained
    from r2.training.sft.trainer import save as save_weights

    save_weights(
        Trained(trained.model, trained.tokenizer, trained.first_step, trained.wall_s, 0, trained.weights), folder
    )


def _learn(round_: Round, role: Role, chosen: Sequence[Prompt], plans: Mapping[int, Sampled]) -> TrainedRound:
    """GRPO from the newest checkpoint, or the ablation in its place."""
    settings, work_dir = round_.settings, round_.folder / role
    run_id, policy = f"{round_.spec['run_id']}-r{round_.number}-{role}", round_.parts.policies[role]
    model, tokenizer = load_trainable(policy, Path(settings.models_dir))

    def score(step: int, draws: Sequence[Draw]) -> Sequence[Any]:
        return round_.rollouts.score([_request(round_, role, draw, step, plans) for draw in draws], role)

    def keep(rolled: Sequence[Rolled]) -> None:
        if ranks.is_writer():
            commit_rollouts(
                round_.lake, run_id, rolled, round_.parts.router.roster, settings.weights, round_.number, policy.ref
            )

    if settings.mode == "rejection":
        trained = _fine_tune(round_, role, chosen, plans, model, tokenizer, keep)
    else:
        limit = settings.reasoning.plan_tokens if role == "decomposer" else 16 + 20 * _most_steps(plans)
        trained = train(
            chosen, model, tokenizer, work_dir, settings, seed=settings.seed + 1000 * round_.number, max_completion_tokens=limit, score=score,
            keep=keep,
        )  # fmt: skip
    if ranks.is_writer():
        close_rollouts(round_.lake, run_id, settings.model_dump(mode="json"), round_.rollouts.spent_usd, trained.wall_s)
    return trained


def _fine_tune(
    round_: Round,
    role: Role,
    chosen: Sequence[Prompt],
    plans: Mapping[int, Sampled],
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
        steps=settings.steps, batch_size=min(32, len(rows)), learning_rate=settings.learning_rate, seed=settings.seed, threads=settings.threads,
        save_every=settings.save_steps, weights="full", trainer={"train_sampling_strategy": "random"},
    )  # fmt: skip
    done = sft.train(rows, model, tokenizer, round_.folder / role, fields)
    return TrainedRound(done.model, done.tokenizer, done.first_step, done.wall_s, ())


def _plans(round_: Round) -> dict[int, Sampled]:
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
                messages, settings.reasoning.plan_tokens, temperature=temperature,
                seed=round_.settings.seed + 1000 * round_.number,
            )  # fmt: skip
        write_atomically(path, [asdict(sampled) for sampled in written])
    return dict(enumerate(Sampled(**fields) for fields in orjson.loads(path.read_bytes())))


def _plan_in(trajectory: Any) -> Sampled:
    """The plan a pool entry wrote, as a sampled text."""
    for wave in trajectory.waves:
        for call, completion in wave:
            if call.purpose == "decompose":
                usage = completion.usage
                return Sampled(
                    completion.text, usage.input_tokens, usage.output_tokens, completion.finish_reason == "length"
                )
    return Sampled("", 0, 0)


def _prompts(round_: Round, role: Role, plans: Mapping[int, Sampled]) -> list[Prompt]:
    """What the policy is asked, exactly as `solve` asks it."""
    mode = round_.parts.policies[role].card.prompt_mode
    prompts = []
    for place, problem in enumerate(round_.train_problems):
        if role == "decomposer":
            messages = decompose_messages(problem, mode)
        else:
            shown = shown_models(problem, round_.parts.router)
            messages = allocate_messages(problem, _read(plans[place]), shown, mode)
        prompts.append(Prompt(place, problem, [Said(role=who, content=text) for who, text in messages]))
    return prompts


def _read(sampled: Sampled) -> Plan:
    try:
        return parse_plan(sampled.text)
    except PlanParseError:
        return DIRECT


def _most_steps(plans: Mapping[int, Sampled]) -> int:
    return max((len(_read(sampled).subtasks) for sampled in plans.values()), default=1) or 1


def _request(round_: Round, role: Role, draw: Draw, step: int, plans: Mapping[int, Sampled]) -> Request:
    texts = {PURPOSE_OF[role]: draw.sampled}
    if role == "allocator":
        texts[PURPOSE_OF["decomposer"]] = plans[draw.prompt.place]
    problem = draw.prompt.problem
    return Request(
        problem, texts, rollout_seed(round_.settings.seed, round_.number, step, problem.problem_id, draw.rollout)
    )


def _sample(
    round_: Round, role: Role, prompts: Sequence[Prompt], plans: Mapping[int, Sampled], n: int, why: str
) -> list[Rolled]:
    """`n` rollouts of each prompt with the round's starting policy."""
    policy, settings = round_.local(round_.parts.policies[role]), round_.settings
    limit = settings.reasoning.plan_tokens if role == "decomposer" else 16 + 20 * _most_steps(plans)
    asked = [[(said["role"], said["content"]) for said in prompt.messages] for prompt in prompts for _ in range(n)]
    seed = rollout_seed(settings.seed, round_.number, 0, why, 0)
    written = policy.write(asked, limit, temperature=settings.temperature, seed=seed)  # type: ignore[arg-type]
    draws = [Draw(prompt, i, written[at * n + i]) for at, prompt in enumerate(prompts) for i in range(n)]
    scored = round_.rollouts.score([_request(round_, role, draw, -1, plans) for draw in draws], role)
    return [Rolled(0, draw, one) for draw, one in zip(draws, scored, strict=True)]


def _pilot(round_: Round, role: Role, prompts: Sequence[Prompt], plans: Mapping[int, Sampled]) -> dict[str, Any]:
    """Which problems can teach (METHOD: dynamic sampling): a few rollouts of each, kept by success rate or spread of reward. Written once."""
    path, rule = round_.folder / role / "pilot.json", round_.settings.filter
    if path.exists():
        return dict(orjson.loads(path.read_bytes()))
    if rule.by == "nothing":
        pilot: dict[str, Any] = {"places": [prompt.place for prompt in prompts], "n_looked_at": 0}
        write_atomically(path, pilot)
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
        "places": places, "n_looked_at": len(prompts), "n_kept": len(places), "success": fmean(success) if success else 0.0,
        "valid_share": fmean(valid) if valid else 0.0,
    }  # fmt: skip
    write_atomically(path, pilot)
    return pilot


def _pair_name(parts: Parts) -> str:
    return "+".join(
        parts.policies[role].ref if role in parts.policies else getattr(parts.router, role) for role in ENTRY
    )


def _problem_file(folder: Path) -> Path:
    return folder.parent / "problems.jsonl"


@contextmanager
def _opened(spec_path: Path) -> Iterator[Round]:
    """Everything a round needs, open: pool, journal, lake, problems."""
    spec = orjson.loads(spec_path.read_bytes())
    settings = GrpoSettings.model_validate(spec["settings"])
    if settings.mode == "rejection" and ranks.n_processes() > 1:
        raise ConfigError(
            "mode rejection samples and fine-tunes in one process; start it without accelerate_config and launcher."
        )
    folder = spec_path.parent
    device.use_threads(settings.threads)
    pool = load_pool(settings.pool, settings.policies_dir)
    pool.check_keys()
    parts = parts_of(spec["versions"], pool, settings)
    problems = [row for row in read_questions(_problem_file(folder), Columns()) if not isinstance(row, BadRow)]
    sides = [split_of(problem.question, settings.split_seed, settings.test_share) for problem in problems]
    # Those that the pilot does not look at are not trained on, so nothing is planned for them either.
    n_looked_at = None if settings.filter.by == "nothing" else settings.filter.n_problems
    train_problems = [p for p, side in zip(problems, sides, strict=True) if side == "train"][:n_looked_at]
    held_out = [p for p, side in zip(problems, sides, strict=True) if side == "test"][: settings.n_held_out]
    reviewer = None
    if settings.review is not None:
        reviewer = settings.review.model or parts.router.roster.strongest
        parts.router.roster[reviewer]
    with Journal.open(ranks.suffixed(folder.parent / "calls.journal")) as journal:
        already = sum(Completion.from_bytes(record).cost_usd for _, record in journal.records())
        with open_rollouts(
            pool, parts.router, journal, reviewer=reviewer, max_in_flight=settings.max_in_flight, state_dir=state_dir(),
            run_account=f"run:{spec['run_id']}", max_cost_usd=settings.max_cost_usd, already_spent_usd=already,
            models_dir=Path(settings.models_dir), log_dir=ranks.suffixed(folder / "logs"),
        ) as rollouts:  # fmt: skip
            yield Round(
                spec, folder, settings, pool, parts, train_problems, held_out, rollouts, Lake(Path(settings.lake)), {}
            )


if __name__ == "__main__":
    die_with_parent()
    try:
        main(Path(sys.argv[1]))
    except R2Error as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1 if error.transient else REFUSED)
