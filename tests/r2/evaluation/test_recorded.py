"""Methods on recorded answers: what a policy may see, what it is fitted on, and the figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from r2.answering.counts import CountedBeliefs
from r2.errors import ConfigError
from r2.evaluation.cascades import agreement_cascades, cheapest_reaching
from r2.evaluation.recorded.admissible import check_table, check_test, without_known
from r2.evaluation.recorded.comparison import RecordedComparison, compared, from_json, to_json, where_a_rule_wins
from r2.evaluation.recorded.counted import CountedPlan, arms_of
from r2.evaluation.recorded.crossfit import (
    AS_CASCADE,
    AS_CONSTANT,
    aim_of,
    choose,
    cross_fitted,
    folds_of,
    on_test_rows,
)
from r2.evaluation.recorded.fixed import constant
from r2.evaluation.recorded.method import TableMethod, cost_ref_of
from r2.evaluation.recorded.playing import play
from r2.evaluation.recorded.table import OutcomeTable, Question, Replies
from r2.problem import Problem
from r2.training.recorded_methods import recorded_methods
from storage.sources.outcome_tables import read_outcome_table
from tests.support.recorded import MODELS, recorded_rows, write_rows


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> OutcomeTable:
    path = tmp_path_factory.mktemp("recorded") / "sums.jsonl"
    write_rows(path, recorded_rows())
    return read_outcome_table(path)


def small() -> OutcomeTable:
    """Two models, four questions, by hand."""
    problems = tuple(Problem(f"q{i}", f"question {i}", i, target="gold", benchmark="b") for i in range(4))
    return OutcomeTable(
        ("cheap", "dear"),
        problems,
        np.array([[1.0, 0, 1, 0], [1.0, 1, 1, 0]]),
        np.array([[0.1] * 4, [1.0, 2.0, 3.0, 4.0]]),
        replies=Replies(np.array([[4, 0, 0, -1], [4, 1, 0, 3]]), np.array([["a"] * 4, ["b"] * 4], object)),
        output_tokens_MP=np.array([[5, 5, 5, np.nan], [9, 9, 9, 9]]),
    )


def test_a_question_shows_only_what_was_paid_for():
    question = Question(small(), 1)
    assert question.problem.target is None
    with pytest.raises(ValueError, match="not paid for"):
        question.reply("cheap")
    first = question.ask("dear")
    assert (first.arm, first.result, first.output_tokens, question.cost_usd) == ("dear", 0, 9, 2.0)
    assert question.ask("cheap").result == 1
    assert question.cost_usd == pytest.approx(2.1)
    assert question.reply("cheap") == "a"
    with pytest.raises(ValueError, match="bought once"):
        question.ask("dear")
    public = {name for name in dir(question) if not name.startswith("_")}
    assert public == {"ask", "attempts", "cost_usd", "models", "problem", "reply"}


def test_results_are_numbered_as_they_appear_and_none_stays_none():
    question = Question(small(), 0)
    assert [question.ask("cheap").result, question.ask("dear").result] == [0, 0]
    last = Question(small(), 3)
    assert last.ask("cheap") == replace(last.attempts[0], result=None, output_tokens=None)


@dataclass
class _Peek:
    """A policy that claims an answer it has not asked for."""

    settings: Sequence[str] = ("only",)

    def play(self, question: Question, setting: int) -> str:
        question.ask("cheap")
        return "dear"


def test_an_answer_that_was_not_asked_for_is_refused():
    with pytest.raises(ValueError, match="without asking it"):
        play(_Peek(), small())


def test_equal_questions_are_in_one_fold(table: OutcomeTable):
    doubled = replace(table, problems=tuple(replace(p, question=p.question.upper() + " !") for p in table.problems))
    assert folds_of(table).tolist() == folds_of(doubled).tolist()
    assert set(folds_of(table).tolist()) == {0, 1, 2, 3, 4}


@dataclass
class _Spy:
    settings: Sequence[str]
    fitted_on: frozenset[str]
    seen: list[tuple[frozenset[str], str]] = field(default_factory=list)

    def play(self, question: Question, setting: int) -> str:
        self.seen.append((self.fitted_on, question.problem.question))
        return question.ask(MODELS[setting]).arm


def test_no_row_is_played_by_a_policy_that_saw_it_but_where_a_search_is_chosen(table: OutcomeTable):
    seen: list[tuple[frozenset[str], str]] = []

    def fit(rows: OutcomeTable) -> _Spy:
        return _Spy(MODELS, frozenset(p.question for p in rows.problems), seen)

    cross_fitted(table, [TableMethod("spy", "spy", fit, inner_folds=3)], lambda line: None)
    assert seen
    assert all(question not in fitted for fitted, question in seen)
    assert {question for _, question in seen} == {p.question for p in table.problems}


def test_with_a_test_table_its_rows_are_played_by_what_was_fitted_on_all_others(table: OutcomeTable):
    seen: list[tuple[frozenset[str], str]] = []

    def fit(rows: OutcomeTable) -> _Spy:
        return _Spy(("weak",), frozenset(p.question for p in rows.problems), seen)

    known, unseen = table.part(range(100)), table.part(range(100, 120))
    [scope] = on_test_rows(known, unseen, [TableMethod("spy", "spy", fit)], lambda line: None)
    last = [fitted for fitted, question in seen if question in {p.question for p in unseen.problems}]
    assert len(set(last)) == 1
    assert len(last[0]) == 100
    assert scope.rows[0].outcomes.n_problems == 20


def test_settings_that_change_between_fits_are_a_mistake_of_the_method(table: OutcomeTable):
    sizes = iter(range(100))

    def fit(rows: OutcomeTable) -> _Spy:
        return _Spy(MODELS[: 1 + next(sizes) % 2], frozenset())

    with pytest.raises(ValueError, match="its settings differ"):
        cross_fitted(table, [TableMethod("spy", "spy", fit, inner_folds=2)], lambda line: None)


def test_the_cheapest_setting_that_reaches_the_floor_is_chosen_else_the_one_of_most_use():
    right = np.array([[1.0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    cost = np.array([[1.0] * 4, [2.0] * 4, [100.0] * 4])
    assert choose(right, cost, AS_CONSTANT, {AS_CONSTANT: 0.75}, 1.0) == 1
    assert choose(right, cost, AS_CONSTANT, {AS_CONSTANT: 0.76}, 1.0) == 2
    # Nobody reaches 1.1: at 50 the utilities are 11.5, 35.5 and -50.
    assert choose(right, cost, AS_CONSTANT, {AS_CONSTANT: 1.1}, 1.0) == 1
    assert choose(right, cost, aim_of(100), {}, 10.0) == 2


def test_the_reference_cost_is_that_of_the_cheapest_of_the_best_constants():
    rows = np.array([[1.0] * 99 + [0.0], [1.0] * 100, [1.0] * 90 + [0.0] * 10])
    cost = np.array([[2.0] * 100, [50.0] * 100, [1.0] * 100])
    table = OutcomeTable(("a", "b", "c"), tuple(Problem(str(i), str(i)) for i in range(100)), rows, cost)
    assert cost_ref_of(table) == 2.0


def test_the_counted_plan_asks_a_second_opinion_only_where_it_pays():
    """Two cheap arms, right on 3 of 4, that agree only where both are right; a sure arm that costs 20 times as much."""
    results = [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0]]
    right = [[1, 1, 0, 1], [1, 1, 1, 0], [1, 1, 1, 1]]
    costs = [[1.0] * 4, [1.0] * 4, [20.0] * 4]
    beliefs = CountedBeliefs(("a", "b", "sure"), results, right, costs, pseudo_rows=0.0)
    plan = CountedPlan(beliefs, [10.0, 1000.0])
    first = plan.ask_next((), 1)
    assert first in (0, 1)
    agreed, apart = ((0, 0), (1, 0)), ((0, 0), (1, 1))
    assert plan.ask_next(((first, 0),), 1) == 1 - first
    assert plan.ask_next(agreed, 1) is None
    assert plan.ask_next(apart, 1) == 2
    assert plan.ask_next(apart, 0) is None


def test_arms_are_chosen_by_pareto_fronts():
    right = np.zeros((4, 20))
    right[0, :16], right[1, :19], right[2, :15], right[3, :4] = 1, 1, 1, 1
    cost = np.array([[1.0], [5.0], [2.0], [0.1]]) * np.ones(20)
    problems = tuple(Problem(str(i), str(i)) for i in range(20))
    table = OutcomeTable(("a", "b", "c", "bad"), problems, right, cost)
    assert arms_of(table, 2) == ("a", "b")
    assert arms_of(table, 3) == ("a", "c", "b")
    assert arms_of(table) == ("a", "c", "b"), "one that is 0.2 below the best is no opinion"


def test_cascades_play_as_their_search_says(table: OutcomeTable):
    replies = table.replies
    assert replies is not None
    found = agreement_cascades(table.is_correct_MP, table.cost_usd_MP, replies.results)
    [method] = [one for one in recorded_methods(table.models) if one.name == "agreement_cascade"]
    plays = play(method.fit(table), table)
    assert plays.right_SQ.mean(axis=1) == pytest.approx([one.accuracy for one in found])
    assert plays.cost_SQ.mean(axis=1) == pytest.approx([one.cost_usd for one in found])
    best = cheapest_reaching(found, 0.94)
    assert best is not None
    assert len(best.order) == 3


@pytest.fixture(scope="module")
def scope(table: OutcomeTable):
    names = ["best constant", "rule:benchmark", "agreement_cascade", "counted"]
    [played] = cross_fitted(table, recorded_methods(table.models, names), lambda line: None)
    return compared(played, n_bootstrap=200)


def test_the_figures_are_those_of_the_rows(table: OutcomeTable, scope):
    weak = scope.row("weak", "always")
    assert weak.accuracy.value == pytest.approx(table.is_correct_MP[0].mean())
    assert weak.usd_per_1k.value == pytest.approx(0.1)
    assert (scope.best_constant, scope.n_questions) == ("strong", 120)
    assert scope.row("strong", "always").saved_at_equal_accuracy.value == 0


def test_on_agreeing_models_a_cascade_and_the_counts_save_most_of_the_cost(scope):
    for method, least in (("agreement_cascade", 0.3), ("counted", 0.1)):
        row = scope.row(method, AS_CONSTANT)
        assert row.accuracy.value >= scope.row("strong", "always").accuracy.value
        assert row.saved_at_equal_accuracy.value > least + 0.05
        assert row.saved_at_equal_accuracy.interval.low > least
    against = scope.row("counted", AS_CASCADE).against_cascade
    assert abs(against.accuracy.value) < 0.05
    assert scope.row("agreement_cascade", AS_CONSTANT).against_cascade.cost_saved.value == 0
    assert scope.row("counted", aim_of(20)).utility_gain["20"].interval is not None


def test_a_rule_that_wins_is_named(scope):
    worse = replace(
        scope.row("counted", AS_CONSTANT),
        accuracy=replace(scope.rows[0].accuracy, value=0.5),
        usd_per_1k=replace(scope.rows[0].usd_per_1k, value=3.0),
    )
    said = where_a_rule_wins(replace(scope, rows=(*scope.rows, worse)))
    assert any("counted" in one and "loses to" in one and "50.00%" in one for one in said)


def test_each_benchmark_is_a_scope_with_its_own_search(tmp_path: Path):
    path = tmp_path / "both.jsonl"
    write_rows(path, [*recorded_rows(60), *recorded_rows(60, benchmark="others")])
    both = read_outcome_table(path)
    played = cross_fitted(both, recorded_methods(both.models, ["agreement_cascade"]), lambda line: None)
    assert [one.name for one in played] == ["all", "sums", "others"]
    assert [one.table.n_problems for one in played] == [120, 60, 60]
    ids = [set(one.rows[0].outcomes.problem_ids) for one in played]
    assert ids[0] == ids[1] | ids[2]


def test_a_comparison_is_read_back_as_it_was(table: OutcomeTable, scope):
    whole = RecordedComparison(("a",), (), 120, 5, table.models, 0.02, 200, (scope,), {"x": "why"}, ("left",), 1.0)
    assert from_json(to_json(whole)) == whole


def trained(name: str, model: str, start: str = "") -> TableMethod:
    """Asks one model, whatever it is shown."""
    family, _, _ = name.partition(",")
    return replace(constant(model), name=name, kind="learned", start=start, family=family)


def test_what_was_trained_further_is_held_against_its_own_start(table: OutcomeTable):
    methods = [
        *(constant(model) for model in table.models),
        *(trained(f"before, seed {seed}", "weak") for seed in (0, 1)),
        trained("after, seed 0", "strong", "before, seed 0"),
        trained("after, seed 1", "weak", "before, seed 1"),
    ]
    [played] = cross_fitted(table, methods, lambda line: None)
    starts = {(one.method, one.aim): one for one in compared(played, n_bootstrap=200).starts}
    aim = aim_of(20)
    assert [name for name, its in starts if its == aim] == ["after, seed 0", "after, seed 1", "after"]
    gained = table.is_correct_MP[2].mean() - table.is_correct_MP[0].mean()
    first, second, mean = (starts[name, aim] for name in ("after, seed 0", "after, seed 1", "after"))
    assert first.gained.accuracy.value == pytest.approx(gained)
    assert first.gained.accuracy.interval is not None and first.gained.accuracy.interval.low > 0
    assert first.gained.cost_saved is not None and first.gained.cost_saved.value == pytest.approx(1 - 0.002 / 0.0001)
    v_usd = 20 * played.cost_ref_usd
    assert first.utility_gain["20"].value == pytest.approx(1000 * (v_usd * gained - 0.0019))
    assert (second.gained.accuracy.value, second.utility_gain["20"].value) == (0, 0)
    assert (mean.start, mean.seeds) == ("before", 2)
    assert mean.gained.accuracy.value == pytest.approx(gained / 2)
    assert mean.utility_gain["20"].value == pytest.approx(first.utility_gain["20"].value / 2)
    assert starts["after", AS_CONSTANT].utility_gain == {}


def test_with_one_fold_one_half_is_fitted_on_and_the_other_played(table: OutcomeTable):
    seen: list[tuple[frozenset[str], str]] = []

    def fit(rows: OutcomeTable) -> _Spy:
        return _Spy(MODELS, frozenset(p.question for p in rows.problems), seen)

    [scope] = cross_fitted(table, [TableMethod("spy", "spy", fit)], lambda line: None, n_folds=1)
    [fitted] = {on for on, question in seen if question not in on}
    played = {p.question for p in scope.table.problems}
    assert fitted | played == {p.question for p in table.problems}
    assert not fitted & played
    assert 45 < len(played) < 75


def test_trained_methods_are_trained_once_for_each_seed(table: OutcomeTable):
    found = recorded_methods(table.models, ["counted", "scorer_grpo", "scorer"], 2)[3:]
    assert [one.name for one in found] == [
        "counted",
        "scorer, seed 0",
        "scorer, seed 1",
        "scorer_grpo, seed 0",
        "scorer_grpo, seed 1",
    ]
    assert [one.start for one in found[3:]] == ["scorer, seed 0", "scorer, seed 1"]
    assert "scorer_grpo" not in [one.name for one in recorded_methods(table.models)]


def test_what_cannot_be_learned_from_is_refused_by_name(table: OutcomeTable):
    with pytest.raises(ConfigError, match="every model is right on all 120 questions"):
        check_table(replace(table, is_correct_MP=np.ones((3, 120))))
    with pytest.raises(ConfigError, match="every model is wrong"):
        check_table(replace(table, is_correct_MP=np.zeros((3, 120))))
    few = tuple(replace(p, benchmark="rare") if i < 3 else p for i, p in enumerate(table.problems))
    with pytest.raises(ConfigError, match="'rare' has 3 questions; at least 20"):
        check_table(replace(table, problems=few))
    same = tuple(replace(p, question="the same") for p in table.problems)
    with pytest.raises(ConfigError, match="'sums' are the same one"):
        check_table(replace(table, problems=same))
    check_table(table)


def test_test_rows_of_an_unknown_benchmark_and_known_questions(table: OutcomeTable):
    other = replace(table, problems=tuple(replace(p, benchmark="new") for p in table.problems))
    with pytest.raises(ConfigError, match=r"120 questions of benchmark 'new'.*none of it to fit on"):
        check_test(table, other)
    assert without_known(table.part(range(100)), table).n_problems == 20


def test_a_method_that_nobody_knows_and_one_that_the_table_cannot_play(table: OutcomeTable):
    with pytest.raises(ConfigError, match=r"--methods magic: no method on recorded answers\. Known: best constant"):
        recorded_methods(table.models, ["magic"])
    missing = {one.name: one.missing_in(table) for one in recorded_methods(table.models)}
    assert "no confidences" in missing["confidence_cascade"]
    assert missing["agreement_cascade"] == ""
    without = replace(table, replies=None)
    assert "no replies" in recorded_methods(table.models, ["counted"])[-1].missing_in(without)


def test_a_confidence_cascade_is_played_where_the_table_has_confidences(table: OutcomeTable):
    sure = np.where(table.is_correct_MP > 0, 0.99, 0.3)
    [method] = [one for one in recorded_methods(table.models) if one.name == "confidence_cascade"]
    with_confidence = replace(table, confidence_MP=sure)
    assert method.missing_in(with_confidence) == ""
    plays = play(method.fit(with_confidence), with_confidence)
    assert plays.right_SQ.mean(axis=1).max() == pytest.approx(table.is_correct_MP.max(axis=0).mean())


def test_a_query_router_reads_the_question(tmp_path: Path):
    rows = [
        row | {"question": f"{kind} {row['question']}", "id": f"{kind}{row['id']}", "correct": row["model"] == right}
        for kind, right in (("alpha", "weak"), ("omega", "other"))
        for row in recorded_rows(60)
    ]
    write_rows(tmp_path / "kinds.jsonl", rows)
    table = read_outcome_table(tmp_path / "kinds.jsonl")
    known, unseen = table.part(range(0, 120, 2)), table.part(range(1, 120, 2))
    methods = [*(constant(model) for model in table.models), *recorded_methods(table.models, ["query_router"])[-1:]]
    [scope] = on_test_rows(known, unseen, methods, lambda line: None)
    row = compared(scope, n_bootstrap=50).row("query_router", AS_CONSTANT)
    assert row.accuracy.value > 0.95
