"""Reading partitions from here to there, outside any group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from ..errors import KafkaUnavailable, TopicsMissing
from ..message import Partition, Record
from .api import Trouble
from .config import Config
from .consumer import made, received
from .voice import Voice

_BATCH = 500


def read(
    config: Config,
    voice: Voice,
    starts: Mapping[Partition, int],
    ends: Mapping[Partition, int],
    patience: float,
) -> Iterator[Record]:
    """The records of each partition from its start up to, not including, its end.

    What lies before an end may be markers of transactions or records that were aborted,
    which nobody is given; that they were passed is told by the client's end-of-partition.
    Raises TopicsMissing, and KafkaUnavailable when nothing moves for `patience` seconds.
    """
    open_ends = {part: end for part, end in ends.items() if part in starts and starts[part] < end}
    if not open_ends:
        return
    with _assigned(config, voice, {part: starts[part] for part in open_ends}) as client:
        moved = time.monotonic()
        while open_ends:
            messages = _taken(client, voice)
            records, reached = _sorted(messages)
            for record in records:
                end = open_ends.get(Partition(record.topic, record.partition))
                if end is not None and record.offset < end:
                    yield record
            if messages:
                moved = time.monotonic()
            for partition, position in reached.items():
                if position >= open_ends.get(partition, position + 1):
                    del open_ends[partition]
                    client.incremental_unassign([TopicPartition(partition.topic, partition.index)])
            if open_ends and time.monotonic() - moved > patience:
                raise _stuck(voice, open_ends, patience)


def follow(
    config: Config, voice: Voice, starts: Mapping[Partition, int]
) -> Iterator[Record | None]:
    """The records of each partition from its start on, for ever; None when nothing came."""
    with _assigned(config, voice, starts) as client:
        while True:
            records, _ = _sorted(_taken(client, voice))
            if records:
                yield from records
            else:
                yield None


def firsts(
    config: Config, voice: Voice, starts: Mapping[Partition, int], patience: float
) -> dict[Partition, Record]:
    """The first record at or after each start, where there is one to be had now."""
    found: dict[Partition, Record] = {}
    left = set(starts)
    until = time.monotonic() + patience
    with _assigned(config, voice, starts) as client:
        while left and time.monotonic() < until:
            records, reached = _sorted(_taken(client, voice))
            for record in records:
                found.setdefault(Partition(record.topic, record.partition), record)
            # Reached are those that gave a record, and those that have none to give.
            client.incremental_unassign(
                [TopicPartition(one.topic, one.index) for one in left & reached.keys()]
            )
            left -= reached.keys()
    return found


@contextmanager
def _assigned(config: Config, voice: Voice, starts: Mapping[Partition, int]) -> Iterator[Any]:
    client = made(confluent_kafka.Consumer, config.reader() | voice.hearing(), config)
    try:
        client.assign([TopicPartition(one.topic, one.index, at) for one, at in starts.items()])
        yield client
    finally:
        client.close()


def _taken(client: Any, voice: Voice) -> list[Any]:
    try:
        messages: list[Any] = client.consume(_BATCH, 0.1)
    except KafkaException as error:
        raise voice.translated(error, "read") from error
    return messages


def _sorted(messages: list[Any]) -> tuple[list[Record], dict[Partition, int]]:
    """The records, and how far each partition was read as its end-of-partition says."""
    reached: dict[Partition, int] = {}
    given = []
    for message in messages:
        error = message.error()
        if error is not None and error.code() == KafkaError._PARTITION_EOF:
            reached[Partition(message.topic(), message.partition())] = message.offset()
        else:
            given.append(message)
    records = []
    for arrival in received(given):
        if isinstance(arrival, Record):
            records.append(arrival)
            reached[Partition(arrival.topic, arrival.partition)] = arrival.offset + 1
        else:
            _raise(arrival)
    return records, reached


def _raise(trouble: Trouble) -> None:
    if trouble.kind == "unknown_topic":
        raise TopicsMissing(f"could not read: {trouble.text}; create the topic first")
    if trouble.kind in ("forbidden", "damaged", "fatal") and not _about_groups(trouble):
        raise KafkaUnavailable(f"could not read: {trouble.text}")


def _about_groups(trouble: Trouble) -> bool:
    # A reader is in no group, so it needs no right to one.
    return trouble.partition is None and "Group" in trouble.text


def _stuck(voice: Voice, open_ends: Mapping[Partition, int], patience: float) -> KafkaUnavailable:
    partition, end = next(iter(open_ends.items()))
    reason = voice.last_words() or "an open transaction may hold it up"
    return KafkaUnavailable(
        f"could not read {partition} up to {end}: nothing came from Kafka at {voice.address} "
        f"for {patience:g} s: {reason}; try again"
    )
