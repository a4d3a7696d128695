"""What a report says, as plain values: everything the page shows is here, and nothing here knows of HTML or of charts.

`evaluation.py` fills it from an evaluation, `run.py` from any other run; `charts.py` draws it and `page.py` writes it
down. Money is USD, times are seconds, shares are 0..1; None means that it could not be told.
"""

from dataclasses import dataclass

from r2.methods.record import Family


@dataclass(frozen=True, slots=True)
class ValueWithInterval:
    """A value with its 95 % interval; the bounds are None where none was computed."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it is shown; the first cell of a row names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Method:
    """One way to answer, over the same problems as the others."""

    name: str
    family: Family
    """Its colour in every chart."""
    n: int
    accuracy: ValueWithInterval | None
    usd_per_1k: ValueWithInterval
    saved: ValueWithInterval | None = None
    """Share of the reference's cost that is saved at the reference's accuracy; None where that accuracy is not reached.
    """
    is_on_frontier: bool = False
    cheaper: ValueWithInterval | None = None
    """Share of the reference's cost that is saved whatever the accuracy."""
    accuracy_gained: ValueWithInterval | None = None
    """Accuracy minus the reference's."""


@dataclass(frozen=True, slots=True)
class Share:
    """How much of the work on one difficulty a model did; `n` is how many problems have that difficulty."""

    method: str
    difficulty: str
    model: str
    n: int
    share: float


@dataclass(frozen=True, slots=True)
class Spend:
    """What the calls of one purpose to one model cost."""

    method: str
    purpose: str
    model: str
    is_router: bool
    n_calls: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Escalation:
    """Subtasks that went from the allocated model to another one."""

    method: str
    allocated_model: str
    model: str
    n_escalated: int
    n_fallbacks: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class CurveSample:
    """One metric of training; `at` counts steps over all rounds."""

    policy: str
    phase: str
    metric: str
    at: int
    value: float


@dataclass(frozen=True, slots=True)
class Caution:
    """Something a reader must know before believing a number."""

    title: str
    text: str
    is_serious: bool = True


@dataclass(frozen=True, slots=True)
class ReportCall:
    """One attempt of one call, whole."""

    purpose: str
    subtask_index: int | None
    attempt: int
    request_model: str
    response_model: str
    status: int
    finish_reason: str
    input_tokens: int
    output_tokens: int
    cost_usd: float
    latency_s: float
    messages: tuple[tuple[str, str], ...]
    output: str | None
    error: str


@dataclass(frozen=True, slots=True)
class ReportSubtask:
    """One line of an allocation, with its outcome."""

    index: int
    text: str
    output: str | None
    allocated_model: str
    model: str
    is_escalated: bool
    cost_usd: float
    error: str


@dataclass(frozen=True, slots=True)
class Case:
    """A problem with the whole trajectory that answered it. `other` tells what the reference answered and paid."""

    problem_id: str
    benchmark: str
    method: str
    question: str
    target: str | None
    answer: str | None
    is_correct: bool | None
    cost_usd: float
    plan: str
    failed_checks: str
    error: str
    subtasks: tuple[ReportSubtask, ...]
    calls: tuple[ReportCall, ...]
    other: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report, in the order of the page. Empty parts are left out of it."""

    report_id: str
    kind: str
    verdict: str
    """One sentence; where a simpler method is better it says so first."""
    subtitle: str
    figures: tuple[tuple[str, str, str], ...]
    """The few numbers at the top: (name, value, remark)."""
    subject: str
    """Name of the method the report is about."""
    models: tuple[str, ...]
    """Pool entries, cheapest first: their order is their colour in every chart."""
    cautions: tuple[Caution, ...]
    methods: tuple[Method, ...] = ()
    reference: str = ""
    """Name of the method that savings are measured against."""
    frontier: tuple[tuple[float, float], ...] = ()
    """(USD per 1,000 problems, accuracy) of the corners of the frontier, cheapest first."""
    shares: tuple[Share, ...] = ()
    spend: tuple[Spend, ...] = ()
    n_problems: int = 0
    escalations: tuple[Escalation, ...] = ()
    latency_by: str = "method"
    latencies: tuple[tuple[str, float, float, int], ...] = ()
    """(method or model, p50, p95, how many)."""
    curves: tuple[CurveSample, ...] = ()
    cases: tuple[Case, ...] = ()
    cases_title: str = ""
    cases_note: str = ""
    tables: tuple[Table, ...] = ()
    measured: tuple[tuple[str, str], ...] = ()
    glossary: tuple[tuple[str, str, str], ...] = ()
    """(name, formula, meaning)."""


COLLAPSED = 0.95
"""Share of the answering calls above which one model counts as the only one."""
