"""Evaluations: dev problems choose and test problems decide, identical calls are paid once, and a recording gives the
same table."""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.evaluate_methods import evaluate_methods
from r2.call import Call, Completion
from r2.errors import ConfigError
from r2.evaluation.operating_points import OperatingPoint, choose_point, constants_of, variants_of
from r2.evaluation.settings import EvaluateSettings, band, gold_steps, is_dev, split, terciles
from r2.pool.file.config import load_pool
from r2.problem import Problem
from r2.problems import arithmetic, scan, words
from r2.problems.split import split_of
from r2.roster import ModelCard, Roster
from storage.evaluations.problems import evaluated_problems
from storage.evaluations.recording import record_evaluation
from storage.evaluations.rescore import rescore
from storage.evaluations.store import read_comparison, read_evaluation
from storage.lake.lake import Lake
from storage.runs.journal import Journal
from storage.sql.query import connect
from tasks.evaluation.finished import EvaluationResult, finished_evaluation
from tasks.evaluation.shared_calls import SharedCalls, paid
from tests.support.paths import ROOT
from tests.support.prefect_api import shared_api
from tests.support.prefect_sockets import LEAVES_SOCKETS
from tests.support.scripted import CHEAP, DEAR, completion

SIMULATED = ROOT / "pools/simulated.toml"
METHODS = (
    "direct:sim-0.6b",
    "direct:sim-8b",
    "direct:sim-400b",
    "cot:sim-4b",
    "datashunt",
    "query_router",
    "random",
    "r2",
)
pytestmark = LEAVES_SOCKETS


# What is declared and chosen, without a call.


def point(value: float, accuracy: float, cost_usd: float) -> OperatingPoint:
    return OperatingPoint(value, accuracy, cost_usd)


def test_the_cheapest_point_within_the_margin_of_the_best_constant_is_chosen():
    points = [point(0.0, 0.70, 1.0), point(0.5, 0.88, 2.0), point(0.9, 0.91, 3.0)]
    constants = [point(0, 0.60, 0.5), point(0, 0.90, 4.0)]
    assert choose_point(points, constants, margin=0.02, cost_weight=0.1).value == 0.5
    assert choose_point(points, constants, margin=0.01, cost_weight=0.1).value == 0.9
    assert choose_point(points, constants, margin=0.02, cost_weight=0.1).rule == "cheapest as good as the best constant"


def test_where_no_point_is_as_good_the_highest_utility_is_chosen():
    # Costs count in units of the dearest constant's 4: 0.70 - 0.1 * 1/4 = 0.675; 0.75 - 0.1 * 4/4 = 0.65.
    points = [point(0.0, 0.70, 1.0), point(0.5, 0.75, 4.0)]
    chosen = choose_point(points, [point(0, 0.95, 4.0)], margin=0.02, cost_weight=0.1)
    assert (chosen.value, chosen.rule) == (0.0, "highest utility")
    assert choose_point(points, [point(0, 0.95, 4.0)], margin=0.02, cost_weight=0.01).value == 0.5


def test_the_side_of_a_question_depends_on_its_words_alone_and_not_on_the_training_split():
    problems = [Problem(str(i), f"What is {i} + {i}?", i, str(2 * i)) for i in range(2000)]
    dev, test = split(problems, split_seed=0, dev_share=0.3)
    assert len(dev) == pytest.approx(600, abs=60)
    assert [p.problem_id for p in test] == [p.problem_id for p in problems if p not in dev], "in input order"
    assert is_dev("WHAT is 1  + 1", 0, 0.3) == is_dev("What is 1 + 1?", 0, 0.3)
    assert [is_dev(p.question, 1, 0.3) for p in problems] != [is_dev(p.question, 0, 0.3) for p in problems]
    held_out = [p for p in problems if split_of(p.question, 0, 0.1) == "test"]
    assert sum(is_dev(p.question, 0, 0.3) for p in held_out) == pytest.approx(0.3 * len(held_out), abs=20)


def test_a_side_without_problems_is_an_error():
    with pytest.raises(ConfigError, match="one side of the split is empty"):
        split([Problem("a", "only one")], 0, 0.3)


def test_difficulty_is_the_number_of_gold_steps():
    assert gold_steps(Problem("a", "walk left", 0, "", "scan")) == 0
    assert gold_steps(Problem("b", "jump twice and walk left", 0, "", "scan")) == 4  # jump, repeat, walk left, join
    assert gold_steps(Problem("c", "What is 3 + 4 * 5?", 0, "", "arithmetic")) == 2
    assert gold_steps(Problem("d", "What is love?", 0, "", "arithmetic")) is None
    assert gold_steps(Problem("e", "Who wrote Faust?", 0, "", "musique")) is None
    assert [band(n) for n in (0, 1, 2, 3, 4, 9)] == ["easy", "easy", "medium", "medium", "hard", "hard"]


def test_without_gold_plans_difficulty_is_thirds_by_how_many_constants_are_right():
    shares = {"a": 1.0, "b": 0.75, "c": 0.5, "d": 0.5, "e": 0.25, "f": 0.0}
    assert terciles(shares) == {"a": "easy", "b": "easy", "c": "medium", "d": "medium", "e": "hard", "f": "hard"}
    assert set(terciles(dict.fromkeys("abcdef", 1.0)).values()) == {"medium"}, "equally hard is one group"


def test_constants_are_every_solver_in_its_own_mode_and_thinking_step_by_step_each_once():
    roster = Roster(
        [
            ModelCard("small", "small", CHEAP, weights="s"),
            ModelCard("small-cot", "small", DEAR, prompt_mode="cot", weights="s"),
            ModelCard("tuned", "small", CHEAP, prompt_mode="bare", weights="t"),
            ModelCard("large", "large", DEAR, weights="l"),
        ]
    )
    rows = constants_of(EvaluateSettings(methods=("r2",)), roster)
    assert [row.name for row in rows] == ["direct small", "direct tuned", "direct large", "cot small-cot", "cot large"]
    assert rows[0].reasoning.mix == {"small": 1.0}
    assert [row.reasoning.model for row in rows[3:]] == ["small-cot", "large"]


def test_a_chain_of_thought_is_billed_at_the_price_of_the_entry_that_thinks_step_by_step():
    roster = Roster(
        [
            ModelCard("small", "small", DEAR, weights="s"),
            ModelCard("small-cot", "small", CHEAP, prompt_mode="cot", weights="s"),
            ModelCard("large", "large", DEAR, weights="l"),
            ModelCard("large-cot", "large", CHEAP, prompt_mode="cot", weights="l", is_solver=False),
        ]
    )
    [named] = constants_of(EvaluateSettings(methods=("cot:small",)), roster)
    assert (named.name, named.reasoning.model) == ("cot small", "small-cot")
    rows = {row.name: row.reasoning.model for row in constants_of(EvaluateSettings(methods=("cot",)), roster)}
    assert rows == {"cot small-cot": "small-cot", "cot large": "large-cot"}, "who is no solver has no row of its own"


@pytest.mark.parametrize("pool", ["specialists", "no_scan"])
def test_the_shipped_pools_bill_chains_of_thought_at_the_measured_prices(pool: str):
    measured = load_pool(ROOT / "pools" / "local.toml")
    roster = load_pool(ROOT / "pools" / f"{pool}.toml").roster()
    rows = {row.name: row for row in constants_of(EvaluateSettings(methods=("cot",)), roster)}
    assert list(rows) == ["cot smollm-135m", "cot qwen-0.5b", "cot qwen-1.5b"]
    for name in ("qwen-0.5b", "qwen-1.5b"):
        asked = rows[f"cot {name}"].reasoning.model
        assert asked == f"{name}-cot"
        assert roster[asked].price == measured.price(asked)
        assert roster[name].price == measured.price(name)
    assert not [card.name for card in roster.solvers if card.prompt_mode == "cot"], "the allocator was trained without"


def test_every_router_is_a_row_and_b_is_tried_only_where_the_allocator_gives_log_probabilities():
    roster = Roster([ModelCard("a", "small", CHEAP, has_logprobs=True), ModelCard("b", "large", DEAR)])
    settings = EvaluateSettings(methods=("datashunt", "r2"), routers=("sure=a:a", "blind=b:b"), b=(0.0, 0.2))
    rows = {row.name: row for row in variants_of(settings, roster, "a", "a")}
    assert list(rows) == ["datashunt", "sure", "blind"]
    assert (rows["sure"].values, rows["blind"].values) == ((0.0, 0.2), (0.0,))
    assert rows["sure"].at(0.2).b == 0.2
    with pytest.raises(ConfigError, match="no such method"):
        variants_of(EvaluateSettings(methods=("alchemy",)), roster, "a", "a")
    with pytest.raises(ConfigError, match="not in the pool"):
        variants_of(EvaluateSettings(methods=("r2",), routers=("x=a:nobody",)), roster, "a", "a")


def test_only_problems_that_training_has_not_seen_are_evaluated_where_that_is_asked():
    settings = EvaluateSettings(problems=("scan",), limit=30, held_out=0.2)
    found = evaluated_problems(settings)
    everything = [*found.dev, *found.test]
    assert len(everything) == 30
    assert {split_of(p.question, 0, 0.2) for p in everything} == {"test"}


class Scripted:
    """A client that answers every call after a turn of the loop, and counts what it sent."""

    spent_usd = 0.0

    def __init__(self) -> None:
        self.sent: list[Call] = []

    async def complete(self, call: Call, *, problem_id: str, journal: object) -> Completion:
        self.sent.append(call)
        await asyncio.sleep(0)
        answer = completion(f"answer {len(self.sent)}", "small")
        await journal.commit("its own key", answer.to_bytes())  # type: ignore[attr-defined]
        return answer


def test_identical_calls_are_sent_once_while_on_their_way_and_ever_after(tmp_path: Path):
    pool = load_pool(SIMULATED)
    call = Call("sim-8b", (("user", "2 + 2"),), "solve", 16)

    async def ask(client: Scripted, payer: str) -> list[Completion]:
        with Journal.open(tmp_path / "calls.journal") as journal:
            shared = SharedCalls(client, pool, journal, payer)  # type: ignore[arg-type]
            both = await asyncio.gather(
                shared.complete(call, problem_id="a"), shared.complete(replace(call, purpose="final"), problem_id="b")
            )
            third = await shared.complete(call, problem_id="c")
            other = await shared.complete(replace(call, model="sim-4b"), problem_id="c")
            return [*both, third, other]

    first, later = Scripted(), Scripted()
    answers = asyncio.run(ask(first, "evaluation-one"))
    assert [answer.text for answer in answers] == ["answer 1", "answer 1", "answer 1", "answer 2"]
    assert len({answer.cost_usd for answer in answers}) == 1, "each is charged what the call costs"
    assert [answer.text for answer in asyncio.run(ask(later, "evaluation-two"))] == [answer.text for answer in answers]
    assert (len(first.sent), len(later.sent)) == (2, 0)
    with Journal.open(tmp_path / "calls.journal") as journal:
        assert paid(journal, "evaluation-one") == (pytest.approx(2 * answers[0].cost_usd), 2)
        assert paid(journal, "evaluation-two") == (0, 0)


# Whole evaluations on simulated models that answer at once.


@pytest.fixture(scope="module")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["R2_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))
    with shared_api():
        yield


@pytest.fixture(scope="module")
def swift_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = SIMULATED.read_text("utf-8")
    text = re.sub(r"ttft_s = [\d.]+, tokens_per_s = \d+", "ttft_s = 0.0, tokens_per_s = 1e9", text)
    path = tmp_path_factory.mktemp("pool") / "swift.toml"
    path.write_text(text, "utf-8")
    return path


def write_problems(path: Path, n: int, wrong: frozenset[str] = frozenset()) -> list[Problem]:
    problems = [*arithmetic.generate(n, 1), *scan.generate(n, 1), *words.generate(n, 1)]
    with path.open("w", encoding="utf-8") as file:
        for p in problems:
            answer = "31337" if p.problem_id in wrong else p.target
            file.write(
                json.dumps({"id": p.problem_id, "question": p.question, "answer": answer, "benchmark": p.benchmark})
                + "\n"
            )
    return problems


def settings_in(folder: Path, pool: Path | str, **settings: object) -> EvaluateSettings:
    chosen = {
        "problems": [f"file:{folder / 'q.jsonl'}"],
        "pool": str(pool),
        "lake": str(folder / "lake"),
        "methods": METHODS,
        "dev_share": 0.4,
        "b": (0.0, 0.4),
        **settings,
    }
    return EvaluateSettings.model_validate(chosen)


def run(folder: Path, pool: Path | str, **settings: object) -> EvaluationResult:
    return asyncio.run(evaluate_methods(settings_in(folder, pool, **settings)))


@pytest.fixture(scope="module")
def evaluated(
    prefect_api: None, swift_pool: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, EvaluationResult]:
    folder = tmp_path_factory.mktemp("evaluated")
    write_problems(folder / "q.jsonl", 10)
    return folder, run(folder, swift_pool)


def distinct_call_cost(lake: Path) -> float:
    with connect(lake) as db:
        [(usd,)] = db.execute(
            "select sum(cost_usd) from (select request_sha, any_value(cost_usd) cost_usd from calls group by 1)"
        ).fetchall()
    return float(usd)


def test_all_methods_are_compared_on_the_same_test_problems(evaluated: tuple[Path, EvaluationResult]):
    folder, result = evaluated
    evaluation, comparison = result.evaluation, result.comparison
    assert comparison is not None
    assert evaluation.status == "completed"
    assert [m.label for m in comparison.methods] == [
        "direct sim-0.6b",
        "direct sim-8b",
        "direct sim-400b",
        "cot sim-4b",
        "datashunt",
        "query_router",
        "random",
        "r2",
    ]
    assert comparison.subject == "r2"
    assert evaluation.n_dev + evaluation.n_test == 30
    assert comparison.n_problems == evaluation.n_test
    assert sum(comparison.n_by_difficulty.values()) == evaluation.n_test
    assert evaluation.verdict.endswith(f"n = {evaluation.n_test} problems.") or "problems)" in evaluation.verdict
    assert comparison["direct sim-400b"].accuracy.value > comparison["direct sim-0.6b"].accuracy.value
    by_name = {row.name: row for row in evaluation.rows}
    assert [p.value for p in by_name["r2"].dev] == [0.0, 0.4]
    assert by_name["r2"].value in (0.0, 0.4)
    assert by_name["random"].reasoning["random_level"] == "subtask"
    assert read_evaluation(folder / "lake", evaluation.evaluation_id) == evaluation
    assert read_comparison(folder / "lake", evaluation.evaluation_id) == comparison
    labels = [m.label for m in read_comparison(folder / "lake", evaluation.evaluation_id, "dev").methods]
    assert "datashunt threshold=0.8" in labels and "r2 b=0.4" in labels


def test_every_method_is_charged_its_calls_and_what_was_paid_is_counted_once(evaluated: tuple[Path, EvaluationResult]):
    folder, result = evaluated
    evaluation = result.evaluation
    assert evaluation.paid_usd == pytest.approx(distinct_call_cost(folder / "lake"))
    assert result.session_paid_usd == pytest.approx(evaluation.paid_usd)
    assert evaluation.paid_usd < 0.9 * evaluation.charged_usd
    assert evaluation.n_calls_paid < evaluation.n_calls_charged
    with connect(folder / "lake") as db:
        for view in ("reconcile_cost", "reconcile_tokens", "reconcile_counts", "reconcile_duplicates"):
            assert db.execute(f"from {view}").fetchall() == []
        assert db.execute("select distinct kind, status from runs").fetchall() == [("evaluate", "completed")]
        # A request that two methods made has the same price, and the same answer, in the rows of both.
        assert db.execute(
            "select count(*) from (select request_sha from calls group by 1 having count(distinct (cost_usd, "
            "output_text)) > 1)"
        ).fetchall() == [(0,)]


def test_a_finished_evaluation_is_told_as_it_was_stored_until_something_else_is_asked_of_it(
    evaluated: tuple[Path, EvaluationResult], swift_pool: Path, tmp_path: Path
):
    folder, result = evaluated
    told = finished_evaluation(settings_in(folder, swift_pool, max_cost_usd=1.0, methods_in_flight=2))
    assert told == replace(result, session_paid_usd=0.0)
    for changed in ({"methods": METHODS[:-1]}, {"subject": METHODS[0]}, {"seeds": 2}, {"limit": 9}):
        assert finished_evaluation(settings_in(folder, swift_pool, **changed)) is None
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    moved = settings_in(folder, swift_pool, lake=str(copied / "lake"))
    assert finished_evaluation(moved) is not None, "the lake may lie elsewhere"
    run_id = result.evaluation.runs()[-1]
    shutil.rmtree(copied / "lake" / "_runs" / run_id)
    assert finished_evaluation(moved) is None, "a run is gone"


def test_a_finished_evaluation_is_only_read_and_a_further_method_pays_only_for_new_calls(
    evaluated: tuple[Path, EvaluationResult], swift_pool: Path, tmp_path: Path
):
    folder, result = evaluated
    stored = folder / "lake" / "_evaluations" / result.evaluation.evaluation_id / "test.jsonl"
    questions = [json.loads(line)["question"] for line in stored.read_text("utf-8").splitlines()]
    write_labels(tmp_path, [(questions[0], "train"), (questions[1], "test"), ("What is never asked?", "train")])
    again = run(folder, swift_pool, train_labels=str(tmp_path))
    assert again.session_paid_usd == 0
    assert again.comparison == result.comparison
    leaks = again.evaluation.leaks
    assert leaks is not None, "the training questions that are looked for are those of its split train"
    assert (leaks.n_train, leaks.n_evaluation, leaks.n_same, leaks.n_near) == (2, result.evaluation.n_test, 1, 0)
    more = run(folder, swift_pool, methods=(*METHODS, "decompose_one"))
    assert more.evaluation.evaluation_id == result.evaluation.evaluation_id
    assert more.session_paid_usd > 0
    assert more.evaluation.paid_usd == pytest.approx(distinct_call_cost(folder / "lake"))
    # The decomposer's calls were made for r2: only those to the one model are new.
    with connect(folder / "lake") as db:
        [(new,)] = db.execute(
            "select sum(cost_usd) from calls where run_id like 'decompose_one-%' and purpose != 'decompose'"
        ).fetchall()
    assert more.session_paid_usd <= new + 1e-12


def write_labels(folder: Path, questions: list[tuple[str, str]]) -> None:
    rows = [
        {
            "prompt": [{"role": "system", "content": "plan"}, {"role": "user", "content": f"Question: {q}"}],
            "split": side,
        }
        for q, side in questions
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "decomposer.parquet")


def test_a_budget_stops_it_and_going_on_pays_nothing_twice(prefect_api: None, swift_pool: Path, tmp_path: Path):
    write_problems(tmp_path / "q.jsonl", 6)
    few = ("direct:sim-0.6b", "direct:sim-400b", "datashunt", "r2")
    stopped = run(tmp_path, swift_pool, methods=few, seeds=2, max_cost_usd=0.0004)
    assert stopped.evaluation.status == "budget_stopped"
    assert "r2" in stopped.evaluation.unfinished
    assert 0 < stopped.evaluation.paid_usd <= 0.0004
    ended = run(tmp_path, swift_pool, methods=few, seeds=2)
    assert (ended.evaluation.status, ended.evaluation.unfinished) == ("completed", ())
    assert ended.comparison is not None
    assert {m.n_seeds for m in ended.comparison.methods} == {2}
    assert ended.session_paid_usd == pytest.approx(ended.evaluation.paid_usd - stopped.evaluation.paid_usd)
    assert ended.evaluation.paid_usd == pytest.approx(distinct_call_cost(tmp_path / "lake"))


def test_a_recording_gives_the_same_table_without_a_call(evaluated: tuple[Path, EvaluationResult], tmp_path: Path):
    folder, result = evaluated
    recording = tmp_path / "e.jsonl.gz"
    n_calls = record_evaluation(Lake(folder / "lake"), result.evaluation.evaluation_id, recording)
    assert n_calls >= result.evaluation.n_calls_paid
    assert recording.stat().st_size < 100_000
    outcome = CliRunner().invoke(
        app,
        [
            "evaluate",
            "--pool",
            f"recording:{recording}",
            "--lake",
            str(tmp_path / "lake"),
            "--methods",
            ",".join(METHODS),
        ],
    )
    assert outcome.exit_code == 0, outcome.output
    assert "paid 0.000000 USD for 0" in outcome.output
    [replayed] = (tmp_path / "lake" / "_evaluations").glob("evaluation-*")
    assert read_comparison(tmp_path / "lake", replayed.name) == result.comparison
    assert read_evaluation(tmp_path / "lake", replayed.name).charged_usd == pytest.approx(result.evaluation.charged_usd)


def test_thresholds_come_from_dev_problems_alone(evaluated: tuple[Path, EvaluationResult], swift_pool: Path):
    folder, result = evaluated
    problems = write_problems(folder / "q.jsonl", 10)
    of_test = frozenset(p.problem_id for p in problems if not is_dev(p.question, 0, 0.4))
    assert len(of_test) == result.evaluation.n_test
    write_problems(folder / "q.jsonl", 10, wrong=of_test)
    changed = run(folder, swift_pool)
    write_problems(folder / "q.jsonl", 10)
    assert changed.session_paid_usd == 0, "the questions are the same"

    def chosen(one: EvaluationResult) -> list[tuple[object, ...]]:
        return [
            (row.name, row.value, row.rule, [(p.value, p.accuracy) for p in row.dev]) for row in one.evaluation.rows
        ]

    assert chosen(changed) == chosen(result)
    assert changed.comparison is not None and result.comparison is not None
    assert changed.comparison["direct sim-400b"].accuracy.value == 0
    assert result.comparison["direct sim-400b"].accuracy.value > 0.5


def test_an_evaluation_is_scored_again_under_doubled_prices(evaluated: tuple[Path, EvaluationResult]):
    folder, result = evaluated
    doubled = Roster(
        replace(
            card,
            price=replace(p := card.price, input=2 * p.input, cached_input=2 * p.cached_input, output=2 * p.output),
        )
        for card in load_pool(SIMULATED).roster().by_name.values()
    )
    done = rescore(Lake(folder / "lake"), result.evaluation.evaluation_id, prices=doubled)
    assert done.changed() == []
    assert done.old is not None and done.new is not None
    for old in done.old.methods:
        assert done.new[old.label].usd_per_1k.value == pytest.approx(2 * old.usd_per_1k.value)
        assert done.new[old.label].accuracy == old.accuracy


def test_a_dry_run_says_what_it_would_cost_at_most_and_asks_nobody(swift_pool: Path, tmp_path: Path):
    write_problems(tmp_path / "q.jsonl", 10)
    outcome = CliRunner().invoke(
        app,
        [
            "evaluate",
            "--dry-run",
            "--problems",
            f"file:{tmp_path / 'q.jsonl'}",
            "--pool",
            str(swift_pool),
            "--lake",
            str(tmp_path / "lake"),
        ],
    )
    assert outcome.exit_code == 0, outcome.output
    assert "r2: 5 runs on dev, 1 on test problems" in outcome.output
    assert "upper estimate" in outcome.output
    assert not (tmp_path / "lake").exists()
