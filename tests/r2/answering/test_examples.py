"""An entry's own worked examples: earlier turns of the conversation, in its own prompt mode and in no other."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from r2.answering.expected_cost import RESULT_TOKENS, call_usd
from r2.answering.open_unit import COST_GRID, open_step, unit_of
from r2.answering.programs import asks_for_program
from r2.answering.prompts import PROGRAM_ASK, SOLVE_SYSTEM
from r2.answering.protocol import Router
from r2.answering.route import solver_call
from r2.call import Call
from r2.errors import ConfigError
from r2.ledger import Price
from r2.methods.expected import whole_question
from r2.plan import Subtask
from r2.pool.calibrate import calibrate_pool
from r2.pool.client.instructions import InstructionTurns
from r2.pool.file.config import load_pool
from r2.pool.file.identity import answering_digest
from r2.pool.simulated.mind import think
from r2.problem import Problem
from r2.roster import ModelCard, PromptMode, Roster
from r2.settings import Reasoning
from tests.support.loopback import Loopback, answers, write_pool

PRICE = Price(input=1.0, cached_input=0.0, output=1.0, date="2026-11-28", source="test")
EXAMPLES = (("What is 2 + 3?", "print(2 + 3)"), ("What is 4 * 5?", "print(4 * 5)"))
SUM = Problem("p1", "What is 17 + 25?", target="42", benchmark="arithmetic")
TURNS = (
    ("user", "Question: What is 2 + 3?"),
    ("assistant", "print(2 + 3)"),
    ("user", "Question: What is 4 * 5?"),
    ("assistant", "print(4 * 5)"),
)


def router(mode: PromptMode = "program", examples: tuple[tuple[str, str], ...] = EXAMPLES) -> Router:
    card = ModelCard("only", "large", PRICE, prompt_mode=mode, examples=examples)
    return Router(Roster([card]), "only", "only", None, Reasoning())


def asked(problem: Problem = SUM, mode: PromptMode | None = None, *, of: Router | None = None) -> Call:
    return solver_call(problem, of or router(), "only", None, {}, "solve", mode=mode)


def test_they_are_turns_before_the_question_and_stand_in_place_of_the_five_of_a_program():
    call = asked()
    assert call.messages == (("system", PROGRAM_ASK), *TURNS, ("user", "Question: What is 17 + 25?"))
    assert asks_for_program(call), "what is written is run all the same"


def test_in_another_prompt_mode_none_is_shown():
    call = asked(mode="cot")
    assert call.messages == (("system", SOLVE_SYSTEM["cot"]), ("user", "Question: What is 17 + 25?"))


def test_without_any_a_program_has_its_five():
    assert asked(of=router(examples=())).messages[0] == ("system", SOLVE_SYSTEM["program"])


def test_a_step_is_asked_with_them_as_well():
    call = solver_call(SUM, router(), "only", "Compute 17 + 25", {}, "solve")
    assert call.messages[1:5] == TURNS
    assert call.messages[-1][1].endswith("Task: Compute 17 + 25")


def test_an_answer_in_full_has_them_in_the_words_of_a_plain_question():
    examples = (("Name a prime above 10.", "11 is one."),)
    call = asked(Problem("p2", "Name a prime above 20."), of=router("direct", examples))
    assert call.messages == (
        ("user", "Name a prime above 10."),
        ("assistant", "11 is one."),
        ("user", "Name a prime above 20."),
    )


def test_a_dry_run_counts_them_and_a_prefix_that_is_free_once_read_costs_nothing():
    [with_them, without] = [whole_question(router(examples=given), "only").messages for given in (EXAMPLES, ())]
    assert with_them[1:5] == TURNS
    assert len(without) == 2
    call, card = asked(), router().roster["only"]
    own = (("user", "Question: What is 17 + 25?"),)
    assert call_usd(card, call.messages, 5) == pytest.approx(call_usd(card, own, 5), rel=0.2)
    dear = replace(card, price=replace(PRICE, cached_input=1.0))
    assert call_usd(dear, call.messages, 5) > 2 * call_usd(card, call.messages, 5)


def test_calls_with_the_same_examples_are_read_once_by_an_embedded_server():
    """The system text is short; what is long are the turns before the question."""
    long = tuple((f"{question} {'x' * 200}", reply) for question, reply in EXAMPLES)

    async def scenario() -> tuple[bool, bool]:
        turns, call = InstructionTurns(), asked(of=router(examples=long))
        first = await turns.enter(call)
        second = asyncio.create_task(
            turns.enter(asked(replace(SUM, question="What is 1 + 1?"), of=router(examples=long)))
        )
        other = asyncio.create_task(turns.enter(asked(of=router(examples=long[::-1]))))
        for _ in range(5):
            await asyncio.sleep(0)
        waits, others_wait = not second.done(), not other.done()
        assert first is not None
        turns.leave(first, 0)
        await asyncio.gather(second, other)
        return waits, others_wait

    assert asyncio.run(scenario()) == (True, False)


def test_a_simulated_model_writes_its_program_with_examples_too():
    assert think("m", 9.0, asked().messages, seed=1).text == "print('42')"


def pool_file(tmp_path: Path, mode: str, examples: str) -> Path:
    file = tmp_path / "pool.toml"
    price = '{input = 1.0, output = 1.0, date = "2026-11-28", source = "test"}'
    file.write_text(
        '[router]\ndecomposer = "a"\nallocator = "a"\n\n'
        f'[models.a]\nendpoint = "http://127.0.0.1:9/v1"\ntier = "small"\nprompt_mode = "{mode}"\n'
        f"price_usd_per_mtok = {price}\n{examples}\n"
    )
    return file


def test_a_pool_file_says_them_and_they_are_part_of_what_decides_an_answer(tmp_path: Path):
    said = 'examples = [{question = "What is 2 + 3?", reply = "print(2 + 3)"}]'
    pool = load_pool(pool_file(tmp_path, "program", said))
    assert pool.roster()["a"].examples == EXAMPLES[:1]
    digests = [answering_digest(pool, "a")]
    for other in ("", said.replace("2 + 3", "2 + 4"), "examples = []"):
        digests.append(answering_digest(load_pool(pool_file(tmp_path, "program", other)), "a"))
    assert len(set(digests)) == 3, "no list and an empty one are the same"
    assert digests[1] == digests[3]


@pytest.mark.parametrize(
    ("mode", "examples", "said"),
    [
        ("bare", '[{question = "q", reply = "r"}]', 'prompt_mode = "bare"'),
        ("direct", '[{question = "q"}]', "models.a.examples"),
        ("direct", '[{question = "q", reply = ""}]', "models.a.examples"),
        ("direct", '[{question = "q", reply = "r", why = "x"}]', "models.a.examples"),
        ("direct", '["q"]', "models.a.examples"),
    ],
)
def test_examples_that_cannot_be_shown_are_refused_by_place(tmp_path: Path, mode: str, examples: str, said: str):
    with pytest.raises(ConfigError, match=r"pool\.toml:") as refused:
        load_pool(pool_file(tmp_path, mode, f"examples = {examples}"))
    assert said in str(refused.value)


def test_of_tables_written_apart_the_line_of_the_bad_one_is_named(tmp_path: Path):
    good, bad = '[[models.a.examples]]\nquestion = "q"\nreply = "r"\n', '[[models.a.examples]]\nquestion = "q"\n'
    file = pool_file(tmp_path, "direct", f"\n{good}\n{bad}\n{good}")
    lines = file.read_text().splitlines()
    at = [number for number, line in enumerate(lines, start=1) if line.startswith("[[")][1]
    with pytest.raises(ConfigError, match=rf"pool\.toml:{at}: models\.a\.examples\.1\.reply: missing"):
        load_pool(file)


def test_calibration_measures_the_entry_as_it_is_asked(tmp_path: Path):
    async def scenario() -> list[dict[str, str]]:
        async with Loopback(after=answers("print(42)")) as server:
            lines = 'prompt_mode = "program"\nexamples = [{question = "q?", reply = "print(1)"}]'
            pool = write_pool(tmp_path, {"a": f'endpoint = "{server.base_url}"\n{lines}'})
            await calibrate_pool(pool, tmp_path, tmp_path, 1, 0, ["add"], lambda _: None)
            said: list[dict[str, str]] = server.arrivals[0].body["messages"]
            return said

    sent = asyncio.run(scenario())
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]
    assert sent[2]["content"] == "print(1)"


def test_the_rule_prices_each_entry_by_its_own_prompt():
    """Two entries that write programs, one with examples: what one is shown is not charged to the other."""
    cards = [
        ModelCard("a", "small", PRICE, prompt_mode="program", skills={"add": 0.9}, examples=5 * EXAMPLES),
        ModelCard("b", "large", PRICE, prompt_mode="program", skills={"add": 0.9}),
    ]
    router_ = Router(Roster(cards), "a", "a", None, Reasoning())
    unit = unit_of(SUM, router_, open_step(Subtask("all"), router_), 1.0, None, is_answer=True)
    for card in cards:
        call = solver_call(SUM, router_, card.name, None, {}, "solve")
        expected = call_usd(card, call.messages, RESULT_TOKENS["program"])
        assert unit.beliefs.cost_usd(card.name, ()) == pytest.approx(expected, rel=COST_GRID)
