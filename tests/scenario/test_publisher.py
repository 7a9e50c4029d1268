"""What a publisher promises, on a real Kafka."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from confluent_kafka import Consumer, TopicPartition

from kworker import App, KafkaUnavailable, PublishRejected, SettingsError, publisher
from kworker.headers import MESSAGE_ID
from kworker.publisher import Partly, Receipt


def opened(servers: str, publish_wait: float = 5.0) -> publisher.Publisher:
    return publisher.open(servers, common={}, producer={}, publish_wait=publish_wait)


def nobody() -> str:
    """An address at which nothing listens."""
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


@contextmanager
def took_at_most(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


def read(servers: str, receipt: Receipt):
    """What stands where a receipt says."""
    with closing(Consumer({"bootstrap.servers": servers, "group.id": "reader"})) as consumer:
        consumer.assign([TopicPartition(receipt.topic, receipt.partition, receipt.offset)])
        record = consumer.poll(10.0)
        assert record is not None and record.error() is None
        return record


def test_a_message_stands_where_its_receipt_says_with_key_value_headers_and_id(kafka, topic):
    orders = topic("orders")

    with opened(kafka.bootstrap_servers) as sender:
        receipt = sender.publish(orders, {"id": 1}, key="k", headers={"trace": "abc", "no": None})

    record = read(kafka.bootstrap_servers, receipt)
    assert (record.topic(), record.key(), record.value()) == (orders, b"k", b'{"id":1}')
    assert sorted(record.headers()) == sorted(
        [("trace", b"abc"), ("no", None), (MESSAGE_ID, receipt.message_id.encode())]
    )
    assert abs(receipt.timestamp - time.time()) < 60


def test_none_is_a_tombstone_and_empty_is_not(kafka, topic):
    orders = topic("orders")

    with opened(kafka.bootstrap_servers) as sender:
        gone, empty = sender.publish_many([(orders, None, b""), (orders, b"", None)])

    assert read(kafka.bootstrap_servers, gone).value() is None
    assert read(kafka.bootstrap_servers, gone).key() == b""
    assert read(kafka.bootstrap_servers, empty).value() == b""
    assert read(kafka.bootstrap_servers, empty).key() is None


def test_messages_of_one_key_are_written_in_the_order_they_were_given(kafka, topic):
    orders = topic("orders", partitions=4)

    with opened(kafka.bootstrap_servers) as sender:
        receipts = sender.publish_many(
            (orders, number, f"key-{number % 7}") for number in range(2000)
        )

    by_key: dict[int, list[Receipt]] = {}
    for number, receipt in enumerate(receipts):
        by_key.setdefault(number % 7, []).append(receipt)
    for written in by_key.values():
        assert len({one.partition for one in written}) == 1
        assert [one.offset for one in written] == sorted(one.offset for one in written)
    assert len({one.message_id for one in receipts}) == 2000


def test_a_topic_that_does_not_exist_is_rejected_and_not_waited_for(kafka):
    with (
        opened(kafka.bootstrap_servers) as sender,
        took_at_most(10),
        pytest.raises(PublishRejected, match=r"no-such-topic: .*create the topic"),
    ):
        sender.publish("no-such-topic", b"")


def test_a_name_that_kafka_refuses_is_rejected(kafka):
    with opened(kafka.bootstrap_servers) as sender, pytest.raises(PublishRejected):
        sender.publish("not a topic", b"")


def test_a_message_too_large_is_rejected_and_its_neighbours_are_written(kafka, topic):
    orders = topic("orders", partitions=1, max_message_bytes=10_000)

    noise = random.Random(1).randbytes(50_000)
    with opened(kafka.bootstrap_servers) as sender, pytest.raises(Partly) as caught:
        sender.publish_many([(orders, b"before"), (orders, noise), (orders, b"after")])

    assert list(caught.value.errors) == [1]
    assert isinstance(caught.value, PublishRejected)
    assert "max.message.bytes" in str(caught.value)
    before, _, after = caught.value.receipts
    assert read(kafka.bootstrap_servers, before).value() == b"before"
    assert read(kafka.bootstrap_servers, after).value() == b"after"


def test_where_no_broker_is_publishing_ends_after_publish_wait():
    address = nobody()

    with (
        opened(address, publish_wait=1.0) as sender,
        took_at_most(6),
        pytest.raises(KafkaUnavailable, match=rf"{address}.*may or may not"),
    ):
        sender.publish("orders", b"")


def test_a_broker_that_hangs_makes_publishing_fail_and_one_that_is_back_makes_it_work(
    own_kafka, topic
):
    cluster = own_kafka()
    orders = topic("orders", on=cluster)

    with opened(cluster.bootstrap_servers, publish_wait=2.0) as sender:
        sender.publish(orders, b"before")
        cluster.nodes[0].stop()
        try:
            with took_at_most(9), pytest.raises(KafkaUnavailable, match="may or may not"):
                sender.publish(orders, b"meanwhile")
        finally:
            cluster.nodes[0].resume()
        deadline = time.monotonic() + 30
        while True:
            try:
                receipt = sender.publish(orders, b"after")
                break
            except KafkaUnavailable:
                assert time.monotonic() < deadline

    assert read(cluster.bootstrap_servers, receipt).value() == b"after"


def test_a_thousand_awaited_at_once_are_written_and_the_loop_goes_on_turning(kafka, topic):
    orders = topic("orders", partitions=1)
    pauses: list[float] = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            pauses.append(time.monotonic() - before)

    async def scene() -> list[Receipt]:
        ticking = asyncio.create_task(tick())
        async with opened(kafka.bootstrap_servers) as sender:
            receipts = await asyncio.gather(
                *(sender.publish_async(orders, number, key="k") for number in range(1000))
            )
        ticking.cancel()
        return receipts

    receipts = asyncio.run(scene())

    assert [one.offset for one in receipts] == list(range(1000))
    assert max(pauses) < 2.0


def test_a_full_queue_holds_callers_up_and_not_the_event_loop():
    pauses: list[float] = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            pauses.append(time.monotonic() - before)

    async def scene() -> list[object]:
        narrow = publisher.open(
            nobody(), common={}, producer={"queue.buffering.max.messages": "1"}, publish_wait=1.0
        )
        ticking = asyncio.create_task(tick())
        async with narrow as sender:
            sent = (sender.publish_async("orders", number) for number in range(3))
            answers = await asyncio.gather(*sent, return_exceptions=True)
        ticking.cancel()
        return answers

    answers = asyncio.run(scene())

    assert [type(one) for one in answers] == [KafkaUnavailable] * 3
    assert max(pauses) < 0.7


def test_leaving_waits_for_what_is_under_way(kafka, topic):
    orders = topic("orders", partitions=1)

    async def scene() -> None:
        async with opened(kafka.bootstrap_servers) as sender:
            task = asyncio.create_task(sender.publish_async(orders, b"last"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(scene())

    receipt = Receipt(orders, 0, 0, None, "")
    assert read(kafka.bootstrap_servers, receipt).value() == b"last"


def test_a_forked_child_and_its_parent_both_publish_and_end(kafka, topic, tmp_path):
    orders = topic("orders", partitions=1)
    script = tmp_path / "forks.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, sys
            from kworker import publisher

            with publisher.open(sys.argv[1], common={}, producer={}) as sender:
                sender.publish(sys.argv[2], b"parent, before")
                child = os.fork()
                if child == 0:
                    sender.publish(sys.argv[2], b"child")
                    sys.exit(0)
                _, status = os.waitpid(child, 0)
                assert os.waitstatus_to_exitcode(status) == 0, status
                sender.publish(sys.argv[2], b"parent, after")
            """
        )
    )

    ended = subprocess.run(
        [sys.executable, str(script), kafka.bootstrap_servers, orders],
        timeout=60,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )

    assert ended.returncode == 0, ended.stderr
    values = [
        read(kafka.bootstrap_servers, Receipt(orders, 0, offset, None, "")).value()
        for offset in range(3)
    ]
    assert values == [b"parent, before", b"child", b"parent, after"]


def test_an_app_takes_the_address_from_where_the_operator_put_it(
    kafka, topic, monkeypatch, tmp_path
):
    orders = topic("orders")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KWORKER_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    app = App("shop", bootstrap_servers="nowhere:1")

    with app.publisher() as sender:
        assert sender.publish(orders, b"").topic == orders


def test_a_property_that_would_break_the_promise_is_refused_on_entering():
    sender = publisher.open("localhost:1", common={}, producer={"acks": "1"})

    with pytest.raises(SettingsError, match="acks"):
        sender.__enter__()


def test_declaring_an_app_does_not_load_the_client_library():
    code = "import kworker, sys; kworker.App('a'); sys.exit('confluent_kafka' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
