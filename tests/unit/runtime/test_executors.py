"""Handlers' threads and the event loop: what comes back, when, and what ends them never."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import pytest

from kworker import App, Retry, Skip
from kworker.runtime.executors import Answer, Down, Executor, Threads, executor_for

from .bench import P0, P1, Bench


def until(bench: Bench, wanted: Callable[[], bool]) -> None:
    """Turn until it is so; real threads take real time."""
    limit = time.monotonic() + 20
    while not wanted():
        assert time.monotonic() < limit
        bench.turn()


def threads(concurrency: int) -> Callable[[Answer, Down], Executor]:
    return lambda answer, down: Threads(concurrency, answer, down)


def test_a_quick_message_is_recorded_and_committed_while_a_slow_one_behind_it_runs() -> None:
    app, gate = App("shop"), threading.Event()

    @app.handler("orders", name="charge", order="partition")
    def charge(order: dict) -> None:
        if order.get("slow"):
            gate.wait(20)

    bench = Bench(app, executor=threads(1))
    for number in range(60):  # so quick that several are handed over at once
        bench.broker.write(P0)
        until(bench, lambda number=number: len(bench.facts.settled) > number)  # type: ignore[misc]
    bench.broker.write(P0)
    bench.broker.write(P0)
    bench.broker.write(P0, b'{"slow": 1}')

    def committed() -> bool:
        bench.clock.now += 0.1
        return bench.committed() == 62

    until(bench, committed)
    gate.set()
    until(bench, lambda: bench.open == 0)
    assert [offset for _, offset in bench.facts.settled] == list(range(63))


def test_a_retry_comes_back_into_a_lane_of_slow_messages_after_one_of_them_not_after_all() -> None:
    app, calls = App("shop"), []

    @app.handler(
        "orders", name="charge", order="partition",
        retry=Retry(attempts=2, wait=lambda state: 0.0),
    )  # fmt: skip
    def charge(order: dict) -> None:
        calls.append(order["n"])
        time.sleep(0.02)
        if calls == [0]:
            raise ValueError("once")

    bench = Bench(app)
    for number in range(40):
        bench.broker.write(P0, b'{"n": %d}' % number)

    bench.settle()

    assert calls.index(0, 1) < 8
    assert bench.committed() == 40


def test_the_cap_of_a_handler_of_several_topics_holds_for_all_of_them_together() -> None:
    app = App("shop")

    @app.handler("orders", "returns", name="charge", concurrency=1)
    def charge(order: dict) -> None: ...

    returns = P0._replace(topic="returns")
    bench = Bench(app, assign=(P0, P1, returns))
    for partition in (P0, P1, returns):
        bench.broker.write(partition)

    bench.turn()
    out = len(bench.executor.waiting)
    bench.settle()

    assert out == 1
    assert all(bench.committed(partition) == 1 for partition in (P0, P1, returns))


@pytest.mark.parametrize("mixed", [False, True])
def test_an_async_handler_that_asks_the_process_to_exit_has_failed_and_the_next_one_runs(
    mixed: bool,
) -> None:
    app, calls = App("shop"), []

    @app.handler("orders", name="charge", retry=Retry(attempts=1))
    async def charge(order: dict) -> None:
        calls.append(order["n"])
        if order["n"] == 0:
            sys.exit(3)

    if mixed:

        @app.handler("others", name="other")
        def other(order: dict) -> None: ...

    def executor(answer: Answer, down: Down) -> Executor:
        return executor_for(tuple(app.register()), 1, answer, down)

    bench = Bench(app, executor=executor)
    for number in range(3):
        bench.broker.write(P0, b'{"n": %d}' % number)

    until(bench, lambda: len(bench.sent) == 1 and len(bench.facts.settled) == 2)

    assert calls == [0, 1, 2]
    bench.executor.close()


def test_a_task_left_behind_that_exits_does_not_take_the_event_loop_with_it() -> None:
    import asyncio

    app, left = App("shop"), []

    async def leaving() -> None:
        sys.exit(3)

    @app.handler("orders", name="charge")
    async def charge(order: dict) -> None:
        if not left:
            left.append(asyncio.get_running_loop().create_task(leaving()))

    def executor(answer: Answer, down: Down) -> Executor:
        return executor_for(tuple(app.register()), 1, answer, down)

    bench = Bench(app, executor=executor)
    for _ in range(2):
        bench.broker.write(P0)
    until(bench, lambda: len(bench.facts.settled) == 2)
    bench.broker.write(P0)

    until(bench, lambda: len(bench.facts.settled) == 3)
    bench.executor.close()


class MuteSkip(Skip):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_a_skip_without_readable_words_is_a_skip() -> None:
    app = App("shop")

    @app.handler("orders", name="charge")
    def charge(order: dict) -> None:
        raise MuteSkip

    bench = Bench(app)
    bench.broker.write(P0)

    bench.settle()

    assert bench.facts.settled == [("Skipped", 0)]
    assert bench.committed() == 1


def test_no_more_handlers_run_at_once_than_there_are_threads_and_all_of_them_are_used() -> None:
    app = App("shop")
    barrier, names = threading.Barrier(3), set()

    @app.handler("orders", name="charge")
    def charge(order: dict) -> None:
        names.add(threading.current_thread().name)
        barrier.wait(20)  # passes only when three run at once

    bench = Bench(app, executor=threads(3))
    for _ in range(12):
        bench.broker.write(P0)

    until(bench, lambda: len(bench.facts.settled) == 12)

    assert len(names) == 3
