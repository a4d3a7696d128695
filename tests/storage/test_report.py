"""The report: one page that says what the stored comparison says, shows text of models as text, and loads nothing."""

import base64
import hashlib
import os
import re
import time
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from r2.errors import ConfigError, LakeError
from r2.evaluation.compare import compare
from r2.evaluation.comparison import Comparison
from r2.evaluation.verdict import verdict
from storage.evaluations.outcomes import outcomes_of
from storage.evaluations.store import (
    EvaluatedRow,
    Evaluation,
    LeakageReport,
    evaluation_dir,
    evaluation_ids,
    write_comparison,
    write_evaluation,
)
from storage.lake.lake import Lake
from storage.report import resolve, write_report
from storage.report.page import json_for_script
from storage.sql.query import connect
from tests.support.browser import CHROMIUM, visit
from tests.support.lake_rows import CALL, CURVE, RUN, bad_row, labelled, problem, rewarded, together

EVIL = '</script><script>document.title="pwned"</script><img src=x onerror="document.title=\'pwned\'">'
IDS = [f"p{i}" for i in range(6)]
WRONG_OF_R2 = {1: 0.004, 3: 0.009, 5: 0.002}
"""Problem -> what r2 paid for its wrong answer."""
ROWS = {"r2": "r2", "cot large": "cot", "cot small": "cot", "query_router": "query_router"}


def run_of(label: str) -> str:
    return f"{label.replace(' ', '-')}-0123456789ab"


def evaluated(root: Path, **changes: Any) -> tuple[Path, Comparison]:
    """A lake with an evaluation of six problems: cot large always right, r2 wrong in three, the others right in one."""
    lake = Lake(root)
    for label, method in ROWS.items():
        parts = []
        for i in range(6):
            is_right = label == "cot large" or (i not in WRONG_OF_R2 if label == "r2" else i == 0)
            cost_usd = WRONG_OF_R2.get(i, 0.001) if label == "r2" else 0.01 if label == "cot large" else 0.0002
            tables = problem(
                i,
                run_of(label),
                method=method,
                is_correct=is_right,
                cost_usd=cost_usd,
                answer=EVIL if i == 3 else "9",
                input=f"{EVIL} {i}",
            )
            tables["calls"] = [
                replace(call, output_text=EVIL, input_messages='[["user","' + EVIL.replace('"', '\\"') + '"]]')
                for call in tables["calls"]
            ]
            parts.append(tables)
        lake.commit(run_of(label), "00000-0", together(*parts))
        lake.commit(
            run_of(label),
            "session-0000",
            {"runs": [replace(RUN, run_id=run_of(label), kind="evaluate", method=method)]},
        )
    difficulty = {name: "easy" if i < 3 else "hard" for i, name in enumerate(IDS)}
    with connect(root) as db:
        found = [outcomes_of(db, label, method, [run_of(label)], IDS, difficulty) for label, method in ROWS.items()]
    comparison = compare([one for one in found if one], constants=["cot large", "cot small"], subject="r2")
    known: dict[str, Any] = {
        "evaluation_id": "evaluation-0123456789ab",
        "status": "completed",
        "settings": {"problems": ["arithmetic"], "seeds": 1},
        "pool_digest": "d1",
        "n_dev": 3,
        "n_test": 6,
        "difficulty": difficulty,
        "difficulty_source": "gold plans",
        "gold_difficulty": difficulty,
        "rows": tuple(
            EvaluatedRow(label, method, method == "cot", "", None, "", {}, (), (run_of(label),), True)
            for label, method in ROWS.items()
        ),
        "subject": "r2",
        "verdict": verdict(comparison),
        "charged_usd": 0.5,
        "paid_usd": 0.25,
        "n_calls_charged": 40,
        "n_calls_paid": 20,
        "prices": {"small": "2026-11-01:1/0.5/2", "large": "2026-11-01:10/5/20"},
        "ended_at": time.time(),
        **changes,
    }
    evaluation = Evaluation(
        **{name: value for name, value in known.items() if name in {f.name for f in fields(Evaluation)}}
    )
    evaluation_dir(root, evaluation.evaluation_id).mkdir(parents=True)
    write_evaluation(root, evaluation)
    write_comparison(root, evaluation.evaluation_id, "summary", comparison)
    return root, comparison


class Page(HTMLParser):
    """What a reader of the page gets: its tables by caption, headings, tags with their attributes, and text by tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")
        if tag == "table":
            self.rows = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.tables[self.texts["caption"][-1]] = self.rows
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    lake, comparison = evaluated(tmp_path_factory.mktemp("evaluated"))
    Lake(lake).commit(
        "sft-1", "curves", {"curves": [replace(CURVE, run_id="sft-1", step=i, value=2.0 / (i + 1)) for i in range(4)]}
    )
    [evaluation_id] = evaluation_ids(lake)
    return write_report(lake, evaluation_id), comparison


def test_the_first_heading_is_the_verdict_and_a_lost_comparison_comes_first(made: tuple[Path, Comparison]):
    path, comparison = made
    page = Page(path.read_text("utf-8"))
    assert page.texts["h1"] == [verdict(comparison)]


def test_where_a_simpler_method_is_better_the_heading_says_that_r2_loses(tmp_path: Path):
    lake, comparison = evaluated(tmp_path / "lake")
    beaten = tuple(replace(m, beaten_by=("cot large",)) if m.label == "r2" else m for m in comparison.methods)
    write_comparison(lake, "evaluation-0123456789ab", "summary", replace(comparison, methods=beaten))
    [heading] = Page(write_report(lake).read_text("utf-8")).texts["h1"]
    assert heading.startswith("r2 loses to cot large, which is simpler: 100.0% right at 10 USD per 1,000 problems")


def test_every_method_has_the_accuracy_and_the_cost_of_the_summary(made: tuple[Path, Comparison]):
    path, comparison = made
    page = Page(path.read_text("utf-8"))
    header, *rows = page.tables["Accuracy and cost on 6 test problems, 95% intervals by paired bootstrap"]
    assert header[:4] == ["method", "accuracy", "easy (n = 3)", "hard (n = 3)"]
    by_name = {row[0]: row for row in rows}
    assert list(by_name) == [m.label for m in comparison.methods]
    for m in comparison.methods:
        assert m.accuracy.interval is not None
        low, high = m.accuracy.interval.low, m.accuracy.interval.high
        assert by_name[m.label][1] == f"{100 * m.accuracy.value:.1f}% ({100 * low:.1f} to {100 * high:.1f})"
        assert float(by_name[m.label][4].split(" ")[0]) == pytest.approx(m.usd_per_1k.value, rel=5e-3)
    assert by_name["r2"][1:4] == [by_name["r2"][1], "66.7%", "33.3%"]


def test_each_chart_is_described_and_has_its_numbers_in_a_table(made: tuple[Path, Comparison]):
    page = Page(made[0].read_text("utf-8"))
    charts = [attributes for _, attributes in page.tags if "data-chart" in attributes]
    assert {"plane", "saved", "shares-0", "money-0", "escalations-0", "latency", "curve-0"} <= {
        c["data-chart"] for c in charts
    }
    assert all(chart["role"] == "img" and len(chart["aria-label"] or "") > 20 for chart in charts)
    assert len([t for t, a in page.tags if t == "details" and a.get("class") == "numbers"]) == len(charts)
    assert page.tables["Share of each model by difficulty, r2"][1:] == [
        ["easy", "3", "50.0%", "50.0%"],
        ["hard", "3", "50.0%", "50.0%"],
    ]
    assert [row[:3] for row in page.tables["Cost by purpose and model, r2"][1:]] == [
        ["decompose (router)", "small", "6"],
        ["solve", "large", "6"],
        ["solve", "small", "6"],
    ]
    assert page.tables["Subtasks passed on, r2"][1][:3] == ["small", "large", "6"]
    assert page.tables["loss during training"][1][1:] == ["4", "2.00", "0.500", "2.00", "0.500"]


def test_regressions_are_those_the_best_constant_had_right_most_expensive_first_with_every_call(
    made: tuple[Path, Comparison],
):
    html = made[0].read_text("utf-8")
    cases = html.split('<details class="case">')[1:]
    found = [re.search('class="id">(p\\d)<', case) for case in cases]
    assert [match and match.group(1) for match in found] == ["p3", "p1", "p5"]
    assert [re.search('class="usd">([0-9.]+) USD', case).group(1) for case in cases] == [
        "0.00900",
        "0.00400",
        "0.00200",
    ]  # type: ignore[union-attr]
    assert all(case.count('<details class="call">') == 3 for case in cases)
    assert "cot large: &lt;/script&gt;" in cases[0], "what the reference answered"
    assert "1. 2+3\n2. add 4" in cases[0], "the plan"


def test_text_of_models_and_questions_is_shown_and_is_never_markup(made: tuple[Path, Comparison]):
    html = made[0].read_text("utf-8")
    page = Page(html)
    assert EVIL not in html
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 3, "specifications, Vega, ours"
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert any(EVIL in text for text in page.texts["pre"])


def test_json_in_a_script_element_cannot_end_it():
    text = json_for_script({"a": "</script><!--\u2028&"})
    assert "<" not in text
    assert ">" not in text
    assert "\u2028" not in text
    assert text == '{"a":"\\u003c/script\\u003e\\u003c!--\\u2028\\u0026"}'


def test_the_page_refers_to_nothing_outside_and_its_policy_names_its_two_scripts(made: tuple[Path, Comparison]):
    html = made[0].read_text("utf-8")
    page = Page(html)
    addresses = [a[name] for _, a in page.tags for name in ("src", "href", "action", "srcset") if a.get(name)]
    assert all(address.startswith(("#", "data:")) for address in addresses if address)
    [policy] = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert "default-src 'none'" in policy
    for script in re.findall(r"<script>(.*?)</script>", html, re.DOTALL):
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "@import" not in html.split("</style>")[0]
    assert len(html) < 3_000_000


def test_cautions_name_collapse_leakage_small_numbers_and_what_was_paid(tmp_path: Path):
    lake, _ = evaluated(tmp_path / "lake", leaks=LeakageReport("labels", 100, 6, 2, 1), status="budget_stopped")
    html = write_report(lake).read_text("utf-8")
    assert "2 of 100 training questions of labels are among the 6 evaluated ones, 1 more nearly" in html
    assert "The evaluation is budget stopped" in html
    assert re.search(r"6 problems tell apart about ±\d\d\.\d points", html)
    assert "0.500 USD for 40 calls" in html
    assert "0.250 USD for 20" in html
    lake, comparison = evaluated(tmp_path / "collapsed")
    lone = tuple(replace(m, top_model="large", top_model_share=0.97, effective_models=1.1) for m in comparison.methods)
    write_comparison(lake, "evaluation-0123456789ab", "summary", replace(comparison, methods=lone))
    html = write_report(lake).read_text("utf-8")
    assert "r2 sends 97.0% of its calls to large" in html
    assert "query_router sends 97.0%" in html
    assert "cot large sends" not in html, "a constant is meant to"


def test_an_ordinary_run_is_reported_by_what_there_is(tmp_path: Path):
    lake = Lake(tmp_path)
    wrong = problem(1, is_correct=False, answer="8", input=EVIL)
    lake.commit("run-a", "00000-0", together(problem(0), wrong, bad_row(2)))
    lake.commit(
        "run-a",
        "session-0000",
        {"runs": [replace(RUN, n_requested=4, n_failed=1, n_deferred=1, status="budget_stopped")]},
    )
    html = write_report(tmp_path, "run-a").read_text("utf-8")
    page = Page(html)
    assert page.texts["h1"][0].startswith("r2 got 50.0% of 2 problems right (95% interval 9.5% to 90.5%)")
    assert "1 problems were not settled" in html
    assert "1 of 3 problems got no answer" in html
    assert [row[:2] for row in page.tables["By benchmark"][1:]] == [["arithmetic", "3"]]
    assert page.tables["Share of each model by difficulty, r2"][1] == ["2 subtasks", "2", "50.0%", "50.0%"]
    assert html.count('<details class="case">') == 2, "the wrong answer and the bad row"
    assert "saved by reused calls" not in html and "reused calls" not in html


def test_what_reused_calls_saved_is_said_beside_what_was_paid(tmp_path: Path):
    rows = together(problem(0), problem(1))
    first, *others = rows["calls"]
    rows["calls"] = [replace(first, reused_from="r2-before", saved_usd=0.0125, cost_usd=0.0), *others]
    Lake(tmp_path).commit("run-a", "00000-0", rows)
    html = write_report(tmp_path, "run-a").read_text("utf-8")
    assert "0.0125 saved by reused calls" in html
    n_calls = sum(row.n_calls for row in rows["trajectories"])
    assert f"1 of {n_calls} paid by earlier runs; 0.012500 USD saved".replace(" paid", ", paid") in html


def test_labelling_and_training_runs_are_reported_too(tmp_path: Path):
    lake = Lake(tmp_path)
    lake.commit("label-1", "00000-0", labelled(problem(0, "label-1", method="label")))
    lake.commit("label-1", "session-0000", {"runs": [replace(RUN, run_id="label-1", kind="label", method="label")]})
    lake.commit(
        "grpo-1",
        "00000-0",
        {**rewarded(problem(0, "grpo-1")), "curves": [replace(CURVE, run_id="grpo-1", phase="grpo")]},
    )
    lake.commit("grpo-1", "session-0000", {"runs": [replace(RUN, run_id="grpo-1", kind="grpo")]})
    assert ["plan", "2", "1", "1", "0.00200"] in Page(write_report(tmp_path, "label").read_text("utf-8")).tables[
        "What labelling tried"
    ]
    page = Page(write_report(tmp_path, "grpo").read_text("utf-8"))
    assert page.tables["Rewards"][1:] == [
        ["cost", "-0.6", "0.200", "0.200", "0.200", "1"],
        ["right", "1", "1.00", "1.00", "1.00", "1"],
    ]
    assert page.tables["loss during training"][1][:2] == ["decomposer grpo", "1"]


def test_a_beginning_of_an_id_is_enough_and_an_unknown_one_lists_the_newest(tmp_path: Path):
    lake = Lake(tmp_path)
    for run_id in ("r2-aaa", "r2-abb", "cot-ccc"):
        lake.commit(run_id, "00000-0", problem(0, run_id))
    assert resolve(tmp_path, "cot") == "cot-ccc"
    with pytest.raises(ConfigError, match="begins 2 ids"):
        resolve(tmp_path, "r2-a")
    with pytest.raises(ConfigError, match=r"no run 'nothing'\. Newest: cot-ccc, r2-abb, r2-aaa"):
        resolve(tmp_path, "nothing")
    assert resolve(tmp_path, None) == "cot-ccc", "the newest run, where nothing is named"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no evaluation and no run yet"):
        resolve(tmp_path / "empty", None)
    with pytest.raises(LakeError, match="no lake there"):
        resolve(tmp_path / "none", None)


def test_where_nothing_is_named_the_newest_counts_and_the_runs_of_an_evaluation_are_part_of_it(tmp_path: Path):
    evaluated(tmp_path)
    evaluation = "evaluation-0123456789ab"
    manifest = Lake(tmp_path).manifest.folder
    for run_id in Lake(tmp_path).manifest.run_ids():
        os.utime(manifest / run_id, (3e9, 3e9))
    assert resolve(tmp_path, None) == evaluation
    Lake(tmp_path).commit("cot-ccc", "00000-0", problem(0, "cot-ccc"))
    os.utime(manifest / "cot-ccc", (4e9, 4e9))
    assert resolve(tmp_path, None) == "cot-ccc"
    done = CliRunner().invoke(app, ["report", "--lake", str(tmp_path), "--out", str(tmp_path / "r.html")])
    assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "r.html"))
    assert done.stderr == "r2: no run is named: the newest, cot-ccc\n"


def test_the_command_prints_the_path(made: tuple[Path, Comparison], tmp_path: Path):
    lake = made[0].parent.parent
    done = CliRunner().invoke(app, ["report", "evaluation-01", "--lake", str(lake), "--out", str(tmp_path / "r.html")])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text("utf-8").startswith("<!doctype html>")


def test_very_long_texts_are_cut_and_say_so(tmp_path: Path):
    lake = Lake(tmp_path)
    parts = [problem(i, is_correct=False) for i in range(20)]
    for tables in parts:
        tables["calls"] = [
            replace(
                CALL, **{"problem_id": tables["trajectories"][0].problem_id}, call_index=i, output_text="x" * 100_000
            )
            for i in range(3)
        ]
    lake.commit("run-a", "00000-0", together(*parts))
    html = write_report(tmp_path, "run-a").read_text("utf-8")
    assert len(html) < 3_000_000
    assert "more characters]" in html


DRAWN = "document.documentElement?.dataset.drawn !== undefined"
UNDRAWN = (
    "[...document.querySelectorAll('[data-chart]')].filter(c => !c.querySelector('svg path, svg text')).map(c "
    "=> c.dataset.chart)"
)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
def test_in_a_browser_every_chart_is_drawn_without_an_error_or_a_request(made: tuple[Path, Comparison]):
    seen = visit(
        made[0],
        UNDRAWN,
        OVERFLOW,
        "document.title",
        "getComputedStyle(document.body).backgroundColor",
        "TAB",
        "document.activeElement.className",
        "document.querySelector('#cases summary').focus()",
        "ENTER",
        "document.querySelector('#cases details').open",
        "document.documentElement.lang + document.querySelectorAll('h1').length + document.querySelectorAll('thead "
        "th:not([scope])').length",
        "[...document.querySelectorAll('.chart svg text')].filter(t => t.textContent === 'r2').length > 0",
        ready=DRAWN,
    )
    undrawn, overflow, title, light, *_ = seen.values
    assert (seen.errors, seen.requests, undrawn, overflow) == ([], [], [], 0)
    assert "pwned" not in title
    assert seen.values[4:] == ["skip", None, True, "en10", True]
    phone = visit(
        made[0],
        UNDRAWN,
        OVERFLOW,
        "getComputedStyle(document.body).backgroundColor",
        ready=DRAWN,
        width=360,
        is_dark=True,
    )
    assert (phone.errors, phone.requests, *phone.values[:2]) == ([], [], [], 0)
    assert phone.values[2] != light
