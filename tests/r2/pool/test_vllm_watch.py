"""When calls are held back from a vLLM server, look by look, and what its metrics say."""

import pytest

from r2.pool.servers.vllm_watch import Holding, Look, waiting_of

METRICS = """
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_running{engine="0",model_name="m"} 64.0
vllm:num_requests_waiting{engine="0",model_name="m"} 130.0
vllm:num_requests_waiting{engine="1",model_name="m"} 6.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 136.0
"""


def test_the_queue_is_that_of_all_engines_and_no_part_is_counted_twice():
    assert waiting_of(METRICS) == 136.0
    assert waiting_of("vllm:num_requests_waiting 3.0\n") == 3.0


@pytest.mark.parametrize("text", ["", "vllm:num_requests_running 3.0", "vllm:num_requests_waiting much", "<html>"])
def test_a_text_that_does_not_say_it_is_unclear(text: str):
    assert waiting_of(text) == "unclear"


@pytest.mark.parametrize(
    ("looks", "held"),
    [
        ([1.0], [False]),
        ([1.0, 1.0], [False, True]),
        ([1.0, 0.0, 1.0], [False, False, False]),
        ([1.0, 5.0, 2.0, 0.0, 0.0], [False, True, True, False, False]),
        ([3.0, 3.0, "unclear", 3.0, 0.0], [False, True, True, True, False]),
        (["unclear", "unclear"], [False, False]),
        (["down", "unclear", 0.0], [True, True, False]),
        (["down", 4.0, 4.0, 0.0], [True, True, True, False]),
        ([1.0, "down", 1.0], [False, True, True]),
    ],
)
def test_a_queue_on_two_looks_holds_and_an_empty_one_lets_go(looks: list[Look], held: list[bool]):
    holding = Holding()
    assert [holding.saw(look, has_ended=False) for look in looks] == held


def test_a_server_that_nobody_starts_again_holds_nothing():
    holding = Holding()
    assert holding.saw("down", has_ended=False)
    assert not holding.saw("down", has_ended=True)
