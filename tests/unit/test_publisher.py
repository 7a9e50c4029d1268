from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable

import pytest

from kworker.errors import KafkaUnavailable, PublishRejected, UsageError
from kworker.headers import MESSAGE_ID
from kworker.kafka import api
from kworker.message import Headers
from kworker.publisher import (
    Partly,
    PartlyRejected,
    PartlyUnavailable,
    Publish,
    Publisher,
    message_id,
)

Answer = Callable[[api.Receipt | api.Refusal], None]

AWAY = api.Refusal("unavailable", "away: nobody is there", permanent=False)
TOO_LARGE = api.Refusal("too_large", "huge: it is too large", permanent=True)


class Scripted:
    """A producer that answers by topic: `away` and `huge` are refused, `silent` is not answered,
    all else is written, in the order of sending, from a thread of its own."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, bytes | None, Headers]] = []
        self.unanswered: list[Answer] = []
        self.gate = threading.Event()
        self.gate.set()
        self.overtaken = threading.Event()
        self.closed: float | None = None

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        answered: Answer,
        *,
        partition: int | None = None,
        timestamp: float | None = None,
    ) -> None:
        self.gate.wait()
        if value == b"slow":
            self.overtaken.wait(0.1)  # a client whose queue is full for a moment
        self.overtaken.set()
        offset = len(self.sent)
        self.sent.append((topic, key, value, headers))
        if topic == "silent":
            self.unanswered.append(answered)
            return
        answer = {"away": AWAY, "huge": TOO_LARGE}.get(topic) or api.Receipt(topic, 3, offset, 1.5)
        threading.Thread(target=answered, args=(answer,)).start()

    def offer(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        answered: Answer,
    ) -> bool:
        if value == b"slow" or not self.gate.is_set():
            return False
        self.send(topic, key, value, headers, answered)
        return True

    def flush(self, timeout: float) -> int:
        return 0

    def close(self, timeout: float = 10.0) -> None:
        self.closed = timeout


@pytest.fixture
def producer() -> Scripted:
    return Scripted()


@pytest.fixture
def publisher(producer: Scripted) -> Publisher:
    return Publisher(lambda: producer, wait=5.0)


@pytest.fixture
def impatient(producer: Scripted, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    monkeypatch.setattr("kworker.lines.GRACE", 0.05)
    return Publisher(lambda: producer, wait=0.05)


def test_a_receipt_says_where_the_message_was_written_and_under_which_id(producer, publisher):
    with publisher:
        receipt = publisher.publish("orders", {"id": 1}, key="k", headers={"trace": "abc"})

    ((topic, key, value, headers),) = producer.sent
    assert (topic, key, value) == ("orders", b"k", b'{"id":1}')
    assert dict(headers) == {"trace": b"abc", MESSAGE_ID: receipt.message_id.encode()}
    assert (receipt.topic, receipt.partition, receipt.offset, receipt.timestamp) == (
        "orders",
        3,
        0,
        1.5,
    )


def test_a_refused_message_raises_with_the_reason_and_the_way_out(publisher):
    with publisher, pytest.raises(PublishRejected, match=r"huge: it is too large; make"):
        publisher.publish("huge", b"")


def test_a_message_that_nobody_acknowledges_may_or_may_not_be_written_and_says_so(publisher):
    with publisher, pytest.raises(KafkaUnavailable, match=r"away: nobody.*may or may not"):
        publisher.publish("away", b"")


def test_a_client_that_never_answers_does_not_hold_the_caller(impatient):
    with impatient, pytest.raises(KafkaUnavailable, match="gave no answer"):
        impatient.publish("silent", b"")


def test_what_has_no_bytes_is_refused_before_anything_is_sent(producer, publisher):
    with publisher, pytest.raises(TypeError):
        publisher.publish("orders", object())

    assert producer.sent == []


def test_reserved_headers_are_refused(producer, publisher):
    with publisher, pytest.raises(ValueError, match="kworker-"):
        publisher.publish("orders", b"", headers={MESSAGE_ID: "mine"})

    assert producer.sent == []


def test_many_receipts_come_in_the_order_of_their_messages(publisher):
    messages = [("orders", {"id": 1}), Publish("mails", "hello", key="k"), ("orders", None)]

    with publisher:
        receipts = publisher.publish_many(messages)

    assert [(one.topic, one.offset) for one in receipts] == [
        ("orders", 0),
        ("mails", 1),
        ("orders", 2),
    ]
    assert len({one.message_id for one in receipts}) == 3


def test_of_many_one_that_fails_keeps_none_of_the_others_back(producer, publisher):
    messages = [("orders", 1), ("huge", 2), ("orders", object()), ("away", 4), ("orders", 5)]

    with publisher, pytest.raises(PartlyRejected, match=r"3 of 5 .* number 2: ") as caught:
        publisher.publish_many(messages)

    assert [topic for topic, *_ in producer.sent] == ["orders", "huge", "away", "orders"]
    assert [one is not None for one in caught.value.receipts] == [True, False, False, False, True]
    kinds = {place: type(error) for place, error in caught.value.errors.items()}
    assert kinds == {1: PublishRejected, 2: PublishRejected, 3: KafkaUnavailable}
    assert isinstance(caught.value, PublishRejected)


def test_of_many_of_which_none_was_rejected_the_error_is_that_kafka_is_away(publisher):
    with publisher, pytest.raises(PartlyUnavailable) as caught:
        publisher.publish_many([("orders", 1), ("away", 2)])

    assert isinstance(caught.value, KafkaUnavailable)
    assert caught.value.exit_code == KafkaUnavailable.exit_code


def test_of_many_those_that_are_never_answered_are_named_when_time_is_up(impatient):
    with impatient, pytest.raises(Partly) as caught:
        impatient.publish_many([("silent", 1), ("orders", 2), ("silent", 3)])

    assert set(caught.value.errors) == {0, 2}
    assert caught.value.receipts[1].topic == "orders"


def test_no_messages_make_no_receipts(publisher):
    with publisher:
        assert publisher.publish_many([]) == []


def test_an_awaited_publish_returns_its_receipt_and_raises_its_refusal(publisher):
    async def scene() -> None:
        async with publisher:
            assert (await publisher.publish_async("orders", b"")).topic == "orders"
            with pytest.raises(PublishRejected):
                await publisher.publish_async("huge", b"")
            with pytest.raises(KafkaUnavailable):
                await publisher.publish_async("away", b"")

    asyncio.run(scene())


def test_several_awaited_at_once_are_sent_in_the_order_of_the_calls(producer, publisher):
    async def scene() -> None:
        async with publisher:
            await asyncio.gather(*(publisher.publish_async("orders", one) for one in values))

    values = [b"slow", *(str(number).encode() for number in range(100))]
    asyncio.run(scene())

    assert [value for _, _, value, _ in producer.sent] == values


def test_a_full_queue_does_not_stop_the_event_loop(producer, publisher):
    async def scene() -> None:
        producer.gate.clear()
        async with publisher:
            waiting = asyncio.create_task(publisher.publish_async("orders", b""))
            for _ in range(50):
                await asyncio.sleep(0)
            assert not waiting.done()
            producer.gate.set()
            assert (await waiting).topic == "orders"

    asyncio.run(scene())


def test_an_answer_to_a_cancelled_publish_harms_nobody(producer, publisher):
    faults = []

    async def scene() -> None:
        async with publisher:
            task = asyncio.create_task(publisher.publish_async("silent", b""))
            await asyncio.sleep(0)
            await publisher.publish_async("orders", b"")  # so the first is under way
            asyncio.get_running_loop().set_exception_handler(lambda _, told: faults.append(told))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            producer.unanswered[0](AWAY)
            await asyncio.sleep(0)
            assert (await publisher.publish_async("orders", b"")).topic == "orders"

    asyncio.run(scene())

    producer.unanswered[0](AWAY)  # the loop is closed by now
    assert faults == []


def test_a_publisher_works_only_inside_its_with(producer, publisher):
    with pytest.raises(UsageError, match="not open"):
        publisher.publish("orders", b"")

    with publisher:
        publisher.publish("orders", b"")

    assert producer.closed is not None
    with pytest.raises(UsageError, match="closed"):
        publisher.publish("orders", b"")
    with pytest.raises(UsageError, match="closed"):
        publisher.__enter__()


def test_a_publisher_is_entered_once(publisher):
    with publisher, pytest.raises(UsageError, match="open already"):
        publisher.__enter__()


def test_a_publisher_that_could_not_connect_is_not_open():
    def connect() -> Scripted:
        raise KafkaUnavailable("no")

    publisher = Publisher(connect, wait=5.0)

    with pytest.raises(KafkaUnavailable):
        publisher.__enter__()

    with pytest.raises(UsageError, match="not open"):
        publisher.publish("orders", b"")


def test_ids_are_uuids_of_version_7_that_sort_by_time():
    before = time.time_ns() // 1_000_000

    ids = [message_id() for _ in range(2000)]

    after = time.time_ns() // 1_000_000
    parsed = [uuid.UUID(one) for one in ids]
    assert {(one.version, one.variant) for one in parsed} == {(7, uuid.RFC_4122)}
    assert all(before <= one.int >> 80 <= after for one in parsed)
    assert len(set(ids)) == 2000
    stamps = [one.int >> 64 for one in parsed]
    assert stamps == sorted(stamps)
