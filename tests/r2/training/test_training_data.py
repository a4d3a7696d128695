"""Rows to train on: their form, the bare prompt, the order they are seen in, the two sides of a label set, and what a
curve keeps."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2.answering.prompts import decompose_messages
from r2.errors import ConfigError, InputFileError
from r2.problem import Problem
from r2.problems.split import split_of
from r2.training.curve import MetricsFile
from r2.training.data import bare_row, chat_row, training_order
from r2.training.sft.estimate import estimate_sft
from r2.training.sft.settings import SftSettings
from storage.runs.label_sets import SCHEMA, read_label_rows
from tasks.training.training_rows import training_rows

WALK = Problem("p1", "walk twice", 0, "I_WALK I_WALK", "scan")


def test_a_row_is_the_prompt_and_the_right_reply():
    row = chat_row((("system", "plan"), ("user", "Question: walk twice")), "DIRECT")
    assert row == {
        "prompt": [{"role": "system", "content": "plan"}, {"role": "user", "content": "Question: walk twice"}],
        "completion": [{"role": "assistant", "content": "DIRECT"}],
    }


def test_a_bare_row_is_asked_as_a_bare_entry_will_be():
    labelled = chat_row(decompose_messages(WALK, "direct"), "DIRECT")
    assert bare_row(labelled, "decompose") == chat_row(decompose_messages(WALK, "bare"), "DIRECT")


def test_each_pass_sees_every_row_and_batches_hold_rows_of_like_length():
    lengths = [10, 200, 11, 201, 12, 202, 13, 203]
    order = training_order(lengths, batch_size=2, n_steps=8, seed=0)
    assert sorted(order[:8]) == sorted(order[8:]) == list(range(8))
    assert order[:8] != order[8:]
    for at in range(0, 16, 2):
        first, second = (lengths[i] for i in order[at : at + 2])
        assert abs(first - second) == 1


def test_mixed_batches_are_in_no_order_of_length():
    lengths = [2] * 50 + [40] * 50
    order = training_order(lengths, batch_size=10, n_steps=10, seed=0, by_length=False)
    assert sorted(order) == list(range(100))
    n_short = [sum(lengths[i] == 2 for i in order[at : at + 10]) for at in range(0, 100, 10)]
    assert all(0 < n < 10 for n in n_short)


def test_the_order_of_a_longer_training_begins_as_that_of_a_shorter():
    lengths = [3, 1, 2, 5, 4]
    assert training_order(lengths, 2, 9, 1)[:8] == training_order(lengths, 2, 4, 1)
    assert training_order(lengths, 2, 9, 1) != training_order(lengths, 2, 9, 2)


def test_no_rows_have_no_order():
    with pytest.raises(ValueError, match="no rows"):
        training_order([], 2, 1, 0)


def label_set(folder: Path) -> Path:
    rows = [
        {**chat_row(decompose_messages(Problem(f"p{i}", text)), "DIRECT"), "problem_id": f"p{i}", "split": side}
        for i, (text, side) in enumerate([("walk", "train"), ("run", "test"), ("jump", "train")])
    ]
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "decomposer.parquet")
    return folder


def test_a_decomposer_is_trained_on_one_side_of_its_label_set_and_examined_on_the_other(tmp_path: Path):
    settings = SftSettings(policy="decomposer", labels=str(label_set(tmp_path / "labels")))
    rows = training_rows(settings, "decomposer")
    assert [row["prompt"] for row in rows.train] == [
        [{"role": "system", "content": "plan"}, {"role": "user", "content": f"Question: {text}"}]
        for text in ("walk", "jump")
    ]
    assert [row["prompt"][1]["content"] for row in rows.held_out] == ["Question: run"]
    assert list(rows.data_sha256) == [str(tmp_path / "labels/decomposer.parquet")]


def test_several_label_sets_are_one_and_what_is_examined_is_of_each(tmp_path: Path):
    folders = [label_set(tmp_path / name) for name in ("scan", "sums")]
    settings = SftSettings(policy="decomposer", labels=",".join(str(folder) for folder in folders), n_held_out=2)
    rows = training_rows(settings, "decomposer")
    assert len(rows.train) == 4
    assert len(rows.held_out) == 2
    assert list(rows.data_sha256) == [str(folder / "decomposer.parquet") for folder in folders]


def test_what_was_trained_on_is_not_examined_and_is_counted(tmp_path: Path):
    folder = label_set(tmp_path / "labels")
    again = [
        {**chat_row(decompose_messages(Problem(f"q{i}", text)), "DIRECT"), "problem_id": f"q{i}", "split": "test"}
        for i, text in enumerate(["walk", "look"])
    ]
    (tmp_path / "more").mkdir()
    pq.write_table(pa.Table.from_pylist(again, schema=SCHEMA), tmp_path / "more" / "decomposer.parquet")
    settings = SftSettings(policy="decomposer", labels=f"{folder},{tmp_path / 'more'}")
    rows = training_rows(settings, "decomposer")
    assert [row["prompt"][1]["content"] for row in rows.held_out] == ["Question: run", "Question: look"]
    assert rows.n_seen == 1


def test_no_step_that_a_specialist_is_examined_on_was_trained_on():
    settings = SftSettings(
        policy="specialist", problems="scan", base="tiny", n_problems=2000, steps=200, batch_size=8, n_held_out=60
    )
    rows = training_rows(settings, "specialist")
    trained = {tuple(said["content"] for said in row["prompt"]) for row in rows.train}
    assert rows.held_out
    assert not [row for row in rows.held_out if tuple(said["content"] for said in row["prompt"]) in trained]
    assert rows.n_seen > 0
    assert len(rows.held_out) == len(rows.held_out_subtasks)


def test_the_labelled_instructions_stay_where_they_are_asked_for(tmp_path: Path):
    settings = SftSettings(policy="decomposer", labels=str(label_set(tmp_path / "labels")), prompt_mode="direct")
    [first, _] = training_rows(settings, "decomposer").train
    assert [(said["role"], said["content"]) for said in first["prompt"]] == list(
        decompose_messages(Problem("p0", "walk"), "direct")
    )


def test_a_label_set_that_is_missing_or_foreign_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"allocator\.parquet: no such label set.*r2 label"):
        training_rows(SftSettings(policy="allocator", labels=str(tmp_path)), "allocator")
    pq.write_table(pa.table({"prompt": [1]}), tmp_path / "allocator.parquet")
    with pytest.raises(InputFileError, match="not a label set"):
        read_label_rows(tmp_path / "allocator.parquet", "train")


def test_the_side_of_a_question_is_that_of_its_words():
    sides = {split_of(f"question {i}", 0, 0.25) for i in range(20)}
    assert sides == {"train", "test"}
    assert split_of("Walk  LEFT!") == split_of("walk left")
    n_test = sum(split_of(f"question {i}", 0, 0.25) == "test" for i in range(2000))
    assert 400 < n_test < 600


def test_the_same_data_base_and_settings_are_the_same_run_and_paths_are_not_in_it():
    settings = SftSettings(policy="decomposer")
    data = {"labels/decomposer.parquet": "ab"}
    moved = SftSettings(
        policy="decomposer", lake="elsewhere", policies_dir="other", save_steps=3, n_held_out=5, promote=True
    )
    assert settings.run_id(data) == moved.run_id(data)
    assert settings.run_id(data) != settings.run_id({"labels/decomposer.parquet": "cd"})
    assert settings.run_id(data) != SftSettings(policy="decomposer", steps=261).run_id(data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"policy": "specialist"}, "needs --problems"),
        ({"policy": "decomposer", "base": "tiny", "weights": "adapter"}, "nothing to adapt"),
        ({"policy": "decomposer", "base": "tiny:128x4", "weights": "adapter"}, "nothing to adapt"),
        ({"policy": "decomposer", "base": "tiny:100x4"}, "a width that is a multiple of 8"),
        ({"policy": "both", "name": "mine"}, "names one policy"),
        ({"policy": "allocator", "pool": "pools/simulated.toml"}, "say which with --problems"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(fields: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message):
        SftSettings.model_validate(fields)


def test_a_curve_forgets_what_came_after_the_checkpoint_and_passes_over_a_torn_line(tmp_path: Path):
    curve = MetricsFile(tmp_path / "curve.jsonl")
    for step, loss in [(1, 4.0), (2, 3.0), (3, 2.0)]:
        curve.add(step, {"loss": loss, "note": "no number"})
    with curve.path.open("ab") as file:
        file.write(b'{"step":4,"metric":"lo')
    curve.cut(2)
    curve.add(3, {"loss": 1.5})
    assert [(p.step, p.metric, p.value) for p in curve.points()] == [
        (1, "loss", 4.0),
        (2, "loss", 3.0),
        (3, "loss", 1.5),
    ]


def test_the_estimate_counts_the_tokens_of_all_steps():
    row = chat_row((("user", "x" * 23),), "y" * 23)
    estimate = estimate_sft([row], SftSettings(policy="decomposer", steps=10, batch_size=6))
    assert estimate.tokens_per_row == pytest.approx(2 * (23 / 2.3 + 5))
    assert estimate.tokens == 30 * 60
    assert estimate.minutes == pytest.approx(1800 / 120 / 60)
