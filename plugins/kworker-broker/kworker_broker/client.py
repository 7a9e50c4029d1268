"""What is asked of a cluster as a client. confluent_kafka is imported when it is first used,
so that pytest, which loads every plugin, does not pay for it in runs that need no Kafka."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from .errors import BrokerFailed

_PATIENCE = 60.0  # seconds


@contextmanager
def probe(address: str) -> Iterator[Callable[[], set[int]]]:
    """A function that asks which nodes are seen from `address`; none while nobody answers."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({**_quiet(address), "reconnect.backoff.max.ms": 200}, **_SILENT)

    def seen() -> set[int]:
        try:
            return set(admin.list_topics(timeout=2).brokers)
        except KafkaException:
            return set()

    yield seen


def warm_up(address: str) -> None:
    """Have the topics made that the first group and the first transaction wait for.

    Names that end in consecutive digits fall on different partitions of those topics, so that
    no later group or transaction is the first on its partition. Raises BrokerFailed.
    """
    names = [f"warm-up-{number}" for number in range(4)]
    with ThreadPoolExecutor(2 * len(names)) as pool:
        begun = [
            pool.submit(_insist, begin, address, name)
            for begin in (_begin_group, _begin_transactions)
            for name in names
        ]
        for each in begun:
            each.result()


def create_topic(address: str, name: str, *, partitions: int, configs: Mapping[str, str]) -> None:
    """Create a topic with the brokers' own replication factor, and wait until it has leaders."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin = AdminClient(_quiet(address), **_SILENT)
    topic = NewTopic(name, num_partitions=partitions, replication_factor=-1, config=dict(configs))
    try:
        admin.create_topics([topic], request_timeout=_PATIENCE)[name].result()
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            made = admin.list_topics(name, timeout=_PATIENCE).topics[name].partitions
            if len(made) == partitions and all(p.leader >= 0 for p in made.values()):
                return
    except KafkaException as error:
        raise BrokerFailed(
            f"topic {name} could not be created on {address}: {error.args[0].str()}"
        ) from error
    raise BrokerFailed(f"topic {name} was created on {address}, but got no leaders")


def delete_topics(address: str, names: list[str]) -> None:
    """Delete topics; one that is gone already is no error."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    admin = AdminClient(_quiet(address), **_SILENT)
    for name, done in admin.delete_topics(names, request_timeout=_PATIENCE).items():
        try:
            done.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise BrokerFailed(
                    f"topic {name} could not be deleted on {address}: {error.args[0].str()}"
                ) from error


def _insist(begin: Callable[[str, str], None], address: str, name: str) -> None:
    """Try until it works: a coordinator that has just been chosen refuses for a moment."""
    from confluent_kafka import KafkaException

    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return begin(address, name)
        except KafkaException as error:
            if time.monotonic() > deadline:
                raise BrokerFailed(
                    f"Kafka at {address} does not warm up: {error.args[0].str()}"
                ) from error
        time.sleep(0.05)


def _begin_group(address: str, name: str) -> None:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({**_quiet(address), "group.id": name}, **_SILENT)
    try:
        consumer.committed([TopicPartition(name, 0)], timeout=_PATIENCE)
    finally:
        consumer.close()


def _begin_transactions(address: str, name: str) -> None:
    from confluent_kafka import Producer

    producer = Producer({**_quiet(address), "transactional.id": name}, **_SILENT)
    producer.init_transactions(_PATIENCE)


def _quiet(address: str) -> dict[str, Any]:
    # A node that is not up yet is expected here; the waiting functions raise when it stays so.
    return {"bootstrap.servers": address, "error_cb": lambda error: None}


_logger = logging.getLogger("kworker_broker.client")
_logger.addHandler(logging.NullHandler())
_logger.propagate = False
_SILENT: dict[str, Any] = {"logger": _logger}
