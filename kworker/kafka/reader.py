"""Reading partitions from here to there, outside any group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
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
    properties = config.reader() | voice.hearing()
    client = made(confluent_kafka.Consumer, properties, config)
    try:
        client.assign([TopicPartition(part.topic, part.index, starts[part]) for part in open_ends])
        moved = time.monotonic()
        while open_ends:
            try:
                messages = client.consume(_BATCH, 0.1)
            except KafkaException as error:
                raise voice.translated(error, "read") from error
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
    finally:
        client.close()


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
