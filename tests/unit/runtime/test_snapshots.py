"""What a worker says of itself once a second: how far behind it is, what waits and why."""

from __future__ import annotations

from typing import Any

from kworker import App, Context, Reject, Retry, Skip, hookimpl
from kworker.facts import Lag
from kworker.kafka.api import Refusal, Trouble
from kworker.message import Partition

from .bench import P0, P1, Bench

COPIES = Partition("shop.retry.5s", 0)


def shop(calls: list[int] | None = None, **options: Any) -> App:
    app = App("shop")

    @app.handler("orders", name="charge", **options)
    def charge(order: dict, context: Context) -> None:
        if calls is not None:
            calls.append(1)

    return app


def lag(bench: Bench, partition: Partition = P0) -> Lag:
    return bench.loop.snapshot().lag[partition]


def test_lag_counts_what_is_unfinished_and_what_is_not_fetched_yet() -> None:
    bench = Bench(shop(), max_in_flight=3)
    for age in (60, 50, 40):
        bench.broker.write(P0, timestamp=bench.clock.wall() - age)

    bench.turn()
    behind = lag(bench)
    bench.settle()
    done = lag(bench)

    assert (behind.position, behind.end, behind.messages) == (0, 3, 3)
    assert behind.seconds is not None
    assert 60 <= behind.seconds < 61
    assert (done.position, done.messages, done.seconds) == (3, 0, 0.0)


def test_the_age_of_the_oldest_is_known_to_a_sixteenth_of_a_batch() -> None:
    bench = Bench(shop())
    begun = bench.clock.wall()
    for number in range(160):
        bench.broker.write(P0, timestamp=begun - 160 + number)
    bench.turn()
    ledger = bench.loop.ledgers[P0]

    for offset in range(115):
        ledger.close([bench.broker.logs[P0][offset]], 1)
    told = lag(bench)

    assert told.messages == 45
    assert told.seconds is not None
    assert 45 <= told.seconds < 56


def test_what_is_paused_says_why_and_its_end_is_asked_for() -> None:
    bench = Bench(shop(), max_in_flight=3)
    for _ in range(4):
        bench.broker.write(P0)
    bench.turn(2)
    bench.clock.now += 1
    bench.turn()

    bench.loop.lags._asked = lambda: {P0: 90}
    snapshot = bench.loop.snapshot()

    assert snapshot.paused == {P0: "messages in flight, as many as it may hold: 4"}
    assert snapshot.lag[P0].messages == 90


def test_a_retry_that_waits_for_its_time_is_paused_and_not_overdue() -> None:
    calls: list[int] = []
    bench = Bench(shop(calls, retry=Retry(attempts=1, delays=["5s"])), assign=(P0, COPIES))
    due = str(round((bench.clock.wall() + 5) * 1000)).encode()
    ours = (("kworker-handler", b"charge"), ("kworker-hop", b"1"), ("kworker-not-before", due),
            ("kworker-message-id", b"a"), ("kworker-original-topic", b"orders"))  # fmt: skip
    bench.broker.write(COPIES, headers=ours, timestamp=bench.clock.wall())
    bench.turn(2)

    waiting = bench.loop.snapshot()
    bench.clock.now += 8
    overdue = lag(bench, COPIES)

    assert waiting.paused == {COPIES: "messages that are not due yet: 1"}
    assert waiting.lag[COPIES].seconds == 0.0
    assert overdue.seconds is not None
    assert 2.9 < overdue.seconds < 3.2


def test_what_was_received_is_counted_by_topic() -> None:
    bench = Bench(shop(), assign=(P0, P1))
    for partition in (P0, P0, P1):
        bench.broker.write(partition)

    bench.settle()

    snapshot = bench.loop.snapshot()
    assert snapshot.received == {"orders": 3}
    assert snapshot.handled == 3
    assert snapshot.joined
    assert snapshot.store_bytes > 0


def test_a_partition_is_stuck_until_what_held_it_up_is_done() -> None:
    app = App("shop")

    @app.handler("orders", name="charge")
    def charge(order: dict) -> None:
        raise Reject("never")

    bench = Bench(app)
    bench.broker.write(P0)
    bench.perform()
    bench.answer(Refusal("unavailable", "not enough replicas", False))
    bench.turn()
    stuck = bench.loop.snapshot().stuck
    bench.clock.now += 2
    bench.settle()

    assert list(stuck) == [P0]
    assert "not enough replicas" in stuck[P0]
    assert bench.committed() == 1
    assert bench.loop.snapshot().stuck == {}


def test_a_partition_that_cannot_be_read_is_stuck_until_it_moves_on_or_goes() -> None:
    bench = Bench(shop(), assign=(P0, P1))
    for partition in (P0, P1):
        forbidden = Trouble("forbidden", f"{partition}: not authorized", partition)
        bench.consumer.script.append(lambda trouble=forbidden: [trouble])
    bench.turn(2)
    stuck = bench.loop.snapshot().stuck

    bench.broker.write(P0)
    bench.settle()
    bench.consumer.revoke(P1)

    assert stuck == {one: f"{one}: not authorized" for one in (P0, P1)}
    assert bench.loop.snapshot().stuck == {}


class Skips:
    def __init__(self) -> None:
        self.told: list[tuple[int, str, int]] = []

    @hookimpl
    def message_skipped(self, message: Any, reason: str) -> None:
        self.told.append((message.offset, reason, message.attempt))


def test_what_a_handler_skips_is_told_like_a_duplicate_with_its_reason() -> None:
    skips = Skips()
    app = App("shop", plugins=[skips])

    @app.handler("orders", name="charge")
    def charge(order: dict) -> None:
        raise Skip("paid elsewhere")

    bench = Bench(app)
    for _ in range(2):
        bench.broker.write(P0, headers=(("kworker-message-id", b"a"),))

    bench.settle()

    assert sorted(skips.told) == [(0, "paid elsewhere", 1), (1, "duplicate", 0)]
    assert bench.facts.settled == [("Skipped", 0)]


class Dead:
    def __init__(self) -> None:
        self.attempts: list[int] = []

    @hookimpl
    def message_dead_lettered(self, message: Any) -> None:
        self.attempts.append(message.attempt)


def test_a_dead_letter_is_told_with_the_calls_that_were_made() -> None:
    dead = Dead()
    app = App("shop", plugins=[dead])

    @app.handler("orders", name="charge", retry=Retry(attempts=1))
    def charge(order: dict) -> None:
        raise ValueError

    bench = Bench(app)
    bench.broker.write(P0, b"{}")
    bench.broker.write(P0, b"no json")

    bench.settle()

    headers = [dict(one.headers) for one in bench.log]
    assert sorted(one["kworker-attempt"] for one in headers) == [b"0", b"1"]
    assert sorted(dead.attempts) == [0, 1]
