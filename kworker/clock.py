"""Time, handed in: two readings, deadlines, and things that are due now and then."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds, read in two ways."""

    def monotonic(self) -> float:
        """Seconds that never jump; for waits, deadlines and due times."""

    def wall(self) -> float:
        """Seconds since the epoch; for what is written on the wire or into the store."""


class SystemClock:
    """The machine's clock."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class Deadline:
    """A moment that several steps share; each takes what remains."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._at = clock.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._at - self._clock.monotonic())

    @property
    def passed(self) -> bool:
        return self._clock.monotonic() >= self._at


class Every:
    """True once an interval; the first time after one interval has gone by."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._next = clock.monotonic() + seconds

    def due(self) -> bool:
        """Whether the interval has gone by; asking when it has begins the next one."""
        now = self._clock.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
