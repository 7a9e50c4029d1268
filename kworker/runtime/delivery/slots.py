"""Which number a process has among those of its kind on a host: the first free one."""

from __future__ import annotations

import fcntl
import os
import tempfile
from hashlib import blake2b
from itertools import count
from pathlib import Path


class Slot:
    """The lowest number that no other process on this host holds under a name.

    Held by a lock on a file in the system's folder for temporary files, which the kernel lets
    go of with the process: so the next process has the number of the one that died.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        """Raises OSError where no lock file can be made."""
        digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        base = folder or Path(tempfile.gettempdir())
        for number in count():
            path = base / f"kworker-{digest}-{number}.lock"
            try:
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            except PermissionError:
                if path.exists():
                    continue  # another user's, who may hold it
                raise
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._file)
                continue
            self.number = number
            return

    def release(self) -> None:
        """Let another process have the number."""
        os.close(self._file)
