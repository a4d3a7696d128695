"""What Prefect's UI shows of a run: figures that people can read."""

from flows.support.running import rounded


def test_money_has_six_digits_and_shares_and_other_figures_have_four():
    row = {
        "USD per 1k": 0.12345678,
        "router's share of USD": 0.12345678,
        "accuracy": 2 / 3,
        "calls": 14,
        "top model": "sim-4b",
        "low 95%": None,
    }
    assert rounded([row]) == [
        {
            "USD per 1k": 0.123457,
            "router's share of USD": 0.1235,
            "accuracy": 0.6667,
            "calls": 14,
            "top model": "sim-4b",
            "low 95%": None,
        }
    ]
