"""The report of any run that is no evaluation: what it answered, labelled or learnt, and what that cost. It shows what
the run has."""

import time
from pathlib import Path

import duckdb

from r2.methods import can_collapse, family_of
from storage.report import queries as facts
from storage.report import wording
from storage.report.content import COLLAPSED, Case, Caution, Method, Report, Table, ValueWithInterval
from storage.report.drift import drift_of
from storage.report.wording import OF_A_RUN
from storage.runs.summary import RunSummary, summarize

_KINDS = {
    "answer": "answers",
    "label": "labels",
    "sft": "supervised training",
    "grpo": "reinforced training",
    "evaluate": "run of an evaluation",
}


def report_of_run(lake: Path, db: duckdb.DuckDBPyConnection, run_id: str) -> Report:
    """Everything known of the run. A run that has not ended is reported up to now."""
    about = _about(db, run_id)
    summary = summarize(lake, run_id)
    kind, method = about.get("kind", "answer"), summary.method or about.get("method", "") or "run"
    facts.choose(db, [(run_id, method)])
    priced = facts.models_by_price(db)
    points, _ = facts.curves(db, run_id)
    found, n_found, what = _cases(db, run_id, method)
    drift, moved = drift_of(lake, db) if kind == "answer" else (None, [])
    return Report(
        report_id=run_id,
        kind=_KINDS.get(kind, kind),
        verdict=_verdict(summary, kind, method, len(points)),
        subtitle=_subtitle(about, summary),
        figures=_tiles(summary, db, run_id),
        subject=method,
        models=tuple(model for model, _ in priced),
        cautions=(*_cautions(db, about, summary, method), *moved),
        methods=_methods(summary, method, db, run_id),
        shares=facts.shares_by_difficulty(db),
        spend=facts.spend(db),
        n_problems=summary.n_settled,
        escalations=facts.escalations(db),
        latency_by="model",
        latencies=tuple(facts.latencies_by_model(db)),
        curves=points,
        cases=found,
        cases_title=what,
        cases_note=f"{n_found} of them, most expensive first"
        + (f"; the first {len(found)} can be opened." if n_found > len(found) else "."),
        tables=(*_tables(db, run_id, summary, priced), *([drift] if drift else [])),
        measured=tuple(_measured(about, summary)),
        glossary=OF_A_RUN,
    )


def _about(db: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, str]:
    """The newest session's row, as text; empty where no session has ended yet."""
    cursor = db.execute(
        "select * exclude (started_at, ended_at), started_at::varchar as started, ended_at::varchar as ended from "
        "runs_latest where run_id = ?",
        [run_id],
    )
    names = [column[0] for column in cursor.description]
    row = cursor.fetchone()
    return {name: str(value) for name, value in zip(names, row, strict=True)} if row else {}


def _accuracy(summary: RunSummary) -> ValueWithInterval | None:
    if summary.accuracy is None or summary.accuracy_interval is None:
        return None
    return ValueWithInterval(summary.accuracy, *summary.accuracy_interval)


def _verdict(summary: RunSummary, kind: str, method: str, n_points: int) -> str:
    n = f"{summary.n_settled:,} problems"
    if kind in ("sft", "grpo") or (n_points and not summary.n_settled):
        rollouts = f", {n} rolled out for {wording.number(summary.cost_usd)} USD" if summary.n_settled else ""
        return f"Training left {n_points:,} points of its curves{rollouts}."
    if kind == "label":
        return f"{summary.n_answered:,} of {n} were labelled for {wording.number(summary.cost_usd)} USD."
    cost = f"{wording.number(summary.usd_per_1k)} USD per 1,000 problems"
    accuracy = _accuracy(summary)
    if accuracy is None:
        return f"{method} answered {summary.n_answered:,} of {n} at {cost}; none has a known answer to be judged by."
    return (
        f"{method} got {wording.percent(accuracy.value)} of {summary.n_judged:,} problems right (95% interval "
        f"{wording.percent(accuracy.low or 0.0)} to {wording.percent(accuracy.high or 0.0)}) at {cost}."
    )


def _subtitle(about: dict[str, str], summary: RunSummary) -> str:
    parts = [
        about.get("input_path", ""),
        about.get("pool_path", ""),
        about.get("status", "still running or stopped").replace("_", " "),
        about.get("ended", "")[:16],
    ]
    parts.insert(0, f"{summary.n_answered:,} answered, {summary.n_failed:,} failed")
    return " · ".join(part for part in parts if part)


def _tiles(summary: RunSummary, db: duckdb.DuckDBPyConnection, run_id: str) -> tuple[tuple[str, str, str], ...]:
    tiles = []
    accuracy = _accuracy(summary)
    if accuracy is not None:
        tiles.append(
            (
                "accuracy",
                wording.percent(accuracy.value),
                f"{wording.percent(accuracy.low or 0.0)} to {wording.percent(accuracy.high or 0.0)}, n = "
                f"{summary.n_judged:,}",
            )
        )
    if summary.n_settled:
        share = summary.router_cost_usd / summary.cost_usd if summary.cost_usd else 0.0
        tiles += [
            (
                "USD per 1,000 problems",
                wording.number(summary.usd_per_1k),
                f"{wording.number(summary.cost_usd)} USD paid"
                + (f", {wording.number(summary.saved_usd)} saved by reused calls" if summary.n_reused else " in all"),
            ),
            ("router's own calls", wording.percent(share), "of the cost"),
            ("calls per problem", f"{summary.calls_per_question:.2f}", f"{summary.n_escalations:,} escalations in all"),
        ]
        if accuracy is None and (latency := _latency(db, run_id)):
            tiles.insert(
                0, ("median latency", wording.seconds(latency[0]), f"95th percentile {wording.seconds(latency[1])}")
            )
    return tuple(tiles)


def _latency(db: duckdb.DuckDBPyConnection, run_id: str) -> tuple[float, float] | None:
    row = db.execute(
        "select quantile_cont(latency_s, 0.5), quantile_cont(latency_s, 0.95) from trajectories where run_id = ? and "
        "n_calls > 0",
        [run_id],
    ).fetchone()
    return None if row is None or row[0] is None else (row[0], row[1])


def _methods(summary: RunSummary, method: str, db: duckdb.DuckDBPyConnection, run_id: str) -> tuple[Method, ...]:
    """The run as a point of the plane, beside the other runs over the same input."""
    rows = db.execute(
        """
        select run_id, method, n_problems, n_judged, accuracy, accuracy_low, accuracy_high, usd_per_1k, on_frontier
        from cost_accuracy
        where accuracy is not null and usd_per_1k > 0 and (run_id = ? or run_id in (
            select other.run_id from runs_latest mine join runs_latest other using (input_path)
            where mine.run_id = ? and mine.kind = 'answer' and other.kind = 'answer'))
        order by run_id = ? desc, usd_per_1k limit 20
        """,
        [run_id, run_id, run_id],
    ).fetchall()
    if len(rows) < 2:
        return ()
    return tuple(
        Method(
            method if other == run_id else f"{name} {other[-6:]}",
            "ours" if other == run_id else family_of(name),
            n_judged,
            ValueWithInterval(accuracy, low, high),
            ValueWithInterval(usd),
            None,
            bool(is_on_frontier),
        )
        for other, name, _, n_judged, accuracy, low, high, usd, is_on_frontier in rows
    )


def _cautions(db: duckdb.DuckDBPyConnection, about: dict[str, str], summary: RunSummary, method: str) -> list[Caution]:
    found = []
    if not about or about.get("status") not in ("completed", "completed_with_errors"):
        found.append(
            Caution(
                "Not finished.",
                f"The run is {about.get('status', 'still running, or was killed').replace('_', ' ')}; the same "
                "command resumes it.",
            )
        )
    if n_deferred := int(about.get("n_deferred", 0)):
        found.append(Caution("Deferred rows.", f"{n_deferred} problems were not settled and are in no number here."))
    if summary.n_failed:
        found.append(
            Caution(
                "Failed rows.",
                f"{summary.n_failed} of {summary.n_settled} problems got no answer; those with a known answer count "
                "as wrong.",
            )
        )
    top = facts.top_model(db, method)
    if can_collapse(method) and top and top[1] > COLLAPSED:
        found.append(
            Caution(
                "Collapse.",
                f"{wording.percent(top[1])} of {top[2]:,} answering calls went to {top[0]}: the router hardly routes.",
            )
        )
    if (accuracy := _accuracy(summary)) and accuracy.low is not None and accuracy.high is not None:
        half = 50 * (accuracy.high - accuracy.low)
        found.append(
            Caution(
                f"{summary.n_judged:,} problems give ±{half:.1f} points.",
                "Smaller differences between runs are noise.",
                half > 5,
            )
        )
    if estimated := facts.estimated_share(db):
        found.append(
            Caution(
                "Estimated tokens.",
                f"{wording.percent(estimated)} of the calls came without token counts; their cost is an estimate.",
            )
        )
    if n_lost := int(about.get("n_calls_lost", 0)):
        found.append(Caution("Calls may be paid twice.", f"{n_lost} calls were in flight when a session was killed."))
    return sorted(found, key=lambda c: not c.is_serious)


def _cases(db: duckdb.DuckDBPyConnection, run_id: str, method: str) -> tuple[tuple[Case, ...], int, str]:
    """Wrong answers and failed problems; where nothing was judged, the most expensive problems."""
    wrong = "run_id = ? and (is_correct is false or status = 'failed')"
    [(n,)] = db.execute(f"select count(*) from trajectories where {wrong}", [run_id]).fetchall()
    where, title = (wrong, "Wrong answers") if n else ("run_id = ?", "Most expensive problems")
    if not n:
        [(n,)] = db.execute("select count(*) from trajectories where run_id = ?", [run_id]).fetchall()
    keys = db.execute(
        f"select run_id, problem_id, rollout from trajectories where {where} order by cost_usd desc, input_index, "
        "rollout limit ?",
        [run_id, facts.N_CASES],
    ).fetchall()
    return facts.cases(db, method, keys, {}), n, title


def _tables(
    db: duckdb.DuckDBPyConnection, run_id: str, summary: RunSummary, priced: list[tuple[str, str]]
) -> list[Table]:
    tables = []
    if summary.n_settled:
        by_benchmark = db.execute(
            """
            select benchmark, count(*), count(*) filter (status = 'failed'), count(is_correct),
                   count(*) filter (is_correct), 1000 * avg(cost_usd), avg(n_calls), quantile_cont(latency_s, 0.5),
                   quantile_cont(latency_s, 0.95)
            from trajectories where run_id = ? group by 1 order by 1
            """,
            [run_id],
        ).fetchall()
        tables.append(
            Table(
                "By benchmark",
                ("benchmark", "problems", "failed", "judged", "accuracy", "USD per 1,000", "calls", "p50", "p95"),
                tuple(
                    (
                        name or "(none)",
                        str(n),
                        str(n_failed),
                        str(n_judged),
                        wording.percent(n_right / n_judged) if n_judged else wording.ABSENT,
                        wording.number(usd),
                        f"{calls:.2f}",
                        wording.seconds(p50),
                        wording.seconds(p95),
                    )
                    for name, n, n_failed, n_judged, n_right, usd, calls, p50, p95 in by_benchmark
                ),
            )
        )
    if jobs := db.execute(
        "select request_model, n_jobs, n_rows, n_answered, n_again, n_rescued, median_hours, longest_hours, cost_usd, "
        "live_usd from batch_jobs where run_id = ? order by 1",
        [run_id],
    ).fetchall():
        tables.append(
            Table(
                "Batch jobs",
                (
                    "model",
                    "jobs",
                    "calls",
                    "answered",
                    "asked again",
                    "rescued live",
                    "hours, median",
                    "longest",
                    "USD",
                    "USD live",
                ),
                tuple(
                    (
                        model,
                        *(str(n) for n in counts),
                        *(wording.ABSENT if hours is None else f"{hours:.2f}" for hours in (median_h, longest_h)),
                        wording.number(usd),
                        wording.number(live),
                    )
                    for model, *counts, median_h, longest_h, usd, live in jobs
                ),
            )
        )
    if errors := db.execute(
        "select level, error_type, coalesce(request_model, ''), sum(n)::bigint, coalesce(min(example_message), '') "
        "from errors where run_id = ? group by 1, 2, 3 order by 4 desc",
        [run_id],
    ).fetchall():
        tables.append(
            Table(
                "What went wrong",
                ("where", "error", "model", "times", "for example"),
                tuple((a, b, c, str(n), e[:200]) for a, b, c, n, e in errors),
            )
        )
    if kept := db.execute(
        """
        select kind, count(*), count(*) filter (is_correct), count(*) filter (is_target), coalesce(sum(cost_usd), 0)
        from candidates where run_id = ? group by 1 order by 1
        """,
        [run_id],
    ).fetchall():
        tables.append(
            Table(
                "What labelling tried",
                ("kind", "tried", "right", "kept as targets", "USD"),
                tuple((k, str(n), str(r), str(t), wording.number(u)) for k, n, r, t, u in kept),
            )
        )
    if rewards := db.execute(
        "select term, any_value(weight), avg(value), min(value), max(value), count(value) from rewards where run_id "
        "= ? group by 1 order by 1",
        [run_id],
    ).fetchall():
        tables.append(
            Table(
                "Rewards",
                ("term", "weight", "mean", "lowest", "highest", "rollouts"),
                tuple(
                    (
                        t,
                        f"{w:g}",
                        *(wording.ABSENT if v is None else wording.number(v) for v in (mean, low, high)),
                        str(n),
                    )
                    for t, w, mean, low, high, n in rewards
                ),
            )
        )
    if priced:
        tables.append(wording.prices(priced))
    return tables


def _caches(summary: RunSummary) -> str:
    """ "" where no provider's cache took part."""
    if not (summary.n_cached_tokens or summary.n_cache_write_tokens):
        return ""
    return (
        f"{summary.n_cached_tokens:,} prompt tokens read, {summary.n_cache_write_tokens:,} written; "
        f"{summary.cache_saved_usd:.6f} USD saved"
    )


def _reused(summary: RunSummary) -> str:
    """What other runs had paid for; "" where nothing was used again."""
    if not summary.n_reused:
        return ""
    return f"{summary.n_reused:,} of {summary.n_calls:,}, paid by earlier runs; {summary.saved_usd:.6f} USD saved"


def _measured(about: dict[str, str], summary: RunSummary) -> list[tuple[str, str]]:
    lines = [
        ("questions", about.get("input_path", "")),
        ("pool", about.get("pool_path", "")),
        ("method", summary.method),
        ("tokens", f"{summary.input_tokens:,} in, {summary.output_tokens:,} out" if summary.n_settled else ""),
        ("reused calls", _reused(summary)),
        ("providers' caches", _caches(summary)),
        ("version", about.get("code_version", "")),
        ("time", f"{about['started'][:19]} to {about['ended'][:19]} UTC, newest session" if about else ""),
        ("settings", about.get("config", "")),
        ("written", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
    ]
    return [(name, value) for name, value in lines if value]
