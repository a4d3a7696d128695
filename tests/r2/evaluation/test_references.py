"""The two references of a comparison, and the words for a rule that wins over the judged router."""

from dataclasses import replace

import orjson
import pytest

from r2.evaluation.compare import Comparison, compare, from_json, to_json
from r2.evaluation.outcomes import MethodOutcomes
from r2.evaluation.verdict import rules_ahead

IDS = tuple(f"p{i}" for i in range(100))


def outcomes(label: str, n_right: int, usd: float, method: str = "") -> MethodOutcomes:
    right = [1.0] * n_right + [0.0] * (100 - n_right)
    ones = [1.0] * 100
    return MethodOutcomes(
        label, method or label, IDS, ("easy",) * 100, right, [usd] * 100, ones, ones, ones, [0.0] * 100
    )


STRONG = outcomes("direct large", 90, 10.0, "direct")
NEAR = outcomes("direct middle", 89, 4.0, "direct")
WEAK = outcomes("direct small", 60, 1.0, "direct")
R2 = outcomes("r2", 90, 5.0)


def compared(*rules: MethodOutcomes, margin: float = 0.02) -> Comparison:
    constants = [STRONG.label, NEAR.label, WEAK.label]
    return compare([STRONG, NEAR, WEAK, *rules, R2], constants=constants, subject="r2", n_bootstrap=50, margin=margin)


def test_the_second_reference_is_the_cheapest_constant_within_the_margin_of_the_first():
    made = compared()
    assert (made.best_constant, made.cheap_constant) == ("direct large", "direct middle")
    against = made["r2"].against_cheap
    assert against is not None
    assert against.accuracy_gain.value == pytest.approx(0.01)
    assert against.cost_saved is not None
    assert against.cost_saved.value == pytest.approx(1 - 5 / 4)
    assert made["direct middle"].against_cheap is None
    assert compared(margin=0.005).cheap_constant == "direct large"
    assert compare([R2]).cheap_constant is None


def test_a_comparison_that_was_stored_without_it_is_read_and_is_the_same():
    made = compared()
    stored = orjson.loads(to_json(made))
    del stored["cheap_constant"]
    for method in stored["methods"]:
        del method["against_cheap"]
    old = from_json(orjson.dumps(stored))
    assert old.cheap_constant is None
    assert old == made
    assert from_json(to_json(made)).cheap_constant == "direct middle"


def test_a_rule_that_is_as_accurate_and_cheaper_wins_and_the_words_say_by_how_much():
    made = compared(outcomes("start small", 90, 2.0, "start"))
    [first, *_] = rules_ahead(made, 0.1)
    assert (first.label, first.at_accuracy, first.at_utility) == ("start small", True, True)
    assert first.said.startswith(
        "start small wins over r2 at no less accuracy and by utility: 90.0% right at 2000 USD per 1,000 against 90.0% "
        "at 5000; r2 minus it: 95 % interval"
    )


def test_a_rule_may_win_by_utility_alone_and_a_better_router_is_told_of_nobody():
    # Utility is accuracy - 0.1 * cost / 10: the rule 0.88 - 0.01, r2 0.90 - 0.05.
    ahead = rules_ahead(compared(outcomes("rule", 88, 1.0)), 0.1)
    assert [(one.label, one.at_accuracy, one.at_utility) for one in ahead] == [("rule", False, True)]
    assert rules_ahead(compared(outcomes("rule", 85, 4.9)), 0.0) == ()


def test_chance_and_the_judged_methods_other_rows_are_no_rules():
    made = compared(outcomes("random", 95, 1.0), replace(outcomes("tiny", 95, 1.0), method="r2"))
    assert rules_ahead(made, 0.1) == ()
    assert rules_ahead(compare([R2]), 0.1) == ()
