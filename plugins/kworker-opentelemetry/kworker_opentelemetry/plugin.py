"""The plugin: a span around each call of a handler, one for each message that is published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, Tracer, TracerProvider

from kworker import Outage, RetryLater, Skip, hookimpl
from kworker.facts import HandlerInfo, WorkerInfo
from kworker.message import AnyMessage, Headers

from . import names

WANTED = (Skip, RetryLater, Outage)  # what a handler raises to say something, not to fail


class Tracing:
    """Uses the tracer provider and the propagator that the application has set up (an SDK, or
    `opentelemetry-instrument`); without one nothing is recorded.

    A call's span has the span that the message was published in as its parent, and a link to
    it. Copies keep the producer's headers, so all calls for a message, those after a retry or a
    replay included, are in its producer's trace.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._group: str | None = None
        self._known: Tracer | None = None

    @property
    def _tracer(self) -> Tracer:
        # Asked late: an app may set its provider up after this was imported.
        if self._known is None:
            self._known = trace.get_tracer(
                "kworker", version("kworker-kafka"), self._provider, names.SCHEMA
            )
        return self._known

    @hookimpl
    def worker_started(self, worker: WorkerInfo) -> None:
        self._group = worker.group

    @hookimpl
    def worker_stopped(self) -> None:
        provider = self._provider or trace.get_tracer_provider()
        flush = getattr(provider, "force_flush", None)  # the SDK's
        if flush is not None:
            flush(FLUSH)

    @hookimpl
    @contextmanager
    def around_handler(self, message: AnyMessage, handler: HandlerInfo) -> Iterator[None]:
        context = carried(message.headers)
        creation = trace.get_current_span(context).get_span_context()
        with self._tracer.start_as_current_span(
            f"process {message.topic}",
            context if creation.is_valid else None,
            SpanKind.CONSUMER,
            self._attributes(message, handler),
            [Link(creation)] if creation.is_valid else (),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                if not isinstance(error, WANTED):
                    span.record_exception(error)
                    span.set_attribute(names.ERROR_TYPE, _name_of(error))
                    span.set_status(Status(StatusCode.ERROR, str(error)))
                raise

    @hookimpl
    def outgoing_headers(self, topic: str, id: str, headers: Headers) -> Headers:
        """The context of a span for the message, unless its sender gave one."""
        ours = propagate.get_global_textmap().fields
        if any(name in ours for name, _ in headers):
            return ()
        carrier: dict[str, str] = {}
        attributes = {
            names.SYSTEM: "kafka",
            names.OPERATION: "create",
            names.OPERATION_TYPE: "create",
            names.DESTINATION: topic,
            names.MESSAGE_ID: id,
        }
        with self._tracer.start_as_current_span(
            f"create {topic}", None, SpanKind.PRODUCER, attributes
        ):
            propagate.inject(carrier)
        return tuple((name, value.encode()) for name, value in carrier.items())

    def _attributes(self, message: AnyMessage, handler: HandlerInfo) -> dict[str, str | int | bool]:
        attributes: dict[str, str | int | bool] = {
            names.SYSTEM: "kafka",
            names.OPERATION: "process",
            names.OPERATION_TYPE: "process",
            names.DESTINATION: message.topic,
            names.PARTITION: str(message.partition),
            names.OFFSET: message.offset,
            names.MESSAGE_ID: message.id,
            names.HANDLER: handler.name,
            names.ATTEMPT: message.attempt,
        }
        if self._group is not None:
            attributes[names.GROUP] = self._group
        if message.raw is None:
            attributes[names.TOMBSTONE] = True
        if message.replay:
            attributes[names.REPLAY] = message.replay
        return attributes


FLUSH = 5_000  # milliseconds that a worker's end waits for spans to be sent


def carried(headers: Headers) -> Context:
    """The context that a message brings, empty where it brings none."""
    wanted = propagate.get_global_textmap().fields
    carrier: dict[str, str] = {}
    for name, value in headers:
        if name in wanted and value is not None:
            carrier.setdefault(name, value.decode("utf-8", "replace"))
    return propagate.extract(carrier, Context())


def _name_of(error: BaseException) -> str:
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
