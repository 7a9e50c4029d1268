"""What is to be said, and when: alike things once, and no more often than people can bear.

Asks no clock and sends nothing. Whoever calls sees to it that one thread does at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

GATHER = 2.0  # seconds that the first of something waits for more of it
LONGEST = 20  # things in one notice

Kind = Literal["failure", "warning", "over"]


@dataclass(frozen=True, slots=True)
class Notice:
    """One message to people."""

    title: str
    body: str
    kind: Kind


@dataclass(slots=True)
class _Topic:
    """Something that happens, once or often."""

    text: str
    kind: Kind
    ends: bool  # it is told when it is over; what does not end by itself is over when it is quiet
    begun: float
    last: float
    new: int = 0  # times since it was said last
    total: int = 0
    said: float | None = None
    over: bool = field(default=False)


class Digest:
    """Each thing is said when it begins, at most once every so many seconds while it goes on,
    and when it is over; everything at once in one notice, with a pause between two."""

    def __init__(self, name: str, every: float, pause: float) -> None:
        self.name = name
        self._every = every
        self._pause = pause
        self._topics: dict[str, _Topic] = {}
        self._noticed: float | None = None  # when the last notice was made

    def happened(self, key: str, text: str, now: float, kind: Kind, *, ends: bool = False) -> None:
        """Something went wrong; what has the same key is one thing, the last text holds."""
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = _Topic(text, kind, ends, begun=now, last=now)
        elif topic.over:
            topic.over = False  # it goes on before anybody was told otherwise
        topic.text, topic.last = text, now
        topic.new += 1
        topic.total += 1

    def over(self, key: str, now: float) -> None:
        """It is mended."""
        topic = self._topics.get(key)
        if topic is not None:
            topic.over, topic.last = True, now

    def going_on(self, prefix: str) -> list[str]:
        """The keys of what is not over, of those that begin so."""
        return [key for key, one in self._topics.items() if key.startswith(prefix) and not one.over]

    def notice(self, now: float, *, at_once: bool = False) -> Notice | None:
        """What is to be said now, None for nothing. `at_once`: whatever has not been said."""
        self._forget_quiet(now)
        if not at_once and self._noticed is not None and now - self._noticed < self._pause:
            return None
        due = [key for key, one in self._topics.items() if self._is_due(one, now, at_once)]
        if not due:
            return None
        self._noticed = now
        return self._made(due, now)

    def patience(self, now: float) -> float | None:
        """Seconds until there may be something to say; None while nothing is going on."""
        if not self._topics:
            return None
        return max(0.05, min(GATHER, self._pause))

    def _is_due(self, topic: _Topic, now: float, at_once: bool) -> bool:
        if topic.over:
            return True
        if not topic.new:
            return False
        if at_once:
            return True
        if topic.said is None:
            return now - topic.begun >= GATHER
        return now - topic.said >= self._every

    def _forget_quiet(self, now: float) -> None:
        """What cannot say that it ends is over when nothing came for a while."""
        for topic in self._topics.values():
            if not topic.ends and not topic.new and now - topic.last >= self._every:
                topic.over = True

    def _made(self, due: list[str], now: float) -> Notice:
        lines, kinds = [], set[Kind]()
        for key in due:
            topic = self._topics[key]
            if topic.new:
                lines.append(_going_on(topic))
                kinds.add(topic.kind)
            if topic.over:
                lines.append(_over(topic, now))
                kinds.add("over")
                del self._topics[key]
            else:
                topic.new, topic.said = 0, now
        kind: Kind = next(one for one in ("failure", "warning", "over") if one in kinds)
        shown = lines[:LONGEST]
        if len(lines) > LONGEST:
            shown.append(f"… and {len(lines) - LONGEST} more")
        first = lines[0].partition("\n")[0]
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        return Notice(f"{self.name}: {first[:120]}{more}", "\n\n".join(shown), kind)


def _going_on(topic: _Topic) -> str:
    if topic.said is None:
        return topic.text if topic.new == 1 else f"{topic.text}\n{topic.new} times"
    return f"{topic.text}\n{topic.new} more times, {topic.total} in all"


def _over(topic: _Topic, now: float) -> str:
    first, last = topic.text.partition("\n")[0], max(0.0, topic.last - topic.begun)
    times = "once" if topic.total == 1 else f"{topic.total} times"
    return f"Over: {first}\n{times} within {_length(last)}"


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
