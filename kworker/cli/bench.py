"""`kworker bench TARGET`: how many messages a second a handler of one's own takes, and what
each costs."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from .. import devbroker, settings
from ..app import App
from ..errors import KworkerError, UsageError
from ..handlers import Handler, Register
from ..hookspecs import hookimpl
from ..kafka.api import NewTopic
from ..plugins import Plugins
from ..resources import Provider
from ..retry import Retry
from . import cluster, commands, options, output, tables

_PARTITIONS = 4
_ON_THE_MOCK = 12 * 2**20  # bytes that the embedded broker keeps of a topic, to be safe
_AT_ONCE = 1000


class _Meter:
    """Counts what was handled and what failed, and when the first and the last were."""

    def __init__(self) -> None:
        self.handled = self.failed = 0
        self.begun = self.ended = self.cpu_begun = self.cpu_ended = 0.0

    @hookimpl
    def message_settled(self) -> None:
        self.handled += 1
        self._tick()

    @hookimpl
    def message_dead_lettered(self) -> None:
        self.failed += 1
        self._tick()

    def _tick(self) -> None:
        self.ended, self.cpu_ended = time.perf_counter(), time.process_time()
        if not self.begun:
            self.begun, self.cpu_begun = self.ended, self.cpu_ended


class _Alone(App):
    """An app with one of its handlers, which takes one topic and gives up at the first failure."""

    def __init__(self, whole: App, handler: str, topic: str, meter: _Meter) -> None:
        super().__init__(whole.name)
        self._whole, self._handler, self._topic, self._meter = whole, handler, topic, meter

    def register(self, plugins: Plugins | None = None) -> Register:
        found = self._whole.register(plugins).named(self._handler)
        assert found is not None
        once = Retry(attempts=1)
        return Register([dataclasses.replace(found, topics=(self._topic,), retry=once)])

    def providers(self) -> tuple[Provider, ...]:
        return self._whole.providers()

    def load_plugins(self, ours: Iterable[object] = ()) -> Plugins:
        return self._whole.load_plugins([*ours, self._meter])


@commands.command()
@click.option(
    "--value", default='{"id": 1}', show_default=True, help="The payload of each message."
)
@click.option(
    "--file",
    type=click.File("rb"),
    help="Payloads, one a line, taken in turn; in place of --value.",
)
@click.option(
    "-n",
    "--messages",
    type=click.IntRange(min=2),
    default=20_000,
    show_default=True,
    metavar="N",
    help="How many.",
)
@options.as_json
@options.with_app(*settings.declared())
def command(given: options.Given, value: str, file: Any, messages: int, as_json: bool) -> None:
    """Measure a handler: messages a second, and CPU time a message, in one process.

    \b
    kworker bench shop.orders:app --value '{"id": 1, "amount": 9.5}'
    kworker bench shop.orders:app --file orders.ndjson -b localhost:9092 --concurrency 32
    kworker bench shop.orders:app --handlers shop.orders.mail --messages 5000 --json

    Messages are written to a topic made for it, handled under a group made for it, and both
    are removed. The handler is called for real: what it does elsewhere, it does. Without a
    Kafka in flags or settings, it runs on the broker of `kworker dev`, or one of its own.
    Exit codes: 0 measured, 1 the handler failed, 3 app or setting, 4 Kafka unreachable.
    """
    app, configuration = given.load()
    handler = _the_one(app, configuration)
    payloads = [value.encode()] if file is None else [one.strip() for one in file if one.strip()]
    if not payloads:
        raise UsageError(f"{file.name} holds no payload: one a line is needed")
    name = f"kworker-bench-{uuid.uuid4().hex[:8]}"
    meter = _Meter()
    with _cluster_of(configuration) as (configuration, mock):
        if mock:
            configuration = devbroker.joining_quickly(configuration)
            messages = min(messages, max(2, _ON_THE_MOCK // (max(map(len, payloads)) + 100)))
        connection = cluster.connect(configuration)
        with closing(connection.admin()) as admin, tempfile.TemporaryDirectory() as folder:
            refused = admin.create([NewTopic(name, _PARTITIONS, -1, {})])[name]
            if refused is not None:
                raise UsageError(f"topic {name} cannot be created: {refused}; take another broker")
            try:
                _preload(configuration, name, payloads, messages)
                alone = _Alone(app, handler.name, name, meter)
                _run(alone, _configured(configuration, name, folder))
            finally:
                admin.delete([one for one in admin.topics() if one.startswith(name)])
    _tell(meter, handler, configuration.values["concurrency"], as_json)
    if meter.failed or not meter.handled:
        click.get_current_context().exit(KworkerError.exit_code)


def _the_one(app: App, configuration: settings.Configuration) -> Handler:
    """The handler that is meant. Raises UsageError where there are several."""
    from .. import choice

    served = choice.chosen(app.register(), handlers=configuration.values["handlers"])
    if len(served) > 1:
        names = ", ".join(one.name for one in served)
        raise UsageError(f"which handler? Say it with --handlers: {names}")
    return next(iter(served))


@contextmanager
def _cluster_of(
    configuration: settings.Configuration,
) -> Iterator[tuple[settings.Configuration, bool]]:
    """Where to measure, and whether that is an embedded broker: what the settings say; where
    they say nothing, one that ends with the block."""
    origin = configuration.origins["bootstrap_servers"]
    if origin != "default":
        yield configuration, origin == str(devbroker.FILE)
        return
    from ..kafka import embedded

    output.note("on an embedded broker, which is none to compare with; -b names a real one")
    with embedded.start() as broker:
        values: settings.Settings = {
            **configuration.values,
            "bootstrap_servers": broker.bootstrap_servers,
        }
        yield dataclasses.replace(configuration, values=values), True


def _configured(
    configuration: settings.Configuration, group: str, folder: str
) -> settings.Configuration:
    values: settings.Settings = {
        **configuration.values,
        "group": group,
        "db": str(Path(folder) / "bench.db"),
        "create_topics": "missing",
        "start_from": "earliest",
        "handlers": None,
        "topics": None,
        "exclude_topics": None,
        "instance_id": None,
    }
    return dataclasses.replace(configuration, values=values)


def _preload(
    configuration: settings.Configuration, topic: str, payloads: list[bytes], count: int
) -> None:
    from .. import publisher

    sender = publisher.open(
        configuration.values["bootstrap_servers"],
        common=configuration.kafka,
        producer=configuration.kafka_producer,
        publish_wait=60.0,
    )
    with sender, tables.progress("writing messages") as progress:
        for begun in range(0, count, _AT_ONCE):
            numbers = range(begun, min(begun + _AT_ONCE, count))
            sender.publish_many(
                publisher.Publish(topic, payloads[one % len(payloads)], str(one)) for one in numbers
            )
            progress(numbers.stop, count)


def _run(app: App, configuration: settings.Configuration) -> None:
    from ..runtime import worker

    if logging.getLogger("kworker").level >= logging.WARNING:
        # What fails is counted, and told once at the end.
        logging.getLogger("kworker").setLevel(logging.CRITICAL)
    worker.run(app, configuration, drain=True)


def _tell(meter: _Meter, handler: Handler, concurrency: int, as_json: bool) -> None:
    count = meter.handled + meter.failed
    seconds = meter.ended - meter.begun
    rate = (count - 1) / seconds if seconds else 0.0
    cpu = (meter.cpu_ended - meter.cpu_begun) / max(1, count - 1) * 1e6
    if as_json:
        output.document(
            "bench",
            handler=handler.name,
            messages=count,
            handled=meter.handled,
            failed=meter.failed,
            seconds=round(seconds, 3),
            messages_per_second=round(rate, 1),
            cpu_microseconds=round(cpu, 1),
            concurrency=concurrency,
        )
    else:
        tables.table(
            ("HANDLER", "MESSAGES", "MESSAGES/S", "CPU µS EACH", "CONCURRENCY"),
            [(handler.name, str(count), f"{rate:.0f}", f"{cpu:.1f}", str(concurrency))],
        )
    if meter.failed:
        output.error(
            f"{meter.failed} of {count} failed, so this measures failing; give payloads that "
            f"{handler.name} takes with --value or --file (`kworker run -v` tells why)"
        )
