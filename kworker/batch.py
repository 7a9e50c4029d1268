"""Batch: several messages in one call of a handler."""

from __future__ import annotations

from dataclasses import dataclass

from . import durations


@dataclass(frozen=True, slots=True)
class Batch:
    """How many messages a handler takes at once, and how long the first of them waits for more.

    `size` is the most that are in one list, `wait` (`"1s"`, or seconds) the longest that a
    message waits for others before its batch goes as it is. Raises ValueError for a size
    below 1 and for no duration.
    """

    size: int
    wait: str | float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"Batch(size={self.size!r}): give a number, at least 1")
        durations.seconds(self.wait)

    @property
    def patience(self) -> float:
        """`wait` in seconds."""
        return durations.seconds(self.wait)
