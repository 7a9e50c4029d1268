"""Whose turn it is to write: a lock file beside the database."""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
import time
from pathlib import Path

COURTESY = 0.025  # seconds that whoever wrote last leaves to another who wants to write
_PAUSES = (0.0005, 0.002)  # seconds between two tries: the first pause, the longest

# In the lock file: who had the last turn; who wanted one in vain, and when.
_LAST = struct.Struct("=q")
_WANTED = struct.Struct("=qd")
_SIZE = _LAST.size + _WANTED.size


class Turnstile:
    """Lets one process at a time through; the kernel frees the turn of one that dies.

    SQLite's own waiting polls and starves, and two connections that write or checkpoint at
    the same moment can damage a write-ahead log (sqlite.org/wal.html, the WAL-reset bug).
    A process that tries in vain leaves a note in the lock file, and whoever had the last
    turn then lets the note's author go first, for as long as `COURTESY`. The notes are
    about fairness only, so nothing breaks where two of them cross.

    Time is the machine's own, not a handed-in clock: other processes live by it.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError where the lock file can be neither opened nor made."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._me = secrets.randbits(62) + 1

    def enter(self, patience: float = 0.0) -> bool:
        """Take the turn; False, at once or after `patience` seconds, if it is another's."""
        deadline = time.monotonic() + patience
        pause, longest = _PAUSES
        while not self._try():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            time.sleep(min(pause, remaining))
            pause = min(pause * 2, longest)
        return True

    def leave(self) -> None:
        """Give the turn back."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the lock file, which gives back a turn still held."""
        os.close(self._file)

    def _try(self) -> bool:
        notes = os.pread(self._file, _SIZE, 0).ljust(_SIZE, b"\0")
        (last,) = _LAST.unpack_from(notes)
        wanted_by, wanted_at = _WANTED.unpack_from(notes, _LAST.size)
        now = time.monotonic()
        if last == self._me != wanted_by and 0 <= now - wanted_at < COURTESY:
            return False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.pwrite(self._file, _WANTED.pack(self._me, now), _LAST.size)
            return False
        if wanted_by == self._me:
            os.pwrite(self._file, _LAST.pack(self._me) + _WANTED.pack(0, 0.0), 0)
        elif last != self._me:
            os.pwrite(self._file, _LAST.pack(self._me), 0)
        return True
