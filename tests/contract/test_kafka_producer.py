"""What a producer promises, on a real Kafka."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing

import confluent_kafka

from kworker.errors import Bug
from kworker.kafka import connect
from kworker.kafka.api import Receipt, Refusal
from kworker.message import Partition

RANDOM = random.Random(1).randbytes


def wait_for(answers: list, count: int, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while len(answers) < count:
        assert time.monotonic() < deadline, f"{len(answers)} of {count} answers"
        time.sleep(0.01)


def test_a_receipt_says_where_the_message_stands(topic, send):
    orders = topic("orders", partitions=3)

    receipt = send(orders, b"v", partition=2, timestamp=1_700_000_000.5)

    assert receipt == Receipt(orders, 2, 0, 1_700_000_000.5)


def test_a_key_goes_where_java_sends_it(topic, send):
    orders = topic("orders", partitions=4)

    where = [send(orders, b"v", key).partition for key in (b"21", b"foobar", b"kworker", b"")]

    assert where == [murmur2(key) % 4 for key in (b"21", b"foobar", b"kworker", b"")]


def test_of_a_batch_only_the_message_that_is_too_large_is_refused(cluster, topic):
    orders = topic("orders", partitions=1, **{"max.message.bytes": "100000"})
    answers: dict[int, object] = {}
    with closing(cluster.producer(delivery_timeout=20.0)) as producer:
        for number in range(10):
            value = RANDOM(300_000 if number == 4 else 100)
            producer.send(orders, b"k", value, (), lambda a, n=number: answers.setdefault(n, a))

        left = producer.flush(20.0)

    assert left == 0
    assert {n for n, answer in answers.items() if isinstance(answer, Refusal)} == {4}
    assert (answers[4].kind, answers[4].permanent) == ("too_large", True)
    assert len({answers[n].offset for n in answers if n != 4}) == 9


def test_a_message_larger_than_a_batch_is_written_where_the_topic_allows_it(topic, send):
    orders = topic("orders", partitions=1, **{"max.message.bytes": "5000000"})

    receipt = send(orders, RANDOM(3_000_000))

    assert isinstance(receipt, Receipt)


def test_an_unknown_topic_is_refused_within_publish_wait_and_an_invalid_one_at_once(send):
    begun = time.monotonic()
    invalid = send("not a topic")
    at_once = time.monotonic() - begun
    unknown = send("nobody-made-this")
    soon = time.monotonic() - begun

    assert (invalid.kind, invalid.permanent) == ("invalid", True)
    assert (unknown.kind, unknown.permanent) == ("unknown_topic", True)
    assert "nobody-made-this" in unknown.text
    assert at_once < 1.0
    assert 3.0 < soon < 5.0


def test_what_kafka_never_takes_is_refused_for_good(topic, send):
    compacted = topic("compacted", partitions=1, **{"cleanup.policy": "compact"})
    orders = topic("orders", partitions=1)

    keyless = send(compacted, b"v", None)
    future = send(orders, b"v", timestamp=time.time() + 7 * 86_400)
    nowhere = send(orders, b"v", partition=99)
    nonsense = send(orders, b"v", headers=(("a", 5),))

    answers = [keyless, future, nowhere, nonsense]
    assert [getattr(answer, "kind", answer) for answer in answers] == [
        "invalid",
        "invalid",
        "unknown_topic",
        "invalid",
    ]
    assert all(answer.permanent for answer in answers)


def test_a_wrong_address_ends_in_a_refusal_that_says_why():
    answers = []
    with closing(connect("127.0.0.1:1").producer(delivery_timeout=1.0)) as producer:
        producer.send("orders", None, b"v", (), answers.append)
        producer.flush(5.0)

    (refusal,) = answers
    assert (refusal.kind, refusal.permanent) == ("unavailable", False)
    assert "127.0.0.1:1 within 1 s" in refusal.text
    assert "refused" in refusal.text


def test_a_full_queue_makes_the_sender_wait_and_drops_nothing(kafka, topic):
    orders = topic("orders", partitions=1)
    tight = connect(
        kafka.bootstrap_servers, producer={"queue.buffering.max.messages": "10", "linger.ms": "0"}
    )
    answers: list = []

    with closing(tight.producer(delivery_timeout=20.0)) as producer:
        for _ in range(500):
            producer.send(orders, None, b"v", (), answers.append)
        producer.flush(20.0)

    assert sorted(answer.offset for answer in answers) == list(range(500))


def test_closing_answers_what_nobody_acknowledged(group):
    answers: list = []
    producer = connect("127.0.0.1:1").producer(delivery_timeout=60.0)
    for _ in range(3):
        producer.send("orders", None, b"v", (), answers.append)

    producer.close(0.1)
    producer.close(0.1)
    producer.send("orders", None, b"v", (), answers.append)

    assert [answer.kind for answer in answers] == ["unavailable"] * 4


def test_many_threads_get_each_their_own_answers_once(cluster, topic):
    orders = topic("orders", partitions=3)
    answers: dict[int, list] = {number: [] for number in range(8)}

    with closing(cluster.producer(delivery_timeout=20.0)) as producer:

        def sending(number: int) -> None:
            for _ in range(200):
                producer.send(orders, None, b"v", (), answers[number].append)

        threads = [threading.Thread(target=sending, args=(number,)) for number in answers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left = producer.flush(20.0)

    assert left == 0
    assert [len(given) for given in answers.values()] == [200] * 8
    assert len({(a.partition, a.offset) for given in answers.values() for a in given}) == 1600


def test_after_a_fatal_end_the_open_ones_are_answered_and_the_next_is_written(topic, cluster):
    orders = topic("orders", partitions=1)
    answers: list = []
    with closing(cluster.producer(delivery_timeout=20.0)) as producer:
        producer._client = Finished()

        producer.send(orders, None, b"first", (), answers.append)
        producer.send(orders, None, b"second", (), answers.append)
        wait_for(answers, 2)

    assert [answer.offset for answer in answers] == [0, 1]


def test_what_a_finished_client_held_is_unknown(topic, cluster):
    orders = topic("orders", partitions=1)
    answers: list = []
    with closing(cluster.producer(delivery_timeout=20.0)) as producer:
        holding = producer._client = Holding()
        producer.send(orders, None, b"held", (), answers.append)
        holding.finished = True

        wait_for(answers, 1)
        producer.send(orders, None, b"next", (), answers.append)
        wait_for(answers, 2)

    assert (answers[0].kind, answers[0].permanent) == ("unavailable", False)
    assert answers[1].offset == 0


def test_one_that_gives_nothing_up_hands_what_a_finished_client_held_to_the_next_in_its_order(
    topic, cluster
):
    orders = topic("orders", partitions=1)
    answers: list = []
    with closing(cluster.producer(delivery_timeout=None)) as producer:
        holding = producer._client = Holding()
        for number in range(20):
            producer.offer(orders, b"k", str(number).encode(), (), answers.append)
        holding.finished = True
        wait_for(answers, 20)

    assert [answer.offset for answer in answers] == list(range(20))
    read = cluster.read({Partition(orders, 0): None}, {Partition(orders, 0): 20})
    assert [record.value for record in read] == [str(n).encode() for n in range(20)]


def test_a_producer_says_which_cluster_it_sends_to(cluster):
    with closing(cluster.producer(delivery_timeout=None)) as producer:
        assert producer.cluster_id(10.0) == cluster.admin().cluster_id()
    with closing(connect("127.0.0.1:1").producer(delivery_timeout=None)) as producer:
        assert producer.cluster_id(0.2) is None


def test_what_was_sent_and_not_flushed_is_written_before_the_process_ends(kafka, topic, cluster):
    orders = topic("orders", partitions=1)
    program = """
        import sys
        from kworker.kafka import connect
        producer = connect(sys.argv[1]).producer(delivery_timeout=20.0)
        for _ in range(5):
            producer.send(sys.argv[2], None, b"v", (), lambda answer: None)
    """

    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), kafka.bootstrap_servers, orders],
        check=True,
        timeout=30,
    )

    where = Partition(orders, 0)
    assert cluster.ends([where], 5.0) == {where: (0, 5)}


def test_after_a_fork_the_child_is_told(cluster):
    producer = cluster.producer(delivery_timeout=5.0)
    reading, writing = os.pipe()

    child = os.fork()
    if child == 0:
        try:
            producer.send("orders", None, b"v", (), lambda answer: None)
        except Bug:
            os.write(writing, b"told")
        os._exit(0)
    os.close(writing)

    assert os.read(reading, 20) == b"told"
    os.waitpid(child, 0)
    os.close(reading)
    producer.close()


class Finished:
    """A client that has come to a fatal end, which it says only when it is given something."""

    def produce(self, *_: object, **__: object) -> None:
        raise confluent_kafka.KafkaException(
            confluent_kafka.KafkaError(confluent_kafka.KafkaError._FATAL, "on purpose", True)
        )

    def poll(self, timeout: float) -> int:
        time.sleep(min(timeout, 0.01))
        return 0

    def purge(self) -> None: ...


class Holding(Finished):
    """A client that takes a message and then comes to a fatal end, which one poll says."""

    finished = False

    def produce(self, *_: object, **__: object) -> None: ...

    def poll(self, timeout: float) -> int:
        if self.finished:
            raise SystemError("on purpose")
        return super().poll(timeout)


def murmur2(key: bytes) -> int:
    """As Java's client computes it, without the sign."""
    mixing, mask = 0x5BD1E995, 0xFFFFFFFF
    hashed = 0x9747B28C ^ len(key)
    whole = len(key) - len(key) % 4
    for at in range(0, whole, 4):
        word = int.from_bytes(key[at : at + 4], "little") * mixing & mask
        word = (word ^ word >> 24) * mixing & mask
        hashed = hashed * mixing & mask ^ word
    rest = key[whole:]
    if rest:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * mixing & mask
    hashed = (hashed ^ hashed >> 13) * mixing & mask
    return (hashed ^ hashed >> 15) & 0x7FFFFFFF
