"""One round of GRPO in a process of its own: pilot, training, comparison on held-out problems. `python -m
tasks.training.grpo_process SPEC.json`.

A fresh process frees the memory of the round before and isolates crashes. Every stage leaves a file and is not done
again: `plans.json` (the frozen decomposer's, for an allocator's round), `pilot.json` (which problems are trained on),
checkpoints, `candidate.json`, and last `result.json`. Rollouts go to the lake as run `<run_id>-r<round>-<role>`, one
unit per checkpoint; pool calls are journalled over all rounds.
"""

import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from r2.errors import ConfigError, TrainingError
from r2.lifeline import die_with_parent
from r2.policies.registry import Policy, PolicyCard, Registry, file_sha256
from r2.pool.client.state import state_dir
from r2.pool.file.config import load_pool
from r2.problems.split import split_of
from r2.settings import Columns
from r2.training import device, ranks
from r2.training.grpo.batch import Draw, Rollout, TrainingPrompt
from r2.training.grpo.partners import ENTRY, Parts, parts_of, with_policy
from r2.training.grpo.rollouts import open_rollouts
from r2.training.grpo.rounds import Result, fresh_held_out, write_json
from r2.training.grpo.settings import GrpoSettings, Role
from r2.training.grpo.stages import (
    Round,
    check_frozen,
    evaluate,
    fine_tune,
    output_limit,
    pilot_of,
    plans_of,
    prompts_of,
    request_of,
    save,
    seen_at,
)
from r2.training.grpo.trainer import TrainedRound, train
from r2.training.launch import LAST_WORD, REFUSED
from r2.training.sampled import SampledText
from r2.training.sampling import load_trainable
from storage.lake.lake import Lake
from storage.runs.journal import Journal
from storage.runs.paid import paid_beside_usd, paid_usd
from storage.runs.rollouts import close_rollouts, commit_curve, commit_held_out, commit_rollouts
from storage.sources.questions import BadRow, read_questions
from tasks.cause import is_transient, message

_OF_A_PLACE = {"policies_dir", "models_dir", "data_dir", "lake"}
"""Settings that belong to where it ran: a card that is shared says nothing of its maker's folders."""


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
    shuffled = None
    if "allocator" in candidates and round_.settings.max_shuffled_cost:
        shuffled, _ = evaluate(round_, after_parts, order_seed=-1 - round_.number)
    digests = {ref: (digest, round_.loaded[ref].digest()) for ref, digest in frozen.items()}
    check_frozen(round_.number, digests)
    commit_held_out(
        _lake_of(round_),
        f"{round_.spec['run_id']}-r{round_.number}",
        round_.number,
        before[0].summary(round_.settings.price_of_cost),
        after[0].summary(round_.settings.price_of_cost),
        before[1],
        after[1],
        round_.parts.router.roster,
        _pair_name(round_.parts),
        _pair_name(after_parts),
    )
    result = Result(
        {role: policy.ref for role, policy in candidates.items()},
        before[0],
        after[0],
        digests,
        tuple(alarms),
        round_.rollouts.spent_usd,
        time.monotonic() - started,
        facts,
        shuffled,
    )
    write_json(round_.folder / "result.json", asdict(result))


def follow(round_: Round) -> None:
    """What a rank that does not write does: it reads the plans and the pilot that the writer made, and trains with it
    on its own part of each batch, with its own calls to the pool. The comparison on held-out problems is the writer's.
    """
    for role in round_.spec["roles"]:
        folder = round_.folder / role
        if (folder / "candidate.json").exists():
            continue
        round_.seat(round_.parts)
        ranks.wait_for(folder / "pilot.json")  # written after the plans
        plans = plans_of(round_) if role == "allocator" else {}
        prompts = prompts_of(round_, role, plans)
        _learn(round_, role, [prompts[place] for place in pilot_of(round_, role, prompts, plans)["places"]], plans)


def _candidate(round_: Round, role: Role) -> tuple[Policy, dict[str, Any]]:
    """The version this round trained, from the registry if it is there already."""
    note = round_.folder / role / "candidate.json"
    registry = Registry(round_.settings.policies_dir)
    if note.exists():
        stored = orjson.loads(note.read_bytes())
        return registry.load(stored.pop("ref")), stored
    (round_.folder / role).mkdir(exist_ok=True)
    parent = round_.parts.policies[role]
    plans = plans_of(round_) if role == "allocator" else {}
    prompts = prompts_of(round_, role, plans)
    pilot = pilot_of(round_, role, prompts, plans)
    chosen = [prompts[place] for place in pilot["places"]]
    if len(chosen) < round_.settings.prompts_per_step:
        raise TrainingError(
            f"round {round_.number}: {len(chosen)} of {len(prompts)} problems can teach the {role}, fewer than one "
            "step needs "
            f"({round_.settings.prompts_per_step}). Widen the filter (filter.by, filter.low, filter.high), or bring "
            "more problems."
        )
    started = time.monotonic()
    trained = _learn(round_, role, chosen, plans)
    curve = commit_curve(
        _lake_of(round_),
        f"{round_.spec['run_id']}-r{round_.number}-{role}",
        role,
        round_.number,
        round_.folder / role / "curve.jsonl",
    )
    card = PolicyCard(
        name=parent.card.name,
        kind=role,
        base=parent.card.base,
        prompt_mode=parent.card.prompt_mode,
        parent=parent.ref,
        data_sha256={round_.settings.problems: file_sha256(_problem_file(round_.folder))},
        seed=round_.settings.seed,
        config={
            **round_.settings.model_dump(mode="json", exclude=_OF_A_PLACE),
            "run_id": round_.spec["run_id"],
            "round": round_.number,
        },
        metrics=curve,
        cost_usd=round_.rollouts.spent_usd,
        wall_s=time.monotonic() - started,
    )
    policy = _known(registry, card) or registry.create(card.name, card, lambda folder: save(trained, folder))
    noted = {
        "alarms": list(trained.alarms),
        "pilot": {k: v for k, v in pilot.items() if k != "places"},
        "train_s": trained.wall_s,
        "last": curve,
    }
    write_json(note, {"ref": policy.ref, **noted})
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


def _learn(
    round_: Round, role: Role, chosen: Sequence[TrainingPrompt], plans: Mapping[int, SampledText]
) -> TrainedRound:
    """GRPO from the newest checkpoint, or the ablation in its place."""
    settings, work_dir = round_.settings, round_.folder / role
    run_id, policy = f"{round_.spec['run_id']}-r{round_.number}-{role}", round_.parts.policies[role]
    model, tokenizer = load_trainable(policy, Path(settings.models_dir))

    def score(step: int, draws: Sequence[Draw]) -> Sequence[Any]:
        return round_.rollouts.score([request_of(round_, role, draw, step, plans) for draw in draws], role)

    def keep(rolled: Sequence[Rollout]) -> None:
        if ranks.is_writer():
            commit_rollouts(
                _lake_of(round_),
                run_id,
                rolled,
                round_.parts.router.roster,
                settings.weights,
                round_.number,
                policy.ref,
            )

    if settings.mode == "rejection":
        trained = fine_tune(round_, role, chosen, plans, model, tokenizer, keep)
    else:
        trained = train(
            chosen,
            model,
            tokenizer,
            work_dir,
            settings.of_role(role),
            seed=settings.seed + 1000 * round_.number,
            max_completion_tokens=output_limit(round_, role, plans),
            score=score,
            keep=keep,
            seen=seen_at(round_, role, plans),
        )
    if ranks.is_writer():
        close_rollouts(
            _lake_of(round_), run_id, settings.model_dump(mode="json"), round_.rollouts.spent_usd, trained.wall_s
        )
    return trained


def _lake_of(round_: Round) -> Lake:
    return Lake(round_.settings.lake)


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
    tested = [p for p, side in zip(problems, sides, strict=True) if side == "test"]
    held_out = fresh_held_out(folder.parent, spec["number"], tested, settings)
    reviewer = None
    if settings.review is not None:
        reviewer = settings.review.model or parts.router.roster.strongest
        parts.router.roster.require(reviewer)
    with Journal.open(ranks.suffixed(folder.parent / "calls.journal")) as journal:
        if journal.n_missing_at_open:
            sys.stderr.write(f"r2: {journal.loss()}\n")
        already = paid_usd(journal) + paid_beside_usd(journal.path)
        with open_rollouts(
            pool,
            parts.router,
            journal,
            reviewer=reviewer,
            max_in_flight=settings.max_in_flight,
            state_dir=state_dir(),
            run_account=f"run:{spec['run_id']}",
            max_cost_usd=settings.max_cost_usd,
            already_spent_usd=already,
            models_dir=Path(settings.models_dir),
            log_dir=ranks.suffixed(folder / "logs"),
        ) as rollouts:
            yield Round(spec, folder, settings, pool, parts, train_problems, held_out, rollouts, {})


if __name__ == "__main__":
    die_with_parent()
    try:
        main(Path(sys.argv[1]))
    except Exception as error:
        traceback.print_exception(error)  # into the round's log
        sys.stderr.write(f"{LAST_WORD}{' '.join(message(error).splitlines())}\n")
        sys.exit(1 if is_transient(error) else REFUSED)
