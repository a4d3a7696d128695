"""Which kind of file system a path lies on: what is shared by a lock of the kernel must not lie on another host's."""

import os
from collections.abc import Iterable
from pathlib import Path

NETWORK = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.ceph-fuse", "fuse.gcsfuse", "fuse.glusterfs"),
        *("fuse.goofys", "fuse.juicefs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs"),
    )
)
"""Types, as /proc/mounts has them, of file systems that several hosts may have mounted."""


def network_type(path: Path, mounts: Iterable[str] | None = None) -> str | None:
    """The type of the network file system that `path` lies on; None for a local one, and where the system does not
    tell. `mounts`: lines of /proc/mounts."""
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text("utf-8", "replace").splitlines()
        except OSError:
            return None
    place = os.path.realpath(path)
    found, longest = None, -1
    for line in mounts:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].encode().decode("unicode_escape")  # a blank is \040
        is_above = place == point or place.startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= longest:  # of two at one point the later one hides the earlier
            found, longest = fields[2], len(point)
    return found if found in NETWORK else None
