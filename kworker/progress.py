"""How far a group has come, for commands: where it stands, what is ahead, moving it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import KafkaUnavailable, UsageError
from .kafka.api import Committed, Member
from .message import Partition
from .offsets import Position

if TYPE_CHECKING:
    from .kafka import Kafka

ANSWER_WITHIN = 10.0  # seconds for Kafka to answer a question

Bounds = tuple[int, int]
"""First offset of a partition, and its end."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a group is behind in one partition.

    `committed` is the next offset it will take, None where it has none: what is `ahead` then
    counts from where it would begin. `seconds` is the age of the first message ahead, 0 when
    there is none. `ahead` and `seconds` are None where they cannot be known now.
    """

    partition: Partition
    committed: int | None
    end: int
    ahead: int | None
    seconds: float | None


def lag(
    kafka: Kafka,
    group: str,
    partitions: Collection[Partition],
    start: Position,
    copies: Callable[[str], bool],
    now: float,
) -> list[Lag]:
    """How far the group is behind in each of the partitions.

    `start` is where the group begins in a topic in which it has no position at all; a
    partition without one of another topic was added later, and is read from its beginning,
    as `copies` are: the topics of retries and replays. A partition whose position is not told,
    because a transaction on it is still open, is neither ahead nor behind. Raises
    KafkaUnavailable, and TopicsMissing for a topic that is not there.
    """
    bounds = kafka.ends(partitions, ANSWER_WITHIN)
    committed = kafka.committed(group, partitions, ANSWER_WITHIN)
    been_in = {one.topic for one in partitions if committed.get(one, True) is not None}
    fresh = [one for one in committed if one.topic not in been_in and not copies(one.topic)]
    at = kafka.at(fresh, start.moment, ANSWER_WITHIN) if start.kind == "time" and fresh else {}
    starts = {
        one: bounds[one][0] if point is None else _start(point, bounds[one])
        for one, point in committed.items()
    } | {one: start.within(*bounds[one], at=at.get(one)) for one in fresh}
    behind = {one: start for one, start in starts.items() if start < bounds[one][1]}
    firsts = kafka.firsts(behind, patience=ANSWER_WITHIN) if behind else {}

    def seconds(one: Partition) -> float | None:
        if one in starts and one not in behind:
            return 0.0
        first = firsts.get(one)
        if first is None or first.timestamp is None:
            return None
        return max(0.0, now - first.timestamp)

    return [
        Lag(
            partition=one,
            committed=point.offset if (point := committed.get(one)) is not None else None,
            end=bounds[one][1],
            ahead=bounds[one][1] - starts[one] if one in starts else None,
            seconds=seconds(one),
        )
        for one in partitions
    ]


def _start(point: Committed, bounds: Bounds) -> int:
    """Where reading goes on: a position outside the log is lost, so at the log's beginning."""
    low, high = bounds
    return point.offset if low <= point.offset <= high else low


@dataclass(frozen=True, slots=True)
class Move:
    """From where to where a group's position goes; `before` None: it has none yet."""

    partition: Partition
    before: int | None
    after: int


def moves(kafka: Kafka, group: str, partitions: Collection[Partition], to: Position) -> list[Move]:
    """What it means for each partition to move the group's position there. Moves nothing.

    What is relative counts from where the group stands, and nothing ends outside the log.
    Raises UsageError where it stands nowhere yet, KafkaUnavailable for a partition whose
    position is not told.
    """
    bounds = kafka.ends(partitions, ANSWER_WITHIN)
    committed = kafka.committed(group, partitions, ANSWER_WITHIN)
    if silent := [str(one) for one in partitions if one not in committed]:
        raise KafkaUnavailable(
            f"Kafka does not tell where group {group!r} stands in {', '.join(silent)}: a "
            "transaction on it is still open; try again when it has ended"
        )
    nowhere = [str(one) for one, point in committed.items() if point is None]
    if to.kind == "relative" and nowhere:
        raise UsageError(
            f"group {group!r} stands nowhere yet in {', '.join(nowhere)}, so there is nothing to "
            f"count {to.number:+} from; give earliest, latest, an offset or a time"
        )
    at = kafka.at(partitions, to.moment, ANSWER_WITHIN) if to.kind == "time" else {}
    found = []
    for one in partitions:
        point = committed[one]
        before = None if point is None else point.offset
        after = to.within(*bounds[one], base=before, at=at.get(one))
        found.append(Move(one, before, after))
    return found


def members(kafka: Kafka, group: str) -> list[Member]:
    """Who is in the group now. Raises KafkaUnavailable."""
    with closing(kafka.admin()) as admin:
        return admin.members(group)


def refusal(group: str, active: Iterable[Member]) -> str:
    """Why the positions of a group with members are not moved, and what to do about it."""
    who = sorted({f"{one.client_id} on {one.host}" for one in active})
    told = f" ({', '.join(who[:3])}{', …' if len(who) > 3 else ''})" if who else ""
    return (
        f"group {group!r} has members{told}, which would go on from where they are and commit "
        "over it; stop its workers first"
    )


def move(kafka: Kafka, group: str, positions: Mapping[Partition, int]) -> None:
    """Commit these positions for a group that nobody is in; what the commits knew of messages
    finished above them is dropped with them.

    Raises UsageError where somebody is in it, for Kafka takes such a commit from members
    alone, and KafkaUnavailable.
    """
    with closing(kafka.consumer(group)) as outsider:
        result = outsider.commit_now({one: Committed(at) for one, at in positions.items()})
    if result.refused and result.expected:
        raise UsageError(refusal(group, members(kafka, group)))
    if result.refused:
        one, why = next(iter(result.refused.items()))
        raise KafkaUnavailable(
            f"Kafka took {len(result.stored)} of {len(positions)} positions of group {group!r}: "
            f"{one}: {why}; the same command moves the rest"
        )


__all__ = ["Lag", "Move", "lag", "members", "move", "moves", "refusal"]
