"""From a finished trajectory to the rows that are stored. Pure: every number comes from the calls' attempts."""

from collections.abc import Sequence

import orjson

from r2.answering.protocol import Answer, Decided, Step, Trajectory
from r2.call import ROUTER_PURPOSES, Attempt, Call, Completion
from r2.ledger import Usage, cost_usd, expected_usage, total_usage
from r2.plan import format_plan
from r2.problem import Problem
from r2.problems.benchmark import checked_part
from r2.records.tables import CallRow, Candidate, CandidateRow, SubtaskRow, TrajectoryRow
from r2.roster import Roster


def to_rows(
    run_id: str,
    method: str,
    trajectory: Trajectory,
    roster: Roster,
    rollout: int = 0,
    earlier: Sequence[CallRow] = (),
) -> tuple[TrajectoryRow, list[SubtaskRow], list[CallRow]]:
    """The trajectory's row, its subtasks' and its calls'. Sums over the calls equal the parents by construction.

    `earlier` are the calls of a try that failed, of a problem that was asked again: they were paid for it, and come
    first. Latencies are those of the last try.
    """
    problem, outcome = trajectory.problem, trajectory.outcome
    pairs = trajectory.pairs
    n_earlier = 1 + max((call.call_index for call in earlier), default=-1)
    calls = [
        *earlier,
        *(
            _call_row(run_id, problem, rollout, index, call, completion, attempt)
            for index, (call, completion) in enumerate(pairs, start=n_earlier)
            for attempt in completion.attempts
        ),
    ]
    subtasks = [
        _subtask_row(run_id, problem, rollout, index, step, pairs, roster, earlier)
        for index, step in enumerate(outcome.steps)
    ]
    row = TrajectoryRow(
        run_id=run_id,
        problem_id=problem.problem_id,
        rollout=rollout,
        input_index=problem.input_index,
        method=method,
        benchmark=problem.benchmark,
        status=outcome.status,
        input=problem.question,
        target=problem.target,
        answer=outcome.answer,
        is_correct=trajectory.is_correct,
        plan=format_plan(outcome.plan) if outcome.plan is not None else "",
        n_subtasks=len(outcome.plan.subtasks) if outcome.plan is not None else 0,
        n_calls=n_earlier + len(pairs),
        n_attempts=len(calls),
        n_escalations=outcome.n_escalations,
        input_tokens=sum(call.input_tokens for call in calls),
        cached_input_tokens=sum(call.cached_input_tokens for call in calls),
        output_tokens=sum(call.output_tokens for call in calls),
        cost_usd=trajectory.cost_usd + sum(call.cost_usd for call in earlier),
        router_cost_usd=trajectory.router_cost_usd
        + sum(call.cost_usd for call in earlier if call.purpose in ROUTER_PURPOSES),
        latency_s=sum(max((_elapsed_s(c) for _, c in wave), default=0.0) for wave in _answering(trajectory)),
        failed_checks=",".join(outcome.failed_checks),
        error_type=outcome.error_type,
        error_message=outcome.error_message,
        started_at=min((call.started_at for call in calls), default=0.0),
        check_score=None if outcome.verdict is None else outcome.verdict.score,
        check_error=outcome.check_error,
        is_correct_by_gold=None if outcome.verdict is None else trajectory.is_correct_by_gold,
        short_answer=None if outcome.answer is None else checked_part(problem, outcome.answer),
        value=None if outcome.answer is None else outcome.value,
        answers=_answers(outcome.answers),
        notes="; ".join(outcome.notes) or None,
        saved_usd=trajectory.saved_usd + sum(call.saved_usd or 0.0 for call in earlier),
        decisions=_decisions(outcome.decisions),
    )
    return row, subtasks, calls


def _answers(answers: Sequence[Answer]) -> str | None:
    """As JSON, log-probabilities in the form of OpenAI's replies."""
    if not answers:
        return None
    stored = [
        {"answer": one.text, "finish": one.finish, "logprobs": _logprobs(one) if one.logprobs else None}
        for one in answers
    ]
    return orjson.dumps(stored).decode()


def _decisions(decided: Sequence[Decided]) -> str | None:
    """As JSON, four digits each; of the candidates those whose value was worked out."""
    return orjson.dumps([_decision(one) for one in decided]).decode() if decided else None


def _decision(one: Decided) -> dict[str, object]:
    made, v_usd = one.decision, one.v_usd
    candidates = [
        {
            "arm": candidate.arm,
            "cost_usd": _short(candidate.cost_usd * v_usd),
            "p_right": _short(candidate.p_right),
            "p1": _short(candidate.p1),
            "p0": _short(candidate.p0),
            "value_usd": _short(candidate.value_usd * v_usd),
        }
        for candidate in made.candidates
        if candidate.value_usd is not None
    ]
    return {
        "subtask_index": one.subtask_index,
        "n_attempts": one.n_attempts,
        "action": "ask" if one.arm is not None else made.action,
        "arm": one.arm,
        "q": _short(made.q),
        "v_usd": _short(v_usd),
        "value_usd": _short(made.value_usd * v_usd),
        "cost_usd": _short(made.cost_usd * v_usd),
        "reason": one.reason,
        "candidates": candidates,
    }


def _short(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.4g}")


def _logprobs(answer: Answer) -> dict[str, object]:
    def shown(token: str, logprob: float) -> dict[str, object]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    return {
        "content": [
            shown(token, logprob) | {"top_logprobs": [shown(*other) for other in others]}
            for token, logprob, others in answer.logprobs
        ]
    }


def _answering(trajectory: Trajectory) -> Sequence[Sequence[tuple[Call, Completion]]]:
    """The waves up to the answer: without the last one where the own check's judge was asked in it."""
    is_judged = trajectory.outcome.verdict is not None
    last = trajectory.waves[-1:] if is_judged else ()
    is_judging = [call.purpose for wave in last for call, _ in wave] == ["judge"]
    return trajectory.waves[:-1] if is_judging else trajectory.waves


def candidate_rows(run_id: str, trajectory: Trajectory, roster: Roster, rollout: int = 0) -> list[CandidateRow]:
    """What labelling tried for the problem; empty for every other method."""
    problem = trajectory.problem
    trials = sorted(trajectory.outcome.trials, key=lambda trial: (trial.kind, trial.index))
    return [
        CandidateRow(
            run_id=run_id,
            problem_id=problem.problem_id,
            rollout=rollout,
            kind=trial.kind,
            trial_index=trial.index,
            benchmark=problem.benchmark,
            plan=trial.plan,
            n_subtasks=trial.n_subtasks,
            models=trial.models,
            tiers=tuple(roster[model].tier for model in trial.models),
            confidences=trial.confidences,
            confidence_source=trial.confidence_source,
            conciseness=trial.conciseness,
            practicality=trial.practicality,
            coherence=trial.coherence,
            score=trial.score,
            judge=trial.judge,
            output_tokens=trial.output_tokens,
            answer=trial.answer,
            is_correct=trial.is_correct,
            cost_usd=trial.cost_usd,
            is_target=trial.is_target,
            error_type=trial.error_type,
            n_executions=trial.n_executions,
            n_right=trial.n_right,
        )
        for trial in trials
    ]


def bad_row(run_id: str, method: str, problem: Problem, error_type: str, message: str, read_at: float) -> TrajectoryRow:
    """The failed row of an input line that could not become a problem: nothing was called, nothing was paid."""
    return TrajectoryRow(
        run_id=run_id,
        problem_id=problem.problem_id,
        rollout=0,
        input_index=problem.input_index,
        method=method,
        benchmark=problem.benchmark,
        status="failed",
        input=problem.question,
        target=problem.target,
        answer=None,
        is_correct=None,
        plan="",
        n_subtasks=0,
        n_calls=0,
        n_attempts=0,
        n_escalations=0,
        input_tokens=0,
        cached_input_tokens=0,
        output_tokens=0,
        cost_usd=0.0,
        router_cost_usd=0.0,
        latency_s=0.0,
        failed_checks="",
        error_type=error_type,
        error_message=message,
        started_at=read_at,
    )


def _elapsed_s(completion: Completion) -> float:
    return sum(attempt.queue_s + attempt.latency_s for attempt in completion.attempts)


def _subtask_row(
    run_id: str,
    problem: Problem,
    rollout: int,
    index: int,
    step: Step,
    pairs: list[tuple[Call, Completion]],
    roster: Roster,
    earlier: Sequence[CallRow],
) -> SubtaskRow:
    mine = [(call, completion) for call, completion in pairs if call.subtask_index == index]
    before = [call for call in earlier if call.subtask_index == index]
    usage = total_usage(completion.usage for _, completion in mine)
    propensities = step.choice.propensities()
    card = roster[step.model]
    expected_usd = _expected_usd(mine[0][0], roster) if mine else {}
    scores = step.choice.log_probabilities
    candidates = tuple(
        [
            Candidate(
                solver.name, scores.get(solver.name), propensities.get(solver.name), expected_usd.get(solver.name, 0.0)
            )
            for solver in roster.solvers
        ]
    )
    last_model_asked = mine[-1][0].model if mine else step.choice.model
    return SubtaskRow(
        run_id=run_id,
        problem_id=problem.problem_id,
        rollout=rollout,
        subtask_index=index,
        benchmark=problem.benchmark,
        depends_on=step.subtask.needs,
        subtask_text=step.subtask.text,
        output_text=step.text,
        allocated_model=step.choice.model,
        model=step.model,
        tier=card.tier,
        candidates=candidates,
        is_escalated=step.n_asks > 1,
        is_fallback=step.model != last_model_asked,
        input_tokens=usage.input_tokens + sum(call.input_tokens for call in before),
        output_tokens=usage.output_tokens + sum(call.output_tokens for call in before),
        cost_usd=sum(completion.cost_usd for _, completion in mine) + sum(call.cost_usd for call in before),
        latency_s=sum(_elapsed_s(completion) for _, completion in mine),
        error_type=step.error_type,
        started_at=min((a.started_at for _, c in mine for a in c.attempts), default=0.0),
        confidence=step.confidence,
    )


def _expected_usd(call: Call, roster: Roster) -> dict[str, float]:
    """Solver -> what the call is expected to cost with it. The prompt is counted once for all."""
    expected = expected_usage(call.messages, call.max_output_tokens)
    return {
        solver.name: cost_usd(
            solver.price,
            Usage(expected.input_tokens, 0, solver.output_limit(call.max_output_tokens), expected.source),
        )
        for solver in roster.solvers
    }


def _call_row(
    run_id: str, problem: Problem, rollout: int, index: int, call: Call, completion: Completion, attempt: Attempt
) -> CallRow:
    return CallRow(
        run_id=run_id,
        problem_id=problem.problem_id,
        rollout=rollout,
        call_index=index,
        attempt=attempt.attempt,
        subtask_index=call.subtask_index,
        benchmark=problem.benchmark,
        purpose=call.purpose,
        request_sha=call.request_sha(),
        request_model=attempt.model,
        response_model=attempt.response_model,
        response_id=attempt.response_id,
        status=attempt.status,
        finish_reason=attempt.finish_reason,
        temperature=call.temperature,
        max_output_tokens=call.max_output_tokens,
        input_tokens=attempt.usage.input_tokens,
        cached_input_tokens=attempt.usage.cached_input_tokens,
        output_tokens=attempt.usage.output_tokens,
        usage_source=attempt.usage.source,
        cost_usd=attempt.cost_usd,
        price_version=attempt.price_version,
        latency_s=attempt.latency_s,
        queue_s=attempt.queue_s,
        retry_after_s=attempt.retry_after_s,
        is_replayed=completion.is_replayed,
        error_type=attempt.error_type,
        error_message=attempt.error_message,
        input_messages=orjson.dumps(call.messages).decode(),
        output_text=completion.text if attempt.error_type is None else None,
        raw_body=attempt.raw_body,
        started_at=attempt.started_at,
        cache_write_tokens=attempt.usage.cache_write_tokens,
        reasoning_tokens=attempt.usage.reasoning_tokens,
        thinking=attempt.thinking or None,
        reused_from=completion.reused_from or None,
        saved_usd=completion.saved_usd if completion.reused_from else None,
    )
