import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2.answering.allocation import choose, format_allocation, parse_allocation
from r2.call import Completion, TokenLogprob
from r2.errors import AllocationParseError
from tests.support.scripted import ROSTER

SHOWN = [ROSTER["large"], ROSTER["small"], ROSTER["middle"]]  # A, B, C


@pytest.mark.parametrize(
    "text",
    [
        '[{"subtask": 1, "model": "B"}, {"subtask": 2, "model": "A"}]',
        'Sure! ```json\n[{"subtask": 2, "model": "A"}, {"subtask": 1, "model": "B"}]\n``` Enjoy.',
        '[{"subtask": 1, "model": "B"}, {"subtask": 2, "model": "A"',
        '[{"subtask": 1, "model": "small"}, {"subtask": 2, "model": "large"}]',
        "1: B\n2: A",
        "Step 1 = model B\nStep 2 = model A",
    ],
)
def test_what_small_models_really_write_is_understood(text: str):
    assert parse_allocation(text, 2, SHOWN) == ["small", "large"]


def test_a_bare_letter_serves_a_single_subtask():
    assert parse_allocation(" C.", 1, SHOWN) == ["middle"]


@pytest.mark.parametrize(
    "text", ["", "[]", '[{"subtask": 1, "model": "Z"}, {"subtask": 2, "model": "A"}]', '[{"subtask": 2, "model": "A"}]']
)
def test_a_subtask_without_a_model_of_the_pool_is_a_typed_error(text: str):
    with pytest.raises(AllocationParseError, match="subtask 1 of 2"):
        parse_allocation(text, 2, SHOWN)


@given(st.text(max_size=200), st.integers(1, 4))
def test_any_text_is_an_allocation_or_the_typed_error(text: str, n: int):
    with contextlib.suppress(AllocationParseError):
        assert len(parse_allocation(text, n, SHOWN)) == n


def reply_with_logprobs() -> Completion:
    pieces = ['[{"', "subtask", '":', " 1", ', "', "model", '": "', "A", '"}]']
    listed = (("A", math.log(0.6)), ("B", math.log(0.3)), ("C", math.log(0.05)), ("x", math.log(0.05)))
    tokens = tuple(TokenLogprob(p, math.log(0.6) if p == "A" else 0.0, listed if p == "A" else ()) for p in pieces)
    return Completion("".join(pieces), "small", token_logprobs=tokens)


def test_propensities_are_read_at_the_letter_and_normalised_over_the_models():
    [choice] = choose(reply_with_logprobs(), 1, SHOWN, b=0.0)
    assert choice.model == "large"
    assert choice.propensities() == pytest.approx({"large": 0.6 / 0.95, "small": 0.3 / 0.95, "middle": 0.05 / 0.95})


def test_the_cost_knob_moves_the_choice_to_the_cheaper_model():
    # ln 0.6 - ln 0.3 = 0.693; blended prices are 12.5 and 1.25: ln 10 = 2.303, so the choice turns at b = 0.301.
    assert choose(reply_with_logprobs(), 1, SHOWN, b=0.29)[0].model == "large"
    assert choose(reply_with_logprobs(), 1, SHOWN, b=0.31)[0].model == "small"


def test_without_logprobs_the_knob_leaves_the_choice_as_written():
    assert choose(Completion(format_allocation(["A"]), "small"), 1, SHOWN, b=5.0)[0].model == "large"
