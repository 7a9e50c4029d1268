"""A process dies at each step of a message's journey; what the next one does."""

from __future__ import annotations

import pytest

from kworker import App, Context, Message, Retry
from kworker.message import Partition
from kworker.stores.api import Log, Mark

from .bench import AWAY, P0, TOO_LARGE, Bench

HOW = [(), (("kworker-message-id", b"order-1"),)]
with_and_without_id = pytest.mark.parametrize("headers", HOW, ids=["by position", "by id"])


def shop(retry: Retry | None = None) -> tuple[App, list[int]]:
    """An app whose handler notes each attempt, and fails for `{"bad": 1}`."""
    app, attempts = App("shop"), []

    @app.handler("orders", name="charge", retry=retry or Retry(attempts=1))
    def charge(order: dict, message: Message, context: Context) -> None:
        attempts.append(message.attempt)
        if order.get("mail"):
            context.publish("mails", order)
        if order.get("bad"):
            raise ValueError("bad")

    return app, attempts


@with_and_without_id
def test_before_its_handler_ended_it_is_handled_again(headers: tuple) -> None:
    app, attempts = shop()
    bench = Bench(app)
    bench.broker.write(P0, headers=headers)
    bench.turn()
    bench.executor.begin()

    bench = bench.again()
    bench.settle()

    assert attempts == [1, 1]
    assert bench.committed() == 1


@with_and_without_id
def test_after_its_handler_ended_and_before_it_is_recorded_it_is_handled_again(
    headers: tuple,
) -> None:
    app, attempts = shop()
    bench = Bench(app)
    bench.broker.write(P0, headers=headers)
    bench.turn()
    bench.executor.perform()

    bench = bench.again()
    bench.settle()

    assert attempts == [1, 1]


@with_and_without_id
def test_after_it_is_recorded_and_before_it_is_committed_it_is_skipped(headers: tuple) -> None:
    app, attempts = shop()
    bench = Bench(app)
    bench.broker.write(P0, headers=headers)
    bench.perform()
    assert bench.committed() == 0

    bench = bench.again()
    bench.settle()

    assert attempts == [1]
    assert bench.facts.skipped == [0]
    assert bench.committed() == 1


@with_and_without_id
def test_after_it_is_committed_it_does_not_even_come(headers: tuple) -> None:
    app, attempts = shop()
    bench = Bench(app)
    bench.broker.write(P0, headers=headers)
    bench.settle()

    bench = bench.again()
    bench.settle()

    assert (attempts, bench.facts.skipped, bench.committed()) == ([1], [], 1)


@with_and_without_id
def test_of_several_only_what_was_not_recorded_is_handled_again(headers: tuple) -> None:
    app, attempts = shop()
    bench = Bench(app)
    for number in range(5):
        mine = tuple((name, b"%d" % number) for name, _ in headers)
        bench.broker.write(P0, headers=mine)
    bench.turn()
    for _ in range(2):
        bench.executor.waiting.rotate(1)
        bench.executor.begin()()  # the last two
    bench.turn()

    bench = bench.again()
    bench.settle()

    assert len(attempts) == 5
    assert bench.facts.skipped == [3, 4]
    assert bench.committed() == 5


@with_and_without_id
def test_a_rewind_to_the_beginning_handles_nothing_again(headers: tuple) -> None:
    app, attempts = shop()
    bench = Bench(app)
    for number in range(5):
        mine = tuple((name, b"%d" % number) for name, _ in headers)
        bench.broker.write(P0, headers=mine)
        bench.broker.mark(P0)
        bench.settle()

    del bench.broker.committed[P0]
    bench = bench.again()
    bench.settle()

    assert len(attempts) == 5
    assert len(bench.facts.skipped) == 5
    assert bench.committed() == 10
    if not headers:  # markers between are no gaps: what is kept stays short
        assert bench.store.done("charge", Log("id-of-orders", 0)).encode() == "0-8"


# --- a message that failed ------------------------------------------------------------------

BAD = b'{"bad": 1}'


@with_and_without_id
def test_before_its_copy_is_decided_durably_it_is_handled_again(headers: tuple) -> None:
    app, attempts = shop()
    bench = Bench(app)
    bench.broker.write(P0, BAD, headers=headers)
    bench.turn()
    bench.executor.perform()
    bench.loop.hear(bench.loop.news(0))
    assert bench.sent == []

    bench = bench.again()
    bench.settle()

    assert attempts == [1, 1]
    assert [one.topic for one in bench.log] == ["shop.dlq"]


@with_and_without_id
@pytest.mark.parametrize("delays", [[], ["5s"]], ids=["dead letter", "retry"])
@pytest.mark.parametrize("acknowledged", [False, True])
def test_after_its_copy_is_decided_only_the_copy_is_sent_again_and_it_is_the_same(
    headers: tuple, delays: list[str], acknowledged: bool
) -> None:
    app, attempts = shop(Retry(attempts=1, delays=delays))
    bench = Bench(app)
    bench.broker.write(P0, BAD, b"key", headers)
    bench.perform()
    (first,) = bench.sent
    if acknowledged:
        bench.answer()  # and the process dies before it hears of it

    bench = bench.again()
    bench.settle()

    (second,) = bench.log
    assert attempts == [1]
    assert (second.topic, second.key, second.value) == (first.topic, first.key, first.value)
    assert second.headers == first.headers
    assert bench.committed() == 1
    assert bench.facts.settled == []  # a copy is no success
    assert bench.loop.snapshot().handled == 0
    marks = [Mark("charge", "orders", dict(first.headers)["kworker-message-id"].decode())]
    assert bench.store.attempts(marks) == {}


def test_a_copy_that_had_shrunk_before_the_crash_shrinks_again() -> None:
    app, attempts = shop()
    bench = Bench(app)
    bench.broker.write(P0, BAD)
    bench.perform()
    bench.answer(TOO_LARGE)
    bench.turn()

    bench = bench.again()
    bench.perform()
    bench.answer(TOO_LARGE)
    bench.settle()

    assert attempts == [1]
    assert "kworker-error-stacktrace" not in dict(bench.log[-1].headers)
    assert bench.committed() == 1


def test_a_copy_that_waits_for_kafka_is_sent_by_the_next_process() -> None:
    app, attempts = shop()
    bench = Bench(app)
    bench.broker.write(P0, BAD)
    bench.perform()
    bench.answer(AWAY)
    bench.turn()

    bench = bench.again()
    bench.settle()

    assert (attempts, len(bench.log), bench.committed()) == ([1], 1, 1)


@with_and_without_id
def test_attempts_in_the_process_go_on_where_they_were(headers: tuple) -> None:
    app, attempts = shop(Retry(attempts=3, wait=lambda state: 1.0))
    bench = Bench(app)
    bench.broker.write(P0, BAD, headers=headers)
    bench.perform()
    bench.clock.now += 1.1
    bench.perform()
    bench.perform()
    assert attempts == [1, 2]

    bench = bench.again()
    bench.settle()
    waiting = list(attempts)
    bench.clock.now += 1.1
    bench.settle()

    assert waiting == [1, 2], "its pause is not over yet"
    assert attempts == [1, 2, 3]
    assert dict(bench.log[-1].headers)["kworker-attempt"] == b"3"


def test_a_success_after_a_failed_attempt_leaves_no_attempt_behind() -> None:
    app, calls = App("shop"), []

    @app.handler("orders", name="charge", retry=Retry(attempts=2, wait=lambda state: 0.0))
    def charge(order: dict) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("once")

    bench = Bench(app)
    bench.broker.write(P0)

    bench.perform()
    bench.turn()
    bench.settle()

    assert len(calls) == 2
    assert not bench.store.doubts
    assert bench.committed() == 1


def test_what_it_published_goes_out_again_under_the_same_ids() -> None:
    app, attempts = shop()
    bench = Bench(app)
    bench.broker.write(P0, b'{"mail": 1}')
    bench.perform()
    (first,) = bench.sent

    bench = bench.again()
    bench.settle()

    (second,) = bench.log
    assert attempts == [1, 1]
    assert second.headers == first.headers


# --- a copy's own journey --------------------------------------------------------------------

RETRY5 = Partition("shop.retry.5s", 0)


def sent_on(bench: Bench, place: Partition) -> None:
    """What was sent arrives in one of our topics, as Kafka would bring it."""
    for shipment in bench.sent:
        assert shipment.topic == place.topic
        bench.broker.write(place, shipment.value, shipment.key, shipment.headers)
    bench.answer()
    bench.turn()


@pytest.mark.parametrize("twice", [False, True])
def test_a_copy_is_handled_once_when_due_even_if_its_topic_holds_it_twice(twice: bool) -> None:
    app, attempts = shop(Retry(attempts=1, delays=["5s"]))
    bench = Bench(app, assign=(P0, RETRY5))
    bench.broker.write(P0, BAD)
    bench.perform()
    if twice:
        bench.broker.write(RETRY5, BAD, headers=bench.sent[0].headers)
    sent_on(bench, RETRY5)
    bench.perform()
    assert attempts == [1]

    bench.clock.now += 5.1
    bench.settle()
    bench.settle()

    assert attempts == [1, 2]
    assert [one.topic for one in bench.log] == ["shop.retry.5s", "shop.dlq"]
    last = dict(bench.log[-1].headers)
    assert (last["kworker-hop"], last["kworker-attempt"]) == (b"2", b"2")
    assert last["kworker-original-topic"] == b"orders"
    assert (bench.committed(P0), bench.committed(RETRY5)) == (1, 1 + twice)


def test_a_replay_is_handled_although_its_message_was_settled_and_its_hops_begin_anew() -> None:
    replay = Partition("shop.replay", 0)
    app, attempts = shop(Retry(attempts=1, delays=["5s"]))
    bench = Bench(app, assign=(P0, replay))
    bench.broker.write(P0, headers=HOW[1])
    bench.settle()
    again = (
        *HOW[1], ("kworker-handler", b"charge"), ("kworker-replay-count", b"1"),
        ("kworker-original-topic", b"orders"),
    )  # fmt: skip

    bench.broker.write(replay, BAD, headers=again)
    bench.broker.write(replay, BAD, headers=again)
    bench.settle()

    assert attempts == [1, 1]
    copy = dict(bench.log[-1].headers)
    assert (copy["kworker-hop"], copy["kworker-replay-count"]) == (b"1", b"1")
    assert bench.committed(replay) == 2
