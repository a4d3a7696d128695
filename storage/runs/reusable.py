"""How much of what a run would ask earlier runs have paid for: what a dry run says. An estimate: which requests are the
same is known only when they are made."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pyarrow as pa

from r2.ledger import Price, Usage, cost_usd
from r2.pool.reused import usd_today
from storage.runs.lineage import PaidRun
from storage.runs.paid_calls import answering_as_then, journalled
from storage.sql.query import connect

_BATCH = 16_384


@dataclass(frozen=True, slots=True)
class Reusable:
    """Questions that earlier runs have answered, the calls they have answers to, and what these cost at today's
    prices."""

    n_questions: int
    n_calls: int
    usd: float


def reusable(
    root: Path,
    runs: Sequence[PaidRun],
    entries: Mapping[str, str],
    prices: Mapping[str, Price],
    questions: Iterable[str],
) -> Reusable:
    """`entries`: pool entry -> `answering_digest` today. Nothing is written."""
    answering = {run.run_id: answering_as_then(run, entries) for run in runs}
    same = [(run_id, name) for run_id, names in answering.items() for name in names]
    if not same:
        return Reusable(0, 0, 0.0)
    with connect(root, views=()) as db:
        db.execute("create temp table asked (question ubigint)")
        rest = iter(questions)
        while chunk := list(islice(rest, _BATCH)):
            db.register("chunk", pa.table({"question": pa.array(chunk, pa.string())}))
            db.execute("insert into asked select hash(question) from chunk")
            db.unregister("chunk")
        db.register("same", pa.table({"run_id": [run for run, _ in same], "request_model": [name for _, name in same]}))
        db.execute(
            """
            create temp table mine as select run_id, problem_id, rollout, hash(input) as question from trajectories
            where run_id in (select run_id from same) and hash(input) in (select question from asked)
            """
        )
        [(n_questions,)] = db.execute(
            "select count(*) from asked where question in (select question from mine)"
        ).fetchall()
        rows = db.execute(
            """
            with answers as (
                select distinct on (request_sha) request_model, input_tokens, cached_input_tokens, output_tokens
                from calls semi join mine using (run_id, problem_id, rollout)
                semi join same using (run_id, request_model) where error_type is null
            )
            select request_model, count(*), sum(input_tokens)::bigint, sum(cached_input_tokens)::bigint,
                   sum(output_tokens)::bigint
            from answers group by 1
            """
        ).fetchall()
    usd = sum(cost_usd(replace(prices[model], long=()), Usage(*tokens)) for model, _, *tokens in rows)
    waiting = [
        usd_today(answer.attempts[-1], prices[answer.model])
        for run in runs
        for _, answer, _, _ in journalled(run, answering[run.run_id], _passed_over)
    ]
    return Reusable(int(n_questions), sum(n for _, n, *_ in rows) + len(waiting), usd + sum(waiting))


def _passed_over(what: str) -> None:
    """The run itself says it before its first call."""
