"""Spans by the messaging conventions, and the context that travels with a message."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kworker_opentelemetry import Tracing
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from kworker import App, Context, Message, Reject, Skip
from kworker.facts import HandlerInfo, WorkerInfo
from kworker.message import Headers
from kworker.plugins import Plugins
from kworker.testing import message

CHARGE = HandlerInfo("charge", ("orders",))
WORKER = WorkerInfo("shop", "shop-group", (CHARGE,), ("orders",), 1, "shop.db")
PRODUCER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced:
    """The plugin beside an SDK that keeps its spans."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.plugins: Plugins = App("shop", plugins=[Tracing(self.provider)]).load_plugins()
        self.plugins.tell("worker_started", worker=WORKER)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def call(self, given: Message[Any], error: BaseException | None = None) -> ReadableSpan:
        """One call of a handler, as the worker makes it; its span."""
        around = self.plugins.around
        assert around is not None
        [manager] = around(given, CHARGE)
        with suppress(ValueError, Reject, Skip), manager:
            if error is not None:
                raise error
        return self.spans[-1]

    def outgoing(self, *headers: tuple[str, bytes | None]) -> dict[str, bytes | None]:
        added = self.plugins.outgoing
        assert added is not None
        return dict(added("receipts", "id-1", headers))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    monkeypatch.setenv("KWORKER_WITHOUT_PLUGINS", "opentelemetry")  # the one without an SDK
    made = Traced()
    yield made
    made.provider.shutdown()


def from_producer(**fields: Any) -> Message[Any]:
    headers: Headers = (("traceparent", PRODUCER.encode()), ("x", b"1"))
    return message({}, headers=headers, **fields)


def test_a_call_is_a_process_span_with_the_attributes_of_the_conventions(traced: Traced) -> None:
    span = traced.call(message({}, topic="orders", partition=3, offset=7, id="a-1", attempt=2))

    assert (span.name, span.kind) == ("process orders", SpanKind.CONSUMER)
    assert dict(span.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 7,
        "messaging.consumer.group.name": "shop-group",
        "messaging.message.id": "a-1",
        "kworker.handler": "charge",
        "kworker.attempt": 2,
    }
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"
    assert span.parent is None
    assert span.status.status_code is StatusCode.UNSET


def test_a_call_is_in_the_trace_of_the_producer_and_linked_to_its_span(traced: Traced) -> None:
    span = traced.call(from_producer())

    assert span.context is not None and span.parent is not None
    assert f"{span.context.trace_id:032x}" == PRODUCER.split("-")[1]
    assert f"{span.parent.span_id:016x}" == PRODUCER.split("-")[2]
    assert [f"{link.context.span_id:016x}" for link in span.links] == [PRODUCER.split("-")[2]]


def test_a_forged_context_is_ignored(traced: Traced) -> None:
    span = traced.call(message({}, headers=(("traceparent", b"\xff; drop"), ("traceparent", None))))

    assert span.parent is None
    assert span.links == ()


def test_a_failure_is_an_error_with_its_type_and_what_says_something_is_none(
    traced: Traced,
) -> None:
    failed = traced.call(message({}), ValueError("no such bank"))
    rejected = traced.call(message({}), Reject("never"))
    skipped = traced.call(message({}), Skip("paid"))

    assert failed.status.status_code is StatusCode.ERROR
    assert (failed.attributes or {})["error.type"] == "ValueError"
    assert [event.name for event in failed.events] == ["exception"]
    assert (rejected.attributes or {})["error.type"] == "kworker.outcome.Reject"
    assert skipped.status.status_code is StatusCode.UNSET
    assert skipped.events == ()


def test_a_tombstone_and_a_replay_are_told(traced: Traced) -> None:
    span = traced.call(message(None, replay=2))

    assert (span.attributes or {})["messaging.kafka.message.tombstone"] is True
    assert (span.attributes or {})["kworker.replay"] == 2


def test_what_is_published_within_a_span_carries_on_its_trace(traced: Traced) -> None:
    tracer = traced.provider.get_tracer("shop")
    with tracer.start_as_current_span("order") as order:
        headers = traced.outgoing(("x", b"1"))

    [created, _] = traced.spans
    assert (created.name, created.kind) == ("create receipts", SpanKind.PRODUCER)
    assert (created.attributes or {})["messaging.message.id"] == "id-1"
    assert created.parent is not None and created.context is not None
    assert created.parent.span_id == order.get_span_context().span_id
    assert (headers["traceparent"] or b"").startswith(
        f"00-{created.context.trace_id:032x}-{created.context.span_id:016x}-".encode()
    )


def test_a_context_that_the_sender_gave_is_left_alone(traced: Traced) -> None:
    assert traced.outgoing(("traceparent", PRODUCER.encode())) == {}
    assert traced.spans == []


def test_without_an_sdk_nothing_is_recorded_and_nothing_added() -> None:
    plugins = App("shop", plugins=[Tracing(trace.NoOpTracerProvider())]).load_plugins()
    added = plugins.outgoing

    assert added is not None
    assert added("receipts", "id-1", ()) == ()


# --- in a worker ---------------------------------------------------------------------------


def test_retries_and_replays_stay_in_the_trace_and_an_empty_poll_makes_no_span(
    traced: Traced, kafka: Any, topic: Any, group: str, tmp_path: Path
) -> None:
    from kworker_broker import client

    orders, receipts = topic("orders", partitions=1), topic("receipts", partitions=1)
    app = App(
        group, plugins=[Tracing(traced.provider)], bootstrap_servers=kafka.bootstrap_servers,
        db=str(tmp_path / "store.db"), create_topics="missing",
    )  # fmt: skip
    declare(app, orders, receipts)
    tracer = traced.provider.get_tracer("shop")
    with tracer.start_as_current_span("web request") as request, app.publisher() as publisher:
        publisher.publish(orders, {"n": 1})
    try:
        drain(app)
        seen = traced.spans
        replay(app, kafka.bootstrap_servers, group)
        drain(app)
    finally:
        left = [f"{group}.retry.100ms", f"{group}.replay", f"{group}.dlq"]
        client.delete_topics(kafka.bootstrap_servers, left)

    trace_id = request.get_span_context().trace_id
    assert {one.context.trace_id for one in traced.spans if one.context} == {trace_id}
    names = [one.name for one in traced.spans]
    assert [name for name in names if name.startswith("process")] == [
        f"process {orders}", f"process {group}.retry.100ms", f"process {group}.replay"
    ]  # fmt: skip
    assert f"create {receipts}" in names
    assert not [name for name in names if name.startswith(("poll", "receive"))]
    assert len(seen) == 4  # published, requested, and two calls: no more, however often it polled


def declare(app: App, orders: str, receipts: str) -> None:
    from kworker import Retry

    @app.handler(orders, name="charge", retry=Retry(attempts=1, delays=["100ms"]))
    def charge(order: dict[str, Any], message: Message[Any], context: Context) -> None:
        if not message.replay:
            raise ValueError("not yet")
        context.publish(receipts, order)


def drain(app: App) -> None:
    from kworker import settings
    from kworker.runtime.worker import Worker

    configuration = settings.load(app.settings, flags={}, environ={}, folder="/nowhere")
    assert Worker(app, configuration, drain=True).run() == 0


def replay(app: App, servers: str, group: str) -> None:
    import os
    import subprocess
    import sys

    env = {name: one for name, one in os.environ.items() if not name.startswith("KWORKER_")}
    code = (
        "import sys; from kworker import App; app = App(sys.argv.pop(1))\n"
        "@app.handler('orders', name='charge')\ndef charge(order: dict): ...\n"
    )
    folder = Path(app.settings["db"] or "").parent
    (folder / "shop.py").write_text(code.replace("sys.argv.pop(1)", repr(group)))
    done = subprocess.run(
        [sys.executable, "-m", "kworker", "dlq", "replay", "shop:app", "-b", servers, "--execute"],
        cwd=folder, env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_coroutine_is_called_within_its_span(traced: Traced) -> None:
    around = traced.plugins.around
    assert around is not None

    async def call(number: int) -> str:
        [manager] = around(message({}, offset=number), CHARGE)
        with manager:
            await asyncio.sleep(0.01)
            return f"{trace.get_current_span().get_span_context().span_id:016x}"

    async def several() -> list[str]:
        return await asyncio.gather(*(call(number) for number in range(5)))

    inside = asyncio.run(several())

    assert sorted(inside) == sorted(
        f"{one.context.span_id:016x}" for one in traced.spans if one.context
    )
