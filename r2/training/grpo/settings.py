"""Every switch of a GRPO training, in one frozen model: the parameter of the flow `train_grpo`, its TOML file and the
test fixture.

Light: nothing here loads torch. What TRL has a name for is passed on as it is (`grpo`), so its documentation is the
reference.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal, get_args

import orjson
from pydantic import Field, model_validator

from r2.pool.file.tables import PriceTable
from r2.settings import Frozen, Positive, Reasoning, load
from r2.training.grpo.promotion import Gate

Role = Literal["decomposer", "allocator"]
Mode = Literal["alternating", "joint", "sft_only", "rejection"]
TERMS = ("right", "cost", "well_formed")


class Review(Frozen):
    """Procedural review (paper; ours: in training only, and only where the cheap check fails). Charged, and logged with
    its rate."""

    model: str | None = None
    """Pool entry that corrects a step's result; None: the strongest solver."""


class PromptFilter(Frozen):
    """Which problems are trained on: those whose pilot rollouts can teach (dynamic sampling: docs/method.md, section
    5)."""

    by: Literal["success", "reward", "nothing"] = "reward"
    """`success`: the share of right pilot rollouts lies within `low` and `high`. `reward`: the same, or the pilot's
    rewards differ: with a price in the reward a group whose rollouts are all right still teaches cost (ours).
    `nothing`: all problems, without a pilot."""
    low: float = Field(default=0.1, ge=0, le=1)
    high: float = Field(default=0.9, ge=0, le=1)
    n_rollouts: int = Field(default=4, ge=2)
    n_problems: int = Field(default=256, ge=1)
    """Problems the pilot looks at, the first of a seeded order."""


class GrpoSettings(Frozen):
    """One training: rounds in which one policy learns and the other is frozen."""

    problems: str
    """Where problems come from, as for `r2 label` (r2/problems/source.py)."""
    decomposer: str = "decomposer"
    """Policy to start from, NAME or NAME@VERSION of the registry; or a pool entry, which then stays as it is."""
    allocator: str = "allocator"
    """The same for the allocator."""
    pool: str = "pools/local.toml"
    lake: str = "lake"
    policies_dir: str = "policies"
    models_dir: str = "models"
    data_dir: str | None = None
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many problems of the source."""
    seed: int = 0
    split_seed: int = 0
    test_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the problems that is held out, by a hash of the question (r2/problems/split.py): never trained on,
    compared on after each round. With the share and seed of the label sets, what is held out here was not shown in SFT
    either."""
    n_held_out: int | None = Field(default=None, ge=1)
    """At most so many held-out problems a round. Each round has its own, which no earlier one was compared on: they are
    shared out among the rounds. None: all."""
    mode: Mode = "alternating"
    """`alternating` (paper). `joint`: both learn in the same round, each beside the other's version of the round's
    start, and are promoted together or not at all. `rejection`: rejection-sampling fine-tuning instead of GRPO, rounds
    alternating. `sft_only`: no round; the policies are compared with themselves. Ablations: docs/method.md, section 5.
    """
    rounds: int = Field(default=2, ge=0)
    first: Role = "allocator"
    """Who learns in round 0."""
    steps: int = Field(default=60, ge=1)
    """Optimiser steps a round."""
    group_size: int = Field(default=8, ge=2)
    """G, rollouts of one problem that share a baseline (paper: 4)."""
    prompts_per_step: int = Field(default=8, ge=1)
    lam: float = 0.3
    """Weight of cost_usd / cost_ref in the reward, where cost_ref is what the same problem costs on the largest model
    alone. 0: the paper's reward."""
    utility_lam: float | None = None
    """The same weight in the held-out utility that decides on promotion; None: `lam`."""
    well_formed_weight: float = 0.1
    review: Review | None = None
    filter: PromptFilter = PromptFilter()
    beta: float = Field(default=0.0, ge=0)
    """Weight of the KL term against the round's starting policy; 0: none, and no reference model."""
    clip: float = Field(default=0.2, gt=0)
    """PPO's epsilon."""
    loss_type: str = "dapo"
    entropy_coef: float = Field(default=0.01, ge=0)
    learning_rate: Positive = 1e-5
    temperature: Positive = 1.0
    """Of the policy's own samples."""
    plan_temperature: float | None = Field(default=None, ge=0)
    """Of the frozen decomposer's plans that an allocator is trained on; None: as `temperature`. 0 where `temperature`
    is high because SFT left the allocator so sure that no two samples of it differ."""
    grpo: dict[str, Any] = Field(default_factory=dict)
    """Further fields of TRL's GRPOConfig; they win over ours. Those in a table `decomposer` or `allocator` hold in the
    rounds of that policy alone."""
    reasoning: Reasoning = Reasoning()
    """How sampled plans and allocations are executed: escalations, finalizer, the solvers' temperature. At temperature
    0 equal calls of a round are made once."""
    policy_price_usd_per_mtok: PriceTable | None = None
    """Price of the two policies' own tokens; None: that of the pool's cheapest solver."""
    save_steps: int = Field(default=10, ge=1)
    """Steps between checkpoints, at which rollouts are committed to the lake."""
    margin: float = Field(default=0.01, ge=0)
    """A new version is promoted if its held-out utility is higher and the 95 % interval of the difference does not
    reach below minus this."""
    readable_loss: float = Field(default=0.05, ge=0, le=1)
    """It is not promoted either if the share of held-out problems whose plan and allocation can be read falls by more
    than this: then a fallback answers, whatever the utility."""
    min_readable: float = Field(default=0.5, ge=0, le=1)
    """Nor if the share that can be read is below this."""
    accuracy_margin: float = Field(default=0.05, ge=0, le=1)
    """Nor if the held-out problems do not show that it is less accurate by no more than this (exact bounds on the
    problems that only one version has right: r2/evaluation/floor.py). 0.05 takes 72 problems where nothing is lost, and
    several hundred where one in ten changes. 1: not asked."""
    delta: float = Field(default=0.05, gt=0, lt=1)
    """Chance at most that it is less accurate all the same."""
    cost_share_cap: float = Field(default=3.0, ge=0)
    """What one problem saves counts in the gain up to so many times the median cost share before; 0: no cap."""
    max_shuffled_cost: float = Field(default=1.1, ge=0)
    """An allocator is not promoted if, shown the models in random orders, it costs more than so many times what it
    costs as served; 0: not asked, and not measured."""
    random_order: bool | None = None
    """Whether an allocator that learns is shown the models in a random order, another one for every group of rollouts.
    None: where SFT showed it each row in at least eight orders (`augment`), as its card says."""
    threads: int | None = Field(default=None, ge=1)
    """torch threads; None: its own choice. Part of what makes a resumed run equal."""
    max_cost_usd: Positive | None = None
    """Hard cap of what the pool may be paid over all rounds and sessions."""
    max_in_flight: int = Field(default=64, ge=1)
    accelerate_config: str | None = None
    """File for `accelerate launch` (configs/accelerate): several GPUs or machines, FSDP, DeepSpeed. None: one process.
    """
    launcher: tuple[str, ...] = ()
    """Another command that starts Python modules on several devices, put before `-m`: ("torchrun", "--nproc_per_node",
    "4")."""

    @model_validator(mode="after")
    def _rounds_fit(self) -> "GrpoSettings":
        if self.mode == "sft_only" and self.rounds:
            raise ValueError("mode sft_only has no rounds; set rounds = 0")
        return self

    @model_validator(mode="after")
    def _plans_are_the_policys(self) -> "GrpoSettings":
        if self.reasoning.second_decomposer not in (None, "none"):
            raise ValueError(
                "reasoning.second_decomposer has no part in training: a policy learns from its own plans, and an "
                "allocation is sampled for the plan "
                "it is shown. Leave it out; the pool file's is not asked either"
            )
        return self

    @model_validator(mode="after")
    def _fields_of_a_role_are_a_table(self) -> "GrpoSettings":
        for role in get_args(Role):
            if not isinstance(self.grpo.get(role, {}), dict):
                raise ValueError(f"grpo.{role} is the table of what holds in that policy's rounds alone; got no table")
        return self

    def of_role(self, role: Role) -> "GrpoSettings":
        """With the fields of TRL's that hold in the rounds of this policy."""
        fields = {name: value for name, value in self.grpo.items() if name not in get_args(Role)}
        return self.model_copy(update={"grpo": fields | self.grpo.get(role, {})})

    @property
    def price_of_cost(self) -> float:
        """Lambda of the held-out utility."""
        return self.lam if self.utility_lam is None else self.utility_lam

    @property
    def gate(self) -> Gate:
        """What a promotion needs."""
        return Gate(
            self.price_of_cost,
            self.margin,
            self.readable_loss,
            self.min_readable,
            self.accuracy_margin,
            self.delta,
            self.cost_share_cap,
            self.max_shuffled_cost,
        )

    @property
    def weights(self) -> dict[str, float]:
        """Factor of each term in the reward."""
        return {"right": 1.0, "cost": -self.lam, "well_formed": self.well_formed_weight}

    def roles_of(self, number: int) -> tuple[Role, ...]:
        """Who learns in round `number`, 0-based."""
        if self.mode == "joint":
            return ("allocator", "decomposer")
        other: Role = "decomposer" if self.first == "allocator" else "allocator"
        return (self.first if number % 2 == 0 else other,)

    def run_id(self, pool_digest: str, problems_digest: str) -> str:
        """Identity of the training: what decides its result. Number of rounds, budgets and paths are not in it, so a
        training can be resumed with others."""
        free = {
            "pool",
            "lake",
            "policies_dir",
            "models_dir",
            "data_dir",
            "rounds",
            "max_cost_usd",
            "max_in_flight",
            "accelerate_config",
            "launcher",
        }
        defaults = type(self).model_fields
        free |= {name for name in _LATER_FIELDS if getattr(self, name) == defaults[name].default}
        chosen = self.model_dump(mode="json", exclude=free) | {"reasoning": self.reasoning.identity()}
        identity = [chosen, pool_digest, problems_digest]
        return f"grpo-{hashlib.sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]}"


_LATER_FIELDS = (
    "plan_temperature",
    "min_readable",
    "accuracy_margin",
    "delta",
    "cost_share_cap",
    "max_shuffled_cost",
    "random_order",
)
"""Added later: they count only where they differ from their defaults, so that older trainings keep their identity."""


def load_grpo_settings(path: Path | None, overrides: dict[str, Any]) -> GrpoSettings:
    """Defaults, then the TOML file, then `overrides`. ConfigError names the field."""
    return load(GrpoSettings, path, overrides)
