"""`kworker publish TOPIC`: send messages, and say where each was written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from .. import devbroker
from ..errors import PublishRejected, Undecodable, UsageError
from ..message import Headers
from ..names import did_you_mean
from . import commands, options, output

if TYPE_CHECKING:
    from ..app import App
    from ..publisher import Outbox, Publisher, Receipt
    from ..settings import Configuration

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
@click.option("--target", metavar="TARGET", help="Check values as this app's handlers take them.")
@click.option("--factory", is_flag=True, help="TARGET is a function that returns the app.")
@click.option("--app-dir", default=".", metavar="PATH", help="Where modules are imported from.")
@options.with_settings(
    "publish_wait", "group", "db", "outbox_size", "outbox_when_full", "on_permanent_failure"
)
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
    kworker publish orders --ndjson --file orders.ndjson --target shop.orders:app
    kworker publish orders '{"id": 3}' --group shop

    Says topic/partition/offset and the message's id. With --target, --group or --db there is
    an outbox: what Kafka does not acknowledge in time is kept there, and sent when it is back.
    Exit codes: 0 acknowledged or kept, 1 rejected, 4 no broker and no outbox.
    """
    pairs = _headers(headers)
    key_bytes = None if key is None else os.fsencode(key)
    messages = _messages(value, file, ndjson)
    app = None if given.target is None else given.load_app()
    configuration = given.configuration(None if app is None else app.settings)

    from .. import plugins, publisher

    if app is not None:
        messages = _checked(messages, topic, app)
    outbox = _outbox(app, configuration)
    values = configuration.values
    sender = publisher.open(
        values["bootstrap_servers"],
        common=configuration.kafka,
        producer=configuration.kafka_producer,
        publish_wait=values["publish_wait"],
        outbox=outbox,
        on_permanent_failure=values["on_permanent_failure"],
        tell=(plugins.Plugins(plugins.installed()) if app is None else app.load_plugins()).tell,
    )
    kept = 0
    try:
        with sender:
            for chunk in _chunks(messages):
                for receipts in _sent(sender, topic, chunk, key_bytes, pairs):
                    _tell(receipts, as_json)
                    kept += sum(one is not None and one.kept for one in receipts)
    finally:
        if kept and outbox is not None:
            output.note(
                f"Kafka did not acknowledge {kept} in time: kept in {outbox.path}, to be sent when "
                "it is back, by a worker of the group here or by `kworker outbox retry`"
            )


def _sent(
    sender: Publisher, topic: str, chunk: Sequence[bytes], key: bytes | None, headers: Headers
) -> Iterator[Sequence[Receipt | None]]:
    """Their receipts; then what was wrong is raised."""
    from ..publisher import Partly, Publish

    if len(chunk) == 1:
        yield [sender.publish(topic, chunk[0], key=key, headers=headers)]
        return
    try:
        yield sender.publish_many([Publish(topic, one, key, headers) for one in chunk])
    except Partly as error:
        yield error.receipts
        raise


def _outbox(app: App | None, configuration: Configuration) -> Outbox | None:
    """Where is kept what cannot be sent; None where nothing says whose store that is."""
    from ..publisher import Outbox
    from ..settings import UNIQUE
    from ..stores.tools import owner

    values = configuration.values
    group = values["group"] if values["group"] != UNIQUE else None
    if group is None and app is not None:
        group = app.name
    db = values["db"]
    if group is None and db is not None and "://" not in db:
        # The group of the store that is there, or, as a store is named, of one to be made.
        group = owner(Path(db)) or Path(db).stem
    if group is None:
        return None
    path = devbroker.outbox_of(group, db, values["bootstrap_servers"])
    return Outbox(path, group, values["outbox_size"], values["outbox_when_full"])


def _checked(messages: Iterator[bytes], topic: str, app: App) -> Iterator[bytes]:
    """The messages, as long as the handlers of the topic can take them. Raises PublishRejected
    for one that none of them decodes."""
    register = app.register(app.load_plugins())
    handlers = register.for_topic(topic)
    if not handlers:
        raise UsageError(
            f"no handler of {app.name!r} takes the topic {topic!r}"
            f"{did_you_mean(topic, register.topics)}"
        )
    for number, value in enumerate(messages, start=1):
        for handler in handlers:
            try:
                handler.decode(value, ())
            except Undecodable as error:
                raise PublishRejected(
                    f"message {number} is not what {handler.name} takes: {error}; it was not sent"
                ) from error
        yield value


def _chunks(messages: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Messages to be sent together; those before a line that is refused are sent, too."""
    chunk: list[bytes] = []
    try:
        for one in messages:
            chunk.append(one)
            if len(chunk) == _AT_ONCE:
                yield chunk
                chunk = []
    except (UsageError, PublishRejected):
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
                kept=one.kept,
            )
        elif one.kept:
            output.data(f"kept {one.topic} {one.message_id}")
        else:
            output.data(f"{one.topic}/{one.partition}/{one.offset} {one.message_id}")
