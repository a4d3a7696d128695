"""A report as one HTML page that needs nothing else: style, script and charts are in it, and it may not load anything.

The page's own policy (Content-Security-Policy) forbids every request and every script but the two that are written
here, so text of models and questions can do nothing even if it got past the escaping. Whatever such text holds is
escaped; JSON in scripts has no `<` left. Read in order: verdict, cautions, charts each with its table, cases to open,
the full table, how it was measured.
"""

import base64
import functools
import hashlib
import html
import string
from collections.abc import Iterable, Sequence
from importlib import resources

import orjson
import vl_convert

from storage.report import wording
from storage.report.charts import Chart, charts_of
from storage.report.content import Case, Caution, Report, ReportCall, Table

_SECTIONS = (
    ("plane", "Accuracy and cost", "How right and how dear every method is. Up and to the left is better."),
    (
        "saved",
        "Cost saved",
        "What each method saves of the bill of the best single model, and whether its accuracy is reached.",
    ),
    (
        "shares",
        "Who does the work",
        "Which model answered, by difficulty. Dark colours are dear models; on a dark page, bright ones.",
    ),
    ("money", "Where the money goes", "Every call by purpose and model, the router's own apart."),
    ("escalations", "Passed on", "Work that a check, or a model that was not available, sent to another model."),
    ("latency", "Latency", "Time to an answer."),
    ("curves", "Training", "How the metrics went while the policies were trained."),
)


def page_of(report: Report) -> str:
    """The whole page. Its size is the JavaScript (0.9 MB), the numbers, and the cases' texts."""
    charts = charts_of(report)
    parts = [(key, title, _figures(intro, charts[key])) for key, title, intro in _SECTIONS if charts[key]]
    if report.cases:
        parts.append(("cases", report.cases_title, _cases(report)))
    if report.tables:
        parts.append(
            ("numbers", "All the numbers", "".join(_folded(i, table) for i, table in enumerate(report.tables)))
        )
    if report.measured:
        parts.append(("measured", "How it was measured", _pairs(report.measured)))
    if report.glossary:
        parts.append(("glossary", "What the words mean", _glossary(report)))
    specs = {chart.name: chart.spec for found in charts.values() for chart in found}
    vega, script = _vega(), _resource("page.js")
    style = _resource("style.css")
    return string.Template(_resource("page.html")).substitute(
        policy=_e(
            f"default-src 'none'; style-src 'unsafe-inline'; script-src {_hash(vega)} {_hash(script)}; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        ),
        title=_e(f"{report.subject}: {report.kind} {report.report_id}"),
        style=style,
        verdict=_e(report.verdict),
        kind=_e(report.kind),
        subtitle=_e(report.subtitle),
        figures="".join(
            (
                f'<li><span class="name">{_e(n)}</span><span class="value">{_e(v)}</span><span '
                f'class="remark">{_e(r)}</span></li>'
            )
            for n, v, r in report.figures
        ),
        cautions=_cautions(report.cautions),
        contents="".join(f'<li><a href="#{key}">{_e(title)}</a></li>' for key, title, _ in parts),
        sections="".join(
            f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{_e(title)}</h2>{body}</section>\n'
            for key, title, body in parts
        ),
        report_id=_e(report.report_id),
        specs=json_for_script(specs),
        vega=vega,
        script=script,
    )


def json_for_script(value: object) -> str:
    """JSON that can stand inside a script element: no text in it can end the element or begin a comment there."""
    text = orjson.dumps(value).decode()
    return (
        text.replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def _e(text: object) -> str:
    """Escaped for HTML text and attributes. Characters that no HTML may hold are shown as the replacement character."""
    shown = "".join(
        c if c in "\n\t" or (c >= " " and not "\ud800" <= c <= "\udfff" and c != "\x7f") else "\ufffd"
        for c in str(text)
    )
    return html.escape(shown, quote=True)


@functools.cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the installed package: no network."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle


def _resource(name: str) -> str:
    return (resources.files("storage") / "report" / name).read_text("utf-8")


def _hash(script: str) -> str:
    """The script as the page's policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _figures(intro: str, charts: Iterable[Chart]) -> str:
    drawn = list(charts)
    small = "".join(_figure(chart) for chart in drawn if chart.size == "small")
    wide = "".join(_figure(chart) for chart in drawn if chart.size == "wide")
    return f'<p class="intro">{_e(intro)}</p>{wide}' + (f'<div class="small-multiples">{small}</div>' if small else "")


def _figure(chart: Chart) -> str:
    note = f'<p class="note">{_e(chart.note)}</p>' if chart.note else ""
    return (
        f"<figure><figcaption>{_e(chart.title)}</figcaption>"
        f'<div class="chart" role="img" aria-label="{_e(chart.description)}" data-chart="{_e(chart.name)}"></div>{note}'
        '<details class="numbers"><summary>The numbers of this '
        f"chart</summary>{_table(chart.table)}</details></figure>\n"
    )


def _folded(place: int, table: Table) -> str:
    """A table behind its caption; the first is open."""
    is_open = "" if place else " open"
    return f'<details class="table"{is_open}><summary>{_e(table.caption)}</summary>{_table(table)}</details>'


def _table(table: Table) -> str:
    numeric = [
        all(_is_number(row[i]) for row in table.rows) if table.rows else False for i in range(len(table.columns))
    ]
    head = "".join(f'<th scope="col"{_right(numeric[i])}>{_e(name)}</th>' for i, name in enumerate(table.columns))
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{_e(cell)}</th>' if i == 0 else f"<td{_right(numeric[i]) or _long(cell)}>{_e(cell)}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in table.rows
    )
    return (
        '<div class="scroll" role="region" tabindex="0" '
        f'aria-label="{_e(table.caption)}"><table><caption>{_e(table.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _is_number(text: str) -> bool:
    return text in ("", wording.ABSENT) or text[:1].isdigit() or (text[:1] in "-+" and text[1:2].isdigit())


def _right(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _long(text: str) -> str:
    """A long text gets room, so that it does not become a tall thin column."""
    return ' class="long"' if len(text) > 30 else ""


def _cautions(cautions: Sequence[Caution]) -> str:
    if not cautions:
        return ""
    lines = "".join(
        f'<li class="{"serious" if c.is_serious else "mild"}"><strong>{_e(c.title)}</strong> {_e(c.text)}</li>'
        for c in cautions
    )
    return (
        '<section class="cautions" aria-labelledby="cautions-title"><h2 id="cautions-title">Before you believe '
        f"it</h2><ul>{lines}</ul></section>"
    )


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<div><dt>{_e(name)}</dt><dd>{_e(value)}</dd></div>" for name, value in pairs) + "</dl>"


def _glossary(report: Report) -> str:
    return (
        "<dl>"
        + "".join(
            f"<div><dt>{_e(name)}</dt><dd>{f'<code>{_e(formula)}</code> ' if formula else ''}{_e(meaning)}</dd></div>"
            for name, formula, meaning in report.glossary
        )
        + "</dl>"
    )


def _cases(report: Report) -> str:
    return f'<p class="intro">{_e(report.cases_note)}</p>' + "".join(_case(case) for case in report.cases)


def _case(case: Case) -> str:
    state = {True: "right", False: "wrong", None: "not judged"}[case.is_correct]
    facts = [
        ("question", case.question),
        ("gold answer", case.target or ""),
        (f"{case.method} answered", case.answer or "(nothing)"),
    ]
    if case.other:
        facts.append(("the reference", case.other))
    if case.failed_checks:
        facts.append(("failed checks", case.failed_checks))
    if case.error:
        facts.append(("error", case.error))
    shown = "".join(f"<div><dt>{_e(name)}</dt><dd><pre>{_e(text)}</pre></dd></div>" for name, text in facts if text)
    plan = f"<h3>Plan</h3><pre>{_e(case.plan)}</pre>" if case.plan else ""
    allocation = ""
    if case.subtasks:
        allocation = "<h3>Allocation</h3>" + _table(
            Table(
                f"Subtasks of {case.problem_id}",
                ("#", "subtask", "allocated to", "answered by", "result", "USD"),
                tuple(
                    (
                        str(s.index + 1),
                        s.text,
                        s.allocated_model,
                        s.model + (" (escalated)" if s.is_escalated else ""),
                        s.error or s.output or "",
                        wording.number(s.cost_usd),
                    )
                    for s in case.subtasks
                ),
            )
        )
    calls = "".join(_call(i, call) for i, call in enumerate(case.calls, 1))
    first_line = case.question.strip().splitlines()[0] if case.question.strip() else "(no question)"
    return (
        f'<details class="case"><summary><span class="usd">{_e(wording.number(case.cost_usd))} USD</span> '
        f'<span class="state {state.split()[0]}">{state}</span> <span class="id">{_e(case.problem_id)}</span> '
        f'<span class="question">{_e(first_line[:140])}</span></summary>'
        f"<dl>{shown}</dl>{plan}{allocation}" + (f"<h3>Calls</h3>{calls}" if calls else "") + "</details>\n"
    )


def _call(number: int, call: ReportCall) -> str:
    place = "" if call.subtask_index is None else f" subtask {call.subtask_index + 1}"
    again = f", attempt {call.attempt + 1}" if call.attempt else ""
    texts = "".join(f'<p class="role">{_e(role)}</p><pre>{_e(text)}</pre>' for role, text in call.messages)
    answer = f'<p class="role">answer</p><pre class="answer">{_e(call.output)}</pre>' if call.output is not None else ""
    error = f'<p class="role">error</p><pre>{_e(call.error)}</pre>' if call.error else ""
    served = (
        f" (served as {call.response_model})"
        if call.response_model and call.response_model != call.request_model
        else ""
    )
    ended = call.finish_reason or "nothing"
    about = f"{call.input_tokens} tokens in, {call.output_tokens} out, status {call.status}, ended by {ended}{served}"
    return (
        f'<details class="call"><summary>{number}. {_e(call.purpose + place)}: {_e(call.request_model + again)} '
        f'<span class="usd">{_e(wording.number(call.cost_usd))} USD, '
        f"{_e(wording.seconds(call.latency_s))}</span></summary>"
        f"<p>{_e(about)}</p>{texts}{answer}{error}</details>"
    )
