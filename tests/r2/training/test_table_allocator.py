"""The allocator that learns on tables of recorded answers: labels and rewards by hand, letters in any order, and a
table whose best model is said by a word of the question."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from r2.answering.allocation import shifted_choice
from r2.errors import ConfigError
from r2.evaluation.recorded.method import cost_ref_of
from r2.evaluation.recorded.table import OutcomeTable, Question
from r2.problem import Problem
from r2.training.recorded_methods import recorded_methods
from r2.training.table_allocator.arms import NO_LABEL, cards_of, cheapest_right, rewards_of, shown_arms
from r2.training.table_allocator.learning import advantages, draw

torch = pytest.importorskip("torch", reason="needs the extra `train`")
from r2.training.base import load_base  # noqa: E402
from r2.training.table_allocator.learning import (  # noqa: E402
    Lessons,
    fine_tune,
    order_of,
    policy_loss,
    probabilities,
    split,
    supervise,
)
from r2.training.table_allocator.letters import LetterModel, prompt_text, words_of  # noqa: E402
from r2.training.table_allocator.settings import AllocatorSettings  # noqa: E402
from r2.training.table_allocator.table_method import KNOBS, fit_supervised, lessons_of  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]
ARMS = ("left", "right", "both")
WORDS = ("red", "blue")
OBJECTS = ("ball", "box", "car", "door", "egg", "fish")


def coloured(n: int, seed: int) -> OutcomeTable:
    """`left` is right on all red questions and six in ten blue ones, `right` on the blue ones alone, for twice the
    price; `both` always, at a price that no answer is worth. So the cheapest right one is mostly `left`, and a blue
    question is worth most with `right`."""
    chance = np.random.default_rng(seed)
    colour = np.arange(n) % 2
    problems = tuple(
        Problem(f"{seed}-{i}", f"the {WORDS[its]} {chance.choice(OBJECTS)} {i}", i, benchmark="colours")
        for i, its in enumerate(colour)
    )
    shares = np.array([[1.0, 0.6], [0.0, 1.0], [1.0, 1.0]])[:, colour]
    right = (chance.random((3, n)) < shares).astype(float)
    return OutcomeTable(ARMS, problems, right, np.array([[0.01], [0.02], [0.9]]) * np.ones((1, n)))


def small() -> OutcomeTable:
    """Three models, four questions of two kinds, by hand."""
    problems = tuple(Problem(f"q{i}", f"question {i}", i, target="gold", benchmark="ab"[i // 2]) for i in range(4))
    right = np.array([[1.0, 0, 0, 0], [0.0, 1, 0, 1], [1.0, 1, 0, 1]])
    return OutcomeTable(("cheap", "middle", "dear"), problems, right, np.array([[0.1] * 4, [0.2] * 4, [1.0] * 4]))


def load(base: str, words: Sequence[str], seed: int) -> tuple[Any, Any]:
    return load_base(base, Path("models"), words, seed)


def model_for(table: OutcomeTable) -> LetterModel:
    cards = cards_of(table, table.models)
    model, tokenizer = load("tiny", words_of(table.problems, [cards[arm] for arm in table.models]), 0)
    return LetterModel(model, tokenizer, table.models, cards)


def test_the_label_is_the_cheapest_model_that_was_right():
    assert cheapest_right(small(), small().models).tolist() == [0, 1, NO_LABEL, 1]


def test_the_label_is_the_same_model_in_whatever_order_the_table_has_its_models():
    names = [small().models[at] for at in cheapest_right(small(), small().models) if at != NO_LABEL]
    turned = small().of_models(("dear", "cheap", "middle"))
    arms = ("middle", "dear", "cheap")
    assert [arms[at] for at in cheapest_right(turned, arms) if at != NO_LABEL] == names == ["cheap", "middle", "middle"]


def test_a_reward_is_being_right_less_the_share_that_it_cost():
    assert rewards_of(small(), ("dear", "cheap"), v_usd=4.0).tolist() == [
        [1 - 0.25, 1 - 0.025],
        [1 - 0.25, -0.025],
        [-0.25, -0.025],
        [1 - 0.25, -0.025],
    ]


def test_an_advantage_is_the_reward_less_the_mean_of_its_group():
    assert advantages(np.array([[1.0, 0, 0, 1], [0.5, 0.5, 0.5, 0.5]])).tolist() == [[0.5, -0.5, -0.5, 0.5], [0.0] * 4]


def test_cards_say_what_the_rows_say():
    cards = cards_of(small(), small().models)
    assert [card.tier for card in cards.values()] == ["small", "medium", "large"]
    assert cards["middle"].skills == {"a": 0.5, "b": 0.5}
    assert cards["dear"].skills == {"a": 1.0, "b": 0.5}
    assert cards["cheap"].blended_price == pytest.approx(100)  # USD per 1,000 questions


def test_models_that_no_price_makes_the_best_are_not_shown():
    table = small()
    with_worse = replace(
        table,
        models=(*table.models, "worse"),
        is_correct_MP=np.vstack([table.is_correct_MP, [[0.0, 1, 0, 0]]]),
        cost_usd_MP=np.vstack([table.cost_usd_MP, [[0.5] * 4]]),
    )
    assert "worse" not in shown_arms(with_worse)
    assert shown_arms(with_worse) == shown_arms(table)


def test_letters_are_read_back_as_the_models_they_stood_for():
    table = small()
    allocator = model_for(table)
    for order in ([0, 1, 2], [2, 0, 1]):
        cards = [allocator.cards[table.models[place]] for place in order]
        asked = prompt_text(allocator.tokenizer, table.problems[0], cards)
        lines = [line for line in asked.split("\n") if line[:2] in ("A:", "B:", "C:")]
        assert [line.split(", ")[1].split(" ")[0] for line in lines] == [f"{[100, 200, 1000][p]:.3g}" for p in order]
        ids = allocator.tokenizer(asked + '[{"subtask":1,"model":"', add_special_tokens=False)["input_ids"]
        letters = allocator.tokenizer.convert_tokens_to_ids(["A", "B", "C"])
        with torch.no_grad():
            by_letter = torch.log_softmax(allocator.model(torch.tensor([ids])).logits[0, -1, letters], dim=0)
            [found] = allocator.log_probabilities([allocator.shown(table.problems[0], order)])
        for letter, place in enumerate(order):
            assert float(found[place]) == pytest.approx(float(by_letter[letter]), abs=1e-5)


def test_prompts_of_other_lengths_in_the_batch_change_nothing():
    table = small()
    allocator = model_for(table)
    long = Problem("l", "question 1 question 2 question 3 question 0", 0)
    prompts = [allocator.shown(table.problems[0], [0, 1, 2]), allocator.shown(long, [2, 1, 0])]
    with torch.no_grad():
        together = allocator.log_probabilities(prompts)
        alone = [allocator.log_probabilities([prompt])[0] for prompt in prompts]
    assert torch.allclose(together, torch.stack(alone), atol=1e-5)


def test_every_place_is_drawn_as_often_as_its_probability_says():
    drawn = draw(np.tile([0.2, 0.0, 0.8], (4000, 1)), np.random.default_rng(0))
    shares = np.bincount(drawn, minlength=3) / 4000
    assert shares[1] == 0
    assert shares[0] == pytest.approx(0.2, abs=0.03)


def test_the_knob_moves_a_choice_by_the_price():
    listed, prices = {"cheap": -1.0, "dear": -0.8}, {"cheap": 1.0, "dear": np.e}
    assert [shifted_choice(listed, prices, b) for b in (-1, 0, 0.1, 0.3)] == ["dear", "dear", "dear", "cheap"]


SETTINGS = AllocatorSettings(sft_steps=100, steps=30, grpo_rate=2e-3, patience=99)
LEFT, RIGHT = ARMS.index("left"), ARMS.index("right")


def lessons(table: OutcomeTable) -> Lessons:
    return Lessons(table.problems, cheapest_right(table, ARMS), rewards_of(table, ARMS, v_usd=1.0))


def chosen_by(allocator: LetterModel, table: OutcomeTable, seed: int = 7) -> np.ndarray:
    return np.asarray(probabilities(allocator, table.problems, seed).argmax(axis=1))


def test_it_learns_labels_and_then_what_choices_earn_in_any_order_of_the_models():
    table, unseen = coloured(160, 0), coloured(100, 1)
    parts, rewards = split(lessons(table), SETTINGS), rewards_of(unseen, ARMS, v_usd=1.0)
    red, blue = np.arange(100) % 2 == 0, np.arange(100) % 2 == 1
    best_constant = float(rewards.mean(axis=0).max())
    allocator = model_for(table)

    supervise(allocator, *parts, SETTINGS)
    p = probabilities(allocator, unseen.problems, 7)
    assert p[red, LEFT].mean() > 0.8
    assert p[blue, RIGHT].mean() > p[red, RIGHT].mean() + 0.15
    before = float(rewards[np.arange(100), chosen_by(allocator, unseen)].mean())

    start = copy.deepcopy(allocator.model)
    curve = fine_tune(allocator, start, *parts, SETTINGS)
    for seed in (7, 8):  # two orders of the models for each question
        after = float(rewards[np.arange(100), chosen_by(allocator, unseen, seed)].mean())
        assert after > max(best_constant, before) + 0.05
    assert (chosen_by(allocator, unseen)[red] == LEFT).mean() > 0.9
    assert (chosen_by(allocator, unseen)[blue] == RIGHT).mean() > 0.9
    assert curve.best_step > 0


def test_the_loss_of_a_rollout_is_its_advantage_and_how_far_it_is_from_the_start():
    now, start = torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1]])), torch.log(torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    actions, gained = np.array([0, 1]), np.array([1.0, -2.0])
    of_actions = -(np.log(0.5) - 2 * np.log(0.1))
    apart = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    assert float(policy_loss(now, start, actions, gained, 0.0)) == pytest.approx(of_actions, rel=1e-5)
    assert float(policy_loss(now, start, actions, gained, 3.0)) == pytest.approx(of_actions + 3 * apart, rel=1e-5)


def test_what_says_which_weights_are_kept_is_not_learned_from():
    table = coloured(40, 0)
    learned, dev = split(lessons(table), SETTINGS)
    assert (len(learned.problems), len(dev.problems)) == (30, 10)
    assert not {p.question for p in learned.problems} & {p.question for p in dev.problems}
    few, same = split(lessons(table), replace(SETTINGS, n_questions=7))
    assert (len(few.problems), [p.question for p in same.problems]) == (7, [p.question for p in dev.problems[:2]])


def test_only_the_last_layers_learn_where_that_is_asked():
    table = coloured(24, 0)
    allocator = model_for(table)
    allocator.train_last(1)
    before = {name: weight.clone() for name, weight in allocator.model.state_dict().items()}
    supervise(allocator, *split(lessons(table), SETTINGS), replace(SETTINGS, sft_steps=2, n_orders=2, check_every=1))
    moved = {name for name, weight in allocator.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved
    assert all(".layers.1." in name or name == "model.norm.weight" for name in moved)


def test_as_a_method_it_asks_one_model_and_its_knob_goes_from_dear_to_cheap():
    table = coloured(40, 0)
    by_colour = tuple(replace(p, benchmark=p.question.split()[1]) for p in table.problems)
    table = replace(table, problems=by_colour, cost_usd_MP=table.cost_usd_MP * [[1.0], [10.0], [1.0]])
    settings = replace(SETTINGS, sft_steps=3, n_orders=1)
    policy = fit_supervised(table, load, settings)
    again = fit_supervised(table, load, settings)  # from what was learned before
    for at in range(4):
        asked = []
        for setting in (0, len(KNOBS) - 1):
            question = Question(table, at)
            asked.append(policy.play(question, setting))
            assert [attempt.arm for attempt in question.attempts] == asked[-1:]
            assert again.play(Question(table, at), setting) == asked[-1]
        assert asked == ["right", "left"]
    assert policy.allocator.arms == ("left", "right")
    assert policy.settings[0] == "b = -3"


def test_lessons_hold_no_gold_answer_and_rewards_at_the_price_of_the_settings():
    found = lessons_of(small(), ("cheap", "dear"), AllocatorSettings(value=10.0))
    assert all(problem.target is None for problem in found.problems)
    assert cost_ref_of(small()) == 1.0
    assert found.rewards[0].tolist() == [1 - 0.1 / 10, 1 - 1.0 / 10]


def test_an_order_is_drawn_for_each_question_and_stays_the_same():
    problems = coloured(40, 0).problems
    orders = [order_of(problem, 3, 0) for problem in problems]
    assert orders == [order_of(problem, 3, 0) for problem in problems]
    assert len({tuple(order) for order in orders}) == 6


def test_allocators_stand_against_their_start_on_any_base():
    names = ["allocator_sft", "allocator_grpo", "allocator_sft:smollm2", "allocator_grpo:smollm2"]
    found = {one.name: one.start for one in recorded_methods(ARMS, names, 1)[len(ARMS) :]}
    assert found == {
        "allocator_sft": "",
        "allocator_grpo": "allocator_sft",
        "allocator_sft:smollm2": "",
        "allocator_grpo:smollm2": "allocator_sft:smollm2",
    }
    assert not [one for one in recorded_methods(ARMS) if one.name in names]
    with pytest.raises(ConfigError, match="no method on recorded answers"):
        recorded_methods(ARMS, ["allocator_sft:"])
