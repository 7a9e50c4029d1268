"""One set of offsets, kept as ranges, and its text; ledger and store both use it."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

_PART = re.compile(r"(0|[1-9][0-9]*)(?:-([1-9][0-9]*))?", re.ASCII)


class Ranges:
    """A set of offsets as sorted, disjoint, half-open ranges that never touch.

    Memory and text grow with the number of gaps, not of offsets. Adding at or above the
    end is O(1), anywhere else O(log n) plus the shift of a list. Like any set it may be
    shared, but only one thread may change it.
    """

    __slots__ = ("_starts", "_stops")

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in pairs:
            self.add_range(start, stop)

    def add(self, offset: int) -> None:
        """Put one offset in. Raises ValueError for a negative one."""
        stops = self._stops
        if stops and stops[-1] == offset:
            stops[-1] = offset + 1
        else:
            self.add_range(offset, offset + 1)

    def add_range(self, start: int, stop: int) -> None:
        """Put `start` up to, not including, `stop` in; nothing where they are equal.

        Raises ValueError for a range that begins below 0 or ends before it begins.
        """
        if start < 0 or stop < start:
            raise ValueError(f"{start}..{stop} is no range of offsets")
        if start == stop:
            return
        starts, stops = self._starts, self._stops
        if not stops or start > stops[-1]:
            starts.append(start)
            stops.append(stop)
            return
        # Every range from `first` up to `last` overlaps the new one or touches it.
        first = bisect_left(stops, start)
        last = bisect_right(starts, stop)
        if first < last:
            start = min(start, starts[first])
            stop = max(stop, stops[last - 1])
        starts[first:last] = [start]
        stops[first:last] = [stop]

    def update(self, other: Ranges) -> None:
        """Put all of `other` in."""
        for start, stop in other:
            self.add_range(start, stop)

    def first_missing(self, offset: int) -> int:
        """The first offset at or above `offset` that is not in the set."""
        index = bisect_right(self._starts, offset) - 1
        return max(offset, self._stops[index]) if index >= 0 else offset

    def copy(self) -> Ranges:
        """An independent set of the same offsets."""
        twin = Ranges()
        twin._starts = self._starts.copy()
        twin._stops = self._stops.copy()
        return twin

    @property
    def end(self) -> int:
        """The first offset above all that are in the set; 0 for the empty set."""
        return self._stops[-1] if self._stops else 0

    @property
    def total(self) -> int:
        """How many offsets are in the set."""
        return sum(self._stops) - sum(self._starts)

    def encode(self) -> str:
        """The set as text, bounds included: `0-99,105,107-110`; nothing for the empty set."""
        return ",".join(
            f"{start}-{stop - 1}" if stop - start > 1 else str(start) for start, stop in self
        )

    @classmethod
    def decode(cls, text: str) -> Ranges:
        """The set that `encode` wrote.

        Raises ValueError for anything that `encode` never writes: it was damaged on the
        way, and offsets read from it would be skipped.
        """
        ranges = cls()
        if not text:
            return ranges
        below = -2
        for part in text.split(","):
            match = _PART.fullmatch(part)
            if match is None:
                raise ValueError(f"{part[:40]!r} is no range of offsets")
            start = int(match[1])
            stop = start + 1 if match[2] is None else int(match[2]) + 1
            if start <= below + 1 or (match[2] is not None and stop <= start + 1):
                raise ValueError(f"{part[:40]!r} is out of place among ranges of offsets")
            ranges._starts.append(start)
            ranges._stops.append(stop)
            below = stop - 1
        return ranges

    def __contains__(self, offset: int) -> bool:
        index = bisect_right(self._starts, offset) - 1
        return index >= 0 and offset < self._stops[index]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._stops, strict=True))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ranges):
            return NotImplemented
        return self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Ranges({self.encode()!r})"
