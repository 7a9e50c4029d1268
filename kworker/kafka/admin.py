"""Topics, offsets and the cluster itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import confluent_kafka.admin
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition

from ..errors import KafkaUnavailable, TopicsMissing
from ..message import Partition
from .api import Member, NewTopic, Rights, TopicInfo
from .voice import Voice, clean

# Its classes are not exported in a way that type checkers accept.
library: Any = confluent_kafka.admin

log = logging.getLogger("kworker.kafka")

T = TypeVar("T")

_SLICE = 1.0  # seconds a metadata request may take before the client's own words are heard
_REQUEST = 5.0  # seconds an admin request may take before it is sent again
_REFUSED_AFTER = 5.0  # seconds after which refused credentials are believed

_PASSING = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._WAIT_COORD,
        KafkaError._DESTROY,
        KafkaError._NOENT,
        KafkaError._IN_PROGRESS,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        # A broker that comes back knows less of its leader's epochs than the client, for a moment.
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)

_ABSENT = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)

_NOT_OFFERED = frozenset({KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION})


class ClusterAdmin:
    """Topics, offsets and cluster. Any thread; every call may block for `timeout` seconds.

    What passes by itself (a broker that restarts, a controller that moves) is asked again
    until then.
    """

    def __init__(self, client: Any, voice: Voice, timeout: float = 30.0) -> None:
        self._client = client
        self._voice = voice
        self._timeout = timeout

    def cluster_id(self) -> str:
        """The cluster's id. Raises KafkaUnavailable, with the client's last own words."""
        metadata = self._metadata("tell its cluster id")
        return metadata.cluster_id or "unknown"

    def topics(self) -> dict[str, int]:
        """All topic names with their partition counts. Raises KafkaUnavailable."""
        metadata = self._metadata("list its topics")
        return {
            name: len(topic.partitions)
            for name, topic in metadata.topics.items()
            if topic.error is None and topic.partitions
        }

    def describe(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        """Those of the topics that exist. Raises KafkaUnavailable."""
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return {}
        metadata = self._metadata("describe topics")
        known = metadata.topics
        present = [
            name
            for name in wanted
            if name in known and known[name].error is None and known[name].partitions
        ]
        full = not is_embedded(metadata.cluster_id or "")
        ids = self._ids(present) if full else {}
        configs = self._configs(present) if full else {}
        return {
            name: TopicInfo(
                name,
                ids.get(name),
                len(known[name].partitions),
                min(len(place.replicas) for place in known[name].partitions.values()),
                configs.get(name, {}),
            )
            for name in present
        }

    def create(self, topics: Iterable[NewTopic]) -> dict[str, str | None]:
        """Create topics; per name None for success (one that exists is success), else why
        not. Waits until they can be used. Raises KafkaUnavailable.

        The embedded broker offers no creation: there a topic comes to be when it is asked for
        by name, with the broker's own partition count.
        """
        wanted = {topic.name: topic for topic in topics}
        answers: dict[str, str | None] = {}
        if wanted and is_embedded(self._metadata("create topics").cluster_id or ""):
            answers = {name: self._ask_for(name) for name in wanted}
        until = time.monotonic() + self._timeout
        while missing := [topic for name, topic in wanted.items() if name not in answers]:
            retry = self._create(missing, answers)
            if not retry:
                break
            if time.monotonic() >= until:
                raise self._voice.unreachable(self._timeout) from retry
            time.sleep(0.1)
        self._wait_for([name for name, answer in answers.items() if answer is None])
        return answers

    def delete(self, names: Iterable[str]) -> None:
        """Delete topics with all that is in them; one that does not exist is success. Raises
        KafkaUnavailable. The embedded broker keeps them."""
        wanted = list(names)
        if not wanted or is_embedded(self._metadata("delete topics").cluster_id or ""):
            return

        def ask(patience: float) -> None:
            for future in self._client.delete_topics(wanted, request_timeout=patience).values():
                try:
                    future.result(patience + 5)
                except KafkaException as error:
                    if error.args[0].code() not in _ABSENT:
                        raise

        self._patiently(ask, "delete topics", self._timeout, _REQUEST)

    def members(self, group: str) -> list[Member]:
        """Who is in the group now; nobody where there is no such group, or where the broker
        does not offer to tell. Raises KafkaUnavailable."""
        if is_embedded(self._metadata("describe the group").cluster_id or ""):
            return []

        def ask(patience: float) -> list[Member]:
            answer = self._client.describe_consumer_groups([group], request_timeout=patience)
            found = answer[group].result(patience + 5)
            return [Member(one.client_id, one.host.lstrip("/")) for one in found.members]

        return self._patiently(ask, "describe the group", self._timeout, _REQUEST)

    def session(self, group: str) -> float | None:
        """Seconds after which the broker takes a member of the group for dead, where it assigns
        the partitions itself; None where it does not tell."""
        resource = library.ConfigResource(library.ResourceType.GROUP, group)
        try:
            (answer,) = self._client.describe_configs([resource], request_timeout=_REQUEST).values()
            return int(answer.result(_REQUEST + 5)["consumer.session.timeout.ms"].value) / 1000
        except (KafkaException, TimeoutError, KeyError, ValueError):
            log.debug("the session timeout of group %s is not told", group, exc_info=True)
            return None

    def rights(self, topics: Iterable[str], group: str) -> Rights | None:
        """What may be done with those of the topics that exist, with the group and with the
        cluster; None where the broker does not tell. Raises KafkaUnavailable."""
        metadata = self._metadata("tell rights")
        if is_embedded(metadata.cluster_id or ""):
            return None
        names = [name for name in topics if name in metadata.topics]

        def ask(patience: float) -> Rights:
            more = {"include_authorized_operations": True, "request_timeout": patience}
            groups = self._client.describe_consumer_groups([group], **more)
            cluster = self._client.describe_cluster(**more)
            found = {}
            if names:
                collection = confluent_kafka.TopicCollection(names)
                answers = self._client.describe_topics(collection, **more)
                found = {name: one.result(patience + 5) for name, one in answers.items()}
            return Rights(
                {name: _operations(one) for name, one in found.items()},
                _operations(groups[group].result(patience + 5)),
                _operations(cluster.result(patience + 5)),
            )

        try:
            return self._patiently(ask, "tell rights", self._timeout, _REQUEST)
        except KafkaUnavailable as error:
            if _not_offered(error):
                return None
            raise

    def newest(self, partitions: Iterable[Partition]) -> dict[Partition, float]:
        """The latest timestamp in each, in seconds since the epoch; a partition is absent that
        is empty, or whose broker does not tell. Raises KafkaUnavailable."""
        asked = {
            TopicPartition(part.topic, part.index): library.OffsetSpec.max_timestamp()
            for part in partitions
        }
        if not asked or is_embedded(self._metadata("tell timestamps").cluster_id or ""):
            return {}

        def ask(patience: float) -> dict[Partition, float]:
            answers = self._client.list_offsets(asked, request_timeout=patience)
            found = {
                Partition(place.topic, place.partition): one.result(patience + 5).timestamp
                for place, one in answers.items()
            }
            return {one: stamp / 1000 for one, stamp in found.items() if stamp > 0}

        try:
            return self._patiently(ask, "tell timestamps", self._timeout, _REQUEST)
        except KafkaUnavailable as error:
            if _not_offered(error):
                return {}
            raise

    def close(self) -> None:
        """Nothing more is asked; the client itself belongs to the connection."""

    def ends(
        self, partitions: Iterable[Partition], timeout: float
    ) -> dict[Partition, tuple[int, int]]:
        """First offset and end (high watermark) of each.

        Raises KafkaUnavailable, and TopicsMissing for a topic that is not there.
        """
        wanted = list(partitions)
        until = time.monotonic() + timeout
        first = self._offsets(wanted, library.OffsetSpec.earliest(), timeout)
        remaining = max(0.1, until - time.monotonic())
        end = self._offsets(wanted, library.OffsetSpec.latest(), remaining)
        return {partition: (first[partition], end[partition]) for partition in wanted}

    def at(
        self, partitions: Iterable[Partition], timestamp: float, timeout: float
    ) -> dict[Partition, int]:
        """The first offset at or after that time (seconds since the epoch), else the end."""
        wanted = list(partitions)
        found = self._offsets(
            wanted, library.OffsetSpec.for_timestamp(round(timestamp * 1000)), timeout
        )
        beyond = [partition for partition, offset in found.items() if offset < 0]
        return {**found, **self._offsets(beyond, library.OffsetSpec.latest(), timeout)}

    def _offsets(
        self, partitions: list[Partition], spec: Any, timeout: float
    ) -> dict[Partition, int]:
        if not partitions:
            return {}
        asked = {TopicPartition(part.topic, part.index): spec for part in partitions}

        def ask(patience: float) -> dict[Partition, int]:
            # Uncommitted: an open transaction would hide what lies behind it.
            answers = self._client.list_offsets(
                asked,
                isolation_level=IsolationLevel.READ_UNCOMMITTED,
                request_timeout=patience,
            )
            try:
                return {
                    Partition(place.topic, place.partition): future.result(patience + 5).offset
                    for place, future in answers.items()
                }
            except KafkaException as error:
                if error.args[0].code() == KafkaError._NOENT:
                    self._check_existence(partitions, patience)
                raise

        return self._patiently(ask, "tell offsets", timeout, _REQUEST)

    def _check_existence(self, partitions: list[Partition], patience: float) -> None:
        """Raises TopicsMissing: without a leader is either on its way or not there at all."""
        known = self._client.list_topics(timeout=patience).topics
        for topic, index in partitions:
            if topic not in known or index not in known[topic].partitions:
                raise TopicsMissing(f"{topic}/{index} does not exist; create the topic first")

    def _metadata(self, doing: str) -> Any:
        return self._patiently(
            lambda patience: self._client.list_topics(timeout=patience),
            doing,
            self._timeout,
            _SLICE,
        )

    def _patiently(
        self, ask: Callable[[float], T], doing: str, timeout: float, request: float
    ) -> T:
        """What `ask` answers, asked again until it does or `timeout` seconds have passed."""
        began = time.monotonic()
        while True:
            remaining = began + timeout - time.monotonic()
            try:
                return ask(max(0.1, min(request, remaining)))
            except (KafkaException, TimeoutError) as error:
                self._client.poll(0)  # hear why
                waited = time.monotonic() - began
                code = error.args[0].code() if isinstance(error, KafkaException) else None
                if code in _ABSENT:
                    raise TopicsMissing(
                        f"could not {doing}: {clean(error.args[0].str())}; create the topic first"
                    ) from error
                if code is not None and code not in _PASSING:
                    raise self._voice.translated(error, doing) from error
                if self._voice.credentials_refused and waited >= min(timeout, _REFUSED_AFTER):
                    raise self._voice.unreachable(round(waited)) from error
                if waited >= timeout:
                    raise self._voice.unreachable(timeout) from error
                time.sleep(0.05)

    def _ids(self, names: list[str]) -> dict[str, str]:
        """Topic ids as text, where the broker has them."""
        if not names:
            return {}

        def ask(patience: float) -> dict[str, str]:
            answers = self._client.describe_topics(
                confluent_kafka.TopicCollection(names), request_timeout=patience
            )
            found = {}
            for name, future in answers.items():
                identity = future.result(patience + 5).topic_id
                if identity is not None and str(identity) not in ("", _NO_ID):
                    found[name] = str(identity)
            return found

        try:
            return self._patiently(ask, "describe topics", self._timeout, _REQUEST)
        except TopicsMissing:
            return {}  # deleted between the two questions
        except KafkaUnavailable as error:
            if _not_offered(error):
                return {}
            raise

    def _configs(self, names: list[str]) -> dict[str, Mapping[str, str]]:
        """The topics' configurations, empty where they are not offered or not allowed."""
        if not names:
            return {}

        def ask(patience: float) -> dict[str, Mapping[str, str]]:
            answers = self._client.describe_configs(
                [library.ConfigResource(library.ConfigResource.Type.TOPIC, name) for name in names],
                request_timeout=patience,
            )
            found: dict[str, Mapping[str, str]] = {}
            for resource, future in answers.items():
                entries = future.result(patience + 5)
                found[resource.name] = {
                    name: entry.value for name, entry in entries.items() if entry.value is not None
                }
            return found

        try:
            return self._patiently(ask, "describe topics", self._timeout, _REQUEST)
        except TopicsMissing:
            return {}
        except KafkaUnavailable as error:
            if _not_offered(error) or _forbidden(error):
                return {}
            raise

    def _create(
        self, topics: list[NewTopic], answers: dict[str, str | None]
    ) -> KafkaException | TimeoutError | None:
        """Fills in answers; returns what is worth another try."""
        asked = [
            library.NewTopic(
                topic.name,
                num_partitions=topic.partitions,
                replication_factor=topic.replication,
                config=dict(topic.configs),
            )
            for topic in topics
        ]
        retry: KafkaException | TimeoutError | None = None
        futures = self._client.create_topics(
            asked, operation_timeout=_REQUEST, request_timeout=_REQUEST
        )
        for name, future in futures.items():
            try:
                future.result(_REQUEST + 5)
            except TimeoutError as error:
                retry = error
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.TOPIC_ALREADY_EXISTS:
                    answers[name] = None
                elif code in _PASSING:
                    retry = error
                else:
                    answers[name] = clean(error.args[0].str())
            else:
                answers[name] = None
        if retry is not None:
            self._client.poll(0)
        return retry

    def _ask_for(self, name: str) -> str | None:
        def ask(patience: float) -> None:
            topic = self._client.list_topics(name, timeout=patience).topics[name]
            if topic.error is not None:
                raise KafkaException(topic.error)

        try:
            self._patiently(ask, f"create topic {name}", self._timeout, _SLICE)
        except TopicsMissing as error:
            return str(error)
        return None

    def _wait_for(self, names: list[str]) -> None:
        """Until every partition of these has a leader that the client knows."""
        until = time.monotonic() + self._timeout
        while names:
            known = self._metadata("show new topics").topics
            names = [name for name in names if not _usable(known.get(name))]
            if names and time.monotonic() >= until:
                raise KafkaUnavailable(
                    f"topic {names[0]} was created but cannot be used after {self._timeout:g} s: "
                    "it has partitions without a leader; are all brokers running?"
                )
            if names:
                time.sleep(0.05)


_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"


def is_embedded(cluster: str) -> bool:
    """Whether a cluster of this id is librdkafka's mock: it knows no topic ids, configurations,
    creation and transactions, and lets whoever asks for them wait in vain."""
    return cluster.startswith("mockCluster")


def _usable(topic: Any) -> bool:
    return (
        topic is not None
        and topic.error is None
        and bool(topic.partitions)
        and all(place.leader >= 0 and place.error is None for place in topic.partitions.values())
    )


def _operations(described: Any) -> frozenset[str]:
    """The names of what may be done; of a group that nobody may describe, nothing."""
    return frozenset(one.name for one in described.authorized_operations or ())


def _cause(error: KafkaUnavailable) -> int | None:
    cause = error.__cause__
    return cause.args[0].code() if isinstance(cause, KafkaException) else None


def _not_offered(error: KafkaUnavailable) -> bool:
    return _cause(error) in _NOT_OFFERED


def _forbidden(error: KafkaUnavailable) -> bool:
    return _cause(error) in (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    )
