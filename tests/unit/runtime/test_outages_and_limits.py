"""What holds a handler up: an outage, its time, its message's age."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from kworker import App, Context, Message, Outage, Retry
from kworker.errors import Undecodable
from kworker.message import Record
from kworker.outcome import Done, Dropped, Failed, Outcome, Postponed, Recorded, Skipped
from kworker.runtime.executors import Answer, Down, Executor, Performed, Threads, executor_for
from kworker.runtime.lanes import Run
from kworker.runtime.quota import Quota

from .bench import P0, P1, Bench


def charging(calls: list[int], down: set[str], **options: object) -> App:
    app = App("shop")

    @app.handler("orders", name="charge", retry=Retry(attempts=1), **options)  # type: ignore[arg-type]
    def charge(order: dict, message: Message) -> None:
        calls.append(message.offset)
        if down:
            raise Outage("the bank is down")

    return app


def test_an_outage_spends_no_call_copies_nothing_and_is_tried_by_one_with_growing_pauses() -> None:
    calls: list[int] = []
    down = {"bank"}
    bench = Bench(charging(calls, down, order="partition"))
    for number in range(5):
        bench.broker.write(P0, b'{"n":%d}' % number)

    bench.perform()
    first_try = len(calls)
    tries = []
    for _ in range(60):
        bench.clock.now += 0.5
        bench.perform()
        tries.append(len(calls))

    assert first_try == 1
    assert set(calls) == {0}
    assert [tries.index(count) for count in range(2, 6)] == [1, 5, 13, 29]  # 1, 2, 4, 8 s apart
    assert bench.log == []
    assert bench.committed() <= 0
    assert bench.facts.outages == ["the bank is down"]

    down.clear()
    bench.clock.now += 16
    bench.perform()
    bench.commit()

    assert calls[-5:] == [0, 1, 2, 3, 4]
    assert bench.facts.ended == 1
    assert bench.committed() == 5
    assert bench.facts.settled == [("Done", offset) for offset in range(5)]


def test_an_outage_of_one_handler_holds_up_no_other() -> None:
    calls: list[int] = []
    app = charging(calls, {"bank"})

    @app.handler("orders", name="ship")
    def ship(order: dict) -> None: ...

    bench = Bench(app)
    for _ in range(3):
        bench.broker.write(P0)

    bench.perform()

    assert bench.facts.settled == [("Done", 0), ("Done", 1), ("Done", 2)]
    assert bench.open == 3


def test_what_waits_for_an_outage_is_let_go_with_its_partition() -> None:
    calls: list[int] = []
    bench = Bench(charging(calls, {"bank"}), assign=(P0, P1))
    bench.broker.write(P0)
    bench.perform()

    bench.consumer.revoke(P0)
    bench.clock.now += 60
    bench.perform()

    assert calls == [0]
    assert bench.loop.lanes.waiting == 0


def test_a_message_older_than_its_handler_takes_is_dead_lettered_unhandled() -> None:
    app, calls = App("shop"), []

    @app.handler("orders", name="charge", expires="1h")
    def charge(order: dict, message: Message) -> None:
        calls.append(message.offset)

    bench = Bench(app)
    bench.broker.write(P0, timestamp=time.time() - 3700)
    bench.broker.write(P0, timestamp=time.time() - 3500)

    bench.settle()

    assert calls == [1]
    assert bench.facts.dead == [("expired", 0)]
    assert dict(bench.log[0].headers)["kworker-attempt"] == b"0"
    assert bench.committed() == 2


def test_what_a_handler_returns_is_published_under_the_messages_key_and_none_is_not() -> None:
    app = App("shop")

    @app.handler("orders", name="charge", publish_to="receipts")
    def charge(order: dict) -> dict | None:
        return order if order["n"] else None

    bench = Bench(app)
    bench.broker.write(P0, b'{"n":0}', key=b"a")
    bench.broker.write(P0, b'{"n":7}', key=b"b")

    bench.settle()

    assert [(one.topic, one.key, one.value) for one in bench.log] == [
        ("receipts", b"b", b'{"n":7}')
    ]
    assert bench.committed() == 2


def coroutines(app: App) -> Callable[[Answer, Down], Executor]:
    return lambda answer, down: executor_for(tuple(app.register()), 4, answer, down)


def until(bench: Bench, wanted: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not wanted():
        assert time.monotonic() < limit
        bench.turn()


def test_a_coroutine_that_outlasts_its_timeout_is_cancelled_and_counts_as_failed() -> None:
    app, cancelled = App("shop"), threading.Event()

    @app.handler("orders", name="charge", timeout=0.05, retry=Retry(attempts=1))
    async def charge(order: dict) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    bench = Bench(app, executor=coroutines(app))
    bench.broker.write(P0)

    until(bench, lambda: bool(bench.sent))

    assert cancelled.is_set()
    headers = dict(bench.log[0].headers)
    assert headers["kworker-error-type"] == b"kworker.outcome.HandlerTimeout"
    assert headers["kworker-disposition"] == b"retries_exhausted"


def test_a_heartbeat_gives_a_coroutine_its_time_anew() -> None:
    app, beats = App("shop"), []

    @app.handler("orders", name="charge", timeout=0.2, retry=Retry(attempts=1))
    async def charge(order: dict, context: Context) -> None:
        begun = time.monotonic()
        while time.monotonic() - begun < 0.5:
            await asyncio.sleep(0.01)
            beats.append(context.time_left)
            context.heartbeat()

    bench = Bench(app, executor=coroutines(app))
    bench.broker.write(P0)

    until(bench, lambda: bool(bench.facts.settled or bench.sent))

    assert bench.facts.settled == [("Done", 0)]
    assert 0 < min(beats) <= max(beats) <= 0.2


def test_a_thread_that_outlasts_its_timeout_is_told_of_and_its_message_waits_for_it() -> None:
    app, gate = App("shop"), threading.Event()

    @app.handler("orders", name="charge", timeout=0.05)
    def charge(order: dict) -> None:
        gate.wait(20)

    bench = Bench(app, executor=lambda answer, down: Threads(1, answer, down))
    bench.broker.write(P0)
    until(bench, lambda: any(run.active for run in bench.loop.runs))

    def told() -> bool:
        bench.clock.now += 1.1
        return bool(bench.facts.stuck)

    until(bench, told)
    open_meanwhile = bench.open
    gate.set()
    until(bench, lambda: bool(bench.facts.settled))

    assert "charge has run for" in bench.facts.stuck[0]
    assert len(bench.facts.stuck) == 1
    assert open_meanwhile == 1
    assert bench.facts.settled == [("Done", 0)]


def test_what_was_handed_over_together_goes_on_in_its_order_after_an_outage() -> None:
    calls: list[int] = []
    down: set[str] = set()
    bench = Bench(charging(calls, down, order="partition"))
    for _ in range(40):  # so quick that several are handed over at once
        bench.broker.write(P0)
        bench.perform()
    for _ in range(5):
        bench.broker.write(P0)
    down.add("bank")
    bench.turn()
    handed_over = len(next(iter(bench.loop.runs)).works)

    bench.perform()
    down.clear()
    bench.clock.now += 2
    bench.perform()
    bench.commit()

    assert handed_over == 5
    assert calls[40:] == [40, 40, 41, 42, 43, 44]
    assert bench.committed() == 45


@pytest.mark.parametrize(
    ("outcome", "called"),
    [
        (Done(), True),
        (Skipped("why"), True),
        (Failed(ValueError("no")), True),
        (Failed(Undecodable("no"), called=False), False),
        (Recorded(), True),
        (Recorded(duplicate=True), False),
        (Dropped(), False),
        (Postponed(), False),
    ],
)
def test_only_a_handler_that_was_called_says_whether_an_outage_is_over(
    outcome: Outcome, called: bool
) -> None:
    calls: list[int] = []
    bench = Bench(charging(calls, {"bank"}))
    bench.broker.write(P0)
    bench.perform()
    bench.clock.now += 1.1
    bench.turn()  # it may be tried again
    run = bench.executor.waiting.popleft()

    bench.inbox.put(Performed([(run.works[0], outcome)], run, True))
    bench.turn()

    assert bench.facts.ended == called


class Ending:
    """A work whose handler ends between two looks at it."""

    timebox = SimpleNamespace(told=False, left=-1.0)
    scope = SimpleNamespace(name="charge")
    record = Record("orders", 0, 7)
    ledger = SimpleNamespace(partition=P0)
    original, calls, id = "orders/0/7", 0, ""
    looks = 0

    @property
    def started(self) -> float | None:
        self.looks += 1
        return 1.0 if self.looks == 1 else None


def test_a_handler_that_ends_while_its_length_is_told_stops_no_turn() -> None:
    bench = Bench(charging([], set()))
    work: Any = Ending()
    bench.loop.runs.add(Run([work], [], work.scope))

    bench.clock.now += 1.1
    bench.turn()

    assert len(bench.facts.stuck) == 1


def test_a_duplicate_that_a_handlers_transaction_found_is_finished_for_the_quota() -> None:
    over: list[bool] = []
    bench = Bench(charging([], set()))
    bench.loop.quota = Quota(1, lambda: over.append(True))
    bench.broker.write(P0)
    bench.turn()
    run = bench.executor.waiting.popleft()

    bench.inbox.put(Performed([(run.works[0], Recorded(duplicate=True))], run, True))
    bench.turn()

    assert over == [True]


def test_a_coroutine_without_a_timeout_that_runs_for_long_is_told_of_with_where_it_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, gate = App("shop"), threading.Event()

    async def wait_for_the_bank() -> None:
        while not gate.is_set():
            await asyncio.sleep(0.01)

    @app.handler("orders", name="charge")
    async def charge(order: dict) -> None:
        await wait_for_the_bank()

    bench = Bench(app, executor=coroutines(app))
    bench.broker.write(P0)
    until(bench, lambda: any(one.started for run in bench.loop.runs for one in run.works))

    told = []
    for age in (301, 500, 650):
        bench.clock.now = time.monotonic() + age
        bench.turn()
        told.append(caplog.text.count("charge has run for"))
    gate.set()
    until(bench, lambda: bool(bench.facts.settled))

    assert told == [1, 1, 2]  # after five minutes, then after twice as long
    assert "in wait_for_the_bank" in caplog.text
    assert bench.facts.stuck == []
