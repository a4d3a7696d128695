"""The proof that a scorer learns to choose by the question, one seed. Half a minute on two cores."""

import pytest

from benchmarks.prove_choices import MUTATIONS, prove, told


@pytest.mark.slow
def test_a_scorer_chooses_by_kind_and_difficulty():
    verdict = prove(0)
    assert verdict.failures == ()
    assert verdict.scorer.utility > verdict.optimum.utility - 0.05
    assert "seed 0" in told([verdict])
    assert "holds" in told([verdict])


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_choices_that_belong_to_other_questions_fail_the_check(mutation: str):
    verdict = prove(0, mutation)
    assert any("bits on the difficulty" in said for said in verdict.failures)
    assert any("over the best rule" in said for said in verdict.failures)
    assert "FAILS" in told([verdict])
