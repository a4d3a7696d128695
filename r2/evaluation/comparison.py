"""What a comparison of methods says, as records: stored as JSON by the evaluation flow, drawn by the report.

Built by `compare` in `r2/evaluation/compare.py`. What cannot be defined (a gap of zero, a reference that costs nothing)
is None, never infinite.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import TypeAdapter

from r2.errors import ConfigError
from r2.evaluation.intervals import Interval

AccuracyVerdict = Literal["no worse", "worse", "not shown"]
"""Against a reference: the interval of the difference lies above -margin; below 0; or allows both."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % paired bootstrap interval over problems; None where it is undefined."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class CostSaved:
    """CS(tau) = 1 - min{C : Q >= tau * Q_ref} / C_ref over a method's operating points (LLMRouterBench CostSave at tau
    = 1).

    `operating_point` is the label of the cheapest that reaches the accuracy; point and reference are chosen once, on
    all problems. The interval is of 1 - C / C_ref; `reached_share` is the share of resamples in which the accuracy is
    reached too.
    """

    tau: float
    reference: str
    operating_point: str
    value: float
    interval: Interval | None
    reached_share: float


@dataclass(frozen=True, slots=True)
class Versus:
    """One method against another (the subject against this method): accuracy it gains, and cost it saves, 1 - C / C of
    the other.

    `cost_saved` is None where the other costs nothing.
    """

    accuracy_gain: Estimate
    cost_saved: Estimate | None
    accuracy_verdict: AccuracyVerdict


@dataclass(frozen=True, slots=True)
class MethodSummary:
    """One method at one operating point. Shares are in 0..1, costs in USD, latencies in seconds."""

    label: str
    method: str
    sweep: str
    is_constant: bool
    n_seeds: int
    accuracy: Estimate
    accuracy_by_difficulty: Mapping[str, float]
    usd_per_1k: Estimate
    """USD per 1,000 problems, every call of the method included."""
    usd_per_solved: float | None
    """USD per problem answered right; None where none was."""
    calls_per_problem: float
    tokens_per_problem: float
    latency_p50_s: float
    latency_p95_s: float
    router_share: float | None
    """The router's own calls in the cost; None where nothing was paid."""
    model_shares: Mapping[str, float]
    """Pool entry -> share of the calls, most used first; empty where no calls were counted."""
    model_shares_by_difficulty: Mapping[str, Mapping[str, float]]
    top_model: str | None
    top_model_share: float | None
    """Collapse index: near 1 the router does not route."""
    model_entropy_bits: float | None
    effective_models: float | None
    """2 ** entropy: how many models, used equally, would be as mixed."""
    accuracy_difference: Estimate | None
    """Accuracy minus the best constant's; None without constants."""
    accuracy_verdict: AccuracyVerdict | None
    cheaper_by: Estimate | None
    """1 - cost / cost of the best constant, whatever the accuracy; None where that costs nothing."""
    cost_saved: CostSaved | None
    """At equal accuracy; None where no operating point of the method reaches it."""
    performance_gap_recovered: float | None
    """(accuracy - weak) / (strong - weak); weak is the cheapest constant, strong the most accurate."""
    random_mix: Mapping[str, float]
    """Constant -> probability in the most accurate problem-blind mixture at this method's cost."""
    random_accuracy: float | None
    """Expected accuracy of that mixture. Where even the cheapest constant costs more than the method: that
    constant's."""
    gain_over_random: Estimate | None
    headroom_captured: float | None
    """(U - U_random) / (U_oracle - U_random); U = accuracy - cost_weight * USD per problem."""
    is_on_frontier: bool
    beaten_by: tuple[str, ...]
    """Labels at least as accurate and at most as dear, and better in one of the two, cheapest first."""
    versus_subject: Versus | None
    """The judged router against this method; None for the router itself, and where no router is judged."""
    against_cheap: Versus | None = field(default=None, compare=False)
    """This method against the comparison's `cheap_constant`; None for that constant itself, and where there is none."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What a set of operating points reaches over the comparison's range of cost. See `r2/evaluation/curves.py` for
    each."""

    name: str
    labels: tuple[str, ...]
    aiq: float | None
    aiq_with_constants: float | None
    """AIQ of the points and the constants together; what it has above the curve `constants` is what the method adds to
    the pool."""
    area: float | None
    apgr: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Methods on the same problems. `methods` is in the order given; costs of `random` and `oracle` rows are in the
    summaries."""

    n_problems: int
    n_by_difficulty: Mapping[str, int]
    n_bootstrap: int
    seed: int
    tau: float
    margin: float
    subject: str | None
    best_constant: str | None
    """Most accurate constant, the cheaper of equals; chosen on these problems, which favours it."""
    cheapest_constant: str | None
    oracle_accuracy: float | None
    oracle_usd_per_1k: float | None
    accuracy_half_width: float
    """Half the widest accuracy interval: what this many problems can tell apart."""
    methods: tuple[MethodSummary, ...]
    curves: tuple[Curve, ...]
    """`constants`, each sweep (or lone method), and `all`."""
    cheap_constant: str | None = field(default=None, compare=False)
    """The cheapest constant whose accuracy is at most `margin` below the best one's: the second reference. It came
    later; comparisons stored before have none, and are the same without it."""

    def __getitem__(self, label: str) -> MethodSummary:
        """The method called `label`; KeyError if there is none."""
        for method in self.methods:
            if method.label == label:
                return method
        raise KeyError(label)


_COMPARISON = TypeAdapter(Comparison)


def to_json(comparison: Comparison) -> bytes:
    """The comparison as JSON, to be read by `from_json`."""
    return _COMPARISON.dump_json(comparison, indent=1)


def from_json(text: bytes | str) -> Comparison:
    """A stored comparison. ConfigError for JSON that is not one, naming the fields."""
    try:
        return _COMPARISON.validate_json(text)
    except ValueError as error:
        raise ConfigError(f"not a stored comparison (summary.json of an evaluation): {error}") from None
