"""A whole installation on this machine's loopback, from nothing: `make stack`, and its end, `make stack-down`.

    python deploy/stack.py up [--folder .stack] [--workers 2]
    python deploy/stack.py down [--folder .stack]

PostgreSQL, an S3 server for tests, Prefect's server on that PostgreSQL, workers of one process pool and the deployments
of prefect.yaml. Everything it starts and writes is in one folder, which git ignores. `up` again starts what is missing
and leaves the rest alone. For trying, and for tests: its S3 keeps everything in memory.
"""

import argparse
import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # where PYTHONSAFEPATH keeps Python from looking

from deploy.stack_postgres import Postgres  # noqa: E402
from deploy.stack_programs import Programs, StackError  # noqa: E402

BIN: Final = Path(sys.executable).parent
POOL, BUCKET = "r2", "r2-lake"
WISHED = {"prefect": 4200, "postgres": 5490, "s3": 5555}
"""Ports that are taken where they are free."""
PATIENCE_S: Final = 300.0
"""For a first start on a slow machine: Prefect makes 36 tables."""


class Stack:
    """The folder of one installation: ports and passwords in `stack.json`, programs, logs, what the flows work on."""

    def __init__(self, folder: Path, n_workers: int) -> None:
        self.folder = folder.resolve()
        self.home = self.folder / "home"
        self._n_workers = n_workers
        self._programs = Programs(self.folder)
        self._known: dict[str, str] = {}

    def up(self) -> None:
        """Returns when a run can be started. StackError, with the last words of its log, for a program that ends."""
        begun = time.monotonic()
        self._prepare()
        postgres = self._postgres()
        postgres.start(PATIENCE_S)
        for database in ("prefect", "r2"):
            postgres.make_database(database)
        self._s3()
        self._server()
        is_new = not (self.folder / "deployed").exists()
        if is_new:
            self._deploy()
        for number in range(1, self._n_workers + 1):
            self._worker(f"worker-{number}")
        self._say(time.monotonic() - begun)

    def down(self) -> None:
        """Ends everything and removes the folder. What is not there needs no end."""
        if not (self.folder / "stack.json").exists():
            print(f"no stack in {self.folder}")
            return
        self._known = json.loads((self.folder / "stack.json").read_text("utf-8"))
        workers = [name for name in self._programs.names() if name.startswith("worker-")]
        self._programs.end(*workers)
        self._programs.end("prefect", "s3")
        self._postgres().stop()
        left = self._programs.left()
        shutil.rmtree(self.folder)
        if left:
            raise StackError(f"{self.folder} is removed, but processes {left} did not end. Look: ps -p {left[0]}")
        print(f"nothing runs any more, and {self.folder} is gone")

    def addresses(self) -> dict[str, str]:
        """What a shell needs to use the stack, and what its workers have."""
        known = self._known
        return {
            "PREFECT_API_URL": f"http://127.0.0.1:{known['prefect']}/api",
            "R2_HOME": str(self.home),
            "R2_STATE_DIR": str(self.folder / "state"),
            "R2_COORDINATION_URL": self._postgres().url("r2"),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{known['s3']}",
            "AWS_ACCESS_KEY_ID": "stack",
            "AWS_SECRET_ACCESS_KEY": known["s3_secret"],
            "AWS_REGION": "us-east-1",
        }

    def _prepare(self) -> None:
        for folder in (self.folder, self.home, self.folder / "state", self.folder / "log", self.folder / "prefect"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / "stack.json"
        if path.exists():
            self._known = json.loads(path.read_text("utf-8"))
        else:
            self._known = {name: str(_port(wished)) for name, wished in WISHED.items()}
            self._known |= {"postgres_secret": secrets.token_hex(16), "s3_secret": secrets.token_hex(16)}
            self._known["postgres_folder"] = str(Postgres.folder_for(self.folder))
            _write_private(path, json.dumps(self._known))
        questions = self.home / "questions.jsonl"
        if not questions.exists():
            shutil.copyfile(ROOT / "flows/demo_questions.jsonl", questions)
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in self.addresses().items()]
        _write_private(self.folder / "env", "".join(lines))

    def _postgres(self) -> Postgres:
        known = self._known
        return Postgres(Path(known["postgres_folder"]), int(known["postgres"]), known["postgres_secret"])

    def _s3(self) -> None:
        port = self._known["s3"]
        server = BIN / "moto_server"
        if not server.exists():
            raise StackError(f"{server} is not there: pip install 'moto[server,s3]' into this environment (extra dev)")
        self._programs.start("s3", [str(server), "-H", "127.0.0.1", "-p", port], self._environ())
        self._wait("s3", lambda: _answers(f"http://127.0.0.1:{port}/moto-api/"))
        _asked(f"http://127.0.0.1:{port}/{BUCKET}", "PUT")  # again is no error

    def _server(self) -> None:
        url = self._postgres().url("prefect").replace("postgresql://", "postgresql+asyncpg://", 1)
        command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", self._known["prefect"]]
        self._programs.start("prefect", command, {**self._environ(), "PREFECT_API_DATABASE_CONNECTION_URL": url})
        self._wait("prefect", lambda: _answers(f"{self.addresses()['PREFECT_API_URL']}/health"))

    def _deploy(self) -> None:
        template = str(ROOT / "deploy/work_pools/process.json")
        pool = ["work-pool", "create", POOL, "--type", "process", "--base-job-template", template, "--overwrite"]
        for arguments in (pool, ["--no-prompt", "deploy", "--all"]):
            done = subprocess.run(
                [str(BIN / "prefect"), *arguments],
                check=False,
                cwd=ROOT,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
            )
            if done.returncode != 0:
                raise StackError(f"prefect {' '.join(arguments[:3])}: {(done.stderr or done.stdout)[-2000:]}")
        (self.folder / "deployed").touch()

    def _worker(self, name: str) -> None:
        command = [str(BIN / "prefect"), "worker", "start", "--pool", POOL, "--name", name, "--limit", "1"]
        self._programs.start(name, command, self._environ(), cwd=self.home)
        self._wait(name, lambda: "started!" in self._programs.said(name))

    def _wait(self, name: str, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_there():
            if not self._programs.is_running(name):
                raise StackError(f"{name} ended at its start: {self._programs.said(name)[-2000:]}")
            if time.monotonic() > deadline:
                raise StackError(f"{name} did not answer within {PATIENCE_S:g} s: {self._programs.said(name)[-2000:]}")
            time.sleep(0.2)

    def _environ(self) -> dict[str, str]:
        return {
            **os.environ,
            **_settings(ROOT / "deploy/prefect.env"),
            **self.addresses(),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def _say(self, seconds: float) -> None:
        known = self._known
        print(f"up in {seconds:.0f} s, state in {self.folder}")
        for name, what in (
            ("postgres", f"PostgreSQL at 127.0.0.1:{known['postgres']}: databases prefect and r2"),
            ("s3", f"S3 (moto, in memory) at http://127.0.0.1:{known['s3']}: bucket {BUCKET}, as s3://{BUCKET}/lake"),
            ("prefect", f"Prefect's server and pages at http://127.0.0.1:{known['prefect']}"),
            *(
                (name, f"worker of pool {POOL}, one run at a time")
                for name in self._programs.names()
                if "worker" in name
            ),
        ):
            is_postgres = name == "postgres"
            pid = self._postgres().pid() if is_postgres else self._programs.pid(name)
            log = Path(known["postgres_folder"]) / "log" if is_postgres else self.folder / "log" / name
            print(f"  {pid:>7}  {what}; log {log}")
        print(f"the variables, two of them secret, for your shell:\n  source {shlex.quote(str(self.folder / 'env'))}")
        print(
            f"a first run:\n  {BIN}/prefect deployment run answer-questions/bulk --watch\nits end:\n  make stack-down"
        )


def _settings(path: Path) -> dict[str, str]:
    """The lines NAME=VALUE of a file."""
    lines = path.read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _port(wished: int) -> int:
    """The port that is wished for where it is free, else another."""
    for port in (wished, 0):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            taken: int = listener.getsockname()[1]
            return taken
    raise StackError("no port is free on 127.0.0.1")


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _asked(url: str, method: str = "GET") -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(urllib.request.Request(url, method=method), timeout=5).close()


def _answers(url: str) -> bool:
    try:
        _asked(url)
    except urllib.error.HTTPError:
        return False
    except OSError:
        return False
    return True


def _main(arguments: Mapping[str, object]) -> int:
    # Prefect ends its programs by SIGINT. Where this one was started with SIGINT ignored (`nohup`, `&` in a script),
    # they would inherit that, and live on; a handler is not inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stack = Stack(Path(str(arguments["folder"])), int(str(arguments["workers"])))
    try:
        stack.up() if arguments["what"] == "up" else stack.down()
    except StackError as error:
        sys.stderr.write(f"stack: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["up", "down"])
    parser.add_argument("--folder", default=str(ROOT / ".stack"), help="where it lies")
    parser.add_argument("--workers", type=int, default=2)
    sys.exit(_main(vars(parser.parse_args())))
