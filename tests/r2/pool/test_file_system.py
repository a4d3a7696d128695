"""A lease file on a network file system is refused by its kind (tests/flows/test_doctor.py has how it is found)."""

from pathlib import Path

import pytest

from r2.errors import ConfigError
from r2.pool.limits import lease
from r2.pool.limits.file_system import network_kind


@pytest.mark.parametrize(
    ("kind", "is_network"),
    [("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("ext4", False), ("fuse.lxcfs", False)],
)
def test_only_what_several_hosts_may_have_mounted_is_a_network_file_system(kind: str, is_network: bool, tmp_path: Path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 8:1 / / rw - {kind} what rw\n", "utf-8")
    assert network_kind(tmp_path, mounts) == (kind if is_network else None)
    assert network_kind(tmp_path, tmp_path / "none") is None


def test_a_lease_on_one_is_refused_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease, "network_kind", lambda path: "nfs4")
    with pytest.raises(ConfigError, match=r"network file system \(nfs4\).*R2_COORDINATION_URL"):
        lease.Lease(tmp_path / "state" / "lease.sqlite3")
    assert not (tmp_path / "state" / "lease.sqlite3").exists()
