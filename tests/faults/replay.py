"""The invariants that hold at every instant, replayed from what workers were told.

`apps/witness.py` writes the events. Two are replayed here, for sources and for the group's own
retry and replay topics alike:

* I5: at every instant the committed offset of a partition is at or below its lowest
  unfinished message. A message is finished when each of its handlers has settled it: its
  record was told, or its copy stands in the group's topics.
* I6: a partition's committed offset never decreases while one worker has it.

A commit is looked at when Kafka's answer to it is told, which is a moment after it was made:
what was finished in between is given the benefit of that moment.
"""

from __future__ import annotations

import itertools
import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .oracle import Copy, Place, Sent

Event = Mapping[str, Any]
Part = tuple[str, int]
"""Topic and partition."""

NEVER = float("inf")


def read_events(path: Path) -> list[Event]:
    """All whole lines of an events log, in the order of their times."""
    if not path.exists():
        return []
    events = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    return sorted(events, key=lambda event: event["at"])


def committed_too_far(
    events: Sequence[Event],
    sent: Sequence[Sent],
    copies: Sequence[Copy],
    handlers: Sequence[str],
    wall: float,
) -> list[str]:
    """I5: commits past a message that was not finished when they were answered.

    `copies` are those of all the group's topics; `wall` is the wall clock minus the monotonic
    one, in seconds.
    """
    finished = _finished(events, sent, copies, handlers, wall)
    reached: dict[Part, tuple[list[int], list[float]]] = {}
    for part, times in finished.items():
        offsets = sorted(times)
        latest = list(itertools.accumulate((times[offset] for offset in offsets), max))
        reached[part] = offsets, latest
    found = []
    for event in events:
        for topic, partition, committed in event.get("offsets", ()):
            offsets, latest = reached.get((topic, partition), ([], []))
            below = bisect_left(offsets, committed)
            if below and latest[below - 1] > event["at"]:
                found.append(
                    f"{topic}/{partition} committed at {committed} by {event['pid']} at "
                    f"{event['at']:.3f}, finished up to there at {latest[below - 1]:.3f}"
                )
    return found


def _finished(
    events: Sequence[Event],
    sent: Sequence[Sent],
    copies: Sequence[Copy],
    handlers: Sequence[str],
    wall: float,
) -> dict[Part, dict[int, float]]:
    """When each message was finished by all its handlers, by partition and offset."""
    told: dict[tuple[str, Place], float] = {}
    for event in events:
        if event["event"] in ("settled", "skipped", "dead_lettered"):
            told.setdefault((event["handler"], tuple(event["place"])), event["at"])
    # What a copy was made of is finished by it: a first arrival by the first hop, each hop by
    # those after it.
    copied: dict[tuple[str, Place, int], dict[int, float]] = defaultdict(dict)
    for copy in copies:
        made = copied[copy.handler, copy.original, copy.replay]
        made[copy.hop] = min(copy.timestamp - wall, made.get(copy.hop, NEVER))

    def after(handler: str, original: Place, replay: int, hop: int) -> float:
        made = copied.get((handler, original, replay), {})
        return min((at for number, at in made.items() if number > hop), default=NEVER)

    times: dict[Part, dict[int, float]] = defaultdict(dict)
    for message in sent:
        topic, partition, offset = message.place
        times[topic, partition][offset] = max(
            min(told.get((one, message.place), NEVER), after(one, message.place, 0, 0))
            for one in handlers
        )
    for copy in copies:
        if copy.disposition is None:
            topic, partition, offset = copy.place
            times[topic, partition][offset] = min(
                told.get((copy.handler, copy.place), NEVER),
                after(copy.handler, copy.original, copy.replay, copy.hop),
            )
    return times


def went_back(events: Iterable[Event]) -> list[str]:
    """I6: commits below an earlier one of the same worker, while it had the partition."""
    standing: dict[tuple[int, Part], int] = {}
    found = []
    for event in events:
        pid = event["pid"]
        for one in event.get("partitions", ()):
            if event["event"] == "assigned":
                standing[pid, tuple(one)] = -1
            else:
                standing.pop((pid, tuple(one)), None)
        for topic, partition, committed in event.get("offsets", ()):
            before = standing.get((pid, (topic, partition)))
            if before is None:
                continue  # an answer that came after the partition had gone
            if committed < before:
                found.append(
                    f"{topic}/{partition} committed at {committed} after {before} by {pid}"
                )
            standing[pid, (topic, partition)] = max(before, committed)
    return found
