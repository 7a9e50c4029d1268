"""What is seen of a broker that hangs or dies and comes back."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager

import pytest

from kworker.errors import KafkaUnavailable
from kworker.kafka import connect
from kworker.kafka.api import Committed, Receipt
from kworker.message import Partition

QUICK = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "500"}


class Owner:
    def __init__(self) -> None:
        self.owned: set[Partition] = set()

    def assigned(self, partitions):
        self.owned.update(partitions)
        return dict.fromkeys(partitions, 0)

    def revoked(self, partitions):
        self.owned.difference_update(partitions)

    lost = revoked


@contextmanager
def at_most(seconds: float):
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


def turn_until(consumer, reached, seconds: float = 30.0) -> list:
    deadline, arrived = time.monotonic() + seconds, []
    while not reached(arrived):
        assert time.monotonic() < deadline, "waited in vain"
        arrived += consumer.poll(100, 0.05)
    return arrived


def test_a_broker_that_hangs_cannot_hold_up_the_end(own_kafka, topic, group):
    broken = own_kafka()
    orders = topic("orders", partitions=1, on=broken)
    cluster, owner, answers, reports = connect(broken.bootstrap_servers), Owner(), [], []
    consumer = cluster.consumer(group)
    consumer.subscribe([orders], owner)
    turn_until(consumer, lambda _: owner.owned)
    producer = cluster.producer(delivery_timeout=60.0)
    broken.nodes[0].stop()
    consumer.commit({Partition(orders, 0): Committed(0)}, answers.append)
    producer.send(orders, None, b"v", (), reports.append)

    with at_most(20.0):
        consumer.close()
    with at_most(10.0):
        producer.close(1.0)
    with at_most(5.0), pytest.raises(KafkaUnavailable, match="within 2 s"):
        cluster.ends([Partition(orders, 0)], 2.0)

    assert owner.owned == set()
    assert list(answers[0].refused) == [Partition(orders, 0)]
    assert reports[0].kind == "unavailable"
    broken.nodes[0].resume()


def test_a_broker_that_dies_and_comes_back_is_no_reason_to_raise(own_kafka, topic, group):
    broken = own_kafka()
    orders = topic("orders", partitions=1, on=broken)
    cluster, owner, reports = connect(broken.bootstrap_servers, consumer=QUICK), Owner(), []
    with closing(cluster.consumer(group)) as consumer:
        consumer.subscribe([orders], owner)
        turn_until(consumer, lambda _: owner.owned)
        with closing(cluster.producer(delivery_timeout=60.0)) as producer:
            broken.nodes[0].kill()
            producer.send(orders, None, b"v", (), reports.append)
            with pytest.raises(KafkaUnavailable, match="cannot reach Kafka"):
                cluster.admin(timeout=1.0).topics()
            while_away = consumer.poll(10, 0.5)

            broken.nodes[0].restart()
            arrived = turn_until(consumer, bool, 60.0)

    assert [getattr(trouble, "kind", "record") for trouble in while_away] in ([], ["other"])
    assert isinstance(reports[0], Receipt)
    assert arrived[0].value == b"v"
