"""`r2 policy list` and `r2 policy show` in a terminal of 80 columns, and how training ends."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from flows.cli import grpo
from flows.cli.app import app
from r2.policies.registry import PolicyCard, Registry


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    def weights(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"weights")

    registry = Registry(tmp_path)
    config = {"steps": 7, "trainer": {"train_sampling_strategy": "random"}}
    data = {"scan?kinds=translate,repeat,join,direct,and,others": "e40e0351"}
    card = PolicyCard(
        name="a-policy-of-a-long-name",
        kind="specialist",
        base="tiny:128x4",
        config=config,
        metrics={"right": 2 / 3},
        data_sha256=data,
        cost_usd=0.25,
    )
    registry.create(card.name, card, weights)
    registry.promote(card.name, "v1", "first version", {"metrics": {"right": 2 / 3}})
    return tmp_path


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.cli.console.WIDTH_IN_A_FILE", 80)


def shown(*words: str) -> str:
    done = CliRunner().invoke(app, ["policy", *words], catch_exceptions=False)
    assert done.exit_code == 0
    assert "\u2026" not in done.stdout, "nothing is cut"
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if line.startswith("\u2502"))
    return done.stdout


def rows_of(text: str) -> list[list[str]]:
    """The rows of the tables, without their headings; a cell that goes on in the next line is put together."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("\u2502")[1:-1]]
        if cells and all(cells):
            rows.append(cells)
        elif cells and rows:
            rows[-1] = [before + more for before, more in zip(rows[-1], cells, strict=False)]
    return rows


def test_the_list_has_every_version_whole(policies: Path):
    rows = rows_of(shown("list", "--policies-dir", str(policies)))
    own = [row for row in rows if row[0] == "a-policy-of-a-long-name@v1"]
    assert [(row[1], row[2], row[-1]) for row in own] == [("promoted", "specialist", "0.250000")]


def test_a_card_is_shown_with_every_field(policies: Path):
    facts = shown("show", "a-policy-of-a-long-name@v1", "--policies-dir", str(policies)).replace(" ", "")
    for fact in ("config.steps\u25027\u2502", "metrics.right\u25020.666667", "cost_usd\u25020.25", "promote\u2502v1"):
        assert fact in facts
    for field in set(PolicyCard.model_fields) - {"name", "version"}:
        assert f"\u2502{field}" in facts


def test_grpo_ends_with_the_next_command(capsys: pytest.CaptureFixture[str]):
    state = SimpleNamespace(run_id="grpo-1", current={"decomposer": "d@v1", "allocator": "a@v1"})
    assert grpo._print_result(SimpleNamespace(state=state, is_stopped=False), [], "my lake") == 0
    assert capsys.readouterr().err.endswith("Next: r2 report grpo-1 --lake 'my lake'\n")
