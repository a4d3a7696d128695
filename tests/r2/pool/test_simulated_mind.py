"""What simulated models answer, and that the shipped pools of them are what they say. Nothing here is served."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2.answering.allocation import parse_allocation
from r2.answering.prompts import DIRECT_STEP, FINAL_TASK, allocate_messages, decompose_messages, solve_messages
from r2.answering.protocol import Router, Solving
from r2.answering.route import solve
from r2.call import Attempt, Call, Completion, Message
from r2.ledger import Price, cost_usd
from r2.methods.cot import chain_of_thought
from r2.plan import DIRECT, Plan, Subtask, format_plan, parse_plan
from r2.pool.client import wire
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.simulated.faults import FAULTS
from r2.pool.simulated.mind import (
    UNSURE,
    expected_plans,
    expected_skills,
    p_right,
    read_job,
    think,
)
from r2.pool.simulated.server import Conditions, SimulatedServer, simulated_models
from r2.problem import Problem
from r2.problems import arithmetic, scan, words
from r2.problems.benchmark import judge
from r2.roster import PLAN_SKILL, ModelCard, PromptMode
from r2.settings import Reasoning
from tests.support.paths import ROOT

GENIUS, DUNCE = 50.0, -50.0
"""Abilities that are always, and never, right."""


def asked(
    question: str, task: str | None = None, results: dict[int, str] | None = None, mode: PromptMode = "direct"
) -> tuple[Message, ...]:
    return solve_messages(Problem("p", question), task, results or {}, mode)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is 12 * 7 - (3 + 4)?", "77"),
        ("What is 3 + 4? (No. 17)", "7"),
        ("Compute 2 - 5.", "-3"),
        ("A box holds 12 pens. Ann has 4 boxes and gives away 9 pens. How many pens are left?", "39"),
        ("Solve for x: 4 * x + 7 = 31", "6"),
        ("jump left twice after walk", "I_WALK I_TURN_LEFT I_JUMP I_TURN_LEFT I_JUMP"),
    ],
)
def test_an_able_model_answers_each_kind_of_question(question: str, answer: str):
    assert think("m", GENIUS, asked(question), 0).text == answer
    assert think("m", DUNCE, asked(question), 0).text != answer


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("Compute 12 * 7", "84"),
        ("Compute the result of step 2 * 3", "-15"),
        ("Compute the result of step 1 - the result of step 2", "13"),
        ("Add 5 to the result of step 1", "13"),
        ("Subtract the result of step 2 from 10.", "15"),
        ("Subtract 3 + 4 from 10", "3"),
        ("Multiply the result of step 2 by the result of step 1", "-40"),
        ("Translate 'turn around left'", "I_TURN_LEFT I_TURN_LEFT I_TURN_LEFT I_TURN_LEFT"),
        ("Repeat the result of step 3 twice", "I_JUMP I_JUMP"),
        ("Repeat the result of step 3 3 times", "I_JUMP I_JUMP I_JUMP"),
        ("Join the result of step 4 and then the result of step 3", "I_WALK I_JUMP"),
        (FINAL_TASK, "I_WALK"),
    ],
)
def test_an_able_model_works_each_kind_of_step_from_the_results_it_is_shown(task: str, answer: str):
    shown = {1: "8", 2: "-5", 3: "I_JUMP", 4: "I_WALK"}
    assert think("m", GENIUS, asked("whatever", task, shown), 0).text == answer


@pytest.mark.parametrize(
    "messages",
    [
        asked("Who wrote Faust?"),
        asked("What is 1 + 1?", "Find the capital of France"),
        asked("What is 1 + 1?", "Add 5 to the result of step 1", {1: UNSURE}),
        asked("What is 1 / 2?"),
        (("user", ""),),
        (),
    ],
)
def test_what_a_model_does_not_understand_it_does_not_know(messages: tuple[Message, ...]):
    assert think("m", GENIUS, messages, 0).text == UNSURE


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text())), st.floats(-5, 9))
def test_any_messages_get_a_reply_and_the_same_one_each_time(messages: list[tuple[str, str]], ability: float):
    assert think("m", ability, messages, 3) == think("m", ability, messages, 3)


def test_model_request_seed_and_simulation_seed_each_draw_anew():
    questions = [asked(f"What is {n} * 7?") for n in range(100, 200)]
    variants = [("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1)]
    replies = [tuple(think(model, 1.0, q, seed, base).text for q in questions) for model, seed, base in variants]
    assert len(set(replies)) == 4


@pytest.mark.parametrize("ability", [0.5, 1.3, 2.5])
def test_the_share_of_right_answers_is_the_item_response_curve(ability: float):
    questions = [f"What is {a} * {b}?" for a in range(10, 60) for b in range(2, 10)]
    job = read_job("Question: What is 10 * 2?")
    assert job is not None and job.difficulty == pytest.approx(-1.5 + 0.8 * 3)
    n_right = sum(think("m", ability, asked(q), 0).text == str(arithmetic.evaluate(q[8:-1])) for q in questions)
    expected = p_right(ability, job.difficulty)
    assert n_right / 400 == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 400) ** 0.5)


def test_what_is_asked_at_once_is_harder_than_its_steps():
    def difficulty(text: str) -> float:
        job = read_job(f"Question: {text}")
        assert job is not None
        return job.difficulty

    assert difficulty("What is 20 + 31?") < difficulty("What is 20 + 310?") < difficulty("What is 20 * 31?")
    assert difficulty("What is 20 + 31 + 12?") == pytest.approx(difficulty("What is 20 + 31?") + 1)
    assert difficulty("jump left") < difficulty("jump left twice") < difficulty("jump left twice and run")


def test_thinking_step_by_step_raises_ability_and_takes_several_times_the_tokens():
    questions = [f"What is {a} * {b}?" for a in range(11, 61) for b in range(12, 18)]
    right = {
        mode: sum(
            think("m", 1.5, asked(q, mode=mode), 0).text.endswith(str(arithmetic.evaluate(q[8:-1]))) for q in questions
        )
        for mode in ("direct", "cot")
    }
    assert right["cot"] > 2 * right["direct"]
    thought = think("m", GENIUS, asked("What is 12 * 7?", mode="cot"), 0).text
    assert thought.endswith("\nAnswer: 84") and len(thought.split()) > 10


def test_an_able_decomposer_writes_the_gold_plan_and_an_unable_one_a_flawed_one_or_chatter():
    question = "walk twice and jump"
    gold = scan.gold_plan(question)[0]
    messages = decompose_messages(Problem("p", question))
    assert think("m", GENIUS, messages, 0).text == format_plan(gold)
    flawed = {think("m", DUNCE, messages, seed).text for seed in range(20)}
    assert flawed == {format_plan(Plan(gold.subtasks[:-1])), "Let me think about how to split this."}


@pytest.mark.parametrize("question", ["What is 17 + 25?", "walk around left", "Who wrote Faust?"])
def test_a_decomposer_leaves_a_single_operation_or_an_unknown_question_whole(question: str):
    assert parse_plan(think("m", GENIUS, decompose_messages(Problem("p", question)), 0).text) == DIRECT


CARDS = [
    ModelCard("dear", "large", Price(5, 5, 5, "2026-11-24", "test"), skills={"add": 0.99, "multiply": 0.99}),
    ModelCard("cheap", "small", Price(0.1, 0.1, 0.1, "2026-11-24", "test"), skills={"add": 0.99, "multiply": 0.3}),
    ModelCard("thinks", "medium", Price(2, 2, 2, "2026-11-24", "test"), "cot", skills={"add": 0.99, "multiply": 0.99}),
]
PLAN = Plan((Subtask("Compute 3 + 4"), Subtask("Compute the result of step 1 * 5", (0,))))


def test_an_allocator_takes_the_cheapest_model_that_its_profile_promises_will_do():
    messages = allocate_messages(Problem("p", "What is (3 + 4) * 5?"), PLAN, CARDS)
    thought = think("m", GENIUS, messages, 0)
    # "thinks" looks cheaper than "dear" at 2 USD, but takes several times the tokens
    assert parse_allocation(thought.text, 2, CARDS) == ["cheap", "dear"]
    assert [max(table, key=lambda letter: table[letter]) for table in thought.letter_probabilities] == ["B", "A"]
    assert all(sum(table.values()) == pytest.approx(1) for table in thought.letter_probabilities)


def test_an_allocator_judges_a_direct_plan_by_its_question():
    for question, model in (("What is 3 + 4?", "cheap"), ("What is 3 * 4?", "dear")):
        messages = allocate_messages(Problem("p", question), DIRECT, CARDS)
        assert parse_allocation(think("m", GENIUS, messages, 0).text, 1, CARDS) == [model]


@pytest.mark.parametrize("name", ["simulated", "faulty"])
def test_the_profiles_in_the_shipped_pools_are_the_models_true_accuracies(name: str):
    pool = load_pool(ROOT / f"pools/{name}.toml")
    for entry, table in pool.models.items():
        skills = expected_skills(table.simulated["ability"], thinks=table.prompt_mode == "cot")
        if entry == pool.router.decomposer and PLAN_SKILL in table.profile:
            skills[PLAN_SKILL] = expected_plans(table.simulated["ability"])
        assert table.profile == {
            skill: pytest.approx(min(0.99, share), abs=0.0051) for skill, share in skills.items()
        }, f"{entry}: `python -m r2.pool.simulated.process --pool pools/{name}.toml --profiles` prints the true ones"


def test_a_specialist_is_able_at_its_kind_of_work_and_not_at_others():
    by_kind = {"scan_command": GENIUS, "multiply": GENIUS}
    assert think("m", DUNCE, asked("walk thrice"), 0, by_kind=by_kind).text == "I_WALK I_WALK I_WALK"
    assert think("m", DUNCE, asked("What is 12 * 7?"), 0, by_kind=by_kind).text == "84"
    assert think("m", DUNCE, asked("What is 12 + 7?"), 0, by_kind=by_kind).text != "19"
    assert think("m", GENIUS, asked("walk thrice"), 0, by_kind={"add": DUNCE}).text == "I_WALK I_WALK I_WALK"
    skills = expected_skills(DUNCE, by_kind)
    assert skills["scan_command"] == skills["multiply"] == 1.0
    assert skills["add"] == pytest.approx(0.0)
    assert expected_skills(0.0, {"add": 1.0}, thinks=True)["add"] == expected_skills(2.0)["add"]


def test_a_step_may_be_the_question_itself_or_the_check_of_an_earlier_result():
    question = "What is 12 * 7 - 4?"
    assert think("m", GENIUS, asked(question, DIRECT_STEP), 0).text == "80"
    assert think("m", DUNCE, asked(question, DIRECT_STEP), 0).text != "80"
    checked = read_job(asked(question, "Check the result of step 1", {1: "80"})[-1][1])
    assert checked is not None
    assert (checked.right, checked.skill) == ("80", "final")
    assert checked.difficulty < -1


def test_the_shipped_pools_have_nine_models_and_every_fault_that_retries_can_mend():
    assert len(simulated_models(load_pool(ROOT / "pools/simulated.toml"))) == 9
    faults = load_pool(ROOT / "pools/faulty.toml").tables.simulated_faults
    assert set(faults) == set(FAULTS) - {"auth"} and all(0.01 <= share <= 0.05 for share in faults.values())


def answer_offline(
    pool: PoolConfig, method: Callable[[Problem], Solving], problems: list[Problem]
) -> tuple[float, float]:
    """(accuracy, USD) of a method on simulated models without HTTP. Tokens: the server's own counts."""
    server = SimulatedServer(pool, Conditions())

    def complete(call: Call) -> Completion:
        table = pool.models[call.model]
        served = table.endpoint.partition(":")[2]
        _, body = server.complete(json.loads(wire.request_body(call, table, served)))
        reply = wire.parse_body(json.dumps(body).encode())
        assert isinstance(reply, wire.ParsedReply) and reply.usage is not None
        attempt = Attempt(
            call.model, 0, 200, 0.0, usage=reply.usage, cost_usd=cost_usd(pool.price(call.model), reply.usage)
        )
        return Completion(reply.text, call.model, (attempt,), reply.finish_reason, reply.token_logprobs)

    n_right, usd = 0, 0.0
    for problem in problems:
        solving = method(problem)
        completions: list[Completion] | None = None
        try:
            while True:
                wave = solving.send(completions) if completions is not None else next(solving)
                completions = [complete(call) for call in wave]
                usd += sum(completion.cost_usd for completion in completions)
        except StopIteration as ended:
            n_right += judge(problem, ended.value.answer or "") is True
    return n_right / len(problems), usd


def test_on_the_shipped_pool_routing_costs_a_fraction_of_the_strongest_model_and_less_than_any_as_right():
    pool = load_pool(ROOT / "pools/simulated.toml")
    problems = [*arithmetic.generate(150, 5), *words.generate(150, 5), *scan.generate(150, 5)]
    router = Router(pool.roster(), pool.router.decomposer, pool.router.allocator, None, Reasoning())
    routed, routed_usd = answer_offline(pool, lambda p: solve(p, router), problems)
    alone = {m: answer_offline(pool, lambda p, m=m: chain_of_thought(p, router, m), problems) for m in pool.models}
    strongest, strongest_usd = alone[router.roster.strongest]
    assert strongest > 0.98 and routed > strongest - 0.04
    assert routed_usd < strongest_usd / 10
    assert routed_usd < min(usd for accuracy, usd in alone.values() if accuracy >= routed - 0.01) / 1.5
