"""Who of a store's users is alive: a lock file each, which the kernel frees with its process."""

from __future__ import annotations

import fcntl
import os
import weakref
from itertools import count
from pathlib import Path

_OPEN: weakref.WeakSet[Slot] = weakref.WeakSet()


class Slot:
    """A number that nobody else on this host has for a file, from 0 up, the first that is free.

    What a process takes on is marked with it, so that others see what a dead one left behind.
    Its own earlier marks are not its own: whoever takes a number lets go of them first.
    """

    def __init__(self, path: Path, number: int, descriptor: int) -> None:
        self.number = number
        self.fresh = True  # marks of this number are a predecessor's still
        self._path = path
        self._descriptor = descriptor
        _OPEN.add(self)

    @classmethod
    def take(cls, path: Path) -> Slot:
        """Raises OSError where a lock file can be neither opened nor made."""
        for number in count():
            descriptor = _lock(path, number)
            if descriptor is not None:
                return cls(path, number, descriptor)
        raise AssertionError("there are more numbers than processes")

    def alive(self, number: int) -> bool:
        """Whether somebody has that number now."""
        if number == self.number:
            return True
        descriptor = _lock(self._path, number)
        if descriptor is None:
            return True
        os.close(descriptor)
        return False

    def leave(self) -> None:
        """Give the number back; safe to call twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _lock(path: Path, number: int) -> int | None:
    """A lock on that number, None where somebody has it."""
    file = path.with_name(f"{path.name}.sender-{number}")
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _forked() -> None:
    """A child shares its parent's locks, and would keep them when the parent is dead."""
    for slot in list(_OPEN):
        slot.leave()


os.register_at_fork(after_in_child=_forked)
