"""The ways to answer that r2 is held against: who is asked, how often, what is charged, and that published defects are
absent."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from r2.answering.prompts import rate_messages, think_messages, verify_messages
from r2.answering.protocol import Outcome, Router, Trajectory
from r2.answering.query_router import ModelCurve, QueryRouter, make_query_router, pick
from r2.call import Call, Completion, TokenLogprob
from r2.errors import CALL_FAILURES, ConfigError, Failure
from r2.methods import can_collapse, family_of, method_named, methods, takes_router
from r2.methods.automix import says_correct
from r2.methods.estimate import Rows, estimate_calls
from r2.methods.router import make_router
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.simulated.mind import think
from r2.problem import Problem
from r2.records.rows import to_rows
from r2.roster import Roster
from r2.settings import AnswerSettings, Reasoning
from tasks.answering.plan_file import who_answers_digest
from tests.support.paths import ROOT
from tests.support.scripted import LOGPROBS, ROSTER, completion, replay, router, sure

PROBLEM = Problem(
    "p1",
    "A box holds 12 pens. Ann has 4 boxes and gives away 9 pens. How many are left?",
    target="39",
    benchmark="word_problem",
)
PLAN = "1. Compute 12 * 4\n2. Compute 5 + 4\n3. Subtract the result of step 2 from the result of step 1 (needs: 1, 2)"
LEARNED = make_query_router(
    {
        "large": ModelCurve({}, 2.0, 1.0, 0.0, 0.01),
        "small": ModelCurve({}, 0.0, 1.0, 0.0, 0.001),
    },
    100,
)
BASELINES = [name for name in methods() if name not in ("r2", "label")]


def with_logprobs(**chosen: object) -> Router:
    return Router(LOGPROBS, "small", "small", None, Reasoning.model_validate(chosen))


def asked(waves: list[list[Call]]) -> list[list[tuple[str, str]]]:
    return [[(call.purpose, call.model) for call in wave] for wave in waves]


def run(method: str, chosen: Router, replies: Sequence[str | Completion]) -> tuple[list[list[Call]], Outcome]:
    return replay(method_named(method).run(PROBLEM, chosen), replies)


def charged(waves: list[list[Call]], outcome: Outcome) -> float:
    """Cost of the trajectory's row, where every call used 10 prompt tokens and 5 generated ones; its steps' rows are
    checked to add up."""
    pairs = tuple(tuple((call, completion("x", call.model)) for call in wave) for wave in waves)
    row, subtasks, calls = to_rows("run", "any", Trajectory(PROBLEM, outcome, pairs), ROSTER)
    unstepped = sum(c.cost_usd for c in calls if c.subtask_index is None)
    assert sum(step.cost_usd for step in subtasks) + unstepped == pytest.approx(row.cost_usd)
    assert not any(step.is_fallback for step in subtasks)
    return row.cost_usd


# One call costs, in millionths of a USD: small 10 * 1 + 5 * 2 = 20, middle 10 * 3 + 5 * 6 = 60, large 10 * 10 + 5 * 20
# = 200.


def test_tree_of_thoughts_keeps_the_better_thought_at_each_level():
    replies = ["48 pens", "16 pens", "0.9", "0.2", "48 - 9 = 38", "48 - 9 = 39", "0.3", "0.8", "39"]
    waves, outcome = run("tot", router(model="middle"), replies)
    assert asked(waves) == [
        [("solve", "middle")] * 2,
        [("verify", "middle")] * 2,
        [("solve", "middle")] * 2,
        [("verify", "middle")] * 2,
        [("solve", "middle")],
    ]
    assert waves[4][0].messages[-1][1].endswith("\nThought 1: 48 pens\nThought 2: 48 - 9 = 39")
    assert "16 pens" not in waves[2][0].messages[-1][1]
    assert outcome.answer == "39"
    assert charged(waves, outcome) == pytest.approx(9 * 60e-6)


def test_the_two_thoughts_of_a_level_are_two_samples():
    waves, _ = run("tot", router(depth=1), ["a", "b", "0.5", "0.5", "39"])
    first, second = waves[0]
    assert first.temperature == second.temperature == 0.8
    assert first.journal_key("p1") != second.journal_key("p1")


def test_of_equally_good_thoughts_the_first_is_kept_and_one_without_a_score_counts_as_zero():
    waves, _ = run("tot", router(depth=1), ["a", "b", "0.5", "0.5", "39"])
    assert "Thought 1: a" in waves[2][0].messages[-1][1]
    waves, outcome = run("tot", router(depth=1), ["a", "b", "splendid!", "0.1", "39"])
    assert "Thought 1: b" in waves[2][0].messages[-1][1]
    assert outcome.failed_checks == ["thought_unrated"]


def test_equal_thoughts_are_not_scored_and_without_any_thought_the_question_is_answered_all_the_same():
    waves, _ = run("tot", router(depth=1), ["a", "a", "39"])
    assert [len(wave) for wave in waves] == [2, 1]
    waves, outcome = run("tot", router(depth=2), ["", completion("", error_type="moderated"), "39"])
    assert (outcome.answer, outcome.failed_checks) == ("39", ["no_thought"])
    assert "Thought" not in waves[1][0].messages[-1][1]


def test_decompose_then_one_model_asks_that_model_for_every_subtask_and_never_another():
    waves, outcome = run("decompose_one", router(model="middle"), [PLAN, "48", "no idea", "39"])
    assert asked(waves) == [[("decompose", "small")], [("solve", "middle")] * 2, [("solve", "middle")]]
    assert [step.model for step in outcome.steps] == ["middle"] * 3
    assert (outcome.answer, outcome.n_escalations, outcome.failed_checks) == ("39", 0, ["no_number"])
    assert charged(waves, outcome) == pytest.approx(20e-6 + 3 * 60e-6)


def test_decompose_then_one_model_lets_that_model_write_the_final_answer_too():
    chosen = replace(router(model="middle"), finalizer="large")
    waves, _ = run("decompose_one", chosen, [PLAN, "48", "9", "39", "39"])
    assert asked(waves)[-1] == [("final", "middle")]


def test_datashunt_keeps_a_sure_answer_of_the_small_model():
    waves, outcome = run("datashunt", with_logprobs(threshold=0.75), [sure("39", 0.76)])
    assert asked(waves) == [[("solve", "small")]]
    assert waves[0][0].top_logprobs == 1
    assert (outcome.answer, outcome.n_escalations) == ("39", 0)


@pytest.mark.parametrize(("threshold", "n_calls"), [(0.5, 1), (0.500001, 2), (0.0, 1), (1.0, 2)])
def test_an_answer_exactly_at_the_threshold_stands(threshold: float, n_calls: int):
    # exp(ln 0.5) is 0.5 exactly.
    replies = [sure("38", 0.5), "39"][:n_calls]
    waves, _ = run("datashunt", with_logprobs(threshold=threshold), replies)
    assert len(waves) == n_calls


def test_datashunt_pays_for_both_where_the_small_model_is_not_sure():
    waves, outcome = run("datashunt", with_logprobs(), [sure("38", 0.4), "Answer: 39"])
    assert asked(waves) == [[("solve", "small")], [("solve", "large")]]
    assert (outcome.answer, outcome.n_escalations) == ("39", 1)
    assert (outcome.steps[0].choice.model, outcome.steps[0].model) == ("small", "large")
    assert charged(waves, outcome) == pytest.approx(220e-6)


def test_without_log_probabilities_the_confidence_is_how_far_samples_agree():
    # 39 four times of five is 0.8, which the threshold lets pass; three times of five is 0.6, which it does not.
    waves, outcome = run("datashunt", router(), ["39", "39", "39", "38", "39"])
    assert asked(waves) == [[("solve", "small")], [("solve", "small")] * 4]
    assert len({call.journal_key("p1") for wave in waves for call in wave}) == 5
    assert outcome.answer == "39"
    assert charged(waves, outcome) == pytest.approx(100e-6)
    waves, outcome = run("datashunt", router(), ["39", "39", "39", "38", "38", "Answer: 40"])
    assert (asked(waves)[-1], outcome.answer) == ([("solve", "large")], "40")


def test_a_failed_small_model_is_replaced_by_the_large_one_and_a_failed_large_one_leaves_the_small_ones_answer():
    broken = completion("", error_type="server_error")
    _, outcome = run("datashunt", with_logprobs(), [broken, "Answer: 39"])
    assert (outcome.status, outcome.answer) == ("answered", "39")
    _, outcome = run("datashunt", with_logprobs(), [sure("38", 0.1), broken])
    assert (outcome.status, outcome.answer) == ("answered", "38")
    _, outcome = run("datashunt", with_logprobs(), [broken, broken])
    assert (outcome.status, outcome.error_type, outcome.answer) == ("deferred", "server_error", None)


def test_division_of_thoughts_runs_every_level_of_the_graph_the_deepest_included():
    replies = [PLAN, sure("48", 0.9), sure("8", 0.3), "Answer: 9", sure("39", 0.95)]
    waves, outcome = run("dot", with_logprobs(), replies)
    assert asked(waves) == [
        [("decompose", "small")],
        [("solve", "small")] * 2,
        [("solve", "large")],
        [("solve", "small")],
    ]
    assert "Subtract" in waves[-1][0].messages[-1][1]
    assert "Result of step 1: 48\nResult of step 2: 9" in waves[-1][0].messages[-1][1]
    assert [(step.model, step.text) for step in outcome.steps] == [("small", "48"), ("large", "9"), ("small", "39")]
    assert (outcome.answer, outcome.n_escalations) == ("39", 1)
    assert charged(waves, outcome) == pytest.approx(4 * 20e-6 + 200e-6)


def test_division_of_thoughts_ends_where_a_subtask_has_no_result():
    broken = completion("", error_type="timeout")
    waves, outcome = run("dot", with_logprobs(), [PLAN, sure("48", 0.9), broken, broken])
    assert len(waves) == 3
    assert (outcome.status, outcome.error_type) == ("deferred", "timeout")


def test_automix_keeps_an_answer_that_its_own_model_verified():
    waves, outcome = run("automix", router(threshold=0.75), ["39", "correct", "Correct.", "incorrect", "correct"])
    assert asked(waves) == [[("solve", "small")], [("verify", "small")] * 4]
    assert waves[1][0].messages[-1][1].endswith("\nProposed answer: 39")
    assert len({call.journal_key("p1") for call in waves[1]}) == 4
    assert (outcome.answer, outcome.n_escalations) == ("39", 0)
    assert charged(waves, outcome) == pytest.approx(5 * 20e-6)


def test_automix_climbs_its_chain_and_does_not_verify_the_last_model():
    chosen = router(chain=("small", "middle", "large"), n_samples=1)
    waves, outcome = run("automix", chosen, ["37", "incorrect", "38", "wrong", "Answer: 39"])
    assert asked(waves) == [
        [("solve", "small")],
        [("verify", "small")],
        [("solve", "middle")],
        [("verify", "middle")],
        [("solve", "large")],
    ]
    assert (outcome.answer, outcome.n_escalations, outcome.steps[0].model) == ("39", 2, "large")
    assert charged(waves, outcome) == pytest.approx((2 * 20 + 2 * 60 + 200) * 1e-6)


def test_automix_does_not_verify_an_answer_that_did_not_come():
    waves, outcome = run("automix", router(), [completion("", error_type="timeout"), "Answer: 39"])
    assert asked(waves) == [[("solve", "small")], [("solve", "large")]]
    assert outcome.answer == "39"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("correct", True),
        ("Incorrect", False),
        ("It is not correct", False),
        ("Right!", True),
        ("wrong", False),
        ("?", False),
    ],
)
def test_a_verdict_is_read_and_no_verdict_is_no_vote_for_the_answer(text: str, verdict: bool):
    assert says_correct(text) is verdict


def test_the_learned_router_takes_the_cheapest_model_that_is_probable_enough_else_the_most_probable():
    # small: sigmoid(0) = 0.5; large: sigmoid(2) = 0.88.
    for threshold, model in ((0.0, "small"), (0.5, "small"), (0.51, "large"), (0.88, "large"), (1.0, "large")):
        chosen = replace(router(threshold=threshold), query_router=LEARNED)
        waves, outcome = run("query_router", chosen, ["39"])
        assert asked(waves) == [[("solve", model)]]
        assert outcome.answer == "39"
    assert pick({"a": 0.4, "b": 0.4}, 0.5) == "a", "of equals the cheaper, which comes first"


def test_without_its_file_the_learned_router_says_which_flag_to_use():
    with pytest.raises(ConfigError, match="--query-router"):
        run("query_router", router(), [])


def test_a_random_model_depends_on_seed_and_problem_alone_and_follows_its_weights():
    def drawn(seed: int, problem_id: str) -> str:
        chosen = router(seed=seed, mix={"small": 3, "large": 1, "middle": 0})
        waves, outcome = replay(method_named("random").run(replace(PROBLEM, problem_id=problem_id), chosen), ["39"])
        assert outcome.steps[0].choice.propensities() == pytest.approx({"small": 0.75, "large": 0.25})
        return waves[0][0].model

    ids = [f"p{i}" for i in range(400)]
    models = [drawn(0, name) for name in ids]
    assert models == [drawn(0, name) for name in ids]
    assert models != [drawn(1, name) for name in ids]
    # 400 draws at 0.75: mean 300, standard deviation 8.7.
    assert set(models) == {"small", "large"}
    assert abs(Counter(models)["small"] - 300) < 35


def test_at_the_level_of_subtasks_each_draws_its_own_model():
    chosen = router(random_level="subtask")
    models = set()
    for n in range(20):
        waves, outcome = replay(
            method_named("random").run(replace(PROBLEM, problem_id=f"p{n}"), chosen), [PLAN, "48", "9", "Answer: 39"]
        )
        assert [[call.purpose for call in wave] for wave in waves] == [["decompose"], ["solve", "solve"], ["solve"]]
        assert outcome.answer == "39"
        models.add(tuple(step.choice.model for step in outcome.steps))
    assert any(len(set(three)) > 1 for three in models)


@pytest.mark.parametrize("mix", [{"small": 0.0}, {}])
def test_weights_that_add_up_to_nothing_name_the_flag(mix: dict[str, float]):
    with pytest.raises(ConfigError, match="--mix"):
        run("random", router(mix=mix), [])


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize("error_type", ["budget_exhausted", "stopped", "circuit_open"])
def test_an_error_that_says_nothing_about_the_question_defers_it_whatever_the_method(method: str, error_type: str):
    waves, outcome = answered(method, lambda call: completion("", call.model, error_type=error_type))
    assert len(waves) == 1
    assert (outcome.status, outcome.error_type, outcome.answer) == ("deferred", error_type, None)


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize(("error_type", "failed"), CALL_FAILURES.items())
def test_models_that_always_fail_end_the_problem_with_their_error(method: str, error_type: str, failed: Failure):
    _, outcome = answered(method, lambda call: completion("", call.model, error_type=error_type))
    status = "deferred" if failed.defers else "failed"
    assert (outcome.status, outcome.error_type, outcome.answer) == (status, error_type, None)


@pytest.mark.parametrize("method", BASELINES)
def test_models_that_write_nothing_fail_the_problem_as_empty(method: str):
    _, outcome = answered(method, lambda call: completion("", call.model))
    assert (outcome.status, outcome.error_type) == ("failed", "empty")
    assert outcome.error_message


@pytest.mark.parametrize("method", BASELINES)
def test_no_method_passes_the_questions_cap(method: str):
    waves, outcome = answered(method, lambda call: completion("39", call.model), max_cost_per_question_usd=1e-9)
    assert (waves, outcome.error_type) == ([], "question_budget")


@pytest.mark.parametrize("method", BASELINES)
def test_no_method_sees_the_gold_answer(method: str):
    def prompts(target: str) -> list[str]:
        problem = replace(PROBLEM, target=target)
        waves, _ = answered(method, lambda call: completion("no", call.model), problem=problem)
        return [text for wave in waves for call in wave for _, text in call.messages]

    assert prompts("39") == prompts("57")


TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["DIRECT", PLAN, "39", "0.7", "correct", "incorrect", "I cannot", "Answer:", "1. a\n2. b (needs: 1)"]
    ),
)


@pytest.mark.parametrize("method", BASELINES)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=6), has_logprobs=st.booleans())
def test_whatever_the_models_write_a_method_ends_with_an_outcome_that_can_be_stored(
    method: str, texts: list[str], has_logprobs: bool
):
    count = iter(range(10_000))

    def complete(call: Call) -> Completion:
        n = next(count)
        text = texts[n % len(texts)]
        reply = completion(text, call.model, error_type="timeout" if n % 5 == 4 else None)
        if call.top_logprobs and reply.text:
            return replace(reply, token_logprobs=(TokenLogprob(text, -0.1 * (n % 7)),))
        return reply

    waves, outcome = answered(method, complete, roster=LOGPROBS if has_logprobs else ROSTER)
    assert (outcome.error_type is None) == (outcome.answer is not None)
    assert sum(map(len, waves)) <= 80
    if outcome.status != "deferred":  # a deferred question is not stored
        charged(waves, outcome)


def test_settings_that_came_later_leave_the_identity_of_earlier_runs_alone():
    assert Reasoning().identity() == {
        "method": "r2",
        "model": None,
        "decomposer": None,
        "allocator": None,
        "finalizer": None,
        "b": 0.0,
        "max_escalations": 2,
        "max_cost_per_question_usd": None,
        "temperature": 0.0,
        "seed": 0,
        "plan_tokens": 200,
        "cot_tokens": 320,
    }
    chosen = Reasoning(method="automix", threshold=0.5, chain=("small", "large"))
    assert {name: value for name, value in chosen.identity().items() if name not in Reasoning().identity()} == {
        "threshold": 0.5,
        "chain": ["small", "large"],
    }


SIMULATED = load_pool(ROOT / "pools" / "simulated.toml")


@pytest.mark.parametrize(
    "named",
    [
        {"small_model": "x"},
        {"large_model": "x"},
        {"chain": ("sim-8b", "x")},
        {"mix": {"x": 1.0}},
        {"model": "x"},
        {"second_decomposer": "x"},
    ],
)
def test_a_model_that_the_pool_does_not_have_is_named_before_anything_is_asked(named: dict[str, object]):
    with pytest.raises(ConfigError, match="model 'x' is not in the pool"):
        make_router(SIMULATED, AnswerSettings(input="q.jsonl", reasoning=Reasoning.model_validate(named)))


def test_who_plans_again_is_said_by_the_pool_file_or_by_the_settings(tmp_path: Path):
    file = tmp_path / "pool.toml"
    text = SIMULATED.text
    file.write_text(text.replace('allocator = "sim-4b"', 'allocator = "sim-4b"\nsecond_decomposer = "sim-14b"'))
    pool = load_pool(file)
    assert pool.digest != SIMULATED.digest

    def second(pool: PoolConfig, **chosen: object) -> str | None:
        settings = AnswerSettings(input="q.jsonl", reasoning=Reasoning.model_validate(chosen))
        return make_router(pool, settings).second_decomposer

    assert second(SIMULATED) is None
    assert second(pool) == "sim-14b"
    assert second(pool, second_decomposer="sim-32b") == "sim-32b"
    assert second(pool, second_decomposer="none") is None


def test_the_fitted_router_is_loaded_with_the_pool_and_its_content_is_part_of_the_runs_identity(tmp_path: Path):
    file = tmp_path / "router.json"
    settings = AnswerSettings(input="q.jsonl", reasoning=Reasoning(method="query_router", query_router=str(file)))
    with pytest.raises(ConfigError, match="cannot be read"):
        make_router(SIMULATED, settings)
    file.write_text(LEARNED.to_json())
    with pytest.raises(ConfigError, match="was fitted for 'small', which the pool does not have"):
        make_router(SIMULATED, settings)
    digest = who_answers_digest(settings, "pool")
    file.write_text(make_query_router({"sim-8b": ModelCurve({3: 0.5}, 0.0, 1.0, 0.0, 0.1)}, 1).to_json())
    assert make_router(SIMULATED, settings).query_router == QueryRouter.from_json(file.read_bytes())
    assert who_answers_digest(settings, "pool") != digest
    assert who_answers_digest(AnswerSettings(input="q.jsonl"), "pool") == "pool"


def test_a_confidence_that_nobody_can_show_or_act_on_is_refused(tmp_path: Path):
    silent = tmp_path / "pool.toml"
    silent.write_text(SIMULATED.text.replace("logprobs = true", "logprobs = false"))

    def settings(**chosen: object) -> AnswerSettings:
        return AnswerSettings(input="q.jsonl", reasoning=Reasoning.model_validate({"min_confidence": 0.9, **chosen}))

    with pytest.raises(ConfigError, match=r"no solver of .* gives log-probabilities"):
        make_router(load_pool(silent), settings())
    with pytest.raises(ConfigError, match="--max-escalations 0: nobody would be asked again"):
        make_router(SIMULATED, settings(max_escalations=0))
    assert make_router(SIMULATED, settings()).settings.min_confidence == 0.9
    assert make_router(load_pool(silent), settings(method="cot")).settings.method == "cot"


def test_a_learned_router_without_a_file_names_the_flag():
    settings = AnswerSettings(input="q.jsonl", reasoning=Reasoning(method="query_router"))
    with pytest.raises(ConfigError, match="--query-router"):
        make_router(SIMULATED, settings)


def test_estimates_count_what_each_method_asks():
    prices = {card.name: card.price for card in ROSTER.solvers}

    def n_calls(method: str, **chosen: object) -> dict[tuple[str, str], int]:
        estimates = estimate_calls(router(method=method, **chosen), prices, [Rows(100, 5000)])
        return {(e.purpose, e.model): e.n_calls for e in estimates}

    assert n_calls("cot") == {("solve", "large"): 100}
    # Two levels of two thoughts and their ratings, and the answer.
    assert n_calls("tot", model="small") == {("solve", "small"): 500, ("verify", "small"): 400}
    assert n_calls("decompose_one", model="middle") == {("decompose", "small"): 100, ("solve", "middle"): 250}
    # Without log-probabilities: the answer and four samples; three in ten are asked again.
    assert n_calls("datashunt") == {("solve", "small"): 500, ("solve", "large"): 30}
    assert n_calls("dot") == {("decompose", "small"): 100, ("solve", "small"): 1250, ("solve", "large"): 75}
    assert n_calls("automix") == {("solve", "small"): 100, ("verify", "small"): 400, ("solve", "large"): 30}
    assert n_calls("query_router") == {("solve", "middle"): 100}
    # Three steps in ten are asked again of the next stronger model, where confidence counts.
    assert n_calls("r2", min_confidence=0.9)["solve", "large"] == 75
    assert ("solve", "large") not in n_calls("r2")
    # One plan in ten is written again.
    assert n_calls("decompose_one", model="middle", second_decomposer="large") == {
        ("decompose", "small"): 100,
        ("decompose", "large"): 10,
        ("solve", "middle"): 250,
    }
    assert n_calls("random", mix={"small": 3, "large": 1}) == {("solve", "small"): 75, ("solve", "large"): 25}


QUESTION = Problem("s1", "What is 1234 + 25 * 3?", benchmark="arithmetic")


def test_simulated_models_see_through_wrong_answers_the_better_the_abler_they_are():
    def share_seen_through(ability: float, answer: str) -> float:
        verdicts = [
            think(f"m{n}", ability, verify_messages(QUESTION, answer), seed=1).text == "correct" for n in range(400)
        ]
        return sum(said == (answer == "1309") for said in verdicts) / 400

    for answer in ("1309", "1310"):
        # Beliefs hold in (1 + P(right)) / 2, verdicts say the belief in 0.85: 0.5 for the helpless, 0.85 for the able.
        assert share_seen_through(-6, answer) == pytest.approx(0.5, abs=0.08)
        assert share_seen_through(8, answer) == pytest.approx(0.85, abs=0.06)


def test_simulated_thoughts_come_to_a_result_and_good_ones_are_rated_higher_by_able_models():
    thought = think("m", 8, think_messages(QUESTION, []), seed=1).text
    assert thought.endswith("It comes to 1309.")
    ratings = [
        float(think("m", 8, rate_messages(QUESTION, [f"It comes to {result}."]), seed=0).text)
        for result in (1309, 1310)
    ]
    assert ratings[0] > 0.5 > ratings[1]


def answered(
    method: str,
    complete: Callable[[Call], Completion],
    *,
    roster: Roster = ROSTER,
    problem: Problem = PROBLEM,
    **chosen: object,
) -> tuple[list[list[Call]], Outcome]:
    """The method's waves and outcome where `complete` answers every call."""
    asking = Router(roster, "small", "small", None, Reasoning.model_validate({"method": method, **chosen}), LEARNED)
    solving, waves = method_named(method).run(problem, asking), []
    try:
        wave = next(solving)
        while True:
            waves.append(wave)
            wave = solving.send([complete(call) for call in wave])
    except StopIteration as end:
        return waves, end.value


def test_a_method_that_nobody_has_is_refused_and_a_stored_one_is_still_reported():
    with pytest.raises(ConfigError, match=r"method 'gone': no such method\. Known: r2, cot, .*, label\."):
        method_named("gone")
    assert (family_of("gone"), can_collapse("gone"), takes_router("gone")) == ("baseline", False, False)
    assert (family_of("r2"), can_collapse("r2"), takes_router("r2")) == ("ours", True, True)
    assert (family_of("cot"), can_collapse("cot"), takes_router("cot")) == ("constant", False, False)


def test_a_method_cannot_have_a_name_that_leaves_the_lake():
    with pytest.raises(ValidationError, match="method"):
        Reasoning(method="../elsewhere")
