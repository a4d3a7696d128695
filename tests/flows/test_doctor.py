"""`r2 doctor`: what each check says of a machine that is well, and of one that is not."""

import json
import os
import sqlite3
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.support import doctor
from flows.support.doctor import Finding
from r2.errors import ConfigError
from r2.pool.limits import file_system as of_limits
from r2.pool.limits.lease import Lease
from storage.lake.lake import Lake
from storage.lake.left_locks import left_locks
from storage.lake.run_lock import run_lock
from tests.support.lake_rows import problem
from tests.support.postgres import Postgres

ENTRY = """
[models.hosted]
endpoint = "https://api.example.com/v1"
tier = "large"
api_key_env = "DOCTOR_TEST_KEY"
price_usd_per_mtok = {input = 1, output = 2, date = "2026-11-24", source = "made up"}
"""
MOUNTS = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:35 / /home rw,relatime shared:9 - nfs4 server:/home rw
41 40 8:2 / /home/some\040body rw,relatime - xfs /dev/sdb rw
"""


def installed(**versions: str):
    def of(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    return of


def test_versions_are_held_against_the_projects_own_list():
    wanted = ["one>=2,<3", "two==1.0", "old>=1; python_version < '3'", "more>=4; extra == 'train'"]
    well = installed(r2="0.1.0", one="2.5", two="1.0")
    [found] = doctor.pins(wanted, well, "r2")
    assert found == Finding("versions", "r2 0.1.0, 2 packages as pyproject.toml asks for them")
    [found] = doctor.pins(wanted, installed(r2="0.1.0", one="3.0", more="3.9"), "r2")
    assert found.what == "one 3.0 (needs <3,>=2); two is missing (needs ==1.0); more 3.9 (needs >=4)"
    assert "requirements.txt" in found.fix
    [found] = doctor.pins(wanted, installed(), "r2")
    assert "r2 is not installed here" in found.what


def test_this_checkouts_own_versions_fit():
    [found] = doctor.pins()
    assert found.is_well, found.what


def test_a_full_disk_and_a_folder_without_the_right_to_write_are_findings(tmp_path: Path):
    [found] = doctor.disk("lake", tmp_path / "not" / "there", "another")
    assert found.is_well and "free" in found.what
    [found] = doctor.disk("lake", tmp_path, "another folder", least=1 << 60)
    assert not found.is_well and "less than" in found.what and "another folder" in found.fix


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_a_finding(tmp_path: Path):
    tmp_path.chmod(0o500)
    [found] = doctor.disk("lake", tmp_path, "another")
    assert "cannot be written" in found.what


@pytest.mark.parametrize(
    ("path", "kind"), [("/var", "ext4"), ("/home", "nfs4"), ("/home/some body/x", "xfs"), ("/homes", "ext4")]
)
def test_a_path_is_on_the_file_system_of_the_longest_mount_above_it(path: str, kind: str, tmp_path: Path, monkeypatch):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    monkeypatch.setattr(of_limits, "nearest_folder", lambda one: one)
    assert of_limits.file_system(Path(path), tmp_path / "mountinfo") == kind


def test_limits_on_a_network_file_system_are_a_finding(tmp_path: Path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text("22 1 8:1 / / rw - nfs4 server:/ rw\n")
    [found] = doctor.limits_file(tmp_path, mounts)
    assert "network file system (nfs4)" in found.what and "R2_STATE_DIR" in found.fix


def test_the_limits_file_is_read_and_a_damaged_one_is_a_finding(tmp_path: Path):
    mounts = tmp_path / "none"
    [found] = doctor.limits_file(tmp_path, mounts)
    assert found.is_well and "not there yet" in found.what
    Lease(tmp_path / "lease.sqlite3").close()
    [found] = doctor.limits_file(tmp_path, mounts)
    assert found.is_well and "0 budgets" in found.what
    for path in tmp_path.glob("lease.sqlite3*"):
        path.write_bytes(b"no database at all, but long enough to be read as one" * 20)
    [found] = doctor.limits_file(tmp_path, mounts)
    assert not found.is_well and "cannot be read" in found.what
    with pytest.raises((ConfigError, sqlite3.Error)):
        Lease(tmp_path / "lease.sqlite3")


def test_the_database_that_machines_share_is_looked_at_where_one_is_named(postgres: Postgres):
    assert list(doctor.machines({})) == []
    [found] = doctor.machines({"R2_COORDINATION_URL": postgres.new_database()})
    assert found.is_well and "PostgreSQL at 127.0.0.1" in found.what and "not-a-secret" not in found.what
    for url in ("postgresql://me:not-a-secret@127.0.0.1:1/r2", "not-a-secret"):
        [found] = doctor.machines({"R2_COORDINATION_URL": url})
        assert not found.is_well and "R2_COORDINATION_URL" in found.fix and "not-a-secret" not in found.what


class Server(BaseHTTPRequestHandler):
    """An API whose clock is an hour late."""

    def do_GET(self) -> None:
        self.send_response_only(200)
        self.send_header("Date", formatdate(time.time() - 3600, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_the_configured_api_is_asked_and_its_clock_compared(tmp_path: Path):
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        reached, clock = doctor.prefect({"PREFECT_API_URL": url})
        server.shutdown()
    assert reached.is_well and reached.what == f"{url} (the environment) answers"
    assert clock.check == "clock" and clock.what.endswith("s after the clock of Prefect's server")
    assert int(clock.what.split()[0]) in range(3595, 3700)
    [gone] = doctor.prefect({"PREFECT_API_URL": url.replace("http://", "http://me:secret@")})
    assert not gone.is_well and "cannot be reached" in gone.what and "secret" not in gone.what


def test_an_api_in_prefects_profile_counts_as_configured(tmp_path: Path):
    (tmp_path / "profiles.toml").write_text('active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n')
    environ = {"PREFECT_PROFILES_PATH": str(tmp_path / "profiles.toml")}
    url, place = doctor.configured_api(environ)
    assert url == "http://127.0.0.1:9/api" and place.startswith("profile a in ")
    [found] = doctor.prefect({"PREFECT_PROFILES_PATH": str(tmp_path / "none")})
    assert found.is_well and "each run starts one of its own" in found.what


def test_telemetry_that_somebody_turned_on_is_a_finding():
    [found] = doctor.telemetry({})
    assert found.is_well
    [found] = doctor.telemetry({"RAY_USAGE_STATS_ENABLED": "1"})
    assert found.what.startswith("on: RAY_USAGE_STATS_ENABLED") and "RAY_USAGE_STATS_ENABLED=0" in found.fix


def test_the_lock_of_a_process_that_is_gone_is_named_and_that_of_a_living_one_is_not(tmp_path: Path):
    with run_lock(tmp_path, "run-a"):
        held = (tmp_path / "_locks" / "run-a.lock").read_bytes()
        assert left_locks(tmp_path) == {}
    assert left_locks(tmp_path) == {}
    stored = json.loads(held)
    another = tmp_path / "_locks" / "run-b.lock"
    for changed in ({"started_ticks": 1}, {"boot_id": "another"}, {"pid": 2**22 + 1}):
        another.write_text(json.dumps(stored | changed))
        assert left_locks(tmp_path) == {"run-b": (stored | changed)["pid"]}
    [found] = doctor.locks(tmp_path)
    assert "run run-b was cut off" in found.what and "give the command of that run again" in found.fix
    another.write_text("half a li")
    assert left_locks(tmp_path) == {}


def test_a_clock_behind_what_is_stored_is_a_finding(tmp_path: Path):
    Lake(tmp_path).commit("run-a", "0", problem(0))
    now = time.time()
    [found] = doctor.clock(tmp_path, now)
    assert found.is_well
    os.utime(tmp_path / "_manifest" / "run-a", (now + 7200, now + 7200))
    [found] = doctor.clock(tmp_path, now)
    assert found.what == f"7200 s before the time of the newest commit in {tmp_path}"


def test_the_sandbox_is_a_finding_only_where_it_is_needed_or_does_not_work(monkeypatch: pytest.MonkeyPatch):
    [found] = doctor.sandbox(is_needed=True)
    assert found.what == "a program ran in it"

    def none(*_: object) -> None:
        raise ConfigError("no libseccomp here")

    monkeypatch.setattr("r2.problems.sandbox.run_program", none)
    [found] = doctor.sandbox(is_needed=False)
    assert found.is_well and "no libseccomp" in found.what
    [found] = doctor.sandbox(is_needed=True)
    assert not found.is_well


def test_the_command_names_keys_never_their_values_and_ends_with_1_where_something_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("R2_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "pool.toml").write_text('[router]\ndecomposer = "hosted"\nallocator = "hosted"\n' + ENTRY)
    command = ["doctor", "--lake", str(tmp_path / "lake"), "--pool", str(tmp_path / "pool.toml"), "--json"]
    monkeypatch.delenv("DOCTOR_TEST_KEY", raising=False)
    out = CliRunner().invoke(app, command)
    [wrong] = [one for one in json.loads(out.stdout) if not one["is_well"]]
    assert out.exit_code == 1
    assert wrong["what"] == "$DOCTOR_TEST_KEY is not set (used by hosted)"
    assert wrong["fix"] == "export DOCTOR_TEST_KEY=..., with the key"
    monkeypatch.setenv("DOCTOR_TEST_KEY", "sk-not-to-be-shown")
    out = CliRunner().invoke(app, command)
    assert out.exit_code == 0 and "sk-not-to-be-shown" not in out.output
    (tmp_path / "pool.toml").write_text("[models.x]\nendpoin = 1\n")
    out = CliRunner().invoke(app, command[:-1])
    assert out.exit_code == 1 and "FIX  keys" in out.stdout
    assert list(tmp_path.glob("lake*")) == [] and not (tmp_path / "state").exists(), "it writes nothing"
