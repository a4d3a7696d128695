"""What is stored, declared once. `storage/lake/schema.py` derives the Arrow schema, the views' columns and
docs/data_dictionary.md.

Flat tables, one dataclass a table, joined on (run_id, problem_id, rollout). Column names are the last words of the
OpenTelemetry GenAI name plus a unit; `otel` in a field's metadata gives the full name. Facts are stored (tokens,
prices, seeds, versions); what can be derived is a view in `storage/sql/`. Add columns only, never rename or retype: a
change of meaning is a new `SCHEMA_VERSION`.
"""

from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 1


def col(doc: str, unit: str = "", otel: str = "", label: bool = False, kind: str = "", **field_options: Any) -> Any:
    """A stored column: `label` marks short repeated values (dictionary-encoded), `kind` a narrower Arrow type."""
    metadata = {"doc": doc, "unit": unit, "otel": otel, "label": label, "kind": kind}
    return field(metadata=metadata, **field_options)


STATUSES = ("answered", "failed", "deferred")
"""requested = answered + failed + deferred, always. A deferred row was not settled and is tried again by the next run.
"""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One session of a run: a run that was stopped and resumed has several, told apart by `session`."""

    run_id: str = col("identity of the job: input digest, configuration and pool", label=True)
    session: int = col("0 for the first execution, 1 for the first resumption, ...", kind="int16")
    flow_run_id: str = col("Prefect flow run, '' outside Prefect")
    kind: str = col("answer, label, sft, grpo, evaluate", label=True)
    method: str = col(
        "way to answer (r2/methods): r2, cot, tot, ...; label for problems that were labelled", label=True
    )
    input_path: str = col("the question file as given")
    pool_path: str = col("the pool file as given")
    config: str = col("resolved configuration, JSON, without secrets")
    code_version: str = col("version of this package", label=True)
    status: str = col("completed, completed_with_errors, budget_stopped, interrupted, failed", label=True)
    n_requested: int = col("rows of the input that this run covers", kind="int64")
    n_answered: int = col("settled with an answer, over all sessions", kind="int64")
    n_failed: int = col("settled without an answer, over all sessions", kind="int64")
    n_deferred: int = col("not settled when the session ended", kind="int64")
    n_calls_lost: int = col(
        "calls in flight when a session was killed, over all sessions: they may have been paid twice", kind="int64"
    )
    cost_usd: float = col("spent by this run so far, over all sessions", "USD")
    session_cost_usd: float = col("spent by this session alone", "USD")
    wall_s: float = col("wall time of this session", "s")
    started_at: float = col("start of the session", kind="timestamp")
    ended_at: float = col("end of the session", kind="timestamp")
    tags: str | None = col(
        "for whom the session spent (--tag), a JSON object of names and values; null where nobody was named",
        default=None,
    )


@dataclass(frozen=True, slots=True)
class TrajectoryRow:
    """One problem answered once (one rollout)."""

    run_id: str = col("see runs", label=True)
    problem_id: str = col("the user's id, or line-<n> where the row had none")
    rollout: int = col("0 for plain answering; 0..G-1 within a group", kind="int16")
    input_index: int = col("0-based place in the input", kind="int64")
    method: str = col(
        "way to answer (r2/methods): r2, cot, tot, ...; label for problems that were labelled", label=True
    )
    benchmark: str = col("check that was applied, '' for none", label=True)
    status: str = col("answered, failed, deferred", label=True)
    input: str = col("the question")
    target: str | None = col("the gold answer, if the input had one")
    answer: str | None = col("the final answer; null unless status is answered")
    is_correct: bool | None = col(
        "the benchmark's check, or your own (--check); false where there is no answer; null where nothing could judge"
    )
    plan: str = col("the plan that was executed, canonical text; '' for methods without plans")
    n_subtasks: int = col("subtasks of the plan, 0 for a direct plan", kind="int16")
    n_calls: int = col("model calls, the router's own included", kind="int16")
    n_attempts: int = col("HTTP exchanges, retries and fallbacks included", kind="int16")
    n_escalations: int = col("times a failed check passed a subtask on to a stronger model", kind="int16")
    input_tokens: int = col("prompt tokens over all attempts", "tokens", "gen_ai.usage.input_tokens", kind="int64")
    cached_input_tokens: int = col(
        "of them, read from the provider's cache", "tokens", "gen_ai.usage.cache_read.input_tokens", kind="int64"
    )
    output_tokens: int = col("generated tokens over all attempts", "tokens", "gen_ai.usage.output_tokens", kind="int64")
    cost_usd: float = col("all attempts of all calls, the router's own included", "USD")
    router_cost_usd: float = col("of it, the decomposer's and allocator's calls", "USD")
    latency_s: float = col("critical path: the sum over waves of each wave's longest call, queues included", "s")
    failed_checks: str = col("checks and parses that failed on the way, comma-separated", label=True)
    error_type: str | None = col("why there is no answer", otel="error.type", label=True)
    error_message: str | None = col("the same in words, with the input line for a bad row")
    started_at: float = col("first call sent, or the row read", kind="timestamp")
    phase: str | None = col("grpo where it is a rollout of training; null for answering", label=True, default=None)
    round: int | None = col("0-based round of training", kind="int16", default=None)
    step: int | None = col(
        "0-based optimiser step of the round that the rollout was sampled for", kind="int32", default=None
    )
    policy: str | None = col(
        "policy under training, NAME@VERSION of the weights it started the round with", label=True, default=None
    )
    check_score: float | None = col(
        "what your own check (--check) gave, 0..1, right from 0.5; null without one, or where it gave none",
        default=None,
    )
    check_error: str | None = col(
        "why your own check (--check, --verify) gave no verdict: its exception with the line, its time limit, ...",
        default=None,
    )
    is_correct_by_gold: bool | None = col(
        "beside the verdict of your own check, the benchmark's check against the gold answer; null without either",
        default=None,
    )
    short_answer: str | None = col(
        "of a row without a benchmark that has a gold answer or choices, the part of its answer that is compared; null "
        "for every other row",
        default=None,
    )
    value: str | None = col("the answer as JSON, where it had to match a schema (--schema)", default=None)
    answers: str | None = col(
        "of a row that asks for several answers (n) or for logprobs, all of them: a JSON list of {answer, finish, "
        "logprobs}, the first one is `answer`; null for other rows",
        default=None,
    )
    notes: str | None = col(
        "what the row asked for (temperature, stop, ...) and the model could not be sent; null where there is nothing "
        "to say",
        default=None,
    )
    saved_usd: float | None = col(
        "what calls that another run had paid for would have cost; no part of cost_usd. Evaluations charge a method "
        "for them, so there it is 0",
        "USD",
        default=None,
    )
    decisions: str | None = col(
        "what the rule of sequential routing decided, in order: a JSON list that the view decisions reads; null where "
        "it did not route",
        default=None,
    )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model the allocator could have chosen for a subtask."""

    model: str
    score: float | None
    propensity: float | None
    expected_cost_usd: float


@dataclass(frozen=True, slots=True)
class SubtaskRow:
    """One subtask executed. A direct plan has one row, with the question as its text."""

    run_id: str = col("see runs", label=True)
    problem_id: str = col("see trajectories")
    rollout: int = col("see trajectories", kind="int16")
    subtask_index: int = col("0-based place in the plan", kind="int16")
    benchmark: str = col("copied from the trajectory, so that no join is needed", label=True)
    depends_on: tuple[int, ...] = col("subtask_index of the subtasks whose results were shown")
    subtask_text: str = col("what was asked")
    output_text: str | None = col("the result, null if there is none")
    allocated_model: str = col("the allocator's choice", label=True)
    model: str = col("the entry that answered last: differs after an escalation or a fallback", label=True)
    tier: str = col("tier of `model`", label=True)
    candidates: tuple[Candidate, ...] = col(
        "models that could have been chosen; propensity null where the allocator gave no log-probabilities"
    )
    is_escalated: bool = col("a check failed and a stronger model was asked")
    is_fallback: bool = col("the allocated model was not available and another answered")
    input_tokens: int = col("prompt tokens over all attempts", "tokens", "gen_ai.usage.input_tokens", kind="int64")
    output_tokens: int = col("generated tokens over all attempts", "tokens", "gen_ai.usage.output_tokens", kind="int64")
    cost_usd: float = col("all attempts for this subtask", "USD")
    latency_s: float = col("from asking to the accepted result, queues included", "s")
    error_type: str | None = col("why there is no result", otel="error.type", label=True)
    started_at: float = col("first call of the subtask", kind="timestamp")
    confidence: float | None = col(
        "how sure the model was of its last reply, 0..1: a quantile (setting confidence_quantile) of its token "
        "probabilities; null where they were not asked for, or did not come",
        default=None,
    )


@dataclass(frozen=True, slots=True)
class CallRow:
    """One attempt of one call: an HTTP exchange, or the refusal to start one."""

    run_id: str = col("see runs", label=True)
    problem_id: str = col("see trajectories")
    rollout: int = col("see trajectories", kind="int16")
    call_index: int = col("0-based order of the call in its trajectory", kind="int16")
    attempt: int = col("0-based attempt of the call, counted over fallbacks", kind="int16")
    subtask_index: int | None = col("null for decompose, allocate and final", kind="int16")
    benchmark: str = col("copied from the trajectory", label=True)
    purpose: str = col(
        "decompose, allocate, solve, final, teach, judge, verify, review, program (a run of what the model wrote)",
        label=True,
    )
    request_sha: str = col("content address of the request; keys recordings")
    request_model: str = col("pool entry that was sent to", otel="gen_ai.request.model", label=True)
    response_model: str = col("model id the server says it used", otel="gen_ai.response.model", label=True)
    response_id: str = col("the server's id of its answer", otel="gen_ai.response.id")
    status: int = col("HTTP status, 0 if there was none", kind="int16")
    finish_reason: str = col("stop, length, ...", otel="gen_ai.response.finish_reasons", label=True)
    temperature: float = col("sampling temperature", otel="gen_ai.request.temperature")
    max_output_tokens: int = col("limit asked for", "tokens", "gen_ai.request.max_tokens", kind="int32")
    input_tokens: int = col("prompt tokens", "tokens", "gen_ai.usage.input_tokens", kind="int64")
    cached_input_tokens: int = col(
        "of them, read from the provider's cache", "tokens", "gen_ai.usage.cache_read.input_tokens", kind="int64"
    )
    output_tokens: int = col("generated tokens", "tokens", "gen_ai.usage.output_tokens", kind="int64")
    usage_source: str = col(
        "provider; estimated where it sent none: the worst case; doubtful where its number cannot be true of what was "
        "asked",
        label=True,
    )
    cost_usd: float = col("at `price_version`", "USD")
    price_version: str = col("date and USD per million tokens: input/cached/output", label=True)
    latency_s: float = col("sent to last byte", "s", "gen_ai.client.operation.duration")
    queue_s: float = col("waited for limits before sending", "s")
    retry_after_s: float | None = col("pause the server asked for", "s")
    is_replayed: bool = col("answered from the journal by a later session; paid once, when it was made")
    error_type: str | None = col("see r2/errors.py CALL_FAILURES", otel="error.type", label=True)
    error_message: str | None = col("the same in words")
    input_messages: str = col("JSON list of [role, text]", otel="gen_ai.input.messages")
    output_text: str | None = col("the completion's text; null on failed attempts")
    raw_body: bytes = col("the response body as it came, so that a parse can be redone without a call")
    started_at: float = col("when it was sent", kind="timestamp")
    cache_write_tokens: int | None = col(
        "of the prompt tokens, written to the provider's cache",
        "tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        kind="int64",
        default=None,
    )
    reasoning_tokens: int | None = col(
        "of the generated tokens, spent on thinking, where the provider counts them",
        "tokens",
        kind="int64",
        default=None,
    )
    thinking: str | None = col(
        "what the model wrote before its answer; null where there is none or the provider does not show it",
        default=None,
    )
    reused_from: str | None = col(
        "run or evaluation that paid for this call before; null where this run did", label=True, default=None
    )
    saved_usd: float | None = col(
        "what it would have cost at `price_version`; 0 where cost_usd has it; null where this run paid",
        "USD",
        default=None,
    )


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One trial of labelling: a teacher's plan, or an allocation of the chosen plan; right or wrong, with its cost."""

    run_id: str = col("see runs", label=True)
    problem_id: str = col("see trajectories")
    rollout: int = col("see trajectories", kind="int16")
    kind: str = col("plan: a teacher's candidate, executed with M_eval; allocation: a step of the search", label=True)
    trial_index: int = col("0-based order within its kind", kind="int16")
    benchmark: str = col("copied from the trajectory", label=True)
    plan: str = col("canonical text; for a candidate without a plan, what the teacher wrote")
    n_subtasks: int = col("subtasks of the plan, 0 for a direct plan", kind="int16")
    models: tuple[str, ...] = col("model of each subtask; empty where nothing was executed")
    tiers: tuple[str, ...] = col("tier of each of them")
    confidences: tuple[float, ...] = col("M_eval's confidence in each subtask, 0..1; empty for candidate plans")
    confidence_source: str | None = col("logprobs, or agreement over further answers", label=True)
    conciseness: float | None = col("subtasks / most among the problem's candidates (paper Eq. 1)")
    practicality: float | None = col("tokens M_eval needs / most among the problem's candidates (paper Eq. 1)")
    coherence: float | None = col("1 - mean Coe over adjacent subtasks (paper Eq. 1)")
    score: float | None = col("weighted sum of the three, lower is better")
    judge: str | None = col("who judged coherence: a pool entry, or lexical", label=True)
    output_tokens: int = col("generated in this execution", "tokens", kind="int64")
    answer: str | None = col("the execution's answer")
    is_correct: bool | None = col("the benchmark's check; null where nothing was executed")
    cost_usd: float = col("of this execution by itself; calls it shares with earlier trials were paid once", "USD")
    is_target: bool = col("the plan, or the allocation, that is trained on")
    error_type: str | None = col("plan_parse, duplicate, or why a call failed", otel="error.type", label=True)
    n_executions: int | None = col(
        "times it was executed: more than once where a model is stochastic", kind="int16", default=None
    )
    n_right: int | None = col("right ones among them; is_correct needs most of them", kind="int16", default=None)


@dataclass(frozen=True, slots=True)
class RewardRow:
    """One term of one rollout's reward in GRPO; the reward is their weighted sum (docs/method.md, section 5)."""

    run_id: str = col("see runs", label=True)
    problem_id: str = col("see trajectories")
    rollout: int = col("see trajectories", kind="int16")
    term: str = col("right, cost, well_formed", label=True)
    weight: float = col("factor of the term in the reward")
    value: float | None = col("the term before weighting; null where the pool failed and the rollout teaches nothing")


@dataclass(frozen=True, slots=True)
class CurveRow:
    """One metric at one step of training or of its evaluation on held-out problems."""

    run_id: str = col("see runs", label=True)
    phase: str = col("sft, grpo, or held_out for evaluations between rounds", label=True)
    policy: str = col("decomposer, allocator, or a specialist's name", label=True)
    round: int = col("0-based round; 0 for sft", kind="int16")
    step: int = col("0-based optimiser step within the round", kind="int32")
    metric: str = col("loss, reward, entropy, accuracy, cost_usd, ...", label=True)
    value: float = col("its value")
    logged_at: float = col("when it was logged", kind="timestamp")


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job at a provider's batch endpoint, as it ended: many calls of one pool entry, sent as one file."""

    run_id: str = col("see runs", label=True)
    job_id: str = col("ours; a provider that has a field for it has it there")
    request_model: str = col("pool entry that was sent to", label=True)
    provider_id: str | None = col("the provider's id of the job; null where it never had it")
    state: str = col(
        "ended, failed (refused whole), expired, cancelled, gone (its results were no longer kept), abandoned (it did "
        "not end when it was cancelled), refused (it was never taken), never_sent, running",
        label=True,
    )
    reason: str | None = col("why, where it did not simply end")
    is_rescued: bool = col("given up for the deadline: what was not done was asked live")
    n_rows: int = col("calls in it", kind="int64")
    n_answered: int = col("calls that it answered", kind="int64")
    n_failed: int = col("calls that it refused, each for itself", kind="int64")
    n_again: int = col("calls that did not run or broke, asked again in another job", kind="int64")
    n_live: int = col("calls of it that were asked live", kind="int64")
    n_unused: int = col("answers that were paid and that no call of the run has", kind="int64")
    n_absent: int = col("calls without a row that may have run: charged at the most they may have cost", kind="int64")
    n_twice: int = col("further rows of calls that had one", kind="int64")
    n_foreign: int = col("rows that are no call of this job", kind="int64")
    worst_usd: float = col("the most that it could cost, set aside before it was sent", "USD")
    cost_usd: float = col("at batch price", "USD")
    live_usd: float = col("what the same answers would have cost live", "USD")
    submitted_at: float = col("when its intent was written, just before it was sent", kind="timestamp")
    ended_at: float | None = col("when it ended, by the provider's clock where it tells", kind="timestamp")


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """One person's word on one stored answer: right or wrong. Of several by one person the newest counts."""

    run_id: str = col("see runs", label=True)
    problem_id: str = col("see trajectories")
    rollout: int = col("see trajectories", kind="int16")
    is_right: bool = col("the person's verdict on the answer")
    given_by: str = col("who gave it; '' where nobody was named", label=True)
    source: str = col("name of the file that brought it in", label=True)
    given_at: float = col("when it was brought in", kind="timestamp")
    note: str | None = col("why, in the person's words")
