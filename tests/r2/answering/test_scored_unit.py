"""A trained scorer at a unit of today's pool, and questions answered by the rule with one."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from r2.answering.beliefs import SHORT_REPLIES, Arm
from r2.answering.protocol import Router
from r2.answering.scored_unit import expected_tokens, kind_for, misfit, profile_of, worth_considering
from r2.answering.scorer import KindProfile, Scorer
from r2.answering.sequential import solve_by_rule
from r2.errors import ConfigError
from r2.ledger import Price
from r2.problem import Problem
from r2.roster import ModelCard, Roster
from r2.training.scorer.fit import fit_scorer
from r2.training.scorer.trials import Trial, trials_from
from tests.support.scripted import CHEAP, ROSTER, completion, replay, router

PRICES = {"small": (1.0, 2.0), "middle": (3.0, 6.0), "large": (10.0, 20.0)}


@cache
def trained() -> Scorer:
    """On questions whose word tells whether the small entry, or only the large one, can do them."""
    draw = np.random.default_rng(0)
    p = {"small": (0.97, 0.1), "middle": (0.97, 0.3), "large": (0.99, 0.97)}
    trials = []
    for number in range(160):
        is_hard = number % 2
        text = f"a {'knotty' if is_hard else 'simple'} thing about {draw.choice(['box', 'tree', 'red'])} {number}"
        for arm, chances in p.items():
            is_right = bool(draw.random() < chances[is_hard])
            result = "7" if is_right else str(draw.integers(20, 24))
            n_tokens = int(draw.integers(4, 9))
            trials.append(Trial(Problem(f"q{number}", text), "gsm8k", arm, is_right, result, 0.001, n_tokens))
    return fit_scorer(trials_from(trials, None, PRICES))[0]


def question(word: str) -> Problem:
    return Problem("new", f"a {word} thing about tree", benchmark="gsm8k", target="7")


def by_scorer(**settings: object) -> Router:
    return replace(router(routing="rule", **settings), scorer=trained())


def first_asked(problem: Problem, chosen: Router) -> str:
    [call] = next(solve_by_rule(problem, chosen))
    return call.model


def test_an_easy_text_goes_to_a_cheap_entry_and_a_hard_one_to_the_large():
    easy, outcome = replay(solve_by_rule(question("simple"), by_scorer(value_usd=0.004)), ["7"])
    assert [call.model for wave in easy for call in wave] in (["small"], ["middle"])
    assert outcome.answer == "7"
    assert first_asked(question("knotty"), by_scorer(value_usd=0.004)) == "large"


def test_disagreement_buys_another_opinion():
    replies = ["7", "8", "Answer: 7"]
    waves, outcome = replay(solve_by_rule(question("knotty"), by_scorer(value_usd=0.0008)), ["7"])
    assert len(waves) == 1
    assert outcome.decisions[-1].decision.action == "accept"
    first = replay(solve_by_rule(question("simple"), by_scorer(value_usd=5.0)), replies)[0]
    assert len({call.model for wave in first for call in wave}) == len(first) == 3


def n_asked(word: str, choice: tuple[float, ...]) -> int:
    """How many entries are asked where each says something else, by a scorer with these weights."""
    scorer = replace(trained(), choice=choice)
    solving = solve_by_rule(question(word), replace(router(routing="rule", value_usd=0.004), scorer=scorer))
    wave, n = next(solving), 0
    for reply in ("7", "20", "21", "22"):
        n += len(wave)
        try:
            wave = solving.send([completion(reply, call.model) for call in wave])
        except StopIteration:
            break
    return n


def test_a_tuned_choice_moves_what_is_served():
    as_the_rule = n_asked("simple", ())
    assert n_asked("simple", (0.0,) * 6) == as_the_rule
    never_twice, always = (0.0, 0.0, -9.0, 0.0, 0.0, 0.0), (0.0, 0.0, 9.0, 0.0, 0.0, 0.0)
    assert n_asked("simple", never_twice) == n_asked("knotty", never_twice) == 1
    assert n_asked("simple", always) > 1
    dear_first = replace(trained(), choice=(0.0, 0.0, 0.0, 0.0, 9.0, 0.0))
    routed = replace(router(routing="rule", value_usd=0.004), scorer=dear_first)
    assert first_asked(question("simple"), routed) == "large"


def test_a_choice_of_another_length_is_no_scorer_of_this_version():
    other = replace(trained(), choice=(1.0, 2.0))
    with pytest.raises(ConfigError, match="its choice has 2 weights"):
        Scorer.from_json(other.to_json())
    whole = replace(trained(), choice=(0.5,) * 6)
    assert Scorer.from_json(whole.to_json()).choice == whole.choice


def test_a_unit_of_a_kind_that_was_not_trained_on_is_believed_as_without_a_scorer():
    other = Problem("p", "A box holds 12 pens. Ann has 4 boxes and gives away 9 pens. How many are left?")
    with_it = replay(solve_by_rule(replace(other, benchmark="word_problem"), by_scorer()), ["39"])[1]
    without = replay(solve_by_rule(replace(other, benchmark="word_problem"), router(routing="rule")), ["39"])[1]
    assert with_it.decisions == without.decisions


def test_the_kind_is_the_first_that_it_knows():
    scorer = trained()
    assert kind_for(scorer, ["add", "gsm8k"], is_question=True) == "gsm8k"
    assert kind_for(scorer, ["", "csqa"], is_question=True) is None
    every = replace(scorer, kinds={**scorer.kinds, "all": scorer.kinds[""]})
    assert kind_for(every, ["", "csqa"], is_question=True) == "all"
    assert kind_for(every, ["add"], is_question=False) is None


def test_it_does_not_fit_a_pool_of_which_it_has_not_seen_half_or_whose_prices_are_others():
    scorer = trained()
    assert misfit(scorer, ROSTER.solvers) == ""
    new = [ModelCard(name, "small", CHEAP) for name in ("one", "two", "three", "four")]
    assert misfit(scorer, [*ROSTER.solvers, *new[:3]]) == ""
    assert "3 of the 7 solvers" in misfit(scorer, [*ROSTER.solvers, *new])
    dearer = Roster(
        [replace(card, price=Price(2.1, 1.0, 4.2, "", "")) for card in ROSTER.solvers if card.name == "small"]
    )
    assert "the price of small was 1.25 USD per million tokens when it was trained, and is 2.625" in misfit(
        scorer, [*dearer.solvers]
    )
    within = [replace(card, price=Price(1.9, 1.0, 3.8, "", "")) for card in ROSTER.solvers if card.name == "small"]
    assert misfit(scorer, within) == ""


def test_expected_tokens_are_those_of_a_log_normal():
    assert expected_tokens(KindProfile(9, 0.5, 0.001, math.log(101), 0.5)) == pytest.approx(101 * math.exp(0.125) - 1)
    assert expected_tokens(KindProfile(9, 0.5, 0.001)) is None


def test_an_unseen_entry_has_the_profile_of_its_card():
    profile = profile_of(Arm("new", 0.8, 0.02, SHORT_REPLIES, "weights")).at("anything")
    assert (profile.accuracy, profile.cost_usd, len(profile.levels)) == (0.8, 0.02, 3)
    added = Roster([*ROSTER.solvers, ModelCard("best", "small", CHEAP, skills={"gsm8k": 0.99})])
    assert first_asked(question("knotty"), replace(by_scorer(value_usd=0.004), roster=added)) == "best"


def test_beside_the_shortlist_those_that_are_right_more_often_can_be_asked():
    scorer = trained()
    listed = replace(scorer.kinds["gsm8k"], shortlist=("small", "middle"))
    short = replace(scorer, kinds={**scorer.kinds, "gsm8k": listed})
    assert worth_considering(short, "gsm8k", ["small", "middle", "large"]) == ["small", "middle", "large"]
    weaker = replace(scorer, kinds={**scorer.kinds, "gsm8k": replace(listed, shortlist=("middle", "large"))})
    assert worth_considering(weaker, "gsm8k", ["small", "middle", "large"]) == ["middle", "large"]
