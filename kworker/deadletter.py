"""Dead letters, for commands: what a group has given up, read and replayed.

Everything there is to know stands in the group's dead-letter topic: the dead letters and, as
records beside them, what became of them since. So every host sees the same, and a replay that
was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Literal

from . import headers as names
from .clock import Clock
from .errors import KafkaUnavailable, TopicsMissing
from .kafka.api import Producer, Receipt, Refusal
from .message import Headers, Partition, Position, Record
from .stores.api import Mark
from .topics import APPLY, GroupTopics

if TYPE_CHECKING:
    from .kafka import Kafka

State = Literal["open", "replayed", "discarded"]
Progress = Callable[[int, int], None]  # done, of how many

_STATES: dict[str, State] = {"replayed": "replayed", "discarded": "discarded"}  # by event

ANSWER_WITHIN = 30.0  # seconds for Kafka to answer a question or acknowledge a message
_CHUNK = 500  # messages sent before their acknowledgements are waited for
_CHUNK_BYTES = 16 * 2**20
_PACE = 0.1  # seconds that a chunk's messages stand for where a rate is kept


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up: all that is known of it but its value and stack trace.

    `position` is where it stands in the dead-letter topic, `copies` where it stands again:
    after a crash a copy may be written twice, and counts once. `mark` says which message for
    which handler it is; None for a record that kworker did not write, or that was damaged,
    of which everything else may be None too. `timestamp` is when it was given up.
    """

    position: Position
    key: bytes | None
    timestamp: float | None  # seconds since the epoch
    mark: Mark | None
    handler: str | None
    message_id: str | None
    disposition: str | None
    error_type: str | None
    error_message: str | None
    fingerprint: str | None
    attempt: int | None
    original_topic: str | None
    original_partition: int | None
    original_offset: int | None
    replay: int | None
    state: State = "open"
    reference: bool = False  # its value was too large and is not in it, only where it stood
    copies: tuple[Position, ...] = ()

    @property
    def replays(self) -> int:
        """How often its message was replayed so far."""
        return (self.replay or 0) + (self.state == "replayed")


def read(
    kafka: Kafka,
    topics: GroupTopics,
    progress: Progress = lambda done, total: None,
    wanted: Callable[[Record], bool] = lambda record: True,
) -> list[DeadLetter]:
    """The dead letters of the group whose records are wanted, oldest first, with what became
    of them.

    Raises TopicsMissing where the topic does not exist, KafkaUnavailable.
    """
    starts, ends = _extent(kafka, topics)
    total = sum(ends[one] - starts[one] for one in ends)
    letters: dict[Mark | Position, DeadLetter] = {}
    states: dict[Mark, State] = {}
    for done, record in enumerate(kafka.read(dict(starts), ends), 1):
        known = names.reserved(record.headers)
        event, mark = known.get(names.DLQ_EVENT), _mark(known)
        if event is not None and mark is not None:
            if event in _STATES:
                states[mark] = _STATES[event]
        elif wanted(record):
            _add(letters, _letter(record, known, mark))
        progress(done, total)
    found = (
        replace(one, state=states.get(one.mark, "open")) if one.mark is not None else one
        for one in letters.values()
    )
    return sorted(found, key=_age)


def _add(letters: dict[Mark | Position, DeadLetter], letter: DeadLetter) -> None:
    name = letter.position if letter.mark is None else letter.mark
    if name not in letters:
        letters[name] = letter
        return
    first, second = sorted((letters[name], letter), key=_age)
    letters[name] = replace(first, copies=(*first.copies, second.position, *second.copies))


def _age(letter: DeadLetter) -> tuple[float, Position]:
    return letter.timestamp or 0.0, letter.position


def _extent(kafka: Kafka, topics: GroupTopics) -> tuple[dict[Partition, int], dict[Partition, int]]:
    """Where the dead-letter topic's partitions begin and end now."""
    partitions = _partitions(kafka, topics.group, topics.dlq)
    bounds = kafka.ends(partitions, ANSWER_WITHIN)
    filled = {one: bound for one, bound in bounds.items() if bound[0] < bound[1]}
    return (
        {one: start for one, (start, _) in filled.items()},
        {one: end for one, (_, end) in filled.items()},
    )


def _partitions(kafka: Kafka, group: str, topic: str) -> list[Partition]:
    with closing(kafka.admin()) as admin:
        info = admin.describe([topic]).get(topic)
    if info is None:
        raise TopicsMissing(
            f"topic {topic!r} of group {group!r} does not exist on this cluster; check -b and "
            f"--group, or create it with `{APPLY}`"
        )
    return [Partition(topic, index) for index in range(info.partitions)]


def find(letters: Iterable[DeadLetter], id: str) -> DeadLetter | None:
    """The dead letter that stands, or stands again, at that "topic/partition/offset"."""
    return next(
        (one for one in letters if id in map(str, (one.position, *one.copies))),
        None,
    )


def record_of(kafka: Kafka, letter: DeadLetter) -> Record | None:
    """The dead letter's own record, value and all; None when it no longer exists."""
    partition, offset = _place(letter)
    for record in kafka.read({partition: offset}, {partition: offset + 1}):
        if record.offset == offset:
            return record
    return None


def _place(letter: DeadLetter) -> tuple[Partition, int]:
    return Partition(letter.position.topic, letter.position.partition), letter.position.offset


_NUMBER = re.compile(r"[0-9]{1,18}")


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None


def _mark(known: Mapping[str, str]) -> Mark | None:
    """Which message for which handler a record in the dead-letter topic is about."""
    handler, topic, id = (
        known.get(name) for name in (names.HANDLER, names.ORIGINAL_TOPIC, names.MESSAGE_ID)
    )
    replay = _number(known.get(names.REPLAY_COUNT, "0"))
    hop = _number(known.get(names.HOP))
    if handler is None or topic is None or id is None or replay is None or hop is None:
        return None
    return Mark(handler, topic, id, replay, hop)


def _letter(record: Record, known: Mapping[str, str], mark: Mark | None) -> DeadLetter:
    return DeadLetter(
        position=Position(record.topic, record.partition, record.offset),
        key=record.key,
        timestamp=record.timestamp,
        mark=mark,
        handler=known.get(names.HANDLER),
        message_id=known.get(names.MESSAGE_ID),
        disposition=known.get(names.DISPOSITION),
        error_type=known.get(names.ERROR_TYPE),
        error_message=known.get(names.ERROR_MESSAGE),
        fingerprint=known.get(names.ERROR_FINGERPRINT),
        attempt=_number(known.get(names.ATTEMPT)),
        original_topic=known.get(names.ORIGINAL_TOPIC),
        original_partition=_number(known.get(names.ORIGINAL_PARTITION)),
        original_offset=_number(known.get(names.ORIGINAL_OFFSET)),
        replay=_number(known.get(names.REPLAY_COUNT)),
        reference=names.REFERENCE in known,
    )


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Dead letters that failed alike: one handler, one kind of error, one place."""

    fingerprint: str | None
    error_type: str | None
    handler: str | None
    count: int
    first: float | None  # seconds since the epoch
    last: float | None


def groups(letters: Iterable[DeadLetter]) -> list[FailureGroup]:
    """The dead letters by fingerprint, the largest group first."""
    alike: dict[tuple[str | None, str | None, str | None], list[DeadLetter]] = {}
    for letter in letters:
        name = (letter.fingerprint, letter.error_type, letter.handler)
        alike.setdefault(name, []).append(letter)
    found = []
    for name, members in alike.items():
        times = [one.timestamp for one in members if one.timestamp is not None]
        first, last = min(times, default=None), max(times, default=None)
        found.append(FailureGroup(*name, len(members), first, last))
    return sorted(found, key=lambda one: (-one.count, one.fingerprint or "", one.handler or ""))


@dataclass(slots=True)
class Result:
    """What a replay or discard has done: how many are recorded, and which could not be."""

    done: int
    refused: list[tuple[DeadLetter, str]]


@dataclass(frozen=True, slots=True)
class _Sent:
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


def replay(
    kafka: Kafka,
    topics: GroupTopics,
    letters: Sequence[DeadLetter],
    clock: Clock,
    progress: Progress = lambda done, total: None,
    *,
    rate: float | None = None,
) -> Result:
    """Send dead letters to the group's replay topic, and record that in the dead-letter topic;
    at most `rate` a second, if one is given.

    A message is recorded as replayed after its copy is acknowledged: interrupted between the
    two, the next replay sends it a second time, under the same id, replay and hop, which a
    worker takes for the duplicate that it is. Letters that are not open are left alone.
    Raises KafkaUnavailable when Kafka takes no more; what went out is recorded by then as
    far as that was possible.
    """
    result = Result(0, [])
    chosen = {one.position: one for one in _open(letters, result)}
    for letter in [one for one in chosen.values() if one.reference]:
        del chosen[letter.position]
        result.refused.append((letter, "it only refers to a message that was too large"))
    if not chosen:
        return result
    _partitions(kafka, topics.group, topics.replay)
    total = len(chosen)
    at_once = _CHUNK if rate is None else max(1, min(_CHUNK, int(rate * _PACE)))
    producer = kafka.producer(delivery_timeout=ANSWER_WITHIN)
    try:
        began = clock.monotonic()
        for chunk in _chunks(records(kafka, chosen.values()), at_once):
            if rate is not None:
                due = began + (total - len(chosen)) / rate
                time.sleep(max(0.0, due - clock.monotonic()))
            _replay(producer, topics, chunk, clock, result)
            for letter, _ in chunk:
                del chosen[letter.position]
            progress(total - len(chosen), total)
    finally:
        producer.close(ANSWER_WITHIN)
    result.refused.extend((letter, "it no longer exists") for letter in chosen.values())
    return result


def discard(
    kafka: Kafka,
    topics: GroupTopics,
    letters: Iterable[DeadLetter],
    clock: Clock,
    progress: Progress = lambda done, total: None,
) -> Result:
    """Record in the dead-letter topic that nobody needs these any more; they stay in it.

    One that was discarded is neither listed nor replayed unless it is asked for. Letters that
    are not open are left alone. Raises KafkaUnavailable when Kafka takes no more; what was
    acknowledged is discarded by then.
    """
    result = Result(0, [])
    chosen = _open(letters, result)
    producer = kafka.producer(delivery_timeout=ANSWER_WITHIN)
    try:
        for start in range(0, len(chosen), _CHUNK):
            chunk = chosen[start : start + _CHUNK]
            now = clock.wall()
            answers = _send(producer, [_event(one, "discarded", now) for one in chunk])
            result.done += sum(isinstance(answer, Receipt) for answer in answers)
            for answer in answers:
                if isinstance(answer, Refusal):
                    raise _stopped("discard", topics.dlq, answer, f"{result.done} were discarded")
            progress(result.done, len(chosen))
    finally:
        producer.close(ANSWER_WITHIN)
    return result


def _open(letters: Iterable[DeadLetter], result: Result) -> list[DeadLetter]:
    """Those that something may become of, each once; what cannot be told apart is refused."""
    chosen: dict[Position, DeadLetter] = {}
    for letter in letters:
        if letter.mark is None:
            result.refused.append((letter, "it does not say which message for which handler it is"))
        elif letter.state == "open":
            chosen[letter.position] = letter
    return list(chosen.values())


def records(kafka: Kafka, letters: Iterable[DeadLetter]) -> Iterator[tuple[DeadLetter, Record]]:
    """The letters with their records, a partition's in their order; without those that no
    longer exist. Raises KafkaUnavailable."""
    wanted = {one.position: one for one in letters}
    starts: dict[Partition, int | None] = {}
    ends: dict[Partition, int] = {}
    for letter in sorted(wanted.values(), key=lambda one: one.position):
        partition, offset = _place(letter)
        starts.setdefault(partition, offset)
        ends[partition] = offset + 1
    for record in kafka.read(starts, ends):
        letter_here = wanted.get(Position(record.topic, record.partition, record.offset))
        if letter_here is not None:
            yield letter_here, record


def _chunks(
    found: Iterable[tuple[DeadLetter, Record]], at_once: int
) -> Iterator[list[tuple[DeadLetter, Record]]]:
    chunk: list[tuple[DeadLetter, Record]] = []
    size = 0
    for letter, record in found:
        chunk.append((letter, record))
        size += record.size
        if len(chunk) >= at_once or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _replay(
    producer: Producer,
    topics: GroupTopics,
    chunk: list[tuple[DeadLetter, Record]],
    clock: Clock,
    result: Result,
) -> None:
    copies = _send(producer, [_copy(letter, record, topics) for letter, record in chunk])
    written = []
    for (letter, record), answer in zip(chunk, copies, strict=True):
        if isinstance(answer, Receipt):
            written.append((letter, record))
        elif answer.permanent:
            result.refused.append((letter, answer.text))
    now = clock.wall()
    events = _send(producer, [_event(letter, "replayed", now) for letter, _ in written])
    result.done += sum(isinstance(answer, Receipt) for answer in events)
    for where, answers in ((topics.replay, copies), (topics.dlq, events)):
        for answer in answers:
            if isinstance(answer, Refusal) and (where == topics.dlq or not answer.permanent):
                raise _stopped("replay", where, answer, f"{result.done} were replayed")


def _stopped(doing: str, topic: str, answer: Refusal, done: str) -> KafkaUnavailable:
    return KafkaUnavailable(
        f"{doing} stopped: topic {topic!r} takes no more: {answer.text}; {done}; the same "
        "command goes on with the rest"
    )


def _copy(letter: DeadLetter, record: Record, topics: GroupTopics) -> _Sent:
    """What the replay topic gets: the message as it was, its hops and calls starting anew."""
    assert letter.mark is not None
    known = names.reserved(record.headers)
    written = {
        names.MESSAGE_ID: letter.mark.id,
        names.HANDLER: letter.mark.handler,
        names.HOP: "0",
        names.ATTEMPT: "0",
        names.REPLAY_COUNT: str(letter.mark.replay + 1),
    }
    for name in (
        names.ORIGINAL_TOPIC,
        names.ORIGINAL_PARTITION,
        names.ORIGINAL_OFFSET,
        names.ORIGINAL_TIMESTAMP,
        names.ORIGINAL_GROUP,
    ):
        if name in known:
            written[name] = known[name]
    return _Sent(
        topics.replay, record.key, record.value, names.producers(record.headers) + _wire(written)
    )


def _event(letter: DeadLetter, event: str, now: float) -> _Sent:
    """The record beside the dead letters that says what became of this one."""
    assert letter.mark is not None
    mark = letter.mark
    written = {
        names.DLQ_EVENT: event,
        names.MESSAGE_ID: mark.id,
        names.HANDLER: mark.handler,
        names.HOP: str(mark.hop),
        names.REPLAY_COUNT: str(mark.replay),
        names.ORIGINAL_TOPIC: mark.topic,
    }
    told = {"event": event, "at": iso(now), "dead_letter": str(letter.position)}
    return _Sent(letter.position.topic, letter.key, json.dumps(told).encode(), _wire(written))


def _wire(written: Mapping[str, str]) -> Headers:
    return tuple((name, text.encode()) for name, text in written.items())


def _send(producer: Producer, messages: Sequence[_Sent]) -> list[Receipt | Refusal]:
    """Send and wait for every answer."""
    silence = Refusal("unavailable", f"no answer within {ANSWER_WITHIN:.0f} s", permanent=False)
    answers: list[Receipt | Refusal] = [silence] * len(messages)
    for index, message in enumerate(messages):
        producer.send(
            message.topic,
            message.key,
            message.value,
            message.headers,
            partial(answers.__setitem__, index),
        )
    producer.flush(ANSWER_WITHIN)
    return list(answers)


def iso(when: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")
