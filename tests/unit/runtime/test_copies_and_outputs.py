"""What leaves for Kafka on behalf of a message, and what its answers do."""

from __future__ import annotations

import pytest

from kworker import App, Context, Message, Reject, Retry, hookimpl
from kworker.stores.api import Mark

from .bench import AWAY, FORBIDDEN, P0, TOO_LARGE, Bench, Broker

NAME = "charge"


def failing(retry: Retry, error: Exception | None = None) -> App:
    app = App("shop")

    @app.handler("orders", name=NAME, retry=retry)
    def charge(order: dict) -> None:
        raise error or ValueError("no money")

    return app


def publishing(retry: Retry) -> App:
    app = App("shop")

    @app.handler("orders", name=NAME, retry=retry)
    def charge(order: dict, context: Context) -> None:
        context.publish("mails", {"n": 1})
        context.publish("bills", {"n": 2})

    return app


def test_a_message_is_settled_when_all_it_published_is_acknowledged_and_not_before() -> None:
    bench = Bench(publishing(Retry(attempts=1)))
    bench.broker.write(P0)
    bench.perform()

    bench.answer(only=0)
    bench.turn()
    after_one = (bench.open, len(bench.facts.settled))
    bench.answer()
    bench.commit()

    assert after_one == (1, 0)
    assert bench.facts.settled == [("Done", 0)]
    assert bench.committed() == 1


def test_the_answer_to_an_output_is_not_taken_for_that_of_the_copy_which_its_refusal_brought() -> (
    None
):
    bench = Bench(publishing(Retry(attempts=1)))
    bench.broker.write(P0)
    bench.perform()

    bench.answer(FORBIDDEN, only=0)
    bench.answer(only=0)  # the other output's
    bench.turn()

    (copy,) = bench.sent
    assert copy.topic == "shop.dlq"
    bench.commit()
    assert (bench.open, bench.committed()) == (1, 0)
    bench.answer(AWAY)
    bench.turn()
    bench.clock.now += 2
    bench.turn()
    assert [one.topic for one in bench.sent] == ["shop.dlq"]
    bench.answer()
    bench.commit()
    assert bench.committed() == 1


def test_a_late_answer_of_the_first_call_does_not_count_for_the_second() -> None:
    bench = Bench(publishing(Retry(attempts=2, wait=lambda state: 1.0)))
    bench.broker.write(P0)
    bench.perform()
    first_bill = bench.sent[1]

    bench.answer(FORBIDDEN, only=0)
    bench.clock.now += 1.5
    bench.turn()
    bench.clock.now += 1.5
    bench.perform()
    assert bench.sent[0] is first_bill and len(bench.sent) == 3
    bench.answer(only=0)  # of the first call
    bench.answer(only=1)  # the second bill's: the second mail is still on its way
    bench.commit()

    assert (bench.open, bench.committed()) == (1, 0)


def test_an_output_that_kafka_refuses_for_good_fails_the_handler() -> None:
    bench = Bench(publishing(Retry(attempts=1)))
    bench.broker.write(P0)
    bench.perform()

    bench.answer(TOO_LARGE)
    bench.perform()

    (copy,) = bench.sent
    headers = dict(copy.headers)
    assert copy.topic == "shop.dlq"
    assert headers["kworker-disposition"] == b"retries_exhausted"
    assert headers["kworker-error-type"] == b"kworker.errors.PublishRejected"


def test_an_output_that_kafka_cannot_take_now_is_sent_again_without_another_call() -> None:
    bench = Bench(publishing(Retry(attempts=1)))
    bench.broker.write(P0)
    bench.perform()

    bench.answer(AWAY, only=0)
    bench.answer()
    bench.turn()
    bench.clock.now += 1.5
    bench.turn()

    assert [one.topic for one in bench.sent] == ["mails"]
    assert len(bench.log) == 3
    bench.answer()
    bench.commit()
    assert bench.committed() == 1


def test_a_refused_copy_keeps_its_offset_open_is_told_and_is_sent_again_at_growing_pauses() -> None:
    bench = Bench(failing(Retry(attempts=1)))
    bench.broker.write(P0)
    bench.perform()

    pauses = []
    for _ in range(7):
        bench.answer(AWAY)
        bench.turn()
        begun = bench.clock.now
        while not bench.sent:
            bench.clock.now += 0.5
            bench.turn()
        pauses.append(round(bench.clock.now - begun))

    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert len([reason for reason in bench.facts.stuck if "no broker answers" in reason]) == 7
    assert (bench.open, bench.committed()) == (1, 0)
    bench.answer()
    bench.commit()
    assert (bench.open, bench.committed()) == (0, 1)
    assert bench.facts.dead == [("retries_exhausted", 0)]


def test_a_copy_that_nobody_acknowledges_is_told_within_twenty_seconds_and_once_a_partition() -> (
    None
):
    bench = Bench(failing(Retry(attempts=1)))
    for _ in range(5):
        bench.broker.write(P0)
    bench.perform()

    for _ in range(20):
        bench.clock.now += 1
        bench.turn()

    assert len(bench.facts.stuck) == 1
    assert "shop.dlq has not acknowledged the copy of orders/0/0" in bench.facts.stuck[0]


def test_what_is_acknowledged_leaves_no_timer_behind() -> None:
    bench = Bench(failing(Retry(attempts=1)))
    for _ in range(50):
        bench.broker.write(P0)

    bench.settle()

    assert len(bench.loop.timers) <= 1


@pytest.mark.parametrize("reference", [False, True])
def test_a_copy_too_large_drops_its_stack_trace_then_its_message_then_waits_or_becomes_a_reference(
    reference: bool,
) -> None:
    bench = Bench(failing(Retry(attempts=1)), reference=reference)
    bench.broker.write(P0, b'{"big": 1}', b"key", (("trace", b"1"),))
    bench.perform()

    shapes = []
    for _ in range(3):
        (copy,) = bench.sent
        names = [name for name, _ in copy.headers]
        shapes.append(("kworker-error-stacktrace" in names, "kworker-error-message" in names))
        bench.answer(TOO_LARGE)
        bench.turn()

    assert shapes == [(True, True), (False, True), (False, False)]
    if not reference:
        assert bench.sent == []
        assert len(bench.facts.stuck) == 1
        bench.clock.now += 1.5
        bench.turn()
    (last,) = bench.sent
    names = [name for name, _ in last.headers]
    assert (last.value, "trace" in names) == ((None, False) if reference else (b'{"big": 1}', True))
    assert dict(last.headers)["kworker-original-offset"] == b"0"
    bench.answer()
    bench.commit()
    assert bench.committed() == 1


def test_a_copy_carries_every_header_of_the_contract_once_and_as_text() -> None:
    forged = (
        ("kworker-hop", b"9"), ("kworker-hop", b"8"), ("kworker-attempt", b"7"),
        ("trace", b"\xff"), ("trace", None), ("kworker-message-id", b"order-1"),
    )  # fmt: skip
    bench = Bench(failing(Retry(attempts=1, delays=["5s"])))
    bench.broker.write(P0, b"{}", b"key", forged, timestamp=1_600_000_000.5)
    bench.perform()

    (copy,) = bench.sent
    theirs, ours = copy.headers[:2], dict(copy.headers[2:])
    assert (copy.topic, copy.key, copy.value) == ("shop.retry.5s", b"key", b"{}")
    assert theirs == (("trace", b"\xff"), ("trace", None))
    assert len(ours) == len(copy.headers) - 2
    due = float(ours.pop("kworker-not-before")) / 1000
    assert due == pytest.approx(bench.clock.wall() + 5, abs=1)
    assert ours.pop("kworker-first-failed-at").endswith(b"+00:00")
    assert len(ours.pop("kworker-error-fingerprint")) == 16
    assert ours == {
        "kworker-message-id": b"order-1",
        "kworker-handler": b"charge",
        "kworker-hop": b"1",
        "kworker-attempt": b"1",
        "kworker-original-topic": b"orders",
        "kworker-original-partition": b"0",
        "kworker-original-offset": b"0",
        "kworker-original-timestamp": b"1600000000500",
        "kworker-original-group": b"shop",
        "kworker-error-type": b"ValueError",
        "kworker-error-message": b"no money",
        "kworker-replay-count": b"0",
    }


def test_a_message_without_id_is_copied_under_its_position() -> None:
    bench = Bench(failing(Retry(attempts=1)))
    bench.broker.write(P0)

    bench.perform()

    assert dict(bench.sent[0].headers)["kworker-message-id"] == b"id-of-orders/0/0"


class Mute(Exception):
    """An error that fails once more when it is asked what it says."""

    def __str__(self) -> str:
        raise RuntimeError("and that too")


@pytest.mark.parametrize("error", [Mute(), ValueError("\ud800 \0"), Reject(), SystemExit(3)])
def test_whatever_a_handler_raises_can_be_written_on_the_copy(error: Exception) -> None:
    bench = Bench(failing(Retry(attempts=1), error))
    bench.broker.write(P0)

    bench.settle()

    assert [one.topic for one in bench.log] == ["shop.dlq"]
    assert bench.committed() == 1


def broken_wait(state: object) -> float:
    raise RuntimeError("the wait is broken")


def test_a_wait_of_the_users_that_raises_does_not_end_the_worker() -> None:
    bench = Bench(failing(Retry(attempts=2, wait=broken_wait)))
    bench.broker.write(P0)

    for _ in range(20):
        bench.perform()
        bench.clock.now += 1

    assert [one.topic for one in bench.log] == ["shop.dlq"]


def test_what_was_recorded_is_the_mark_that_its_copy_will_not_be_taken_for() -> None:
    broker = Broker()
    bench = Bench(failing(Retry(attempts=1)), broker)
    broker.write(P0, headers=(("kworker-message-id", b"order-1"),))
    bench.perform()

    before = bench.store.seen([Mark(NAME, "orders", "order-1")])
    bench.answer()
    bench.turn()

    assert before == set()
    marks = [Mark(NAME, "orders", "order-1", 0, hop) for hop in (0, 1)]
    assert bench.store.seen(marks) == {marks[0]}
    assert bench.store.attempts(marks) == {}


def test_what_the_producer_has_no_room_for_waits_and_holds_up_no_turn() -> None:
    app = App("shop")

    @app.handler("orders", name="charge")
    def charge(order: dict, ctx: Context) -> None:
        for number in range(3):
            ctx.publish("mails", {"n": number})

    bench = Bench(app)
    bench.room = 2
    bench.broker.write(P0)
    bench.perform()
    first = [one.value for one in bench.log]

    bench.answer(only=0)
    bench.turn()
    then = len(bench.log)
    bench.answer()
    bench.turn()
    bench.commit()

    assert (first, then) == ([b'{"n":0}', b'{"n":1}'], 3)
    assert [one.value for one in bench.log][2] == b'{"n":2}'
    assert bench.committed() == 1


def test_a_copy_that_waits_for_room_is_not_sent_once_its_partition_has_gone() -> None:
    app = App("shop")

    @app.handler("orders", name="charge", retry=Retry(attempts=1, delays=["5s"]))
    def charge(order: dict) -> None:
        raise ValueError("no")

    bench = Bench(app)
    bench.room = 0
    bench.broker.write(P0)
    bench.perform()

    bench.consumer.lose(P0)
    bench.room = 1
    bench.turn()

    assert bench.log == []


def test_who_is_told_of_a_dead_letter_hears_how_often_its_handler_was_called() -> None:
    told: list[tuple[str, int]] = []

    class Ear:
        @hookimpl
        def message_retrying(self, message: Message[object]) -> None:
            told.append(("again", message.attempt))

        @hookimpl
        def message_dead_lettered(self, message: Message[object]) -> None:
            told.append(("dead", message.attempt))

    app = App("shop", plugins=[Ear()])

    @app.handler("orders", name="charge", retry=Retry(attempts=3, wait=lambda state: 0.0))
    def charge(order: dict) -> None:
        raise ValueError("no")

    bench = Bench(app)
    bench.broker.write(P0)
    for _ in range(6):
        bench.settle()

    assert told == [("again", 1), ("again", 2), ("dead", 3)]
