"""What the suites about Kafka share: a connection, members of groups, waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import pytest

from kworker.kafka import Kafka, connect
from kworker.kafka.api import CommitResult, Committed, Consumer, Trouble
from kworker.message import Partition, Record

QUICK = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "500"}


def until(reached: Callable[[], bool], seconds: float = 20.0, each: Callable = time.sleep) -> None:
    """Wait until it is so; a moment of `each` in between. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "waited in vain"
        each(0.01)


class Member:
    """A member of a group that remembers what it was told, and starts where it is told."""

    def __init__(self, consumer: Consumer, topics: Sequence[str], starts=None) -> None:
        self.consumer = consumer
        self.told: list[tuple[str, tuple[Partition, ...]]] = []
        self.owned: set[Partition] = set()
        self.records: list[Record] = []
        self.troubles: list[Trouble] = []
        self.starts = starts or (lambda partitions: dict.fromkeys(partitions, 0))
        self.on_revoked: Callable[[Sequence[Partition]], None] = lambda partitions: None
        consumer.subscribe(topics, self)

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        self.told.append(("assigned", tuple(partitions)))
        self.owned.update(partitions)
        return self.starts(partitions)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        self.told.append(("revoked", tuple(partitions)))
        self.on_revoked(partitions)
        self.owned.difference_update(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        self.told.append(("lost", tuple(partitions)))
        self.owned.difference_update(partitions)

    def turn(self, patience: float = 0.05) -> None:
        for arrival in self.consumer.poll(500, patience):
            if isinstance(arrival, Record):
                self.records.append(arrival)
            else:
                self.troubles.append(arrival)

    def until(self, reached: Callable[[], bool], seconds: float = 20.0) -> None:
        until(reached, seconds, lambda _: self.turn())

    def commit(self, positions: Mapping[Partition, Committed]) -> CommitResult:
        answers: list[CommitResult] = []
        self.consumer.commit(positions, answers.append)
        self.until(lambda: bool(answers))
        return answers[0]


@pytest.fixture
def cluster(kafka) -> Kafka:
    return connect(kafka.bootstrap_servers, consumer=QUICK)


@pytest.fixture
def apart() -> Callable[[str], bool] | None:
    """Which topics have a member of their own; None: there is one member for all."""
    return None


@pytest.fixture
def join(cluster, group, apart) -> Iterator[Callable[..., Member]]:
    """Joins the test's group: join(topics, starts=…) -> Member; left when the test ends."""
    with ExitStack() as stack:

        def joined(*topics: str, starts=None) -> Member:
            consumer = cluster.consumer(group, apart=apart)
            stack.callback(consumer.close)
            return Member(consumer, topics, starts)

        yield joined


@pytest.fixture
def send(cluster) -> Iterator[Callable[..., object]]:
    """Sends one message and gives its answer: send(topic, value, key=…, headers=…)."""
    producer = cluster.producer(delivery_timeout=10.0)

    def sent(topic, value=b"v", key=None, headers=(), **where):
        answers = []
        producer.send(topic, key, value, headers, answers.append, **where)
        until(lambda: bool(answers))
        return answers[0]

    yield sent
    producer.close()
