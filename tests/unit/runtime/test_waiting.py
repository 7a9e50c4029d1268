"""What waits, and who flows on meanwhile; drain and stop."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from kworker import App, Retry
from kworker.kafka.api import CommitResult
from kworker.message import Partition
from kworker.runtime import drain
from kworker.runtime.executors import Threads

from .bench import AWAY, FORBIDDEN, P0, P1, Bench

RETRY5 = Partition("shop.retry.5s", 0)
RETRY60 = Partition("shop.retry.1m", 0)


def shop(retry: Retry | None = None) -> tuple[App, list[int]]:
    app, calls = App("shop"), []

    @app.handler("orders", name="charge", retry=retry or Retry(attempts=1))
    def charge(order: dict) -> None:
        calls.append(order["n"])
        if order.get("bad") and calls.count(order["n"]) == 1:
            raise ValueError("once")

    return app, calls


def value(number: int, **more: int) -> bytes:
    return b'{"n": %d%s}' % (number, b', "bad": 1' if more else b"")


def copied(bench: Bench, place: Partition, number: int, wait: float, handler: str = "charge"):
    """A copy in one of our topics that is due in so many seconds."""
    due = round((bench.clock.wall() + wait) * 1000)
    headers = {
        "kworker-message-id": f"id-{number}",
        "kworker-handler": handler,
        "kworker-hop": "1",
        "kworker-attempt": "1",
        "kworker-not-before": str(due),
        "kworker-original-topic": "orders",
    }
    pairs = tuple((name, text.encode()) for name, text in headers.items())
    return bench.broker.write(place, value(number), headers=pairs)


def test_a_message_between_two_attempts_lets_its_key_flow_and_comes_before_the_rest() -> None:
    app, calls = shop(Retry(attempts=2, wait=lambda state: 1.0))
    bench = Bench(app)
    bench.broker.write(P0, value(0, bad=1), b"k")
    bench.perform()
    bench.broker.write(P0, value(1), b"k")
    bench.perform()
    bench.turn()
    bench.broker.write(P0, value(2), b"k")
    bench.broker.write(P0, value(3), b"k")
    bench.turn()  # 2 is out on a run, 3 waits in its lane

    bench.clock.now += 1.1
    bench.turn(2)
    bench.settle()

    assert calls == [0, 1, 2, 0, 3]
    assert bench.committed() == 4


def test_a_copy_that_is_not_due_pauses_its_partition_and_others_flow() -> None:
    app, calls = shop()
    bench = Bench(app, assign=(P0, RETRY5, RETRY60))
    copied(bench, RETRY60, 1, 60)
    copied(bench, RETRY5, 2, 5)
    bench.perform()
    bench.turn()
    assert bench.consumer.paused == {RETRY5, RETRY60}

    bench.broker.write(P0, value(3))
    bench.settle()
    bench.clock.now += 5
    bench.turn(2)
    bench.settle()

    assert calls == [3, 2]
    assert bench.consumer.paused == {RETRY60}
    assert (bench.committed(RETRY5), bench.committed(RETRY60)) == (1, 0)
    bench.clock.now += 60
    bench.turn()
    bench.settle()
    assert calls == [3, 2, 1]
    assert bench.consumer.paused == set()


def test_a_due_time_from_a_clock_that_jumped_is_bounded() -> None:
    app, calls = shop()
    bench = Bench(app, assign=(RETRY5,))
    copied(bench, RETRY5, 1, 100 * 366 * 86_400.0)
    bench.perform()

    bench.clock.now += 367 * 86_400.0
    bench.turn()
    bench.settle()

    assert calls == [1]


def test_a_copy_of_an_unknown_handler_waits_and_is_dead_lettered_while_its_neighbours_flow() -> (
    None
):
    app, calls = shop()
    bench = Bench(app, assign=(RETRY5,))
    copied(bench, RETRY5, 1, -1, handler="gone")
    copied(bench, RETRY5, 2, -1)
    bench.settle()
    before = (calls.copy(), bench.sent.copy(), bench.committed(RETRY5))
    copied(bench, RETRY5, 3, -1)
    bench.settle()
    assert calls == [2, 3]

    bench.clock.now += 901
    bench.turn(2)
    bench.settle()

    assert before == ([2], [], 0)
    assert bench.facts.dead == [("unknown_handler", 0)]
    headers = dict(bench.log[-1].headers)
    assert headers["kworker-handler"] == b"gone"
    assert (headers["kworker-hop"], headers["kworker-attempt"]) == (b"2", b"1")
    assert bench.committed(RETRY5) == 3


def test_a_record_that_no_handler_is_named_in_is_dead_lettered_at_once() -> None:
    app, _ = shop()
    bench = Bench(app, assign=(RETRY5,))
    bench.broker.write(RETRY5, b"not ours")

    bench.settle()

    assert bench.facts.dead == [("unknown_handler", 0)]
    assert bench.committed(RETRY5) == 1


def test_a_full_partition_is_paused_after_the_grace_and_resumed_when_half_of_it_is_gone() -> None:
    app, _ = shop()
    bench = Bench(app, assign=(P0, P1), max_in_flight=20)
    for number in range(15):  # its half of ten, and all of the other ten
        bench.broker.write(P0, value(number))
    bench.turn()
    polls = bench.consumer.polls
    bench.turn(3)
    in_grace = (bench.consumer.polls - polls, set(bench.consumer.paused))

    bench.clock.now += 0.2
    bench.turn()
    after = set(bench.consumer.paused)
    bench.broker.write(P1, value(100))
    open_at_resume = None
    while open_at_resume is None:
        bench.executor.begin()()
        bench.turn(2)
        if not bench.consumer.paused:
            open_at_resume = bench.loop.ledgers[P0].count

    assert in_grace == (0, set())
    assert after == {P0}
    assert open_at_resume == 7
    assert bench.consumer.polls > polls + 3


def test_a_hot_partition_among_idle_ones_uses_what_they_leave_and_they_flow_all_the_same() -> None:
    app, _ = shop()
    many = [Partition("orders", index) for index in range(100)]
    bench = Bench(app, assign=many, max_in_flight=1000)
    for number in range(500):
        bench.broker.write(P0, value(number))
    bench.turn(2)
    bench.clock.now += 0.2
    bench.turn()
    paused_at_500 = set(bench.consumer.paused)

    for partition in many:
        for number in range(5):
            bench.broker.write(partition, value(number))
    bench.turn(2)
    bench.clock.now += 0.2
    bench.turn()

    assert paused_at_500 == set()
    assert bench.consumer.paused == set(many)  # each holds five, one 505: a thousand
    assert bench.open == 1000


def test_a_partition_of_duplicates_does_not_fill() -> None:
    app, _ = shop()
    bench = Bench(app, max_in_flight=4)
    for number in range(30):
        bench.broker.write(P0, value(number))
    while bench.committed() < 30:
        bench.clock.now += 0.5
        bench.settle()

    del bench.broker.committed[P0]
    bench = bench.again(max_in_flight=4)
    bench.settle()

    assert len(bench.facts.skipped) == 30
    assert (bench.committed(), bench.loop.ledgers[P0].size) == (30, 0)


# --- drain -----------------------------------------------------------------------------------


def drained(bench: Bench, *copies: Partition) -> bool:
    assert bench.loop.ends is not None
    return drain.finished(bench.consumer, bench.loop.ends, copies)


def test_a_drain_reads_nothing_beyond_the_ends_it_took_at_its_start() -> None:
    app, calls = shop()
    bench = Bench(app, ends={P0: 2}, assign=())
    for number in range(4):
        bench.broker.write(P0, value(number))
    bench.consumer.assign(P0)
    before = drained(bench)

    bench.settle()
    bench.settle()

    assert (before, drained(bench)) == (False, True)
    assert calls == [0, 1]
    assert bench.committed() == 2
    assert bench.consumer.paused == {P0}


@pytest.mark.parametrize("beyond", [False, True])
def test_a_drain_over_markers_and_over_nothing_ends(beyond: bool) -> None:
    app, calls = shop()
    bench = Bench(app, ends={P0: 2, P1: 0}, assign=())
    bench.broker.write(P0, value(0))
    bench.broker.mark(P0)
    if beyond:
        bench.broker.write(P0, value(9))
    bench.consumer.assign(P0, P1)

    bench.settle()
    bench.broker.write(P0, value(1))
    bench.broker.write(P1, value(2))
    bench.settle()

    assert calls == [0]
    assert drained(bench)
    assert (bench.committed(P0), bench.committed(P1)) == (2, 0)


def test_a_drain_waits_for_the_delays_of_its_retries() -> None:
    app, calls = shop(Retry(attempts=1, delays=["5s"]))
    bench = Bench(app, ends={P0: 1}, assign=(P0, RETRY5))
    bench.broker.write(P0, value(0, bad=1))
    bench.perform()
    (copy,) = bench.sent
    bench.broker.write(RETRY5, copy.value, copy.key, copy.headers)
    bench.settle()
    waiting = (calls.copy(), drained(bench, RETRY5))

    bench.clock.now += 5
    bench.turn()
    bench.settle()

    assert waiting == ([0], False)
    assert drained(bench, RETRY5)
    assert calls == [0, 0]


# --- stop ------------------------------------------------------------------------------------


def test_a_stop_lets_what_runs_end_drops_the_rest_and_commits() -> None:
    app, calls, started, gate = App("shop"), [], threading.Event(), threading.Event()

    @app.handler("orders", name="charge", order="none")
    def charge(order: dict) -> None:
        calls.append(order["n"])
        started.set()
        gate.wait(20)

    bench = Bench(app, executor=lambda answer, down: Threads(1, answer, down))
    for number in range(3):
        bench.broker.write(P0, value(number))
    bench.turn()
    assert started.wait(20)

    bench.loop.stop(25.0)
    bench.clock.meanwhile[30] = gate.set
    told: list[list[Any]] = []
    finished = bench.loop.run(lambda: told.append(list(bench.facts.settled)))

    assert finished
    assert told == [[]]  # once, before what runs has ended
    assert calls == [0]
    assert bench.committed() == 1
    assert bench.facts.settled == [("Done", 0)]


@pytest.mark.parametrize("stuck", ["handler", "copy", "commit"])
def test_a_stop_ends_at_its_deadline_whatever_hangs(stuck: str) -> None:
    app, _ = shop()
    bench = Bench(app)
    bench.broker.write(P0, value(0, bad=1) if stuck == "copy" else value(0))
    bench.turn()
    if stuck == "handler":
        bench.executor.begin()
    else:
        bench.executor.perform()
        bench.turn()
    if stuck == "commit":
        bench.consumer.commit = lambda points, answered: None  # type: ignore[method-assign]
    bench.clock.look = 0.05

    bench.loop.stop(25.0)
    begun = bench.clock.now
    finished = bench.loop.run()

    assert not finished
    assert 25 <= bench.clock.now - begun < 27
    assert bench.committed() == 0


def test_a_copy_refused_before_the_stop_is_sent_again_during_it() -> None:
    app, _ = shop()
    bench = Bench(app)
    bench.broker.write(P0, value(0, bad=1))
    bench.perform()
    bench.answer(AWAY)
    bench.turn()
    bench.clock.look = 0.01

    def acknowledge() -> None:
        assert bench.sent
        bench.answer()

    bench.loop.stop(25.0)
    bench.clock.meanwhile[600] = acknowledge
    finished = bench.loop.run()

    assert finished
    assert bench.committed() == 1


def test_an_error_ends_the_loop_without_another_record_or_commit() -> None:
    app, _ = shop()
    bench = Bench(app)
    bench.broker.write(P0, value(0))
    bench.turn()
    bench.executor.perform()

    bench.loop.abandon(within=1.0)
    bench.loop.hear(bench.loop.news(0))
    bench.loop.delivery.record()

    assert bench.committed() == 0
    assert bench.facts.settled == []
    assert bench.consumer.owned == set()


def test_what_is_finished_behind_a_slow_message_is_bounded_too() -> None:
    app, gate = App("shop"), threading.Event()

    @app.handler("orders", name="charge", order="none")
    def charge(order: dict) -> None:
        if order["n"] == 0:
            gate.wait(20)

    bench = Bench(app, executor=lambda answer, down: Threads(2, answer, down), max_in_flight=5)
    for number in range(3000):
        bench.broker.write(P0, value(number))

    limit = time.monotonic() + 20
    ledger = bench.loop.ledgers[P0]
    while ledger.span < 50:
        assert time.monotonic() < limit
        bench.clock.now += 0.2
        bench.turn()
    for _ in range(50):
        bench.clock.now += 0.2
        bench.turn()
    ahead, paused = ledger.span, P0 in bench.loop.paused
    gate.set()

    assert ahead < 1500  # two batches of what Kafka hands out at once
    assert paused


def test_after_an_error_the_handlers_that_still_run_are_waited_for_and_said() -> None:
    app, gate = App("shop"), threading.Event()

    @app.handler("orders", name="charge", retry=Retry(attempts=1))
    def charge(order: dict) -> None:
        gate.wait(20)

    bench = Bench(app, executor=lambda answer, down: Threads(1, answer, down))
    bench.broker.write(P0, value(0))
    bench.turn()

    at_once = bench.loop.abandon(within=0.01)
    gate.set()
    bench.clock.look = 0.0
    at_last = bench.loop.abandon(within=1.0)

    assert (at_once, at_last) == (False, True)
    assert bench.committed() == 0


def test_a_copy_that_waits_to_be_sent_again_does_not_hold_up_a_revocation() -> None:
    app = App("shop")

    @app.handler("orders", name="charge", retry=Retry(attempts=1))
    def charge(order: dict) -> None:
        raise ValueError("no")

    bench = Bench(app)
    bench.broker.write(P0)
    bench.perform()
    bench.answer(FORBIDDEN)
    bench.turn()

    begun = time.monotonic()
    bench.consumer.revoke(P0)

    assert time.monotonic() - begun < 5
    assert bench.committed() <= 0


def test_what_was_decided_under_a_former_name_is_carried_out_after_a_rename() -> None:
    calls: list[int] = []

    def shop(name: str, *aliases: str) -> App:
        app = App("shop")

        @app.handler("orders", name=name, aliases=aliases, retry=Retry(attempts=1))
        def charge(order: dict) -> None:
            calls.append(1)
            raise ValueError("no")

        return app

    bench = Bench(shop("old"))
    bench.broker.write(P0)
    bench.perform()
    broker, folder = bench.die()
    bench = Bench(shop("new", "old"), broker, folder, clock=bench.clock)
    bench.settle()

    assert calls == [1]
    assert bench.committed() == 1
    assert not bench.store.doubts


def test_a_commit_waits_for_the_answer_to_the_one_before_it() -> None:
    app = App("shop")

    @app.handler("orders", name="charge")
    def charge(order: dict) -> None: ...

    bench, asked = Bench(app), []
    bench.consumer.commit = (  # type: ignore[method-assign]
        lambda points, answered: asked.append((points, answered))
    )
    for _ in range(3):
        bench.broker.write(P0)
        bench.perform()
        bench.commit()
    early = len(asked)
    points, answered = asked[0]
    answered(CommitResult({one: point.offset for one, point in points.items()}, {}))
    bench.turn()

    assert early == 1
    assert [points[P0].offset for points, _ in asked] == [0, 3]  # the first says that it is ours
