"""Which steps and plans of a lake's runs are trials of a scorer, and what is read of each."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from r2.plan import format_plan, parse_plan
from r2.pool.file.config import PoolConfig
from r2.pool.file.identity import answering_digests
from r2.settings import AnswerSettings, Reasoning
from r2.training.scorer.trials import Trial
from storage.lake.lake import Lake
from storage.runs.checked_steps import checked_steps
from storage.runs.plan import PlannedEntry, plan_run
from tests.storage.test_checked_trials import body, pool
from tests.support.lake_rows import CALL, NOON, SUBTASK, TRAJECTORY

__all__ = ["pool"]

PLAN = "1. Compute 12 * 3\n2. Compute the result of step 1 + 8"
TASKS = ("Compute 12 * 3", "Compute the result of step 1 + 8")


class Planned:
    """A lake with runs that answered one question by the same plan."""

    def __init__(self, root: Path, pool: PoolConfig) -> None:
        self.lake, self.pool = root / "lake", pool
        self.input = root / "q.jsonl"
        row = {"id": "p1", "question": "What is 12 * 3 + 8?", "answer": "44", "benchmark": "arithmetic"}
        self.input.write_bytes(orjson.dumps(row) + b"\n")

    def run(self, model: str, results: tuple[str, str], *, right: bool, changed: str = "", **call: Any) -> None:
        """A run whose steps `model` answered so."""
        chosen = Reasoning(method="decompose_one", model=model)
        settings = AnswerSettings(input=str(self.input), lake=str(self.lake), reasoning=chosen)
        entries = {
            name: PlannedEntry("another" if name == changed else digest, "")
            for name, digest in answering_digests(self.pool).items()
        }
        run_id = plan_run(settings, f"pool-{model}{results}{changed}", None, entries).run_id
        key: Any = {"run_id": run_id, "problem_id": "p1"}
        end = {"method": "decompose_one", "plan": PLAN, "answer": results[1], "is_correct": right, "started_at": NOON}
        asked = [replace(CALL, **key, request_model="small", purpose="decompose", output_text=PLAN)]
        for n, text in enumerate(results):
            solve = key | {"subtask_index": n, "purpose": "solve", "output_text": text, "request_model": model} | call
            asked.append(replace(CALL, **solve, call_index=len(asked)))
            if "print" in solve["output_text"]:
                ran = solve | {"purpose": "program", "output_text": f"{text}\n", "raw_body": b""}
                asked.append(replace(CALL, **ran, call_index=len(asked)))
        steps = [
            replace(SUBTASK, **key, subtask_index=n, subtask_text=TASKS[n], output_text=text, depends_on=(0,) * n)
            for n, text in enumerate(results)
        ]
        rows = {"trajectories": [replace(TRAJECTORY, **key, **end)], "calls": asked, "subtasks": steps}
        Lake(self.lake).commit(run_id, "0", rows)

    def trials(self, test_share: float = 0.0001) -> tuple[list[Trial], dict[str, int]]:
        found = checked_steps(self.lake, self.pool, split_seed=0, test_share=test_share)
        return list(found.trials), found.left_out


@pytest.fixture
def planned(tmp_path: Path, pool: PoolConfig) -> Planned:
    return Planned(tmp_path, pool)


def test_a_step_that_a_program_answered_is_what_it_printed_as_sure_as_its_writer_was(planned: Planned):
    planned.run("large", ("36", "44"), right=True, output_text="print(x)", raw_body=body(0.9))
    steps = [trial for trial in planned.trials()[0] if not trial.kind.startswith("plan")]
    assert [(t.result, t.is_right) for t in steps] == [("36", True), ("44", True)]
    assert [t.confidence for t in steps] == [pytest.approx(0.9)] * 2


def test_a_step_is_judged_by_the_result_that_a_right_answer_went_through(planned: Planned):
    planned.run("small", ("35", "43"), right=False)
    planned.run("large", ("36", "44"), right=True, raw_body=body(0.9))
    found, left_out = planned.trials()
    steps = [trial for trial in found if not trial.kind.startswith("plan")]
    assert [(t.arm, t.kind, t.result, t.is_right) for t in steps] == [
        ("small", "multiply", "35", False),
        ("large", "multiply", "36", True),
        ("large", "add", "44", True),
    ]
    assert [(t.problem.question, t.problem.context) for t in steps[1:]] == [(TASKS[0], ""), (TASKS[1], "36")]
    assert [t.confidence for t in steps] == [None, pytest.approx(0.9), pytest.approx(0.9)]
    assert left_out == {}


def test_a_plan_is_judged_by_what_came_of_it(planned: Planned):
    planned.run("small", ("35", "43"), right=False)
    assert [(t.arm, t.is_right) for t in planned.trials()[0]] == [("small", False)]
    planned.run("large", ("36", "44"), right=True)
    plans = [trial for trial in planned.trials()[0] if trial.kind == "plan of expression"]
    assert [(t.arm, t.is_right, t.result) for t in plans] == [("small", True, format_plan(parse_plan(PLAN)))] * 2


def test_what_is_no_trial_is_counted_with_the_reason(planned: Planned):
    planned.run("large", ("36", "44"), right=True, changed="large")
    assert [trial.kind for trial in planned.trials()[0]] == ["plan of expression"]
    assert planned.trials(0.9999) == ([], {"to a question on the test side of the split": 1})
