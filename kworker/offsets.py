"""Positions as people write them: `earliest`, `latest`, `17`, `+5`, `-5`, a time, `-2h`. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from . import durations

_NUMBER = re.compile(r"[0-9]{1,18}")

HOW = "earliest, latest, an offset, +N, -N, a time as 2026-01-31T12:00:00Z, or -2h"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a log, as it was written; `within` finds it in one partition.

    `number` is the offset, or how many `relative` ones; `moment` is in seconds since the
    epoch.
    """

    kind: Literal["earliest", "latest", "offset", "relative", "time"]
    number: int = 0
    moment: float = 0.0

    def within(self, low: int, high: int, *, base: int | None = None, at: int | None = None) -> int:
        """Its offset in a log that begins at `low` and ends before `high`; never outside.

        What is relative counts from `base`; without one, +N from the beginning and -N from
        the end. `at` is the first offset at or after its moment, None: none is that late.
        """
        if self.kind == "earliest":
            return low
        if self.kind == "latest":
            return high
        if self.kind == "time":
            wanted = high if at is None else at
        elif self.kind == "offset":
            wanted = self.number
        else:
            start = base if base is not None else (low if self.number >= 0 else high)
            wanted = start + self.number
        return min(max(wanted, low), high)


def parse(text: str, now: float) -> Position:
    """The position that was written; `now` is what `-2h` counts from. Raises ValueError."""
    text = text.strip()
    if text in ("earliest", "latest"):
        return Position(text)  # type: ignore[arg-type]
    if _NUMBER.fullmatch(text):
        return Position("offset", int(text))
    if text[:1] in ("+", "-") and _NUMBER.fullmatch(text[1:]):
        return Position("relative", int(text))
    try:
        if text.lstrip("+-").isdigit():
            raise ValueError("a number that is too long, not a time")
        return Position("time", moment=moment(text, now))
    except ValueError:
        raise ValueError(f"{text!r} is no position; write {HOW}") from None


def moment(text: str, now: float) -> float:
    """A point in time in seconds since the epoch: ISO 8601 (UTC unless it says otherwise), or
    how long before `now`, as -2h. Raises ValueError."""
    text = text.strip()
    try:
        if text.startswith("-"):
            return now - durations.seconds(text[1:])
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time; write 2026-01-31T12:00:00Z, or -2h for two hours ago"
        ) from None
