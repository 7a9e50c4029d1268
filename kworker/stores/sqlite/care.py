"""What can be wrong with the file, and what to do about it."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import StoreError

_CHECKED_UP_TO = 64 * 2**20  # bytes; reading more than this would hold up the start


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
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        raise StoreError(f"{path}: {error.strerror} ({error.filename}); {_CHOOSE}") from error


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


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Look for damage, unless the file is so large that it would hold up the start.

    Raises Damaged.
    """
    if path.stat().st_size <= _CHECKED_UP_TO:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise Damaged(" ".join(found.split()))


def busy(error: sqlite3.Error) -> bool:
    """Whether another program holds the database, so that it can be tried again."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


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


_CHOOSE = "make it writable for this user, or name another file with --db"
_NOT_WRITABLE = f"cannot be written; {_CHOOSE}"
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
    sqlite3.SQLITE_CANTOPEN: f"cannot be opened; {_CHOOSE}",
}
