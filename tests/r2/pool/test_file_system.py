"""A lease file on a network file system is refused by its type."""

from pathlib import Path

import pytest

from r2.errors import ConfigError
from r2.pool.limits import lease
from r2.pool.limits.file_system import network_type

MOUNTS = """\
/dev/vda1 / ext4 rw 0 0
server:/export /mnt/team nfs4 rw,vers=4.2 0 0
tmpfs /mnt/team/scratch tmpfs rw 0 0
//nas/share /mnt/with\\040blank cifs rw 0 0
rclone:x /data fuse.rclone rw 0 0
broken line
""".splitlines()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/state", None),
        ("/mnt/team", "nfs4"),
        ("/mnt/team/state/lease.sqlite3", "nfs4"),
        ("/mnt/teams", None),
        ("/mnt/team/scratch/x", None),
        ("/mnt/with blank/x", "cifs"),
        ("/data/x", "fuse.rclone"),
    ],
)
def test_the_longest_mount_above_a_path_says_what_it_lies_on(path: str, kind: str | None):
    assert network_type(Path(path), MOUNTS) == kind


def test_a_lease_on_one_is_refused_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease, "network_type", lambda path: "nfs4")
    with pytest.raises(ConfigError, match=r"network file system \(nfs4\).*R2_COORDINATION_URL"):
        lease.Lease(tmp_path / "state" / "lease.sqlite3")
    assert not (tmp_path / "state" / "lease.sqlite3").exists()
