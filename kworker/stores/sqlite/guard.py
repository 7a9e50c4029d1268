"""Whether the file is still the one that was opened, and still whole."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from pathlib import Path
from urllib.parse import quote

from ...errors import StoreError
from . import care

_WHOLE_UP_TO = 32 * 2**20  # bytes; of a larger file only what every start reads is looked at
_PAUSE = 2.0  # seconds, at least, between two looks into the file
_SHARE = 200  # times as long as a look into it took
_FILES = ("", "-wal", "-shm")


class Guard:
    """Looks after the file of one connection. Both looks raise StoreError, which names the
    file, what has become of it, and the way out.

    A database whose file is gone goes on taking what is written, into nothing: so its files
    are compared by their inodes. They are never opened here but by SQLite (see `care.prepare`).
    Time is the machine's own.
    """

    def __init__(self, path: Path) -> None:
        """The files are there: the connection has been read from."""
        self._path = path
        self._files = {suffix: self._identity(suffix) for suffix in _FILES}
        self._length = path.stat().st_size
        self._next_look = time.monotonic() + _PAUSE

    def look_at(self) -> None:
        """Whether the files are those that were opened, and may be written: microseconds."""
        for suffix, identity in self._files.items():
            if self._identity(suffix) != identity:
                name = self._path.name + suffix
                raise StoreError(
                    f"{self._path}: {name} was removed, moved or replaced while it was in use; put "
                    "it back with its -wal and -shm files while no worker runs, or start again "
                    "with an empty one (what it remembers is then forgotten, so messages may be "
                    "handled again)"
                )
        about = self._path.stat()
        anyone = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
        if not about.st_mode & anyone or not os.access(self._path, os.W_OK, effective_ids=True):
            raise StoreError(f"{self._path}: has been made read-only; {care.CHOOSE}")

    def look_into(self) -> None:
        """Read it anew, not from what the connection has in memory, as far as that is quick;
        now and then only, in proportion to what it takes."""
        begun = time.monotonic()
        if begun < self._next_look:
            return
        with care.telling(self._path):
            # Through SQLite, which knows of the other connection and keeps its locks.
            uri = f"file:{quote(str(self._path))}?mode=ro"
            connection = sqlite3.connect(uri, uri=True, timeout=1.0)
            try:
                connection.execute("SELECT uuid FROM meta").fetchone()
                self._look_at_length(connection)
                care.check(connection, self._path, _WHOLE_UP_TO)
            except sqlite3.Error as error:
                if not care.busy(error):
                    raise
            finally:
                connection.close()
            self._look_at_head()
        now = time.monotonic()
        self._next_look = now + max(_PAUSE, _SHARE * (now - begun))

    def _look_at_length(self, connection: sqlite3.Connection) -> None:
        """Raise Damaged where it has become shorter than it is to be. It may be so while the
        rest is in its log, and it may shrink when it is vacuumed: but not both."""
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        length = self._path.stat().st_size
        if length < min(self._length, pages * size):
            raise care.Damaged(f"{length} bytes in place of {pages * size}")
        self._length = length

    def _look_at_head(self) -> None:
        """Raises sqlite3.DatabaseError where what is in the file itself, without its log, does
        not begin like a database. All else may be as a checkpoint has left it half-way."""
        uri = f"file:{quote(str(self._path))}?mode=ro&immutable=1"
        connection = sqlite3.connect(uri, uri=True)
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.Error as error:
            if care.foreign(error):
                raise
        finally:
            connection.close()

    def _identity(self, suffix: str) -> tuple[int, int] | None:
        try:
            about = self._path.with_name(self._path.name + suffix).stat()
        except FileNotFoundError:
            return None
        return about.st_dev, about.st_ino
