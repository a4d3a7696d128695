"""Entries that answer with a program: what is run, what its result is, what it costs, and how a bad one fails."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2.answering.code import is_code, program_in
from r2.answering.programs import WORST_USD, asks_for_program, program_call
from r2.answering.prompts import solve_messages
from r2.answering.protocol import Outcome, Router
from r2.call import Call, Completion
from r2.errors import ConfigError
from r2.labelling.execution import execute
from r2.ledger import CORE_HOUR_USD, Price
from r2.methods import method_named
from r2.plan import Plan, Subtask
from r2.pool.client.ports import NoJournal
from r2.pool.client.programs import Programs
from r2.pool.reused import priced_anew, reused
from r2.pool.simulated.mind import think
from r2.problem import Problem
from r2.problems.benchmark import judge
from r2.problems.sandbox import SandboxLimits, run_program
from r2.roster import ModelCard, Roster
from r2.settings import Reasoning
from r2.training.grpo.review import reviewed
from tests.support.scripted import CHEAP, DEAR, ROSTER, completion, replay, sure

needs_sandbox = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
PROBLEM = Problem("p1", "What is 12 * 4 - 9?", target="39", benchmark="arithmetic")
WRITING = Roster([replace(card, prompt_mode="program", has_logprobs=True) for card in ROSTER.solvers])


def writing(**settings: object) -> Router:
    return Router(WRITING, "small", "small", None, Reasoning.model_validate(settings))


def run(method: str, router: Router, replies: list[str | Completion]) -> tuple[list[list[Call]], Outcome]:
    return replay(method_named(method).run(PROBLEM, router), replies)


def asked(waves: list[list[Call]]) -> list[list[tuple[str, str]]]:
    return [[(call.purpose, call.model) for call in wave] for wave in waves]


def failed(error_type: str) -> Completion:
    return completion("", error_type=error_type)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("print(39)", "print(39)"),
        ("```python\nprint(39)\n```", "print(39)"),
        ("Here it is:\n```\nx = 39\nprint(x)\n```\nIt prints 39.", "x = 39\nprint(x)"),
        ("```python\nprint(39)", "print(39)"),
        ("  \n", ""),
    ],
)
def test_the_program_is_the_first_fenced_block_or_all_of_the_reply(text: str, code: str):
    assert program_in(text) == code


def test_what_the_program_prints_is_the_result_and_its_run_is_a_call_of_its_own():
    waves, outcome = run("start", writing(model="small"), ["print(12 * 4 - 9)", "39\n"])
    assert asked(waves) == [[("solve", "small")], [("program", "small")]]
    assert waves[1][0].messages == (("assistant", "print(12 * 4 - 9)"),)
    assert waves[1][0].subtask_index == 0
    assert (outcome.answer, outcome.failed_checks) == ("39", [])


@pytest.mark.parametrize(
    "words",
    [
        "No",
        "Yes, it would.",
        "B",
        "(B) bank",
        "Answer: No",
        "39",
        "-3",
        "3, 4",
        "n**2 + 1",
        "hot-dog",
        "12*4-9 = 39",
        "I_JUMP I_WALK",
        '{"answer": 4, "sure": true}',
        "The area (in cm) is 12.",
        r"\frac{1}{2}",
        "# so\nNo",
        "a[",
        "😀",
    ],
)
def test_words_are_no_code(words: str):
    assert not is_code(words)


@pytest.mark.parametrize(
    "code",
    [
        "print(39)",
        "48 * 37 - 159",
        "x = 5",
        "a, b = 1, 2",
        "x[0] += 1",
        "import math",
        "print('a'",
        "print 39",
        "max(1)",
        "[x for x in range(3)]",
        '"hello"',
        "# nothing",
        "for i in range(3):\nprint(i)",
        "pass",
        r"re.sub('\d', '', 'x')",
        "True and False",
        "a[0]",
    ],
)
def test_what_may_compute_or_print_is_code_also_where_it_is_broken(code: str):
    assert is_code(code)


@given(st.text())
def test_any_text_is_either_code_or_words(text: str):
    assert is_code(program_in(text)) in (True, False)


STRATEGYQA = Problem("s", "Would a pear sink in water?", target="no", benchmark="strategyqa")
CSQA = Problem("c", "Where is money kept?", target="B", benchmark="csqa", choices=("river", "bank"))
SCAN = Problem("j", "jump twice", target="I_JUMP I_JUMP", benchmark="scan")


@pytest.mark.parametrize(
    ("problem", "reply"),
    [
        (STRATEGYQA, "No"),
        (STRATEGYQA, "```\nNo\n```"),
        (CSQA, "B"),
        (CSQA, "(B) bank"),
        (SCAN, "I_JUMP I_JUMP"),
        (PROBLEM, "It is 48 - 9 = 39"),
    ],
)
def test_a_reply_without_code_is_the_answer_itself_and_costs_what_it_cost(problem: Problem, reply: str):
    waves, outcome = replay(method_named("start").run(problem, writing(model="small")), [reply])
    assert asked(waves) == [[("solve", "small")]]
    assert outcome.error_type is None
    assert outcome.failed_checks == []
    assert outcome.answer is not None
    assert judge(problem, outcome.answer)


def test_in_a_wave_programs_are_run_and_words_are_taken_as_they_are():
    waves, outcome = run("self_consistency", writing(model="small", n_samples=3), ["38", "print(39)", "39", "39"])
    assert [[call.messages for call in wave] for wave in waves[1:]] == [[(("assistant", "print(39)"),)]]
    assert outcome.answer == "39"


@pytest.mark.parametrize("why", ["program_crashed", "program_timeout", "program_silent", "no_program"])
def test_a_bad_program_is_a_failed_check_by_name_and_a_stronger_entry_is_asked(why: str):
    waves, outcome = run("start", writing(model="small"), ["boom()", failed(why), "print(39)", "39"])
    assert asked(waves)[2:] == [[("solve", "middle")], [("program", "middle")]]
    assert (outcome.answer, outcome.failed_checks, outcome.n_escalations) == ("39", [f"solve_{why}"], 1)


def test_a_program_that_was_cut_is_not_run_and_no_part_of_it_is_an_answer():
    cut = completion("x = [1, 2, 3,", finish_reason="length")
    waves, outcome = run("start", writing(model="large"), [cut])
    assert asked(waves) == [[("solve", "large")]]
    assert (outcome.answer, outcome.error_type, outcome.failed_checks) == (None, "truncated", ["truncated"])


def test_an_empty_reply_holds_no_program():
    waves, outcome = run("start", writing(model="large"), [""])
    assert (len(waves), outcome.failed_checks, outcome.error_type) == (1, ["empty"], "empty")


def test_how_sure_a_model_is_of_its_program_counts_as_of_any_reply():
    chosen = writing(model="middle", min_confidence=0.9)
    waves, outcome = run(
        "start", chosen, [sure("print(38)", 0.5, "middle"), "38", sure("print(39)", 0.95, "large"), "39"]
    )
    assert asked(waves)[2] == [("solve", "large")]
    assert (outcome.answer, outcome.failed_checks) == ("39", ["unsure"])


def test_any_way_to_answer_may_use_such_an_entry():
    _, outcome = run("datashunt", writing(), [sure("print(39)", 0.99), "39"])
    assert outcome.answer == "39"
    said = ["f(1)", "f(2)", "f(3)", "38", "39", "39"]
    waves, outcome = run("self_consistency", writing(model="small", n_samples=3), said)
    assert [len(wave) for wave in waves] == [3, 3]
    assert outcome.answer == "39"
    plan = "1. Compute 12 * 4\n2. Subtract 9 from the result of step 1 (needs: 1)"
    waves, outcome = run("decompose_one", writing(model="small"), [plan, "print(12 * 4)", "48", "print(48 - 9)", "39"])
    assert [wave[0].purpose for wave in waves] == ["decompose", "solve", "program", "solve", "program"]
    assert "Result of step 1: 48" in waves[3][0].messages[-1][1]
    assert outcome.answer == "39"


def test_labelling_executes_a_plan_with_such_entries_and_counts_what_the_runs_cost():
    plan = Plan((Subtask("Compute 12 * 4"), Subtask("Subtract 9 from the result of step 1", (0,))))
    executing = execute(PROBLEM, plan, ["small", "middle"], writing())
    said = {"solve": iter(["print(12 * 4)", "print(48 - 9)"]), "program": iter(["48", "39"])}
    asked: list[Call] = []
    completions: list[Completion] | None = None
    while True:
        try:
            wave = next(executing) if completions is None else executing.send(completions)
        except StopIteration as end:
            done = end.value
            break
        asked += wave
        completions = [completion(next(said[call.purpose]), call.model) for call in wave]
    assert [call.purpose for call in asked] == ["solve", "program", "solve", "program"]
    assert (done.answer, done.is_correct) == ("39", True)
    # Small 20 and middle 60 millionths of a USD, each twice: its reply, and the run of what it wrote.
    assert done.cost_usd == pytest.approx(2 * 20e-6 + 2 * 60e-6)


def test_a_reviewer_is_not_shown_a_program_as_a_result():
    scan = Problem("s", "jump", target="I_JUMP", benchmark="scan")
    solving = method_named("program").run(scan, writing(model="small"))
    _, outcome = replay(reviewed(scan, solving, writing(), "large"), ['print("I_JUMP")', "I_JUMP"])
    assert outcome.answer == "I_JUMP"


def test_a_thinking_prompt_to_such_an_entry_asks_for_no_program():
    waves, outcome = run("cot", writing(model="small"), ["Answer: 39"])
    assert (len(waves), outcome.answer) == (1, "39")
    assert not asks_for_program(waves[0][0])


def test_the_run_is_within_the_questions_cap():
    solve_usd = 20e-6
    chosen = writing(model="small", max_cost_per_question_usd=0.02)
    assert run("start", chosen, ["print(39)", "39"])[1].answer == "39"
    large = completion("print(39)", "small")
    dear = replace(large, attempts=(replace(large.attempts[0], cost_usd=0.02 - WORST_USD / 2),))
    _, outcome = run("start", chosen, [dear])
    assert outcome.error_type == "question_budget"
    assert "--max-cost-per-question-usd" in (outcome.error_message or "")
    assert solve_usd < WORST_USD


def test_a_stop_while_a_program_is_to_run_defers_the_question():
    _, outcome = run("start", writing(model="small"), ["print(39)", failed("stopped")])
    assert (outcome.status, outcome.error_type) == ("deferred", "stopped")


@needs_sandbox
def test_the_sandbox_reads_what_is_printed_and_says_why_nothing_is():
    fast = SandboxLimits(cpu_s=1, wall_s=5)
    for code, printed in {
        "print(6 * 7)": "42\n",
        "6 * 7": "42\n",
        "import math\nmath.gcd(4, 6)": "2\n",
        "def f():\n    return 5\nprint(f())\nexit()": "5\n",
        "import sys\nsys.stdout.write('x')": "x",
        "print('\\ud800')": "?\n",
    }.items():
        assert run_program(code, fast).printed == printed
    for code, why in {
        "The answer is 4": "no_program",
        "print(1 / 0)": "program_crashed",
        "import numpy": "program_crashed",
        "open('/etc/passwd').read()": "program_crashed",
        "print('a' * 10**6)": "program_crashed",
        "x = 3": "program_silent",
        "import os\nos._exit(0)": "program_crashed",
        "while True: pass": "program_timeout",
        "import os\nos.write(1, b'{\"printed\": 1}')\nos._exit(0)": "program_crashed",
    }.items():
        found = run_program(code, fast)
        assert (found.printed, found.error_type) == (None, why), code
        assert 0 < found.cpu_s < 2
    assert "ZeroDivisionError" in run_program("print(1 / 0)", fast).error_message
    holds_off = "import _signal\n_signal.signal(24, _signal.SIG_IGN)\nwhile True: pass"
    assert run_program(holds_off, fast).error_type == "program_timeout"


class _Kept(NoJournal):
    def __init__(self) -> None:
        self.begun: list[float] = []
        self.kept: dict[str, bytes] = {}

    def begin(self, key: str, worst_usd: float) -> None:
        self.begun.append(worst_usd)

    async def commit(self, key: str, record: bytes, usd: float = 0.0) -> None:
        self.kept[key] = record


@needs_sandbox
def test_a_run_costs_the_seconds_of_a_core_that_it_took_and_is_kept_in_the_journal():
    call = program_call(Call("small", (), "solve", 64, subtask_index=0), completion("print(sum(range(10**6)))"))
    assert call is not None
    journal = _Kept()

    async def ran() -> tuple[Completion, float]:
        programs = Programs(None)
        return await programs.run(call, "k", journal), programs.spent_usd

    done, spent_usd = asyncio.run(ran())
    assert done.text == "499999500000\n"
    assert done.cost_usd == spent_usd
    assert 0.005 * CORE_HOUR_USD / 3600 < spent_usd < WORST_USD
    assert done.usage.total_tokens == 0
    assert journal.begun == [WORST_USD]
    again = Completion.from_bytes(journal.kept["k"])
    assert (again.text, again.cost_usd) == (done.text, done.cost_usd)
    # At other token prices a run costs what it cost, also where another run's is used again.
    assert priced_anew(again, {"small": DEAR}).cost_usd == done.cost_usd
    free = reused(call, again, CHEAP, "earlier")
    assert free is not None
    assert (free.cost_usd, free.saved_usd) == (0.0, done.cost_usd)
    assert priced_anew(free, {"small": DEAR}).saved_usd == done.cost_usd


@needs_sandbox
def test_after_a_stop_no_program_is_begun():
    async def ran() -> Completion:
        programs = Programs(None)
        programs.stop()
        return await programs.run(Call("small", (("assistant", "print(1)"),), "program", 1), "k", NoJournal())

    assert asyncio.run(ran()).error_type == "stopped"


@needs_sandbox
def test_a_simulated_model_writes_a_program_that_prints_what_it_computed():
    said = think("m", 9.0, solve_messages(PROBLEM, None, {}, "program"), seed=1).text
    assert said == "print('39')"
    assert run_program(said).printed == "39\n"
    assert think("m", 9.0, solve_messages(Problem("x", "Who was it?"), None, {}, "program"), seed=1).text == (
        "I do not know."
    )


def test_a_pool_file_may_say_it(tmp_path: Path):
    from r2.pool.file.config import load_pool
    from tests.support.paths import ROOT

    text = (ROOT / "pools" / "simulated.toml").read_text("utf-8")
    file = tmp_path / "pool.toml"
    file.write_text(text.replace('[models."sim-4b"]\n', '[models."sim-4b"]\nprompt_mode = "program"\n'))
    assert load_pool(file).roster()["sim-4b"].prompt_mode == "program"


def test_where_programs_cannot_be_run_their_entries_are_left_out_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from r2.methods.router import make_router
    from r2.pool.file.config import load_pool
    from r2.settings import AnswerSettings
    from tests.support.paths import ROOT

    def none_here() -> None:
        raise ConfigError("no sandbox here.")

    text = (ROOT / "pools" / "simulated.toml").read_text("utf-8")
    file = tmp_path / "pool.toml"
    file.write_text(text.replace('[models."sim-32b"]\n', '[models."sim-32b"]\nprompt_mode = "program"\n'))
    settings = AnswerSettings(input="q.jsonl")
    assert make_router(load_pool(file), settings).cannot_run == ""
    monkeypatch.setattr("r2.methods.router.check_sandbox", none_here)
    router = make_router(load_pool(file), settings)
    assert router.cannot_run == "sim-32b: not asked. no sandbox here."
    assert "sim-32b" not in router.roster.by_name
    named = settings.model_copy(update={"reasoning": Reasoning(method="program", model="sim-4b")})
    with pytest.raises(ConfigError, match="no sandbox here"):
        make_router(load_pool(file), named)


def test_a_twin_of_equal_price_that_writes_programs_is_not_the_strongest():
    price = Price(1.0, 1.0, 2.0, "2026-11-27", "made up")
    twins = [ModelCard("m-program", "large", price, prompt_mode="program"), ModelCard("m", "large", price)]
    assert Roster(twins).strongest == Roster(reversed(twins)).strongest == "m"
