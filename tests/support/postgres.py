"""A real PostgreSQL on loopback, started from the system's binaries, with a new database for each test."""

import asyncio
import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

_numbers = itertools.count()


def binaries() -> Path | None:
    """Folder of initdb and postgres: the newest that the system has."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), default=None)


class Postgres:
    """One server. It may be stopped, killed and started again; its address stays."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="r2-postgres-", dir="/tmp"))
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # it refuses to run as root
            user = next(name for name in ("postgres", "nobody") if _is_user(name))
            shutil.chown(self._folder, user)
            self._as_user = [
                "setpriv",
                f"--reuid={user}",
                "--regid=" + str(pwd.getpwnam(user).pw_gid),
                "--clear-groups",
            ]
        self.port = _free_port()
        self._run("initdb", "-D", "data", "-A", "trust", "-U", "r2", "--no-sync", "--no-locale", "-E", "UTF8")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://r2:not-a-secret@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"test_{next(_numbers)}"
        asyncio.run(self._execute(f"create database {name}"))
        return self.url(name)

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": "32MB",
            "fsync": "off",  # a busy disk may take a minute; no test takes the power away
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user, str(self._programs / "postgres"), "-D", "data", *flags],
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, asyncpg.PostgresError):
                asyncio.run(self._execute("select 1"))
                return
            time.sleep(0.05)
        raise AssertionError((self._folder / "log").read_text("utf-8", "replace"))

    def stop(self) -> None:
        """In order; connections are cut."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """As a power cut would: what is unlogged is gone at the next start."""
        self._end(signal.SIGQUIT)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(120)
            self._process = None

    def _run(self, program: str, *args: str) -> None:
        command = [*self._as_user, str(self._programs / program), *args]
        subprocess.run(command, cwd=self._folder, check=True, capture_output=True, timeout=120)

    async def _execute(self, sql: str) -> None:
        connection = await asyncpg.connect(self.url(), timeout=10)
        await connection.execute(sql)
        await connection.close()


@contextlib.contextmanager
def server() -> Iterator[Postgres]:
    """A server for the block; skips the test where PostgreSQL is not installed."""
    programs = binaries()
    if programs is None:
        pytest.skip("needs PostgreSQL's programs (apt-get install postgresql)")
    postgres = Postgres(programs)
    try:
        yield postgres
    finally:
        postgres.close()


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
