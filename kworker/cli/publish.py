"""`kworker publish TOPIC`: send messages, and say where each was written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

import click

from ..errors import UsageError
from ..message import Headers
from . import commands, options, output

if TYPE_CHECKING:
    from ..publisher import Receipt

_AT_ONCE = 1000  # lines that are under way together


@commands.command()
@click.argument("topic")
@click.argument("value", required=False)
@click.option("-k", "--key", help="The message's key.")
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header. Repeatable."
)
@click.option("--file", type=click.File("rb"), help="Send what is in this file.")
@click.option("--ndjson", is_flag=True, help="Each line, which must be JSON, is one message.")
@options.with_settings("publish_wait")
@click.option("--json", "as_json", is_flag=True, help="Each receipt as a line of JSON.")
def command(
    given: options.Given,
    topic: str,
    value: str | None,
    key: str | None,
    headers: tuple[str, ...],
    file: BinaryIO | None,
    ndjson: bool,
    as_json: bool,
) -> None:
    """Send VALUE, as it is, to TOPIC, and wait until it is acknowledged. `-` reads stdin.

    \b
    kworker publish orders '{"id": 1, "amount": 9.5}'
    kworker publish orders -k customer-7 -H source=shell '{"id": 2, "amount": 1}'
    kworker publish orders --ndjson --file orders.ndjson

    Says topic/partition/offset and the message's id. Exit codes: 0 acknowledged, 1 rejected,
    4 Kafka did not acknowledge it.
    """
    messages = _messages(value, file, ndjson)
    pairs = _headers(headers)
    key_bytes = None if key is None else os.fsencode(key)
    configuration = given.configuration()

    from .. import publisher

    sender = publisher.open(
        configuration.values["bootstrap_servers"],
        common=configuration.kafka,
        producer=configuration.kafka_producer,
        publish_wait=configuration.values["publish_wait"],
    )
    with sender:
        for chunk in _chunks(messages):
            letters = [publisher.Publish(topic, one, key_bytes, pairs) for one in chunk]
            if len(letters) == 1:
                _tell([sender.publish(topic, chunk[0], key=key_bytes, headers=pairs)], as_json)
                continue
            try:
                receipts = sender.publish_many(letters)
            except publisher.Partly as error:
                _tell(error.receipts, as_json)
                raise
            _tell(receipts, as_json)


def _chunks(messages: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Messages to be sent together; those before a line that is refused are sent, too."""
    chunk: list[bytes] = []
    try:
        for one in messages:
            chunk.append(one)
            if len(chunk) == _AT_ONCE:
                yield chunk
                chunk = []
    except UsageError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def _messages(value: str | None, file: BinaryIO | None, ndjson: bool) -> Iterator[bytes]:
    """What is to be sent. Raises UsageError, also on the way, for a line that is not JSON."""
    if (value is None) == (file is None):
        raise UsageError("give one VALUE, `-` for what comes on stdin, or --file PATH")
    if value is not None and value != "-":
        if ndjson:
            raise UsageError("--ndjson reads lines: of stdin, as `-`, or of --file PATH")
        return iter([os.fsencode(value)])
    stream: BinaryIO = file or sys.stdin.buffer
    return _lines(stream) if ndjson else iter([stream.read()])


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    for number, line in enumerate(stream, start=1):
        text = line.strip()
        if not text:
            continue
        try:
            json.loads(text)
        except ValueError as error:
            raise UsageError(
                f"line {number} is not JSON ({error}); the lines before it were sent"
            ) from error
        yield text


def _headers(texts: tuple[str, ...]) -> Headers:
    from .. import codec

    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"-H {text!r}: write it as NAME=VALUE")
        pairs.append((name, os.fsencode(value)))
    try:
        return codec.check_headers(pairs)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def _tell(receipts: Iterable[Receipt | None], as_json: bool) -> None:
    for one in receipts:
        if one is None:
            continue
        if as_json:
            output.document(
                "publish",
                topic=one.topic,
                partition=one.partition,
                offset=one.offset,
                timestamp=one.timestamp,
                message_id=one.message_id,
            )
        else:
            output.data(f"{one.topic}/{one.partition}/{one.offset} {one.message_id}")
