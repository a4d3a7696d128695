"""Which rows an evaluation has: what `--methods` asks for, and which settings each row has."""

import pytest

from r2.errors import ConfigError
from r2.evaluation.operating_points import (
    Variant,
    constants_of,
    dev_runs,
    is_chosen_without_runs,
    own_mode,
    rows_asked,
    variants_of,
)
from r2.evaluation.settings import EvaluateSettings
from r2.methods import methods
from r2.roster import ModelCard, Roster
from tests.support.scripted import CHEAP, DEAR

ROSTER = Roster(
    [
        ModelCard("small", "small", CHEAP, weights="s", has_logprobs=True),
        ModelCard("small-py", "small", CHEAP, prompt_mode="program", weights="s", has_logprobs=True),
        ModelCard("large", "large", DEAR, weights="l"),
    ]
)


def rows(*names: str, roster: Roster = ROSTER) -> dict[str, Variant]:
    return {row.name: row for row in variants_of(EvaluateSettings(methods=names), roster, "small", "small")}


def test_start_has_a_row_for_every_solver_and_its_confidence_is_tried():
    found = rows("start")
    assert list(found) == ["start small-py", "start small", "start large"]
    assert found["start small"].reasoning.model == "small"
    assert found["start small"].knob == "min_confidence"
    assert found["start small"].values[0] == 0.0
    assert found["start small"].at(0.9).min_confidence == 0.9
    silent = Roster([ModelCard("a", "small", CHEAP), ModelCard("b", "large", DEAR)])
    assert rows("start:a", roster=silent)["start a"].values == (0.0,), "nobody can say how sure it is"


def test_decompose_one_alone_is_the_row_that_it_always_was():
    [alone] = rows("decompose_one").values()
    assert (alone.name, alone.reasoning.model) == ("decompose_one", None)
    assert list(rows("decompose_one:all")) == [f"decompose_one {name}" for name in ("small-py", "small", "large")]
    assert rows("decompose_one:large")["decompose_one large"].reasoning.model == "large"


def test_self_consistency_takes_a_model_and_a_number():
    [row] = rows("self_consistency:small,7").values()
    assert (row.name, row.reasoning.model, row.reasoning.n_samples) == ("self_consistency small k=7", "small", 7)
    for text in ("self_consistency:small,x", "start:small,3", "self_consistency:small,0"):
        with pytest.raises(ConfigError, match="expected"):
            rows(text)


def test_a_model_that_a_method_does_not_take_or_the_pool_does_not_have_is_said():
    with pytest.raises(ConfigError, match="datashunt takes no model"):
        rows("datashunt:small")
    with pytest.raises(ConfigError, match="r2 takes no model"):
        rows("r2:small")
    with pytest.raises(ConfigError, match="'nobody' is not in the pool"):
        rows("start:nobody")
    assert list(rows("rule:benchmark")) == list(rows("rule")) == ["rule"]


def test_all_is_every_method_that_answers_the_judged_ones_last():
    asked = rows_asked(EvaluateSettings(methods=("all",)))
    assert {text.partition(":")[0] for text in asked} == {
        "direct",
        *(name for name, method in methods().items() if method.run_kind == "answer"),
    }
    assert asked[-1] == "r2"
    assert "decompose_one:all" in asked
    assert rows_asked(EvaluateSettings(methods=("all", "self_consistency:small,9")))[-2:] == (
        "self_consistency:small,9",
        "r2",
    )
    names = [row.name for row in constants_of(EvaluateSettings(methods=("all",)), ROSTER)]
    thinking = ["cot small-py", "cot small", "cot large"]
    assert names == ["program small-py", "direct small", "direct large", *thinking, "program large"]


def test_new_rows_cost_nothing_where_nobody_asks_for_them():
    assert not {
        "start",
        "start_steps",
        "rule",
        "agreement_cascade",
        "confidence_cascade",
        "self_consistency",
        "few_shot",
    } & {text.partition(":")[0] for text in EvaluateSettings().methods}
    assert "program" not in EvaluateSettings().methods


def test_an_entry_that_writes_programs_is_asked_for_them_wherever_its_own_mode_is():
    row = own_mode(EvaluateSettings(), ROSTER["small-py"])
    assert (row.name, row.reasoning.method, row.reasoning.model) == ("program small-py", "program", "small-py")
    [named] = constants_of(EvaluateSettings(methods=("program:small",)), ROSTER)
    assert (named.name, named.reasoning.model) == ("program small", "small")


def test_every_arm_is_asked_on_dev_problems_where_something_is_chosen_from_it():
    settings = EvaluateSettings()
    found = rows("query_router", "confidence_cascade", "few_shot", "r2")
    assert [name for name, row in found.items() if is_chosen_without_runs(row)] == [
        "query_router",
        "confidence_cascade",
        "few_shot",
    ]
    runs = dev_runs(settings, ROSTER, list(found.values()))
    assert [run.name for run in runs[:3]] == ["program small-py", "direct small", "direct large"]
    assert [run.reasoning.chain for run in runs[3:]] == [("small-py",), ("small",), ("large",)]
    assert dev_runs(settings, ROSTER, list(rows("r2", "start").values())) == []
    assert len(dev_runs(settings, ROSTER, list(rows("agreement_cascade").values()))) == 3
