"""A method and a benchmark of another package, one file each: every command knows them while it is installed."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from tests.support.paths import ROOT
from tests.support.plugins import install
from tests.support.prefect_api import shared_api

METHOD = '''
"""Agreement: a second model is asked too, and the strongest one only where the two do not say the same."""

from dataclasses import replace
from functools import partial

from r2.answering.allocation import Choice
from r2.answering.protocol import concluded
from r2.answering.route import solver_call
from r2.methods.direct_step import ask_step, open_step, result_of
from r2.methods.expected import UNSURE_SHARE, whole_question
from r2.methods.record import Method


def _models(router):
    return router.roster.cheapest, router.roster.middle, router.roster.strongest


def agree(problem, router, outcome, budget):
    step = open_step(outcome, Choice(_models(router)[0], {}))
    texts = []
    for model in _models(router):
        call = solver_call(problem, router, model, None, {}, "solve")
        call = replace(call, subtask_index=0, sample_index=step.n_asks)
        completion = yield from ask_step(problem, call, outcome, budget)
        if step.text in texts:
            break
        texts.append(step.text)
    return result_of(step, completion)


def _expects(router):
    return [whole_question(router, model, n) for model, n in zip(_models(router), (1, 1, UNSURE_SHARE), strict=True)]


METHOD = Method(
    name="agree",
    summary="two models, a third where they differ",
    run=partial(concluded, agree),
    expects=_expects,
    assumes="two models differ on 30% of the questions",
    routes=True,
)
'''

BENCHMARK = '''
"""Products of two digits. An answer is right by the question alone: the target says only that there is one."""

import random
import re

from r2.plan import Plan
from r2.problem import Problem
from r2.problems.checks import last_number, no_number
from r2.problems.record import Benchmark


def _product(question):
    left, right = map(int, re.findall(r"\\d+", question))
    return left * right


def generate(source, n, seed):
    source.only()
    chance = random.Random(seed)
    for i in range(n):
        left, right = chance.randint(12, 99), chance.randint(2, 9)
        question = f"What is {left} * {right}?"
        yield Problem(f"table-{seed}-{i}", question, i, "the product", "times_table")


BENCHMARK = Benchmark(
    name="times_table",
    is_correct=lambda problem, answer: last_number(answer) == _product(problem.question),
    malformed=no_number,
    answer_tokens=24,
    generate=generate,
    gold_plan=lambda question: (Plan(), [str(_product(question))]),
)
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages with the one that has both."""
    return install(
        tmp_path_factory.mktemp("site"),
        "r2-extras",
        {"r2_extras/agree.py": METHOD, "r2_extras/times_table.py": BENCHMARK},
        {
            "r2.methods": "agree = r2_extras.agree:METHOD",
            "r2.benchmarks": "times_table = r2_extras.times_table:BENCHMARK",
        },
    )


@pytest.fixture(scope="module", autouse=True)
def api() -> Iterator[None]:
    """The commands find it by the variable."""
    with shared_api(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
        yield


def r2(folder: Path, site: Path | None, *arguments: str, code: int = 0) -> str:
    """What `r2 ARGUMENTS` prints, stdout and stderr together, where it ends with this exit code."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*([str(site)] if site else []), str(ROOT)]),
        "R2_STATE_DIR": str(folder / "state"),
        "COLUMNS": "200",
    }
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a question file and a pool of simulated models that answer at once."""
    folder = tmp_path_factory.mktemp("work")
    rows = [
        {"id": str(n), "question": f"What is {n} * 7?", "answer": "the product", "benchmark": "times_table"}
        for n in (12, 34, 56)
    ]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    text = (ROOT / "pools/simulated.toml").read_text("utf-8")
    text = re.sub(r"ttft_s = [\d.]+, tokens_per_s = \d+", "ttft_s = 0.0, tokens_per_s = 1e9", text)
    (folder / "pool.toml").write_text(text, "utf-8")
    return folder


def on_questions(folder: Path, method: str, *more: str) -> tuple[str, ...]:
    where = ("--pool", str(folder / "pool.toml"), "--lake", str(folder / "lake"))
    return ("answer", str(folder / "q.jsonl"), "--method", method, *where, *more)


def on_benchmark(folder: Path, *more: str) -> tuple[str, ...]:
    where = ("--pool", str(folder / "pool.toml"), "--lake", str(folder / "lake"))
    rows = "direct:sim-0.6b,direct:sim-400b,agree"
    return ("evaluate", "--problems", "times_table", "--limit", "20", "--methods", rows, *where, *more)


def test_help_names_both(folder: Path, site: Path):
    text = r2(folder, site, "answer", "--help")
    assert "agree" in text
    assert "times_table" in text
    assert "times_table" in r2(folder, site, "evaluate", "--help")


def test_a_dry_run_says_what_the_method_expects(folder: Path, site: Path):
    text = r2(folder, site, *on_questions(folder, "agree", "--dry-run"))
    assert "3 questions" in text
    assert "two models differ on 30% of the questions" in text
    # Each of the cheapest and the middle one is asked three times, the strongest once.
    assert re.findall(r"solve\W+(sim-\S+)\W+(\d+)", text) == [("sim-0.6b", "3"), ("sim-14b", "3"), ("sim-400b", "1")]
    text = r2(folder, site, *on_benchmark(folder, "--dry-run"))
    assert re.search(r"agree: \d runs on dev, 1 on test problems", text)


def test_a_run_is_answered_by_it_and_judged_by_the_benchmark_and_reported(folder: Path, site: Path):
    text = r2(folder, site, *on_questions(folder, "agree"))
    [run_id] = re.findall(r"run (agree-[0-9a-f]{12})", text)
    # "the product" is the target of each: only the benchmark's own check can call 84 right.
    assert re.search(r"accuracy\W+100\.0%", text)
    page = r2(folder, site, "report", run_id, "--lake", str(folder / "lake")).strip()
    assert "agree" in Path(page).read_text("utf-8")


def test_an_evaluation_compares_it_on_generated_problems_and_its_report_shows_it(folder: Path, site: Path):
    text = r2(folder, site, *on_benchmark(folder))
    [(accuracy,)] = [
        re.findall(r"([\d.]+)%", line)[:1] for line in text.splitlines() if line.strip().startswith("agree")
    ]
    assert float(accuracy) > 50
    assert "steps of the gold plan" in text
    said = r2(folder, site, "report", "--lake", str(folder / "lake")).split()
    page = Path(said[-1]).read_text("utf-8")
    assert "agree" in page


def test_without_the_package_the_known_ones_are_listed(folder: Path):
    text = r2(folder, None, *on_questions(folder, "agree"), code=2)
    assert text.startswith("r2: starting ...\nr2: method 'agree': no such method. Known: r2, cot, ")
    text = r2(folder, None, *on_benchmark(folder, "--dry-run"), code=2)
    assert text.startswith("r2: --problems times_table: no such benchmark. Known: arithmetic, word_problem, scan, ")


def test_a_package_that_cannot_be_used_is_named_in_one_message(folder: Path, tmp_path: Path):
    site = install(tmp_path, "r2-broken", {"r2_broken.py": "import nowhere"}, {"r2.methods": "odd = r2_broken:METHOD"})
    text = r2(folder, site, *on_questions(folder, "cot", "--dry-run"), code=2)
    assert text.startswith(
        "r2: odd = 'r2_broken:METHOD' in group r2.methods of the package r2-broken 1.0 cannot be used"
    )
    assert "No module named 'nowhere'" in text
    assert "Traceback" not in text
    assert "odd" in r2(folder, site, "answer", "--help"), "help imports nothing of it"
