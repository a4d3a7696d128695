"""What benchmarks/simulated_routing.py is made of: calls answered in this process, trials collected from them, paired
intervals."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.in_process import InProcess
from benchmarks.scorer_claims import told
from benchmarks.simulated_opponents import Played, router_of
from benchmarks.simulated_routing import fresh, intervals
from benchmarks.simulated_trials import trials_of
from r2.methods import method_named
from r2.pool.file.config import load_pool
from r2.problem import Problem
from tests.support.paths import ROOT

POOL = load_pool(Path(ROOT) / "pools" / "simulated.toml")


def test_a_call_is_priced_by_the_tokens_that_the_simulated_server_counts():
    models = InProcess(POOL)
    problem = Problem("p", "What is 2 + 3?", target="5", benchmark="arithmetic")
    played = models.play(problem, method_named("cot").run(problem, router_of(POOL, "cot", model="sim-400b")))
    [(call, said)] = played.pairs
    assert played.is_right
    assert said.cost_usd == pytest.approx((2.5 * said.usage.input_tokens + 10 * said.usage.output_tokens) / 1e6)
    assert models.complete(call) is said


def test_every_solver_is_tried_at_questions_and_steps_and_every_planner_at_plans():
    trials = trials_of(POOL, InProcess(POOL), fresh(12, 5, "train"))
    of_kind = {kind: np.flatnonzero(np.array(trials.kinds) == kind) for kind in dict.fromkeys(trials.kinds)}
    assert {"scan_command", "plan of scan_command", "scan_join", "word_problem"} <= of_kind.keys()
    strong, weak = trials.arms.index("sim-120b"), trials.arms.index("sim-0.6b")
    assert not np.isnan(trials.right_AU[strong, of_kind["scan_join"]]).any()
    assert np.nanmean(trials.right_AU[strong]) > np.nanmean(trials.right_AU[weak])
    assert np.isnan(trials.right_AU[strong, of_kind["plan of scan_command"]]).all()


def test_questions_of_the_two_sides_are_never_the_same():
    train, test = fresh(60, 5, "train"), fresh(60, 6, "test")
    assert (len(train), len(test)) == (60, 60)
    assert not {p.question for p in train} & {p.question for p in test}


def test_a_difference_is_paired_by_question():
    right, costs = np.ones(200), np.linspace(0.001, 0.002, 200)
    mine, dearer = Played(right, costs), Played(right, costs + 0.0001)
    low, high = intervals(mine, {"dearer": dearer}, 1.0)["dearer"]
    assert low == pytest.approx(0.1) == high


def test_claims_are_held_against_what_was_seen_range_by_range():
    table = told(np.array([0.001, 0.002, 0.25, 1.0]), [False, True, False, True], (0.0, 0.01, 1.0)).splitlines()
    assert table[1].split() == ["0", "to", "0.01", "2", "0.00", "1"]
    assert table[2].split() == ["0.01", "to", "1", "2", "1.25", "1"]
