"""What lies under a store: which file system, and how much room."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_MOUNTS = Path("/proc/self/mounts")

_NETWORK = frozenset(
    {"afs", "beegfs", "ceph", "cifs", "davfs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs",
     "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2",
     "smb3", "smbfs"}
)  # fmt: skip


class Place(NamedTuple):
    """`kind` of the file system as the system calls it, None where it does not tell; whether it
    is a `network`'s; bytes that are `free`."""

    kind: str | None
    network: bool
    free: int


def look(path: Path, mounts: Path = _MOUNTS) -> Place:
    """What lies under a file that may not be there yet. Raises OSError."""
    folder = nearest(path)
    kind = _kind(folder, mounts)
    found = os.statvfs(folder)
    return Place(kind, kind in _NETWORK, found.f_bavail * found.f_frsize)


def nearest(path: Path) -> Path:
    """The folder above a file, or the first above it that is there."""
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    return folder.resolve()


def _kind(folder: Path, mounts: Path) -> str | None:
    """The kind of what is mounted nearest above a folder; of several at one point, the last."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None  # not Linux
    found: tuple[int, str] | None = None
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        # A space in a name is written in octal.
        above = Path(point.encode("latin-1", "replace").decode("unicode_escape"))
        depth = len(above.parts)
        if folder.is_relative_to(above) and (found is None or depth >= found[0]):
            found = depth, kind
    return None if found is None else found[1]
