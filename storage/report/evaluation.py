"""The report of an evaluation: the stored comparison says every number, the lake adds money by purpose, passed-on work
and cases.

Nothing is computed anew that the comparison holds, so the page and `summary.json` cannot differ.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import orjson

from r2.errors import ConfigError
from r2.evaluation.comparison import Comparison, Estimate, MethodSummary
from r2.evaluation.curves import hull
from r2.evaluation.verdict import rules_ahead, verdict
from r2.methods import ORACLE, can_collapse, family_of, takes_router
from r2.methods.record import Family
from storage.evaluations.store import EvaluatedRow, Evaluation, read_comparison, read_evaluation
from storage.report import queries as facts
from storage.report import wording
from storage.report.content import (
    COLLAPSED,
    Case,
    Caution,
    Method,
    Report,
    Share,
    Table,
    ValueWithInterval,
)
from storage.report.wording import OF_AN_EVALUATION

WIDE = 0.05
"""Half width of the accuracy interval above which the number of problems is a serious caution."""
_LEVELS = ("easy", "medium", "hard")


def report_of_evaluation(lake: Path, db: duckdb.DuckDBPyConnection, evaluation_id: str) -> Report:
    """Everything known of the evaluation. ConfigError where it has no finished row to compare."""
    plan, comparison = read_evaluation(lake, evaluation_id), read_comparison(lake, evaluation_id)
    subject = _subject(comparison)
    shown = [m.label for m in comparison.methods if _family(m) == "ours"] or [subject.label]
    shown.sort(key=lambda label: label != subject.label)
    rows = {row.name: row for row in plan.rows}
    facts.choose(db, [(run, label) for label in shown[:3] if label in rows for run in rows[label].test_runs])
    first = {label: place for place, label in enumerate(shown)}
    methods = tuple(_method(m, comparison.n_problems) for m in comparison.methods)
    models = _models(db, plan, comparison)
    points, trained_by = facts.curves(db)
    found, n_found = _regressions(db, comparison, rows)
    n_judged = comparison.n_problems * max(1, subject.n_seeds)
    return Report(
        report_id=evaluation_id,
        kind="evaluation",
        verdict=verdict(comparison)
        if comparison.subject
        else f"{len(methods)} methods on {comparison.n_problems:,} problems; none of them is judged.",
        subtitle=_subtitle(plan, comparison, subject),
        figures=_tiles(comparison, subject),
        subject=subject.label,
        models=models,
        cautions=tuple(_cautions(db, plan, comparison, subject)),
        methods=methods + _oracle(comparison),
        reference=comparison.best_constant or "",
        frontier=tuple(hull([(m.usd_per_1k.value, m.accuracy.value) for m in comparison.methods])),
        shares=tuple(share for label in shown[:3] for share in _shares(comparison, comparison[label], models)),
        spend=tuple(sorted(facts.spend(db), key=lambda s: first[s.method])),
        n_problems=n_judged,
        escalations=tuple(sorted(facts.escalations(db), key=lambda e: first[e.method])),
        latencies=tuple((m.label, m.latency_p50_s, m.latency_p95_s, comparison.n_problems) for m in comparison.methods),
        curves=points,
        cases=found,
        cases_title="Worst regressions",
        cases_note=(
            (
                f"{n_found} problems that {comparison.best_constant} got right and {subject.label} got wrong, most "
                "expensive first"
            )
            + (
                f"; the first {len(found)} can be opened."
                if n_found > len(found)
                else ". Each opens to its whole trajectory."
            )
        ),
        tables=tuple(_tables(plan, comparison)),
        measured=tuple(_measured(db, plan, comparison, trained_by)),
        glossary=OF_AN_EVALUATION,
    )


def _subject(comparison: Comparison) -> MethodSummary:
    """The judged method, else the first of ours, else the first."""
    if comparison.subject is not None:
        return comparison[comparison.subject]
    if not comparison.methods:
        raise ConfigError(
            "the evaluation compares no method yet; run `r2 evaluate` with the same settings to finish it."
        )
    return next((m for m in comparison.methods if family_of(m.method) == "ours"), comparison.methods[0])


def _family(method: MethodSummary) -> Family:
    if method.is_constant:
        return "constant"
    return "bound" if method.method == ORACLE else family_of(method.method)


def _interval(estimate: Estimate) -> ValueWithInterval:
    if estimate.interval is None:
        return ValueWithInterval(estimate.value)
    return ValueWithInterval(estimate.value, estimate.interval.low, estimate.interval.high)


def _method(m: MethodSummary, n_problems: int) -> Method:
    saved = m.cost_saved
    return Method(
        m.label,
        _family(m),
        n_problems,
        _interval(m.accuracy),
        _interval(m.usd_per_1k),
        None if saved is None else _interval(Estimate(saved.value, saved.interval)),
        m.is_on_frontier,
        None if m.cheaper_by is None else _interval(m.cheaper_by),
        None if m.accuracy_difference is None else _interval(m.accuracy_difference),
    )


def _oracle(comparison: Comparison) -> tuple[Method, ...]:
    if (
        comparison.oracle_accuracy is None
        or comparison.oracle_usd_per_1k is None
        or ORACLE in (m.label for m in comparison.methods)
    ):
        return ()
    return (
        Method(
            ORACLE,
            "bound",
            comparison.n_problems,
            ValueWithInterval(comparison.oracle_accuracy),
            ValueWithInterval(comparison.oracle_usd_per_1k),
        ),
    )


def _models(db: duckdb.DuckDBPyConnection, plan: Evaluation, comparison: Comparison) -> tuple[str, ...]:
    """Every model of the pool that was called, cheapest first; ones that only a baseline called go by their stored
    price."""
    called = [model for model, _ in facts.models_by_price(db)]
    names = dict.fromkeys([*called, *(model for m in comparison.methods for model in m.model_shares)])
    return tuple(sorted(names, key=lambda model: (_output_price(plan.prices.get(model, "")), model)))


def _output_price(version: str) -> float:
    try:
        return float(version.rsplit("/", 1)[1])
    except (IndexError, ValueError):
        return float("inf")


def _shares(comparison: Comparison, method: MethodSummary, models: Sequence[str]) -> list[Share]:
    levels = sorted(
        method.model_shares_by_difficulty, key=lambda d: (_LEVELS.index(d) if d in _LEVELS else len(_LEVELS), d)
    )
    return [
        Share(
            method.label,
            level,
            model,
            comparison.n_by_difficulty.get(level, 0),
            method.model_shares_by_difficulty[level][model],
        )
        for level in levels
        for model in models
        if model in method.model_shares_by_difficulty[level]
    ]


def _subtitle(plan: Evaluation, comparison: Comparison, subject: MethodSummary) -> str:
    parts = [f"{len(comparison.methods)} methods on {comparison.n_problems:,} test problems"]
    parts.append(f"{subject.n_seeds} seeds" if subject.n_seeds > 1 else "1 seed")
    parts.append(f"{subject.label} accuracy {wording.share(_interval(subject.accuracy))}, 95% interval")
    if plan.ended_at:
        parts.append(_day(plan.ended_at))
    return " · ".join(parts)


def _tiles(comparison: Comparison, subject: MethodSummary) -> tuple[tuple[str, str, str], ...]:
    accuracy = _interval(subject.accuracy)
    tiles = [
        ("accuracy", wording.percent(accuracy.value), f"{_range(accuracy)}, n = {comparison.n_problems:,}"),
        (
            "USD per 1,000 problems",
            wording.number(subject.usd_per_1k.value),
            wording.between(_interval(subject.usd_per_1k)),
        ),
    ]
    if subject.cheaper_by is not None:
        by = _interval(subject.cheaper_by)
        tiles.append((f"cheaper than {comparison.best_constant}", wording.percent(by.value), _range(by)))
    if subject.accuracy_difference is not None:
        difference = _interval(subject.accuracy_difference)
        tiles.append(
            (
                f"accuracy against {comparison.best_constant}",
                f"{100 * difference.value:+.1f} points",
                _range(difference, signed=True),
            )
        )
    return tuple(tiles)


def _range(interval: ValueWithInterval, signed: bool = False) -> str:
    if interval.low is None or interval.high is None:
        return "no interval"
    if signed:
        return f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"
    return f"{wording.percent(interval.low)} to {wording.percent(interval.high)}"


def _cautions(
    db: duckdb.DuckDBPyConnection, plan: Evaluation, comparison: Comparison, subject: MethodSummary
) -> list[Caution]:
    found = []
    if plan.status != "completed":
        found.append(
            Caution("Not finished.", f"The evaluation is {plan.status.replace('_', ' ')}; the same command resumes it.")
        )
    if plan.unfinished:
        found.append(
            Caution(
                "Methods are missing.",
                f"Not every problem is answered by {', '.join(plan.unfinished)}; they are left out.",
            )
        )
    found += [
        Caution(
            "Collapse.",
            f"{m.label} sends {wording.percent(m.top_model_share)} of its calls to {m.top_model}: it hardly routes. "
            f"Effective models: {m.effective_models or 1:.2f}.",
            m.label == subject.label,
        )
        for m in comparison.methods
        if m.top_model_share is not None and m.top_model_share > COLLAPSED and can_collapse(m.method)
    ]
    if ahead := [one.label for one in rules_ahead(comparison, plan.settings.get("cost_weight", 0.0))]:
        more = f" and {len(ahead) - 3} more" if len(ahead) > 3 else ""
        found.append(
            Caution(
                "A rule wins.",
                f"At the accuracy of {comparison.subject} or by utility, simpler methods are ahead: "
                f"{', '.join(ahead[:3])}{more}.",
            )
        )
    half = comparison.accuracy_half_width
    found.append(
        Caution(
            f"{comparison.n_problems:,} problems tell apart about ±{100 * half:.1f} points.",
            "Smaller differences in accuracy are noise unless their paired interval says otherwise.",
            half > WIDE,
        )
    )
    found += _leakage(plan)
    n_failed, n_settled = facts.failed(db, subject.label)
    if n_failed:
        found.append(
            Caution(
                "Failed rows.",
                f"{n_failed} of {n_settled} problems got no answer from {subject.label} and count as wrong.",
            )
        )
    n_blind, n_subtasks = facts.without_propensity(db, subject.label)
    if n_blind:
        found.append(
            Caution(
                "No support for off-policy estimates.",
                f"{n_blind} of {n_subtasks} allocations of {subject.label} have no probabilities, so other "
                "allocators cannot be judged from this log.",
                False,
            )
        )
    if estimated := facts.estimated_share(db):
        found.append(
            Caution(
                "Estimated tokens.",
                f"{wording.percent(estimated)} of the calls came without token counts; their cost is an estimate.",
            )
        )
    if plan.n_calls_charged > plan.n_calls_paid:
        found.append(
            Caution(
                "Charged is not paid.",
                f"Each method is charged for every call it needed, {wording.number(plan.charged_usd)} USD for "
                f"{plan.n_calls_charged:,} calls over all runs; calls "
                f"that several share were sent once, {wording.number(plan.paid_usd)} USD for {plan.n_calls_paid:,}.",
                False,
            )
        )
    return sorted(found, key=lambda c: not c.is_serious)


def _leakage(plan: Evaluation) -> list[Caution]:
    leaks = plan.leaks
    if leaks is None:
        return [
            Caution(
                "Leakage not checked.",
                "No training labels were named (--train-labels), so nobody looked for them among the problems.",
                False,
            )
        ]
    if leaks.n_same + leaks.n_near == 0:
        return []
    return [
        Caution(
            "Leakage.",
            f"{leaks.n_same} of {leaks.n_train:,} training questions of {leaks.labels} are among the "
            f"{leaks.n_evaluation:,} evaluated ones, {leaks.n_near} more nearly.",
        )
    ]


def _regressions(
    db: duckdb.DuckDBPyConnection, comparison: Comparison, rows: dict[str, EvaluatedRow]
) -> tuple[tuple[Case, ...], int]:
    """The dearest problems where the best constant is right and the subject wrong, and how many there are."""
    subject = _subject(comparison).label
    if (
        comparison.best_constant is None
        or subject not in rows
        or comparison.best_constant not in rows
        or subject == comparison.best_constant
    ):
        return (), 0
    pairs = list(zip(rows[subject].test_runs, rows[comparison.best_constant].test_runs, strict=False))
    found = facts.regressions(db, pairs)
    keys = [(run_id, problem_id, rollout) for run_id, problem_id, rollout, _, _ in found[: facts.N_CASES]]
    others = {
        problem_id: f"{comparison.best_constant}: {answer}   ({wording.number(usd)} USD)"
        for _, problem_id, _, answer, usd in found
    }
    return facts.cases(db, subject, keys, others), len(found)


def _tables(plan: Evaluation, comparison: Comparison) -> list[Table]:
    methods = comparison.methods
    levels = list(comparison.n_by_difficulty)
    levels.sort(key=lambda d: (_LEVELS.index(d) if d in _LEVELS else len(_LEVELS), d))
    best = comparison.best_constant or "the best constant"

    def share(estimate: Estimate | None) -> str:
        return wording.ABSENT if estimate is None else wording.share(_interval(estimate))

    def points(estimate: Estimate | None) -> str:
        return wording.ABSENT if estimate is None else wording.points(_interval(estimate))

    def maybe(value: float | None) -> str:
        return wording.ABSENT if value is None else wording.percent(value)

    main = Table(
        f"Accuracy and cost on {comparison.n_problems:,} test problems, 95% intervals by paired bootstrap",
        (
            "method",
            "accuracy",
            *(f"{d} (n = {comparison.n_by_difficulty[d]})" for d in levels),
            "USD per 1,000",
            "USD per right answer",
            "seeds",
        ),
        tuple(
            (
                m.label,
                share(m.accuracy),
                *(maybe(m.accuracy_by_difficulty.get(d)) for d in levels),
                wording.usd(_interval(m.usd_per_1k)),
                wording.ABSENT if m.usd_per_solved is None else wording.number(m.usd_per_solved),
                str(m.n_seeds),
            )
            for m in methods
        ),
    )
    against = Table(
        f"Against {best}",
        (
            "method",
            "accuracy gained",
            "no worse?",
            "cheaper by",
            "saved at equal accuracy",
            "reached in",
            "gap recovered",
            "frontier",
            "beaten by",
        ),
        tuple(
            (
                m.label,
                points(m.accuracy_difference),
                m.accuracy_verdict or wording.ABSENT,
                share(m.cheaper_by),
                "not reached" if m.cost_saved is None else share(Estimate(m.cost_saved.value, m.cost_saved.interval)),
                wording.ABSENT if m.cost_saved is None else wording.percent(m.cost_saved.reached_share),
                maybe(m.performance_gap_recovered),
                "yes" if m.is_on_frontier else "no",
                ", ".join(m.beaten_by) or wording.ABSENT,
            )
            for m in methods
        ),
    )
    cheap = comparison.cheap_constant
    against_cheap = Table(
        f"Against {cheap}, the cheapest constant within {100 * comparison.margin:g} points of {best}",
        ("method", "accuracy gained", "no worse?", "cost saved"),
        tuple(
            (
                m.label,
                points(m.against_cheap.accuracy_gain),
                m.against_cheap.accuracy_verdict,
                share(m.against_cheap.cost_saved),
            )
            for m in methods
            if m.against_cheap is not None
        ),
    )
    chance = Table(
        "Against chance and hindsight",
        ("method", "random at this cost", "gain over random", "headroom captured"),
        tuple(
            (m.label, maybe(m.random_accuracy), points(m.gain_over_random), maybe(m.headroom_captured)) for m in methods
        ),
    )
    work = Table(
        "Work and speed",
        (
            "method",
            "calls",
            "tokens",
            "p50",
            "p95",
            "router's share of the cost",
            "most used model",
            "its share",
            "entropy, bits",
            "effective models",
        ),
        tuple(
            (
                m.label,
                wording.number(m.calls_per_problem),
                wording.number(m.tokens_per_problem),
                wording.seconds(m.latency_p50_s),
                wording.seconds(m.latency_p95_s),
                maybe(m.router_share),
                m.top_model or wording.ABSENT,
                maybe(m.top_model_share),
                *(wording.ABSENT if v is None else f"{v:.2f}" for v in (m.model_entropy_bits, m.effective_models)),
            )
            for m in methods
        ),
    )
    second = [against_cheap] if cheap is not None and cheap != comparison.best_constant else []
    tables = [main, against, *second, chance, work]
    if ahead := rules_ahead(comparison, plan.settings.get("cost_weight", 0.0)):
        tables.append(
            Table(
                f"Where a simpler method wins over {comparison.subject}",
                ("method", "at no less accuracy", "by utility", "in words"),
                tuple(
                    (one.label, "yes" if one.at_accuracy else "no", "yes" if one.at_utility else "no", one.said)
                    for one in ahead
                ),
            )
        )
    if judged := [(m.label, m.versus_subject) for m in methods if m.versus_subject is not None]:
        tables.append(
            Table(
                f"{comparison.subject} against each method",
                ("method", "accuracy gained", "no worse?", "cost saved"),
                tuple((label, points(v.accuracy_gain), v.accuracy_verdict, share(v.cost_saved)) for label, v in judged),
            )
        )
    tables.append(
        Table(
            "Curves",
            ("set", "operating points", "AIQ", "area under the curve", "APGR"),
            tuple(
                (
                    c.name,
                    str(len(c.labels)),
                    *(wording.ABSENT if v is None else f"{v:.4f}" for v in (c.aiq, c.area, c.apgr)),
                )
                for c in comparison.curves
            ),
        )
    )
    if tried := [
        (row, point) for row in plan.rows for point in row.dev if point.value is not None or (row.rule and not row.knob)
    ]:
        tables.append(
            Table(
                "Operating points tried on dev problems",
                ("method", "knob", "value", "dev accuracy", "USD per 1,000", "chosen", "rule"),
                tuple(
                    (
                        row.name,
                        row.knob,
                        wording.ABSENT if point.value is None else f"{point.value:g}",
                        wording.percent(point.accuracy),
                        wording.number(1000 * point.cost_usd),
                        "yes" if point.value == row.value else "",
                        row.rule if point.value == row.value else "",
                    )
                    for row, point in tried
                ),
            )
        )
    if plan.prices:
        tables.append(wording.prices(sorted(plan.prices.items(), key=lambda p: (_output_price(p[1]), p[0]))))
    return tables


def _measured(
    db: duckdb.DuckDBPyConnection, plan: Evaluation, comparison: Comparison, trained_by: Sequence[str]
) -> list[tuple[str, str]]:
    settings = plan.settings
    versions = facts.code_versions(db)
    subject_seeds = int(settings.get("seeds", 1))
    sources = settings.get("problems") or ["those of the recording"]
    lines = [
        (
            "problems",
            f"{', '.join(map(str, sources))}, limit {settings.get('limit') or 'none'}, seed {settings.get('seed', 0)}",
        ),
        (
            "split",
            (
                f"{plan.n_dev:,} dev, {plan.n_test:,} test; dev share {settings.get('dev_share')}, split seed "
                f"{settings.get('split_seed')}"
            )
            + (f"; held out from training: {settings['held_out']}" if settings.get("held_out") else ""),
        ),
        ("difficulty", plan.difficulty_source),
        ("repetitions", f"{subject_seeds} {'seed' if subject_seeds == 1 else 'seeds'} per method"),
        ("pool", f"{settings.get('pool', '')}, digest {plan.pool_digest}"),
        (
            "thresholds",
            "; ".join(
                f"{row.name}: {row.knob} = {row.value:g} ({row.rule})"
                for row in plan.rows
                if row.value is not None and row.knob
            )
            or "none of the methods has one",
        ),
        ("router", "; ".join(f"{row.name}: {_parts(row.reasoning)}" for row in plan.rows if takes_router(row.method))),
        (
            "intervals",
            f"95%, percentile bootstrap over problems, {comparison.n_bootstrap:,} paired resamples, seed "
            f"{comparison.seed}",
        ),
        ("no worse", f"the interval of the difference lies above -{100 * comparison.margin:g} points"),
        (
            "paid",
            f"{wording.number(plan.paid_usd)} USD for {plan.n_calls_paid:,} calls; charged "
            f"{wording.number(plan.charged_usd)} USD for {plan.n_calls_charged:,}",
        ),
        ("version", ", ".join(versions) or wording.ABSENT),
        ("ended", f"{_day(plan.ended_at)}, last session {plan.wall_s:.0f} s" if plan.ended_at else ""),
        ("training shown", ", ".join(trained_by)),
        ("settings", orjson.dumps(dict(settings)).decode()),
    ]
    return [(name, value) for name, value in lines if value]


def _parts(reasoning: Mapping[str, Any]) -> str:
    """Who plays the router's parts, and when it asks again."""
    said = [f"{reasoning.get('decomposer')} decomposes", f"{reasoning.get('allocator')} allocates"]
    second, confidence = reasoning.get("second_decomposer"), reasoning.get("min_confidence")
    if second:
        said.insert(1, f"{second} plans again where a plan fails its check")
    if confidence:
        said.append(f"below a confidence of {confidence:g} the next stronger model is asked")
    return ", ".join(said)


def _day(epoch_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(epoch_s))
