"""Which checked answers of a lake are trials of a scorer, and what is read of each."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.file.identity import answering_digests
from r2.problem import Problem
from r2.settings import AnswerSettings, Reasoning
from r2.training.scorer.trials import Trial
from storage.lake.lake import Lake
from storage.runs.checked_trials import checked_trials, question_kind
from storage.runs.plan import PlannedEntry, plan_run
from tests.support.lake_rows import CALL, FEEDBACK, NOON, TRAJECTORY

ENTRY = """
[models.{name}]
endpoint = "simulated:sim-4b"
tier = "{tier}"
logprobs = true
price_usd_per_mtok = {{input = 1, output = 2, date = "2026-11-24", source = "made up"}}
simulated = {{ability = 2.8, ttft_s = 0.04, tokens_per_s = 200}}
"""


@pytest.fixture
def pool(tmp_path: Path) -> PoolConfig:
    path = tmp_path / "pool.toml"
    router = '[router]\ndecomposer = "small"\nallocator = "small"\n'
    path.write_text(router + ENTRY.format(name="small", tier="small") + ENTRY.format(name="large", tier="large"))
    return load_pool(path)


class Stored:
    """A lake with runs of two questions, whose plans and rows are written as runs write them."""

    def __init__(self, root: Path, pool: PoolConfig) -> None:
        self.lake, self.pool = root / "lake", pool
        self.input = root / "q.jsonl"
        rows = [{"id": f"p{n}", "question": f"What is 2 + {n}?", "answer": str(2 + n)} for n in range(2)]
        self.input.write_bytes(b"".join(orjson.dumps(row | {"benchmark": "arithmetic"}) + b"\n" for row in rows))

    def run(self, method: str, calls: list[dict[str, Any]], *, changed: str = "", **trajectory: Any) -> None:
        """A run of `method` that asked question p1 these calls."""
        settings = AnswerSettings(input=str(self.input), lake=str(self.lake), reasoning=Reasoning(method=method))
        entries = {
            name: PlannedEntry("another" if name == changed else digest, "")
            for name, digest in answering_digests(self.pool).items()
        }
        run_id = plan_run(settings, f"pool-{method}-{len(calls)}{changed}", None, entries).run_id
        key: Any = {"run_id": run_id, "problem_id": "p1", "started_at": NOON}
        its = {"method": method, "n_subtasks": 0, "plan": "", "answer": "3", "is_correct": True, **trajectory}
        rows = [
            replace(
                CALL, **(key | {"call_index": n, "purpose": "solve", "subtask_index": 0, "output_text": "3"} | call)
            )
            for n, call in enumerate(calls)
        ]
        Lake(self.lake).commit(run_id, "0", {"trajectories": [replace(TRAJECTORY, **(key | its))], "calls": rows})

    def trials(self, test_share: float = 0.0001) -> tuple[list[Trial], dict[str, int]]:
        found = checked_trials(self.lake, self.pool, split_seed=0, test_share=test_share)
        return list(found.trials), found.left_out


@pytest.fixture
def stored(tmp_path: Path, pool: PoolConfig) -> Stored:
    return Stored(tmp_path, pool)


def body(*probabilities: float) -> bytes:
    tokens = [{"token": "3", "logprob": math.log(p), "top_logprobs": []} for p in probabilities]
    message = {"role": "assistant", "content": "3"}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": tokens}}
    return orjson.dumps({"id": "x", "model": "m", "choices": [choice]})


def test_one_model_asked_the_whole_question_is_a_trial_with_what_it_cost(stored: Stored):
    stored.run("random", [{"saved_usd": 0.002}])
    [trial], left_out = stored.trials()
    assert (trial.arm, trial.kind, trial.is_right, trial.result) == ("small", "add", True, "3")
    assert trial.cost_usd == pytest.approx(CALL.cost_usd + 0.002)
    assert (trial.output_tokens, trial.confidence) == (10, None)
    assert trial.problem.target is None
    assert left_out == {}


def test_a_chain_of_thought_is_an_arm_of_its_own(stored: Stored):
    stored.run("cot", [{"request_model": "large"}], is_correct=False, answer=None)
    [trial], _ = stored.trials()
    assert (trial.arm, trial.is_right, trial.result) == ("large step by step", False, None)


def test_confidence_is_read_from_the_body(stored: Stored):
    stored.run("start", [{"raw_body": body(0.9, 0.5, 0.7)}])
    [trial], _ = stored.trials()
    assert trial.confidence == pytest.approx(0.5 + 0.8 * 0.2)


def test_of_several_entries_each_is_judged_by_its_own_result(stored: Stored):
    stored.run("agreement_cascade", [{"output_text": "4"}, {"request_model": "large"}])
    trials, _ = stored.trials()
    assert [(t.arm, t.is_right, t.result) for t in trials] == [("small", False, "4"), ("large", True, "3")]


def test_of_a_program_the_confidence_is_its_writers_and_the_result_what_it_printed(stored: Stored):
    wrote = {"output_text": "print(1 + 2)", "raw_body": body(0.5)}
    ran = {"purpose": "program", "output_text": "3\n", "raw_body": b"", "cost_usd": 0.001}
    stored.run("program", [wrote, ran])
    [trial], _ = stored.trials()
    assert (trial.result, trial.is_right, trial.confidence) == ("3", True, pytest.approx(0.5))
    assert trial.cost_usd == pytest.approx(CALL.cost_usd + 0.001)


def test_of_several_entries_a_program_is_judged_by_what_it_printed_and_one_that_crashed_has_no_result(stored: Stored):
    crashed = {"purpose": "program", "request_model": "large", "output_text": None, "error_type": "program_crashed"}
    calls = [
        {"output_text": "print(1 + 3)", "raw_body": body(0.25)},
        {"purpose": "program", "output_text": "4\n", "raw_body": b""},
        {"request_model": "large", "output_text": "print(1 + x)", "raw_body": body(0.75)},
        crashed,
    ]
    stored.run("r2", calls, decisions="[]", is_correct=False, answer="4")
    trials, left_out = stored.trials()
    assert [(t.arm, t.is_right, t.result) for t in trials] == [("small", False, "4"), ("large", False, None)]
    assert [t.confidence for t in trials] == [pytest.approx(0.25), pytest.approx(0.75)]
    assert left_out == {}


def test_the_rule_says_in_which_way_it_asked(stored: Stored):
    asked = [{"arm": "small"}, {"arm": "large step by step"}, {"arm": None}]
    stored.run("r2", [{}, {"request_model": "large"}], decisions=orjson.dumps(asked).decode())
    trials, _ = stored.trials()
    assert [t.arm for t in trials] == ["small", "large step by step"]


def test_what_is_no_trial_is_counted_with_the_reason(stored: Stored):
    stored.run("random", [{"error_type": "server_error", "output_text": None}], is_correct=False, answer=None)
    stored.run("start", [{}], changed="small")
    assert stored.trials() == ([], {"of an entry that is another today, or failed": 2})
    assert stored.trials(0.9999) == ([], {"to a question on the test side of the split": 2})


def said(stored: Stored, is_right: bool, given_by: str = "anna") -> None:
    """Feedback on p1 of the only run."""
    [run_id] = Lake(stored.lake).manifest.run_ids()
    row = replace(FEEDBACK, run_id=run_id, problem_id="p1", is_right=is_right, given_by=given_by)
    Lake(stored.lake).commit(run_id, f"feedback-{given_by}", {"feedback": [row]})


def test_an_answer_that_only_people_judged_is_a_trial(stored: Stored):
    stored.run("random", [{}], is_correct=None)
    assert stored.trials() == ([], {})
    said(stored, True)
    [trial], _ = stored.trials()
    assert (trial.arm, trial.is_right, trial.result) == ("small", True, "3")


def test_people_count_before_the_check_and_a_tie_leaves_it_to_the_check(stored: Stored):
    stored.run("random", [{}], is_correct=True)
    said(stored, False)
    [trial], _ = stored.trials()
    assert trial.is_right is False
    said(stored, True, "ben")
    [trial], _ = stored.trials()
    assert trial.is_right is True


def test_where_people_overrule_the_check_it_does_not_judge_the_other_results_either(stored: Stored):
    stored.run("agreement_cascade", [{"output_text": "4"}, {"request_model": "large"}])
    said(stored, False)
    trials, left_out = stored.trials()
    assert [(t.arm, t.is_right, t.result) for t in trials] == [("large", False, "3")]
    assert left_out == {"whose own check is not known": 1}


def test_plans_and_methods_that_ask_otherwise_are_passed_over(stored: Stored):
    stored.run("tot", [{}])
    stored.run("r2", [{}], n_subtasks=2)
    assert stored.trials() == ([], {})


def test_the_kind_of_a_question_is_its_form_else_its_benchmark_else_all():
    assert question_kind(Problem("a", "What is 2 * 3?")) == "multiply"
    assert question_kind(Problem("b", "Why is the sky blue?", benchmark="gsm8k")) == "gsm8k"
    assert question_kind(Problem("c", "Why is the sky blue?")) == "all"
