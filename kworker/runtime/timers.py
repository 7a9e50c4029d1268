"""What is due later, in the order of its time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from ..clock import Clock


class Timers:
    """Calls to make when their time has come. Only the loop's thread touches it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._ties = count()

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call it that many seconds from now, in the first `run` after that."""
        heapq.heappush(self._heap, (self._clock.monotonic() + seconds, next(self._ties), call))

    def run(self) -> None:
        """Make the calls that are due."""
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()

    def patience(self, longest: float) -> float:
        """Seconds until the next call is due, at most `longest`."""
        if not self._heap:
            return longest
        return min(longest, max(0.0, self._heap[0][0] - self._clock.monotonic()))

    def __len__(self) -> int:
        return len(self._heap)
