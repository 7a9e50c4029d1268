"""`kworker tail TOPIC`: the messages of a topic, as they come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .. import offsets
from ..observe.log import printable
from . import cluster, commands, options, output, shown
from .positions import Position

if TYPE_CHECKING:
    from ..kafka import Kafka
    from ..message import Partition, Record


@commands.command()
@click.argument("topic")
@click.option(
    "-o",
    "--offset",
    "position",
    type=Position(),
    default="latest",
    help=f"Where to begin in each partition: {offsets.HOW}.  [default: latest]",
)
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), metavar="N", help="End after N messages."
)
@click.option("-e", "--exit-eof", is_flag=True, help="End with what is there now.")
@click.option("--json", "as_json", is_flag=True, help="Each message as a line of JSON.")
@options.with_settings("connect_timeout")
def command(
    given: options.Given,
    topic: str,
    position: offsets.Position,
    limit: int | None,
    exit_eof: bool,
    as_json: bool,
) -> None:
    """Show the messages of TOPIC as they come, until Ctrl-C. Belongs to no group.

    \b
    kworker tail orders
    kworker tail orders -o -10 -e
    kworker tail shop.dlq -o -2h --json

    A line is topic/partition/offset, the time, the key and the value, separated by tabs.
    Control characters are escaped; bytes that are not UTF-8 are shown in base64. +N counts
    from the beginning of each partition, -N from its end. Exit codes: 0 ended, 3 no such
    topic, 4 Kafka unreachable.
    """
    kafka = cluster.connect(given.configuration())
    partitions = cluster.partitions_of(kafka, [topic])
    bounds = kafka.ends(partitions)
    at = kafka.at(partitions, position.moment) if position.kind == "time" else {}
    starts = {one: position.within(*bounds[one], at=at.get(one)) for one in partitions}
    ends = {one: end for one, (_, end) in bounds.items()} if exit_eof else None
    told = _as_json if as_json else _as_text
    left = limit
    try:
        for record in _records(kafka, starts, ends):
            told(record)
            if left is not None:
                left -= 1
                if left == 0:
                    break
    except KeyboardInterrupt:
        pass  # the way to end it


def _records(
    kafka: Kafka, starts: dict[Partition, int], ends: dict[Partition, int] | None
) -> Iterator[Record]:
    if ends is not None:
        yield from kafka.read(dict(starts), ends)
        return
    for record in kafka.follow(starts):
        if record is not None:
            yield record


def _as_text(record: Record) -> None:
    place = f"{record.topic}/{record.partition}/{record.offset}"
    value = "(tombstone)" if record.value is None else shown.as_text(record.value)
    parts = (place, shown.time(record.timestamp), shown.as_text(record.key), value)
    output.data("\t".join(map(printable, parts)))


def _as_json(record: Record) -> None:
    content: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": shown.iso(record.timestamp),
        "key": shown.as_json(record.key),
        "value": shown.as_json(record.value),
        "headers": [[name, shown.as_json(value)] for name, value in record.headers],
    }
    if record.damage is not None:
        content["damage"] = record.damage
    output.document("tail", **content)
