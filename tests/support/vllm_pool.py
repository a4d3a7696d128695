"""A pool on the imitation of vLLM (vllm_server.py), its adapters, and the processes that it leaves."""

import json
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from r2.policies.registry import Policy, PolicyCard, Registry
from r2.pool.file.config import PoolConfig, load_pool
from tests.support.vllm_server import ANSWER, environment

MARK = "VLLM_IMITATION_MARK"
_PRICE = '{input = 1.0, output = 2.0, date = "2026-11-01", source = "made up for tests"}'


class VllmPool:
    """Everything in one folder: environment, weights, policies, lake and state."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.weights = folder / "weights"
        self.weights.mkdir()
        self.registry = Registry(folder / "policies")
        self.log = folder / "vllm.jsonl"
        self.state_dir = folder / "state"
        self.environ = {
            "R2_VLLM_VENV": str(environment(folder / "venv-vllm")),
            "R2_STATE_DIR": str(self.state_dir),
            "R2_POLICIES_DIR": str(self.registry.root),
            "VLLM_IMITATION_LOG": str(self.log),
            MARK: str(folder),
        }
        for name, value in self.environ.items():
            monkeypatch.setenv(name, value)

    def adapter(
        self,
        answer: str,
        *,
        name: str = "decomposer",
        rank: int = 8,
        kind: str = "decomposer",
        base: str = "",
        is_full: bool = False,
    ) -> Policy:
        """A version whose adapter answers so; `base` "" for the server's weights."""

        def write(folder: Path) -> None:
            if is_full:
                (folder / "model.safetensors").write_bytes(b"all of it")
                return
            (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}), "utf-8")
            (folder / "adapter_model.safetensors").write_bytes(answer.encode())
            (folder / ANSWER).write_text(answer, "utf-8")

        card = PolicyCard(name=name, kind=kind, base=base or str(self.weights))  # type: ignore[arg-type]
        return self.registry.create(name, card, write)

    def write(self, entries: dict[str, str], options: str = "", router: str = "") -> PoolConfig:
        """A pool file: entry -> further lines."""
        first = next(iter(entries))
        text = f'[router]\ndecomposer = "{router or first}"\nallocator = "{first}"\n\n'
        if options:
            text += f'[vllm."{self.weights}"]\n{options}\n\n'
        for name, lines in entries.items():
            text += (
                f'[models.{name}]\nendpoint = "vllm:{self.weights}"\ntier = "small"\nprice_usd_per_mtok = {_PRICE}\n'
            )
            text += f"{lines}\n\n"
        path = self.folder / "pool.toml"
        path.write_text(text, "utf-8")
        return load_pool(path)

    def seen(self, kind: str) -> list[dict[str, Any]]:
        """What the imitation noted of this kind."""
        lines = self.log.read_text("utf-8").splitlines() if self.log.exists() else []
        return [one for one in map(json.loads, lines) if one["kind"] == kind]

    def processes(self) -> list[psutil.Process]:
        """Everything that was started from here, we ourselves not counted."""
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get(MARK) == str(self.folder) and process.pid != os.getpid()
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def left_after(self, seconds: float) -> list[str]:
        """What is still there after at most so long."""
        until = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(0.05)
        return [f"{process.pid} {process.name()}" for process in left]
