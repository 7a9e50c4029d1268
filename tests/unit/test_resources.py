"""What an app provides: found by type, made once in order, closed in reverse, refused by place."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import pytest

from kworker import App, HandlerError, Message, ProviderError
from kworker.resources import give
from kworker.runtime.executors import EventLoop
from kworker.runtime.resources import Resources


class Pool:
    def __init__(self, name: str = "pool") -> None:
        self.name = name


class Client:
    def __init__(self, pool: Pool | None = None) -> None:
        self.pool = pool


@pytest.fixture
def events() -> Iterator[EventLoop]:
    events = EventLoop()
    yield events
    events.close()


@pytest.fixture
def opened(events: EventLoop) -> Iterator[Callable[[App], Resources]]:
    made: list[Resources] = []

    def open_(app: App) -> Resources:
        made.append(Resources(app.providers(), events.submit))
        return made[-1]

    yield open_
    for one in made:
        one.close(5)


def test_a_handler_is_given_what_the_app_provides_by_annotation_beside_its_payload(
    opened: Callable[[App], Resources],
) -> None:
    app = App("shop")

    @app.handler("orders", name="charge")
    def charge(
        pool: Pool, order: dict[str, Any], client: Client | None, other: int = 3
    ) -> None: ...

    @app.provide
    def client(pool: Pool) -> Client:
        return Client(pool)

    @app.provide
    def pool() -> Iterator[Pool]:
        yield Pool()

    values = opened(app).open()
    [handler] = give(app.register(), values)

    message = Message({"n": 1}, topic="orders", raw=b"", key=None, headers=(), partition=0,
                      offset=0, timestamp=None, id="1")  # fmt: skip
    arguments = handler.arguments(message, None)
    assert arguments.keys() == {"pool", "order", "client"}
    assert arguments["order"] == {"n": 1}
    assert arguments["client"].pool is arguments["pool"]


def test_an_annotation_without_a_hash_is_found_too(opened: Callable[[App], Resources]) -> None:
    app = App("shop")

    @app.provide
    def pool() -> Annotated[Pool, ["left"]]:
        return Pool("left")

    @app.provide
    def other() -> Annotated[Pool, ["right"]]:
        return Pool("right")

    @app.handler("orders")
    def charge(order: dict[str, Any], one: Annotated[Pool, ["right"]]) -> None: ...

    [handler] = give(app.register(), opened(app).open())

    assert handler.given["one"].name == "right"


def test_all_are_closed_in_reverse_order_also_after_one_that_raises(
    opened: Callable[[App], Resources], caplog: pytest.LogCaptureFixture
) -> None:
    app, told = App("shop"), []

    @app.provide
    async def first() -> AsyncIterator[Pool]:
        task = asyncio.current_task()
        told.append(threading.current_thread().name)
        yield Pool()
        assert asyncio.current_task() is task
        told.append("first closed")

    @app.provide
    def second(pool: Pool) -> Iterator[Client]:
        yield Client(pool)
        told.append("second closes")
        raise OSError("it is gone")

    @app.provide
    async def third(client: Client) -> int:
        return 3

    @app.provide
    def fourth(number: int) -> Iterator[str]:
        yield "four"
        told.append("fourth closed")

    resources = opened(app)
    values = resources.open()
    assert [value for _, value in values][2:] == [3, "four"]
    assert told == ["kworker-event-loop"]

    resources.close(5)

    assert told[1:] == ["fourth closed", "second closes", "first closed"]
    assert "second raised at its end" in caplog.text and "it is gone" in caplog.text


def test_one_that_raises_at_start_is_told_in_a_line_and_what_was_made_is_closed(
    opened: Callable[[App], Resources],
) -> None:
    app, told = App("shop"), []

    @app.provide
    def pool() -> Iterator[Pool]:
        yield Pool()
        told.append("closed")

    @app.provide
    async def client(pool: Pool) -> AsyncIterator[Client]:
        raise OSError("no such\nhost")
        yield Client()

    with pytest.raises(
        ProviderError,
        match=r"test_resources.py:\d+: provider .*client raised OSError: no such host",
    ):
        opened(app).open()

    assert told == ["closed"]


def test_one_that_hangs_at_its_end_holds_up_nobody(
    opened: Callable[[App], Resources], caplog: pytest.LogCaptureFixture
) -> None:
    app, gate = App("shop"), threading.Event()

    @app.provide
    def pool() -> Iterator[Pool]:
        yield Pool()
        gate.wait(20)

    resources = opened(app)
    resources.open()

    resources.close(0.05)

    assert "pool did not end in time" in caplog.text
    gate.set()


def unsaid(app: App) -> None:
    @app.provide
    def pool():  # type: ignore[no-untyped-def]
        return Pool()


def twins(app: App) -> None:
    @app.provide
    def pool() -> Pool:
        return Pool()

    @app.provide
    def other() -> Iterator[Pool]:
        yield Pool()


def circle(app: App) -> None:
    @app.provide
    def pool(client: Client) -> Pool:
        return Pool()

    @app.provide
    def client(pool: Pool) -> Client:
        return Client(pool)


def generator(app: App) -> None:
    @app.provide
    def pool() -> Pool:  # type: ignore[misc]
        yield Pool()


def nothing(app: App) -> None:
    @app.provide
    def pool() -> None: ...


def wanting(app: App) -> None:
    @app.provide
    def client(pool: Pool) -> Client:
        return Client(pool)


def wrapped(app: App) -> None:
    @app.provide
    @contextmanager
    def pool() -> Iterator[Pool]:
        yield Pool()


@pytest.mark.parametrize(
    ("declare", "why"),
    [
        (unsaid, "unsaid.<locals>.pool has no return annotation"),
        (twins, r"other provides Pool, which .*twins.<locals>.pool at .*.py:\d+ provides already"),
        (circle, r"(pool needs .*client needs|client needs .*pool needs).*made first"),
        (generator, r"returns Iterator\[…\] of what it yields, not Pool"),
        (nothing, "provides NoneType, which no parameter can ask for"),
        (wanting, "takes 'pool', a Pool, which nothing provides"),
        (wrapped, "is wrapped, as by contextmanager"),
    ],
)
def test_what_cannot_be_provided_is_refused_with_its_place(
    declare: Callable[[App], Any], why: str
) -> None:
    app = App("shop")

    @app.handler("orders")
    def charge(order: dict[str, Any]) -> None: ...

    declare(app)

    with pytest.raises(HandlerError, match=rf"^.*test_resources.py:\d+: .*{why}"):
        app.register()


def test_what_is_no_function_cannot_provide() -> None:
    with pytest.raises(HandlerError, match="what provides is a function made with def"):
        App("shop").provide(Pool)
