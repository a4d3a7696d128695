"""`r2 answer --pool pools/vllm.toml` on a real vLLM, its adapter promoted in between, and nothing left when we are
killed. Only where `.venv-vllm` is there (`make vllm-cpu`, or the folder that $R2_VLLM_VENV names) and the weights of
SmolLM2 are fetched; the 0.5B model of the pool is left out, because only vLLM is what this is about."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import safetensors.numpy

from r2.policies.registry import Policy, PolicyCard, Registry, shipped_policies
from r2.pool.file.config import load_pool
from r2.pool.servers.fetch import find_weights, is_fetched
from r2.pool.servers.vllm import adapter_name
from tests.support.paths import ROOT

VENV = Path(os.environ.get("R2_VLLM_VENV", ROOT / ".venv-vllm"))
MODELS = Path(os.environ.get("R2_MODELS_DIR", ROOT / "models"))
MARK = "R2_TEST_OF_VLLM"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not ((VENV / "bin/python").exists() and is_fetched(find_weights("smollm2-135m-instruct"), MODELS)),
        reason="needs .venv-vllm (make vllm-cpu) and weights (r2 pool fetch smollm2-135m-instruct)",
    ),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the pool file, 60 sums, and a registry whose decomposer and allocator are adapters of SmolLM2."""
    text = (ROOT / "pools/vllm.toml").read_text("utf-8")
    head, _, _ = text.partition('[models."qwen-0.5b"]')
    allocator = head.partition("[models.decomposer]")[2].partition("[models.")[0].replace('"decomposer"', '"allocator"')
    head = head.replace('allocator = "smollm-135m"', 'allocator = "allocator"')
    base = head.partition("[models.smollm-135m]")[2]
    cot = "[models.smollm-cot]" + base.replace('prompt_mode = "direct"', 'prompt_mode = "cot"')
    (tmp_path / "pool.toml").write_text(f"{head}{cot}[models.allocator]{allocator}", "utf-8")
    rows = [{"id": f"q{n}", "question": f"What is {n} + {n + 7}?", "answer": str(2 * n + 7)} for n in range(60)]
    for name, half in (("first", rows[:30]), ("second", rows[30:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in half), "utf-8")
    registry = Registry(tmp_path / "policies")
    for name in ("decomposer", "allocator"):
        version(registry, name, 1.0)
        registry.promote(name, "v1", "as it ships")
    return tmp_path


def version(registry: Registry, name: str, factor: float) -> Policy:
    """The adapter that ships, its effect times `factor`: other weights, which still write plans."""
    shipped = shipped_policies().load("decomposer@v3")

    def write(folder: Path) -> None:
        shutil.copy(shipped.path / "adapter_config.json", folder)
        tensors = safetensors.numpy.load_file(shipped.path / "adapter_model.safetensors")
        changed = {key: value * factor if ".lora_B." in key else value for key, value in tensors.items()}
        safetensors.numpy.save_file(changed, folder / "adapter_model.safetensors")

    card = PolicyCard(name=name, kind=name, base="smollm2")  # type: ignore[arg-type]
    return registry.create(name, card, write)


def environ(place: Path) -> dict[str, str]:
    return {
        **os.environ,
        "R2_VLLM_VENV": str(VENV),
        "R2_STATE_DIR": str(place / "state"),
        "R2_POLICIES_DIR": str(place / "policies"),
        "PYTHONPATH": str(ROOT),
        MARK: str(place),
    }


def r2(place: Path, *args: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *args],
        cwd=place,
        env=environ(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@contextmanager
def kept(place: Path) -> Iterator[None]:
    """`r2 pool serve`, once its server can be asked."""
    with r2(place, "pool", "serve", "--pool", "pool.toml", "--models-dir", str(MODELS)) as serving:
        assert serving.stdout is not None and serving.stderr is not None
        try:
            assert b" listening " in serving.stdout.readline(), serving.stderr.read().decode()
            yield
        finally:
            serving.terminate()
            serving.communicate(timeout=60)


def answered(place: Path, name: str) -> None:
    """`r2 answer` of a file by decomposer and allocator; every question gets a row."""
    args = ["--pool", "pool.toml", "--models-dir", str(MODELS), "--allocator", "allocator", "--lake", "lake"]
    with r2(place, "answer", f"{name}.jsonl", *args) as running:
        out, err = running.communicate(timeout=1200)
    assert running.returncode in (0, 1), (out + err).decode()[-3000:]
    rows = [json.loads(line) for line in (place / f"{name}.answers.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 30


def processes(place: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(place) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def descendants(pid: int) -> list[psutil.Process]:
    """By parenthood: vLLM's processes write their names over their environment."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def names(processes: Iterable[psutil.Process]) -> list[str]:
    """Nine letters of each that still runs."""
    found = []
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            found.append(one.name()[:9])
    return found


def left_after(place: Path, seconds: float) -> list[str]:
    until = time.monotonic() + seconds
    while (left := processes(place)) and time.monotonic() < until:
        time.sleep(0.1)
    return [" ".join(process.cmdline())[:80] for process in left]


def server_of(place: Path) -> psutil.Process:
    [server] = [one for one in processes(place) if "vllm.entrypoints.openai.api_server" in one.cmdline()[:3]]
    return server


def test_sixty_questions_with_a_promotion_in_between_are_answered_by_one_server(place: Path):
    before = load_pool(place / "pool.toml", place / "policies").policies
    with kept(place):
        first = server_of(place)
        below = first.children(recursive=True)
        answered(place, "first")
        version(Registry(place / "policies"), "decomposer", 0.9)
        with r2(place, "policy", "promote", "decomposer", "v2", "--reason", "another one") as promoting:
            promoting.communicate(timeout=60)
        assert promoting.returncode == 0
        answered(place, "second")
        assert server_of(place) == first
        [log] = (place / "state/logs").glob("smollm2*.log")
        loaded = [line for line in log.read_text("utf-8", "replace").splitlines() if "Loaded new LoRA adapter" in line]
    after = load_pool(place / "pool.toml", place / "policies").policies
    names = [before["decomposer"], before["allocator"], after["decomposer"]]
    assert after["decomposer"].ref == "decomposer@v2"
    assert sorted(adapter_name(policy) for policy in names) == sorted(line.split("'")[1] for line in loaded)
    assert psutil.wait_procs([first, *below], timeout=15)[1] == []
    assert left_after(place, 15) == []
    asked = "select distinct purpose, response_model from calls where error_type is null"
    with r2(place, "sql", asked, "--lake", "lake") as sql:
        out, err = sql.communicate(timeout=60)
    for purpose, policy in zip(("decompose", "allocate", "decompose"), names, strict=True):
        assert re.search(rf"{purpose} +{adapter_name(policy)}", out.decode()), (out + err).decode()


def test_killing_r2_answer_leaves_nothing_of_vllm(place: Path):
    below: list[psutil.Process] = []
    with r2(place, "answer", "first.jsonl", "--pool", "pool.toml", "--models-dir", str(MODELS)) as running:
        try:
            until = time.monotonic() + 900
            while not {"VLLM::Eng", "VLLM::Wor"} <= set(names(below)):
                assert running.poll() is None and time.monotonic() < until
                below = descendants(running.pid)
                time.sleep(0.5)
        finally:
            running.send_signal(signal.SIGKILL)
            running.communicate(timeout=60)
    assert psutil.wait_procs(below, timeout=15)[1] == []
    assert left_after(place, 15) == []
