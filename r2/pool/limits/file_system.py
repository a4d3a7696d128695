"""Which kind of file system a path lies on: what a lock of the kernel guards must not lie where other hosts write."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|lustre|beegfs|gpfs|glusterfs|ocfs2|gfs2|virtiofs|"
    r"fuse\.(sshfs|s3fs|gcsfuse|glusterfs|ceph|rclone|juicefs|goofys|mount-s3)"
)
"""Kinds that several hosts may have mounted."""


def network_kind(path: Path, mounts: Path = MOUNTS) -> str | None:
    """The kind of the network file system that a path is on; None for one of this host, and where that is not told."""
    kind = file_system(path, mounts)
    return kind if NETWORK.fullmatch(kind) else None


def file_system(path: Path, mounts: Path = MOUNTS) -> str:
    """The kind of file system that a path is on, by /proc/self/mountinfo; "" where that is not told."""
    there = str(nearest_folder(path).resolve())
    found, longest = "", -1
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        is_on = there == point or there.startswith(point.rstrip("/") + "/")
        if is_on and len(point) >= longest:  # of two mounts on one point the later covers the earlier
            found, longest = after.split(" ")[0], len(point)
    return found


def nearest_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if one.is_dir())
