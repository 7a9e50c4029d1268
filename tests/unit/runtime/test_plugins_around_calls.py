"""What plugins do where handlers are called: told before, put around, asked for values."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import tenacity

from kworker import App, Context, Message, Outage, Reject, Retry, Skip, hookimpl
from kworker.runtime.executors import Executor, Hooks, executor_for

from .bench import P0, Bench, Inline

RETRY = Retry(attempts=2, wait=tenacity.wait_fixed(1))


def bench_of(app: App, *, real: bool = False) -> Bench:
    """A bench whose executor has the app's plugins: the test's own thread, or real ones."""
    ready = app.load_plugins()
    hooks = Hooks(ready.started, ready.around, ready.outgoing)

    def executor(answer: Any, down: Any) -> Executor:
        if real:
            return executor_for(tuple(app.register()), 2, answer, down, hooks=hooks)
        return Inline(answer, down, hooks)

    return Bench(app, executor=executor)


def handle(bench: Bench, offset: int = 0) -> None:
    """Until the message is settled."""
    limit = time.monotonic() + 20
    while bench.committed() <= offset:
        assert time.monotonic() < limit, "not settled"
        bench.clock.now += 0.2
        bench.perform()
        if bench.sent:
            bench.answer()


def around(wrap: Callable[..., Any]) -> object:
    return type("Around", (), {"around_handler": staticmethod(hookimpl(wrap))})()


def wrapper(name: str, seen: list[Any]) -> object:
    @contextlib.contextmanager
    def wrap(message: Message, handler: Any) -> Iterator[None]:
        seen.append((f"{name} in", message.attempt, handler.name, threading.get_ident()))
        try:
            yield
        finally:
            seen.append((f"{name} out", message.attempt, handler.name, threading.get_ident()))

    return around(wrap)


@pytest.mark.parametrize("real", [False, True])
def test_wrappers_nest_around_the_call_in_its_thread(real: bool) -> None:
    seen: list[Any] = []
    app = App("shop", plugins=[wrapper("a", seen), around(lambda: None), wrapper("b", seen)])

    @app.handler("orders", name="charge")
    def charge(order: dict) -> None:
        seen.append(("call", 1, "charge", threading.get_ident()))

    bench = bench_of(app, real=real)
    bench.broker.write(P0)
    handle(bench)

    assert [one[0] for one in seen] == ["a in", "b in", "call", "b out", "a out"]
    assert len({one[1:] for one in seen}) == 1


@pytest.mark.parametrize("mixed", [False, True])
def test_a_coroutine_is_called_within_asynchronous_and_plain_wrappers_in_its_task(
    mixed: bool,
) -> None:
    seen: list[Any] = []

    @contextlib.asynccontextmanager
    async def asynchronous() -> AsyncIterator[None]:
        seen.append(("async in", threading.get_ident()))
        yield
        seen.append(("async out", threading.get_ident()))

    @contextlib.contextmanager
    def plain() -> Iterator[None]:
        seen.append(("plain in", threading.get_ident()))
        yield
        seen.append(("plain out", threading.get_ident()))

    def only_async(handler: Any) -> Any:
        return asynchronous() if handler.name == "charge" else None

    app = App("shop", plugins=[around(only_async), around(lambda: plain())])

    @app.handler("orders", name="charge", timeout="5s")
    async def charge(order: dict) -> None:
        seen.append(("call", threading.get_ident()))

    if mixed:  # then the coroutine runs beside threads

        @app.handler("mail", name="other")
        def other(order: dict) -> None: ...

    bench = bench_of(app, real=True)
    bench.broker.write(P0)
    handle(bench)

    assert [name for name, _ in seen] == ["async in", "plain in", "call", "plain out", "async out"]
    assert len({thread for _, thread in seen}) == 1


@contextlib.contextmanager
def failing_before() -> Iterator[None]:
    raise ValueError("before")
    yield


@contextlib.contextmanager
def failing_after() -> Iterator[None]:
    yield
    raise ValueError("after")


@contextlib.asynccontextmanager
async def asynchronous_for_a_def() -> AsyncIterator[None]:
    yield


def failing_at_once() -> Any:
    raise ValueError("at once")


@pytest.mark.parametrize("wrap", [failing_at_once, failing_before, failing_after, lambda: 7])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_wrapper_raises_counts_as_the_handlers_failure(
    wrap: Callable[[], Any], is_async: bool
) -> None:
    app = App("shop", retry=RETRY, plugins=[around(lambda: wrap())])
    if is_async:

        @app.handler("orders", name="charge")
        async def charge(order: dict) -> None: ...
    else:

        @app.handler("orders", name="charge")
        def charge(order: dict) -> None: ...

    bench = bench_of(app, real=is_async)
    bench.broker.write(P0)
    handle(bench)

    assert bench.facts.retrying == [(1, 1.0)]
    assert bench.facts.dead == [("retries_exhausted", 0)]


def test_an_asynchronous_wrapper_cannot_stand_around_a_def() -> None:
    app = App("shop", retry=RETRY, plugins=[around(lambda: asynchronous_for_a_def())])
    app.handler("orders", name="charge")(_nothing)
    bench = bench_of(app)
    bench.broker.write(P0)
    handle(bench)

    assert bench.facts.dead == [("retries_exhausted", 0)]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_wrapper_that_swallows_a_failure_makes_no_success_of_it(is_async: bool) -> None:
    app = App("shop", plugins=[around(lambda: contextlib.suppress(Exception))])

    def fail(order: dict) -> None:
        raise Reject("never")

    async def fail_later(order: dict) -> None:
        raise Reject("never")

    app.handler("orders", name="charge")(fail_later if is_async else fail)
    bench = bench_of(app, real=is_async)
    bench.broker.write(P0)
    handle(bench)

    assert bench.facts.dead == [("rejected", 0)]
    assert bench.facts.settled == []


@pytest.mark.parametrize(
    ("inner", "becomes"), [(failing_before, "retries_exhausted"), (failing_after, None)]
)
def test_where_one_wrapper_swallows_what_another_raised_it_counts_whether_the_handler_ended_well(
    inner: Callable[[], Any], becomes: str | None
) -> None:
    plugins = [around(lambda: contextlib.suppress(Exception)), around(lambda: inner())]
    app = App("shop", retry=Retry(attempts=1), plugins=plugins)
    app.handler("orders", name="charge")(_nothing)
    bench = bench_of(app)
    bench.broker.write(P0)
    handle(bench)

    assert bench.facts.dead == ([] if becomes is None else [(becomes, 0)])
    assert bench.facts.settled == ([("Done", 0)] if becomes is None else [])


def _nothing(order: dict) -> None: ...


def test_a_wrapper_may_say_what_becomes_of_the_message() -> None:
    @contextlib.contextmanager
    def skipping() -> Iterator[None]:
        raise Skip("switched off")
        yield

    app = App("shop", plugins=[around(lambda: skipping())])
    app.handler("orders", name="charge")(_nothing)
    bench = bench_of(app)
    bench.broker.write(P0)
    handle(bench)

    assert bench.facts.settled == [("Skipped", 0)]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_start_is_told_before_each_call_and_who_raises_there_keeps_no_call_away(
    is_async: bool,
) -> None:
    calls: list[Any] = []

    class Started:
        @hookimpl
        def message_started(self, message: Message, handler: Any) -> None:
            calls.append(("told", message.attempt, message.value, handler.name))
            raise SystemExit

    app = App("shop", retry=RETRY, plugins=[Started()])

    def fail_once(message: Message[dict]) -> None:
        calls.append(("called", message.attempt))
        if message.attempt == 1:
            raise ValueError

    async def fail_once_later(message: Message[dict]) -> None:
        fail_once(message)

    app.handler("orders", name="charge")(fail_once_later if is_async else fail_once)
    bench = bench_of(app, real=is_async)
    bench.broker.write(P0)
    handle(bench)

    assert calls == [
        ("told", 1, {}, "charge"), ("called", 1), ("told", 2, {}, "charge"), ("called", 2)
    ]  # fmt: skip
    assert bench.facts.settled == [("Done", 0)]


class Pool:
    pass


def providing(make: Callable[[Message], Any]) -> object:
    def value(annotation: Any) -> Any:
        return make if annotation is Pool else None

    return type("Values", (), {"provide_value": staticmethod(hookimpl(value))})()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_value_is_made_for_each_call_and_what_its_maker_raises_is_the_calls_failure(
    is_async: bool,
) -> None:
    made: list[int] = []

    def make(message: Message) -> int:
        made.append(message.attempt)
        if message.attempt == 1:
            raise ValueError("no pool yet")
        return 7

    seen: list[Any] = []
    app = App("shop", retry=RETRY, plugins=[providing(make)])

    def charge(order: dict, pool: Pool) -> None:
        seen.append(pool)

    async def charge_later(order: dict, pool: Pool) -> None:
        seen.append(pool)

    app.handler("orders", name="charge")(charge_later if is_async else charge)
    bench = bench_of(app, real=is_async)
    bench.broker.write(P0)
    handle(bench)

    assert (made, seen) == ([1, 2], [7])
    assert bench.facts.retrying == [(1, 1.0)]


def test_a_codec_whose_registry_is_down_lets_its_messages_wait_and_spends_no_call() -> None:
    down: list[bool] = []

    def decode(raw: bytes, headers: Any) -> Any:
        if down:
            down.clear()
            raise Outage("the registry is down")
        return raw

    def codec(annotation: Any) -> Any:
        return decode if annotation is Pool else None

    given = type("Codec", (), {"provide_codec": staticmethod(hookimpl(codec))})()
    handled: list[Any] = []
    app = App("shop", plugins=[given])

    @app.handler("orders", name="charge", order="partition")
    def charge(order: Pool, message: Message) -> None:
        handled.append((message.offset, message.attempt))

    bench = bench_of(app)
    for offset in range(60):  # so quick that several are handed over at once
        bench.broker.write(P0)
        handle(bench, offset)
    down.append(True)
    bench.broker.write(P0)
    bench.broker.write(P0)
    handle(bench, 61)

    assert handled == [(offset, 1) for offset in range(62)]
    assert bench.facts.outages == ["the registry is down"]
    assert bench.facts.dead == []


class Stamps:
    """Adds a header that says what there was already."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name = name
        self.error = error

    @hookimpl
    def outgoing_headers(self, topic: str, id: str, headers: Any) -> Any:
        if self.error is not None:
            raise self.error
        seen = ",".join(name for name, _ in headers)
        return ((self.name, f"{topic} {id} {seen}".encode()),)


@pytest.mark.parametrize("is_async", [False, True])
def test_what_plugins_add_to_a_published_message_stands_beside_what_its_handler_gave(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("shop", plugins=[Stamps("a"), Stamps("b", ValueError("no")), Stamps("c")])
    ids: list[str] = []

    def publish(order: dict, context: Context) -> None:
        ids.append(context.publish("receipts", order, headers=[("x", b"1")]))

    async def publish_later(order: dict, context: Context) -> None:
        publish(order, context)

    app.handler("orders", name="charge")(publish_later if is_async else publish)
    bench = bench_of(app, real=is_async)
    bench.broker.write(P0)
    handle(bench)

    [sent] = bench.log
    assert sent.headers == (
        ("kworker-message-id", ids[0].encode()),
        ("x", b"1"),
        ("a", f"receipts {ids[0]} x".encode()),
        ("c", f"receipts {ids[0]} x,a".encode()),
    )
    assert "failed in outgoing_headers; the message goes without its headers" in caplog.text
    assert bench.facts.settled == [("Done", 0)]


def test_where_nobody_adds_headers_nobody_is_asked() -> None:
    assert App("shop").load_plugins().outgoing is None
