"""A PostgreSQL of the stack's own, from the programs that the system has. It refuses to run as root, so root gives it
to another user and a folder that this user may enter."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.stack_programs import StackError

USER = "r2"


class Postgres:
    """`pg_ctl` starts and ends it, and knows by its own file whether it runs."""

    def __init__(self, folder: Path, port: int, password: str) -> None:
        self._folder, self._port, self._password = folder, port, password

    @staticmethod
    def folder_for(stack: Path) -> Path:
        """A new folder: in the stack's own, or for root one that another user may reach."""
        if os.geteuid() != 0:
            return stack / "postgres"
        folder = Path(tempfile.mkdtemp(prefix="r2-stack-postgres-"))
        shutil.chown(folder, _other_user().pw_name)
        return folder

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self._port}/{database}"

    def start(self, patience_s: float) -> None:
        self._folder.mkdir(exist_ok=True, mode=0o700)
        if not (self._data / "PG_VERSION").exists():
            self._make()
        if self.pid():
            return
        options = (
            f"-c port={self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=200"
        )
        started = [
            "start",
            "-D",
            str(self._data),
            "-l",
            str(self._log),
            "-w",
            "-t",
            str(int(patience_s)),
            "-o",
            options,
        ]
        self._run("pg_ctl", *started)

    def stop(self) -> None:
        """Ends it, and removes what it wrote."""
        if self.pid():
            self._run("pg_ctl", "stop", "-D", str(self._data), "-m", "fast", "-w")
        shutil.rmtree(self._folder, ignore_errors=True)

    def pid(self) -> int:
        """0 where it does not run."""
        if self._run("pg_ctl", "status", "-D", str(self._data), may_fail=True).returncode != 0:
            return 0
        return int((self._data / "postmaster.pid").read_text("utf-8").split()[0])

    def make_database(self, name: str) -> None:
        has = f"select 1 from pg_database where datname = '{name}'"
        if not self._psql("-tAc", has).stdout.strip():
            self._psql("-c", f"create database {name}")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _make(self) -> None:
        secret = self._folder / "secret"
        with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(self._password)
        if os.geteuid() == 0:
            shutil.chown(secret, _other_user().pw_name)
        try:
            made = ["-D", str(self._data), "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}"]
            self._run("initdb", *made, "-E", "UTF8", "--no-locale", "--no-sync")
        finally:
            secret.unlink()

    def _psql(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        where = ["-h", "127.0.0.1", "-p", str(self._port), "-U", USER, "-d", "postgres", "-v", "ON_ERROR_STOP=1"]
        return self._run("psql", *where, *arguments, password=self._password)

    def _run(
        self, program: str, *arguments: str, may_fail: bool = False, password: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        as_user: list[str] = []
        if os.geteuid() == 0:
            other = _other_user()
            as_user = ["setpriv", f"--reuid={other.pw_uid}", f"--regid={other.pw_gid}", "--clear-groups"]
        # Into a file and not a pipe: the server that pg_ctl starts would hold the pipe open.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            done = subprocess.run(
                [*as_user, str(_programs() / program), *arguments],
                check=False,
                cwd=self._folder if self._folder.is_dir() else "/",
                env={**os.environ, "PGPASSWORD": password, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            output.seek(0)
            said = output.read()
        if done.returncode != 0 and not may_fail:
            raise StackError(f"{program}: {said.strip()[-2000:]}\n{self._last_words()}")
        return subprocess.CompletedProcess(done.args, done.returncode, said, "")

    def _last_words(self) -> str:
        return self._log.read_text("utf-8", "replace")[-2000:] if self._log.exists() else ""


def _programs() -> Path:
    """The folder of initdb and its kin: on the path, else the newest where Debian has them."""
    on_path = shutil.which("pg_ctl")
    if on_path is not None:
        return Path(on_path).resolve().parent
    found = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name), default=None)
    if found is None:
        raise StackError("PostgreSQL's programs (initdb, pg_ctl) are not there: apt-get install postgresql")
    return found


def _other_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise StackError("PostgreSQL refuses to run as root, and there is no user postgres or nobody: use another account")
