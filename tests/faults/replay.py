"""The invariants that hold at every instant, replayed from logs.

Every commit of a group stands in Kafka's own `__consumer_offsets`, in the order in which it was
taken and with its time; what workers were told is written down by `apps/witness.py`. Two are
replayed here, for sources and for the group's own retry and replay topics alike:

* I5: at every instant the committed offset of a partition is at or below its lowest
  unfinished message. A message is finished when each of its handlers has settled it: its
  record was told, or its copy stands in the group's topics.
* I6: the committed offset of a partition never decreases.
"""

from __future__ import annotations

import itertools
import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .oracle import Commit, Copy, Place, Sent

Event = Mapping[str, Any]
Part = tuple[str, int]
"""Topic and partition."""

NEVER = float("inf")
TICK = 0.002  # seconds: Kafka's times are whole milliseconds


def read_events(path: Path) -> list[Event]:
    """All whole lines of an events log, in the order of their times."""
    if not path.exists():
        return []
    events = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    return sorted(events, key=lambda event: event["at"])


def committed_too_far(
    commits: Sequence[Commit],
    events: Sequence[Event],
    sent: Sequence[Sent],
    copies: Sequence[Copy],
    handlers: Sequence[str],
    wall: float,
) -> list[str]:
    """I5: commits past a message that was not finished when they were made.

    `copies` are those of all the group's topics; `wall` is the wall clock minus the monotonic
    one, in seconds.
    """
    if not events:
        return []  # an app without a witness
    finished = _finished(events, sent, copies, handlers, wall)
    reached: dict[Part, tuple[list[int], list[float]]] = {}
    for part, times in finished.items():
        offsets = sorted(times)
        latest = list(itertools.accumulate((times[offset] for offset in offsets), max))
        reached[part] = offsets, latest
    found = []
    for commit in commits:
        offsets, latest = reached.get((commit.topic, commit.partition), ([], []))
        below = bisect_left(offsets, commit.offset)
        if below and latest[below - 1] > commit.at + TICK:
            found.append(
                f"{commit.topic}/{commit.partition} committed at {commit.offset} at "
                f"{commit.at:.3f}, finished up to there at {latest[below - 1]:.3f}"
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


def went_back(commits: Iterable[Commit]) -> list[str]:
    """I6: commits below an earlier one, in the order in which Kafka took them."""
    standing: dict[Part, int] = {}
    found = []
    for commit in commits:
        part = commit.topic, commit.partition
        if commit.offset < standing.get(part, 0):
            found.append(
                f"{commit.topic}/{commit.partition} committed at {commit.offset} after "
                f"{standing[part]}"
            )
        standing[part] = commit.offset
    return found


def read_commit(key: bytes | None, value: bytes | None, group: str) -> Commit | None:
    """A record of `__consumer_offsets` as the commit of that group; None for all others.

    Key: version (0 or 1), group, topic, partition. Value: version, offset, and then by the
    version the leader's epoch (from 3 on), metadata (compact from 4 on), and the time in
    milliseconds. Times are the wall clock's; `at` is to be filled in.
    """
    if key is None or value is None or int.from_bytes(key[:2], "big") > 1:
        return None
    whose, left = _text(key[2:])
    if whose != group:
        return None
    topic, left = _text(left)
    version, offset = int.from_bytes(value[:2], "big"), int.from_bytes(value[2:10], "big")
    rest = value[14:] if version >= 3 else value[10:]
    _, rest = _compact_text(rest) if version >= 4 else _text(rest)
    wall = int.from_bytes(rest[:8], "big") / 1000
    return Commit(topic, int.from_bytes(left[:4], "big"), offset, 0.0, wall)


def _compact_text(data: bytes) -> tuple[str, bytes]:
    """Its length plus one comes first, seven bits a byte, the lowest first."""
    length = shift = index = 0
    while True:
        byte = data[index]
        length |= (byte & 0x7F) << shift
        index, shift = index + 1, shift + 7
        if byte < 0x80:
            break
    end = index + length - 1
    return data[index:end].decode(), data[end:]


def _text(data: bytes) -> tuple[str, bytes]:
    end = 2 + int.from_bytes(data[:2], "big")
    return data[2:end].decode(), data[end:]
