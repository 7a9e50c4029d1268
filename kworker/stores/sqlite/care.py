"""What can be wrong with the file, and what to do about it."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import StoreError
from .. import place

ROOM = 64 * 1024  # bytes of free space below which nothing more is written
LOW = 8 * 2**20  # bytes below which the log is kept short: it takes twice of half as much

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORKS = frozenset(
    [
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "coda", "lustre", "beegfs",
        "glusterfs", "fuse",
    ]
)  # fmt: skip


class Damaged(Exception):
    """What is stored is not what was written."""


def prepare(path: Path) -> None:
    """Make folder and file, for this user alone, or raise StoreError.

    The file is made here and not by SQLite, so that its log and index inherit its mode. A
    file that is there is not opened: closing it would drop the locks that SQLite holds on
    it elsewhere in this process (sqlite.org/howtocorrupt.html, 2.2).
    """
    folder = path.parent
    try:
        refuse_network(path, _MOUNTS.read_text() if _MOUNTS.exists() else "")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        under = place.look(path)
        if under.network:
            raise StoreError(
                f"{path}: is on a network file system ({under.kind}), which loses locks and would "
                "damage it; name a file on a local disk with --db"
            )
        about = folder.lstat()
        if stat.S_ISLNK(about.st_mode):
            raise StoreError(
                f"{path}: its folder {folder} is a symbolic link; name the real folder with --db"
            )
        # With the sticky bit, as /tmp has it, others may add files but not replace ours.
        if about.st_mode & stat.S_IWOTH and not about.st_mode & stat.S_ISVTX:
            raise StoreError(
                f"{path}: anyone may write to its folder {folder}; "
                f"take one that is yours alone, for example --db {folder / 'kworker' / path.name}"
            )
        refuse_foreign(path)
        try:
            kind = path.lstat().st_mode
        except FileNotFoundError:
            _make(path)
            return
        if stat.S_ISLNK(kind):
            raise StoreError(f"{path}: is a symbolic link; name the real file with --db")
        if not stat.S_ISREG(kind):
            raise StoreError(f"{path}: is not a file; name another with --db")
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
            raise StoreError(f"{path}: {_NOT_WRITABLE}")
    except FileExistsError as error:
        raise StoreError(f"{path}: {folder} is not a folder; name another with --db") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror} ({error.filename}); {CHOOSE}") from error


def refuse_foreign(path: Path) -> None:
    """Raise StoreError where somebody else has put a file in the place of one of ours, in a
    folder that anyone may write to. Asked before opening, and again once all are there."""
    if not path.parent.stat().st_mode & stat.S_IWOTH:
        return
    for suffix in ("", "-wal", "-shm", "-journal", ".lock"):
        file = path.with_name(path.name + suffix)
        try:
            owner = file.lstat().st_uid
        except FileNotFoundError:
            continue
        if owner != os.geteuid():
            raise StoreError(
                f"{path}: {file.name} is another user's, in a folder that anyone may write to; "
                "name another file with --db"
            )


def refuse_network(path: Path, mounts: str) -> None:
    """Raise StoreError where the file would lie on another machine: its processes share memory
    and locks, which a file system of the network does not keep (sqlite.org/wal.html).

    `mounts` is what /proc/self/mountinfo says; elsewhere than on Linux nobody can tell.
    """
    real = os.path.realpath(path)
    deepest, kind = "", ""
    for line in mounts.splitlines():
        fields, _, more = line.partition(" - ")
        point = fields.split()[4].encode().decode("unicode_escape")
        under = point == "/" or real == point or real.startswith(point + "/")
        if under and len(point) >= len(deepest):
            deepest, kind = point, more.split()[0]
    # A root of that kind is a sandbox's or a container's own, and no other machine's.
    if deepest != "/" and (kind in _NETWORKS or kind.startswith("fuse.")):
        raise StoreError(
            f"{path}: lies on a network file system ({kind} at {deepest}), where a database is "
            "damaged sooner or later; take a disk of this machine, with --db"
        )


def check(connection: sqlite3.Connection, path: Path, up_to: int = 64 * 2**20) -> None:
    """Look for damage, unless the file is larger than so many bytes: it holds up the caller.

    Raises Damaged.
    """
    if path.stat().st_size <= up_to:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise Damaged(" ".join(found.split()))


def busy(error: sqlite3.Error) -> bool:
    """Whether another program holds the database, so that it can be tried again."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def foreign(error: sqlite3.Error) -> bool:
    """Whether the file does not begin like a database."""
    return _code(error) == sqlite3.SQLITE_NOTADB


def full(error: sqlite3.Error, path: Path) -> bool:
    """Whether the disk has no room: what was begun is rolled back, all else is as it was."""
    code = _code(error)
    # The index beside the log is memory: that it cannot grow is told as a failure of the disk.
    return code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and not has_room(path))


def has_room(path: Path) -> bool:
    """Whether more may be written. Some room is left for moving the log into the database:
    where a log has taken all there was, that is no longer possible."""
    return free(path) >= ROOM


def free(path: Path) -> int:
    """Bytes that this user may still write on the file's disk."""
    about = os.statvfs(path.parent)
    return about.f_bavail * about.f_frsize


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Turn what SQLite says about the file into a StoreError that tells the way out."""
    try:
        yield
    except Damaged as error:
        raise StoreError(f"{path}: damaged; {_ASIDE} ({error})") from error
    except sqlite3.Error as error:
        code = _code(error)
        if code is None:  # not from SQLite but about how it was called: ours to mend
            raise
        raise StoreError(f"{path}: {_WAYS_OUT.get(code, _OTHER)} ({error})") from error
    except OSError as error:
        raise StoreError(f"{path}: {_WAYS_OUT[sqlite3.SQLITE_IOERR]} ({error})") from error


def _make(path: Path) -> None:
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
        os.close(os.open(path, flags, 0o600))
    except FileExistsError:
        return  # another process of the group was a moment faster
    # SQLite synchronises what is in the file; that the file is there is ours to see to.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code, None where the error is not SQLite's."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


CHOOSE = "make it writable for this user, or name another file with --db"
_NOT_WRITABLE = f"cannot be written; {CHOOSE}"
_ASIDE = (
    "move it aside together with its -wal and -shm files and start again "
    "(what it remembers is then forgotten, so messages may be handled again)"
)
_OTHER = "cannot be used"
_WAYS_OUT = {
    sqlite3.SQLITE_BUSY: "another program keeps it locked; end that program, then start again",
    sqlite3.SQLITE_LOCKED: "another program keeps it locked; end that program, then start again",
    sqlite3.SQLITE_FULL: "its disk is full; free some space, then start again",
    sqlite3.SQLITE_IOERR: "its disk cannot be read or written; mend it, then start again",
    sqlite3.SQLITE_CORRUPT: f"damaged; {_ASIDE}",
    sqlite3.SQLITE_NOTADB: f"not a database; name another file with --db, or {_ASIDE}",
    sqlite3.SQLITE_READONLY: _NOT_WRITABLE,
    sqlite3.SQLITE_PERM: _NOT_WRITABLE,
    sqlite3.SQLITE_CANTOPEN: f"cannot be opened; {CHOOSE}",
}
