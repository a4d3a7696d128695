"""Supervised training on a model made in code: what the loss is taken of, that a stop costs nothing, and what is left
when it is done."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from r2.answering.prompts import allocate_messages
from r2.answering.protocol import Outcome, Trajectory
from r2.call import Call
from r2.ledger import Price
from r2.plan import parse_plan
from r2.problem import Problem
from r2.roster import ModelCard
from r2.training.curve import MetricsFile
from r2.training.data import ChatMessage, ChatRow, chat_row
from r2.training.sft.held_out import allocation_scores, plan_scores, subtask_scores
from r2.training.sft.settings import SftSettings
from r2.training.sft.specialist import SolvedSubtask
from tests.support.paths import ROOT
from tests.support.scripted import CHEAP, ROSTER, completion, router

torch = pytest.importorskip("torch")
from r2.training.base import load_base, load_policy_weights  # noqa: E402
from r2.training.drive_policy import router_with_policies, summed  # noqa: E402
from r2.training.sampling import LocalPolicy  # noqa: E402
from r2.training.sft.trainer import make_trainer, n_cut_rows, newest_checkpoint, row_tokens, save, train  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]
WORDS = ("walk", "run", "jump", "look")
ROWS: list[ChatRow] = [
    chat_row((("system", "solve"), ("user", f"Task: {word} {n}")), " ".join([word.upper()] * n))
    for word in WORDS
    for n in (1, 2, 3)
]


def settings(**fields: Any) -> SftSettings:
    made = {
        "policy": "specialist",
        "problems": "scan",
        "base": "tiny",
        "steps": 8,
        "batch_size": 4,
        "save_steps": 4,
        "threads": 1,
    }
    return SftSettings.model_validate({**made, **fields})


def base(chosen: SftSettings) -> tuple[Any, Any]:
    texts = [said["content"] for row in ROWS for said in (*row["prompt"], *row["completion"])]
    return load_base(chosen.base, Path("models"), texts, chosen.seed)


def test_the_loss_is_taken_of_the_reply_alone(tmp_path: Path):
    model, tokenizer = base(settings())
    trainer, _ = make_trainer(ROWS, model, tokenizer, tmp_path, settings())
    batch = next(iter(trainer.get_train_dataloader()))
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        taught = tokenizer.decode(ids[labels != -100])
        whole = tokenizer.decode(ids)
        assert taught.startswith(whole.split("<assistant>")[1].split("<end>")[0])
        assert "Task" not in taught
        assert "solve" not in taught
        assert taught.count("<end>") >= 1


def test_a_training_that_was_stopped_goes_on_and_ends_as_an_unbroken_one(tmp_path: Path):
    chosen = settings()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    unbroken = train(ROWS, *base(chosen), whole, chosen)

    class Stopped(Exception):
        pass

    def stop(step: int, steps: int, metrics: dict[str, float]) -> None:
        if step == 6:
            raise Stopped

    with pytest.raises(Stopped):
        train(ROWS, *base(chosen), broken, chosen, stop)
    (broken / "checkpoint-5").mkdir()
    (broken / "checkpoint-5/trainer_state.json").write_text('{"torn by a kill')
    assert newest_checkpoint(broken) == broken / "checkpoint-4"
    resumed = train(ROWS, *base(chosen), broken, chosen)
    assert (unbroken.first_step, resumed.first_step) == (0, 4)
    for name, tensor in unbroken.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    losses = [
        [(p.step, p.value) for p in MetricsFile(d / "curve.jsonl").points() if p.metric == "loss"]
        for d in (whole, broken)
    ]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == list(range(1, 9))


def test_training_learns_and_what_is_saved_answers_as_what_was_trained(tmp_path: Path):
    chosen = settings(steps=120, batch_size=6, save_steps=1000)
    trained = train(ROWS, *base(chosen), tmp_path, chosen)
    save(trained, tmp_path / "weights")
    model, tokenizer = load_policy_weights(tmp_path / "weights", "tiny", Path("models"))
    prompts: list[Any] = [[(said["role"], said["content"]) for said in row["prompt"]] for row in ROWS]
    texts = [sampled.text for sampled in LocalPolicy(model, tokenizer).write(prompts, 8)]
    right = sum(text.strip() == row["completion"][0]["content"] for text, row in zip(texts, ROWS, strict=True))
    assert right >= 11
    assert texts == [s.text for s in LocalPolicy(trained.model, tokenizer).write(prompts, 8)]


def test_an_adapter_is_saved_alone_and_in_half_precision(tmp_path: Path):
    from safetensors.torch import load_file

    chosen = settings(steps=1, lora_rank=2).model_copy(update={"weights": "adapter"})
    trained = train(ROWS, *base(chosen), tmp_path, chosen)
    save(trained, tmp_path / "weights")
    assert sorted(p.name for p in (tmp_path / "weights").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    tensors = load_file(tmp_path / "weights/adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    assert len(tensors) == 2 * 7 * 2
    assert json.loads((tmp_path / "weights/adapter_config.json").read_text())["r"] == 2


def test_rows_that_are_cut_at_their_end_are_counted():
    _, tokenizer = base(settings())
    short, long = (
        ChatRow(
            prompt=[ChatMessage(role="user", content="walk")], completion=[ChatMessage(role="assistant", content=text)]
        )
        for text in ("DIRECT", "walk " * 100)
    )
    n_tokens = row_tokens([long], tokenizer)[0]
    assert n_cut_rows([short, long, long], tokenizer, n_tokens) == 0
    assert n_cut_rows([short, long, long], tokenizer, n_tokens - 1) == 2
    assert n_cut_rows([], tokenizer, 32) == 0


def test_plans_are_scored_by_form_length_and_label():
    label = "1. Add 2 and 3\n2. Double the result of step 1 (needs: 1)"
    rows = [chat_row((("user", "q"),), label)] * 4
    texts = [label, "1. Add 3 and 2\n2. Double the result of step 1 (needs: 1)", "DIRECT", "nothing of a plan"]
    assert plan_scores(texts, rows) == {"valid_plan": 0.75, "exact_plan": 0.25, "same_length": 0.5}


def test_allocations_are_scored_by_label_and_by_price():
    cards = [
        ModelCard(name, "small", Price(usd, usd, usd, "2026-11-01", "made up"))
        for name, usd in (("a", 1.0), ("b", 1.0), ("c", 2.0))
    ]
    prompt = allocate_messages(
        Problem("p", "q"), parse_plan("1. Add 2 and 3\n2. Double the result of step 1"), cards, "bare"
    )
    rows = [chat_row(prompt, '[{"subtask":1,"model":"A"},{"subtask":2,"model":"C"}]')] * 4
    texts = [
        '[{"subtask":1,"model":"A"},{"subtask":2,"model":"C"}]',
        '[{"subtask":1,"model":"C"},{"subtask":2,"model":"B"}]',
        '[{"subtask":1,"model":"C"},{"subtask":2,"model":"C"}]',
        '[{"subtask":1,"model":"A"}]',
    ]
    assert allocation_scores(texts, rows) == {
        "valid_allocation": 0.75,
        "exact_allocation": 0.25,
        "cost_equivalent": 0.5,
        "price_ratio": pytest.approx(10 / 9),
    }


def test_subtasks_are_scored_by_kind_with_the_check_of_their_benchmark():
    problem = Problem("p", "walk and run", 0, "I_WALK I_RUN", "scan")
    subtasks = [
        SolvedSubtask("translate", problem, "Translate 'walk'", {}, "I_WALK"),
        SolvedSubtask("translate", problem, "Translate 'run'", {}, "I_RUN"),
        SolvedSubtask("join", problem, "Join the result of step 1 and then the result of step 2", {}, "I_WALK I_RUN"),
    ]
    scores = subtask_scores(["i_walk", "I_WALK", "I_WALK  I_RUN"], subtasks)
    assert scores == {"right": pytest.approx(2 / 3), "right_translate": 0.5, "right_join": 1.0}


def test_a_policy_stands_in_the_router_and_is_never_allocated():
    policed = router_with_policies(router(), ["allocate"], "bare")
    assert (policed.decomposer, policed.allocator) == ("small", "policy-allocator")
    assert policed.roster["policy-allocator"].prompt_mode == "bare"
    assert policed.roster["policy-allocator"].price == CHEAP
    assert policed.roster.solvers == ROSTER.solvers


def test_an_execution_counts_unanswered_problems_as_wrong_and_the_routers_calls_apart():
    call = Call("small", (("user", "q"),), "allocate", 16)
    waves = (((call, completion("A")),), ((Call("large", (("user", "q"),), "solve", 16), completion("12", "large")),))
    right = Trajectory(Problem("p", "q", 0, "12"), Outcome(answer="12"), waves)
    failed = Trajectory(Problem("q", "q", 0, "12"), Outcome(error_type="timeout"), ())
    done = summed([right, failed], 0.5)
    assert (done.n_problems, done.accuracy, done.calls, done.paid_usd) == (2, 0.5, 1.0, 0.5)
    assert done.router_cost_usd == pytest.approx((10 * 1.0 + 5 * 2.0) / 1e6 / 2)
    assert done.cost_usd == pytest.approx((20 + 10 * 10.0 + 5 * 20.0) / 1e6 / 2)


@pytest.mark.slow
def test_a_killed_training_process_goes_on_at_its_checkpoint(tmp_path: Path):
    from tasks.training.sft_process import PolicySpec, read_result

    def spec(name: str) -> PolicySpec:
        chosen = settings(steps=400, batch_size=8, save_steps=20, n_problems=400, n_held_out=20)
        return PolicySpec(settings=chosen, kind="specialist", run_id="run", work_dir=tmp_path / name)

    def start(one: PolicySpec) -> "subprocess.Popen[bytes]":
        one.work_dir.mkdir(exist_ok=True)
        path = tmp_path / f"{one.work_dir.name}.json"
        path.write_text(one.model_dump_json())
        return subprocess.Popen(
            [sys.executable, "-m", "tasks.training.sft_process", str(path)], cwd=ROOT, stderr=subprocess.DEVNULL
        )

    killed = start(spec("killed"))
    deadline = time.monotonic() + 120
    while newest_checkpoint(tmp_path / "killed") is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert read_result(tmp_path / "killed") is None
    assert start(spec("killed")).wait() == 0
    assert start(spec("whole")).wait() == 0
    broken, whole = read_result(tmp_path / "killed"), read_result(tmp_path / "whole")
    assert broken is not None
    assert whole is not None
    assert broken.first_step >= 20
    assert whole.first_step == 0
    assert broken.metrics == whole.metrics
    weights = [(tmp_path / name / "weights/model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]
