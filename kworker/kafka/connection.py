"""One cluster, as one user sees it: makes the clients that talk to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import confluent_kafka
from confluent_kafka.admin import AdminClient

from ..message import Partition, Record
from . import reader, release
from .admin import ClusterAdmin
from .api import Admin, Committed, Consumer, Producer, Transactions
from .config import Config
from .consumer import GroupConsumer, committed, made
from .pair import PairedConsumer
from .producer import ReliableProducer
from .transactions import TransactionalProducer
from .voice import Voice


class Kafka:
    """A cluster: consumers, producers and admin calls on one set of properties.

    Nothing is connected until it is asked for. Any thread may call; what is made here has
    rules of its own. Properties that a client refuses raise SettingsError when it is made.
    """

    def __init__(self, config: Config) -> None:
        self.bootstrap_servers = config.bootstrap_servers
        self._config = config
        self._voice = Voice(config.bootstrap_servers, config.common_names)
        self._admin: tuple[int, Any] | None = None

    @property
    def longest_silence(self) -> float:
        """Seconds without a poll after which a member is thrown out of its group."""
        return self._config.longest_silence

    def quietly(self) -> AbstractContextManager[None]:
        """What clients say by themselves is not logged meanwhile, only told in errors."""
        return self._voice.quietly()

    def consumer(self, group: str, *, apart: Callable[[str], bool] | None = None) -> Consumer:
        """A member of the group; joins it when it subscribes. With `apart` it is two members:
        the topics it is true of are shared out among the group by themselves."""
        first = GroupConsumer(self._config, group, self._voice, self._cluster())
        if apart is None:
            return first
        second = GroupConsumer(self._config, group, self._voice, self._cluster(), beside=True)
        return PairedConsumer(first, second, apart)

    def producer(self, *, delivery_timeout: float | None) -> Producer:
        """A producer that gives a message up after `delivery_timeout` seconds; with None never,
        so that messages of one partition are written in the order they were sent in."""
        return ReliableProducer(self._config, delivery_timeout, self._voice)

    def transactions(self, id: str) -> Transactions:
        """Transactions under that id."""
        return TransactionalProducer(self._config, self._voice, id)

    def admin(self, timeout: float = 30.0) -> Admin:
        """Topics and cluster; what it asks is given up after `timeout` seconds."""
        return self._cluster(timeout)

    def release(self, timeout: float = 5.0) -> str | None:
        """The release of Kafka that its broker understands at least, as "4.0"; None where it
        does not show within `timeout` seconds."""
        return release.release(release.announced(self._config.admin(), timeout))

    def read(
        self,
        starts: Mapping[Partition, int | None],
        ends: Mapping[Partition, int],
        *,
        patience: float = 30.0,
    ) -> Iterator[Record]:
        """Committed records of each partition from its start (None: its beginning) to its
        end, then stops. Belongs to no group and commits nothing.

        Raises TopicsMissing, and KafkaUnavailable when nothing moves for `patience` seconds.
        """
        # Asked for all: a topic that is not there would be waited for in silence.
        firsts = self.ends(starts, patience)
        known = {
            partition: firsts[partition][0] if start is None else start
            for partition, start in starts.items()
        }
        return reader.read(self._config, self._voice, known, ends, patience)

    def follow(self, starts: Mapping[Partition, int]) -> Iterator[Record | None]:
        """Committed records of each partition from its start on, for ever; None whenever
        nothing came for a moment. Belongs to no group and commits nothing.

        Raises TopicsMissing, and KafkaUnavailable when reading is refused.
        """
        return reader.follow(self._config, self._voice, starts)

    def firsts(
        self, starts: Mapping[Partition, int], *, patience: float = 10.0
    ) -> dict[Partition, Record]:
        """The first committed record at or after each start. A partition is absent that has
        none now, or did not give it within `patience` seconds.

        Raises TopicsMissing, and KafkaUnavailable when reading is refused.
        """
        return reader.firsts(self._config, self._voice, starts, patience)

    def at(
        self, partitions: Iterable[Partition], timestamp: float, timeout: float = 30.0
    ) -> dict[Partition, int]:
        """The first offset at or after that time (seconds since the epoch), else the end.
        Raises KafkaUnavailable, and TopicsMissing for a topic that is not there."""
        return self._cluster().at(partitions, timestamp, timeout)

    def ends(
        self, partitions: Iterable[Partition], timeout: float = 30.0
    ) -> dict[Partition, tuple[int, int]]:
        """First offset and end (high watermark) of each. Raises KafkaUnavailable, and
        TopicsMissing for a topic that is not there."""
        return self._cluster().ends(partitions, timeout)

    def committed(
        self, group: str, partitions: Iterable[Partition], timeout: float = 30.0
    ) -> dict[Partition, Committed | None]:
        """Any group's positions, None where it has none, without joining it. A partition
        that did not answer in time is absent. Raises KafkaUnavailable."""
        # Through a consumer: the admin call for it has ended the process now and then.
        properties = self._config.consumer(group) | self._voice.hearing()
        client = made(confluent_kafka.Consumer, properties, self._config)
        wanted = list(partitions)
        try:
            found = committed(client, self._voice, wanted, timeout)
            if len(found) < len(wanted):
                # A refusal comes as a message only; the question itself just takes too long.
                told = client.poll(0)
                if told is not None and told.error() is not None:
                    refused = confluent_kafka.KafkaException(told.error())
                    raise self._voice.translated(refused, "tell the group's offsets") from refused
            return found
        finally:
            client.close()

    def _cluster(self, timeout: float = 30.0) -> ClusterAdmin:
        # One client for all: one that is collected fails what it was asked.
        if self._admin is None or self._admin[0] != os.getpid():
            properties = self._config.admin() | self._voice.hearing()
            self._admin = os.getpid(), made(AdminClient, properties, self._config)
        return ClusterAdmin(self._admin[1], self._voice, timeout)
