"""A whole evaluation of the strongest simple rules on simulated models, one of which writes programs: what dev problems
chose is asked on test problems, calls are shared, and the last word says which rule wins."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.options import rows_of
from flows.evaluate_methods import evaluate_methods
from r2.evaluation.settings import EvaluateSettings
from r2.problems import arithmetic, words
from storage.evaluations.recording import record_evaluation
from storage.evaluations.store import read_comparison
from storage.lake.lake import Lake
from storage.sql.query import connect
from tasks.evaluation.finished import EvaluationResult, finished_evaluation
from tests.support.paths import ROOT
from tests.support.prefect_api import shared_api
from tests.support.prefect_sockets import LEAVES_SOCKETS

pytestmark = [*LEAVES_SOCKETS, pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")]
METHODS = (
    "direct:sim-0.6b",
    "direct:sim-8b",
    "cot:sim-8b",
    "start:sim-0.6b",
    "start_steps:sim-0.6b",
    "rule:benchmark",
    "decompose_one:sim-1.7b",
    "agreement_cascade",
    "confidence_cascade",
    "self_consistency:sim-1.7b,3",
    "few_shot:sim-1.7b",
    "query_router",
    "r2",
)
KEPT = ("sim-0.6b", "sim-1.7b", "sim-4b", "sim-8b")


@pytest.fixture(scope="module")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["R2_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))
    with shared_api():
        yield


@pytest.fixture(scope="module")
def evaluated(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluateSettings, EvaluationResult]:
    """Four solvers; sim-1.7b writes programs."""
    folder = tmp_path_factory.mktemp("opponents")
    text = (ROOT / "pools" / "simulated.toml").read_text("utf-8")
    text = re.sub(r"ttft_s = [\d.]+, tokens_per_s = \d+", "ttft_s = 0.0, tokens_per_s = 1e9", text)
    head, *entries = re.split(r"(?=^\[models\.)", text, flags=re.MULTILINE)
    kept = [entry for entry in entries if entry.partition('"')[2].partition('"')[0] in KEPT]
    pool = folder / "pool.toml"
    pool.write_text(
        "".join([head, *kept]).replace('[models."sim-1.7b"]', '[models."sim-1.7b"]\nprompt_mode = "program"')
    )
    problems = [*arithmetic.generate(12, 3), *words.generate(12, 3)]
    (folder / "q.jsonl").write_text(
        "".join(
            json.dumps({"id": p.problem_id, "question": p.question, "answer": p.target, "benchmark": p.benchmark})
            + "\n"
            for p in problems
        )
    )
    settings = EvaluateSettings.model_validate(
        {
            "problems": [f"file:{folder / 'q.jsonl'}"],
            "pool": str(pool),
            "lake": str(folder / "lake"),
            "methods": METHODS,
            "dev_share": 0.4,
            "b": (0.0,),
        }
    )
    return settings, asyncio.run(evaluate_methods(settings))


def test_every_rule_has_a_row_and_dev_problems_chose_what_it_does(
    evaluated: tuple[EvaluateSettings, EvaluationResult],
):
    _, result = evaluated
    rows = {row.name: row for row in result.evaluation.rows}
    assert result.evaluation.status == "completed"
    assert result.comparison is not None
    assert {m.label for m in result.comparison.methods} == set(rows)
    assert set(rows["rule"].reasoning["by_benchmark"]) == {"arithmetic", "word_problem", ""}
    for cascade in ("agreement_cascade", "confidence_cascade"):
        chain = rows[cascade].reasoning["chain"]
        assert set(chain) <= set(KEPT)
        assert rows[cascade].rule.startswith(" > ".join(chain))
        assert [point.value for point in rows[cascade].dev] == [None]
    assert rows["start sim-0.6b"].value in (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
    examples = rows["few_shot sim-1.7b"].reasoning["examples"]
    assert {one["benchmark"] for one in examples} <= {"arithmetic", "word_problem"}
    assert all(one["asked"].startswith("Question: ") and one["reply"] for one in examples)
    assert rows["self_consistency sim-1.7b k=3"].reasoning["n_samples"] == 3


def test_what_a_cascade_did_on_dev_problems_is_what_it_does_when_it_is_run(
    evaluated: tuple[EvaluateSettings, EvaluationResult],
):
    """Its test run is charged at most what its models cost together, and no model outside its chain is asked."""
    settings, result = evaluated
    rows = {row.name: row for row in result.evaluation.rows}
    with connect(Path(settings.lake)) as db:
        for cascade in ("agreement_cascade", "confidence_cascade"):
            asked = db.execute(
                "select distinct request_model from calls where list_contains(?, run_id) and purpose = 'solve'",
                [list(rows[cascade].test_runs)],
            ).fetchall()
            assert {model for (model,) in asked} <= set(rows[cascade].reasoning["chain"])


def test_programs_are_run_charged_by_the_second_and_once_for_all_methods(
    evaluated: tuple[EvaluateSettings, EvaluationResult],
):
    settings, result = evaluated
    rows = {row.name: row for row in result.evaluation.rows}
    with connect(Path(settings.lake)) as db:
        runs = list(rows["self_consistency sim-1.7b k=3"].test_runs)
        [(n_programs, usd, n_tokens)] = db.execute(
            "select count(*), sum(cost_usd), sum(input_tokens + output_tokens) from calls where list_contains(?, "
            "run_id) and purpose = 'program'",
            [runs],
        ).fetchall()
        assert n_programs == 3 * result.evaluation.n_test
        assert usd > 0
        assert n_tokens == 0
        wrong = "select count(*) from (select request_sha from calls where purpose = 'program' group by 1 having count("
        assert db.execute(wrong + "distinct cost_usd) > 1)").fetchall() == [(0,)]
        for view in ("reconcile_cost", "reconcile_tokens", "reconcile_counts", "reconcile_duplicates"):
            assert db.execute(f"from {view}").fetchall() == []
    shares = read_comparison(Path(settings.lake), result.evaluation.evaluation_id)["self_consistency sim-1.7b k=3"]
    assert shares.model_shares == {"sim-1.7b": 1.0}


def test_the_report_and_the_command_say_both_references_and_which_rule_wins(
    evaluated: tuple[EvaluateSettings, EvaluationResult], tmp_path: Path
):
    settings, result = evaluated
    comparison = result.comparison
    assert comparison is not None
    done = finished_evaluation(settings)
    assert done is not None, "nothing is left to ask"
    out = tmp_path / "report.html"
    shown = CliRunner().invoke(
        app, ["report", result.evaluation.evaluation_id, "--lake", settings.lake, "--out", str(out)]
    )
    assert shown.exit_code == 0, shown.output
    page = out.read_text("utf-8")
    assert "confidence_cascade" in page
    if comparison.cheap_constant != comparison.best_constant:
        assert f"Against {comparison.cheap_constant}, the cheapest constant within 2 points" in page
    from flows.cli.evaluate import print_result

    assert print_result(done) == 0


def test_a_recording_gives_the_same_figures_programs_and_choices_included(
    evaluated: tuple[EvaluateSettings, EvaluationResult], tmp_path: Path
):
    settings, result = evaluated
    recording = tmp_path / "e.jsonl.gz"
    record_evaluation(Lake(Path(settings.lake)), result.evaluation.evaluation_id, recording)
    again = settings.model_copy(update={"pool": f"recording:{recording}", "lake": str(tmp_path / "lake")})
    replayed = asyncio.run(evaluate_methods(again))
    assert replayed.comparison is not None and result.comparison is not None
    for label in (m.label for m in result.comparison.methods):
        assert replayed.comparison[label] == result.comparison[label], label
    assert replayed.comparison == result.comparison
    assert replayed.session_paid_usd == 0
    chosen = {row.name: row.rule for row in result.evaluation.rows}
    assert {row.name: row.rule for row in replayed.evaluation.rows} == chosen


def test_rows_with_a_model_and_a_number_are_one_name():
    assert rows_of("direct,self_consistency:small,7,r2") == ("direct", "self_consistency:small,7", "r2")
    assert rows_of(None) is None
