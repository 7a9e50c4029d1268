"""What the rest of kworker asks of Kafka. Nothing here knows confluent_kafka.

Seconds everywhere; offsets are plain ints; a negative librdkafka offset never leaves the room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..message import Headers, Partition, Record


@dataclass(frozen=True, slots=True)
class Committed:
    """A group's committed position: the next offset to read."""

    offset: int
    leader_epoch: int | None = None
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The answer to one commit: what was stored, what was refused and why.

    `expected` refusals come with a rebalance (the generation has moved on); the offsets are
    committed again later, by us or by whoever owns the partition then. `oversized`: some
    metadata was longer than the broker takes; other partitions may have been stored.
    """

    stored: Mapping[Partition, int]
    refused: Mapping[Partition, str]
    expected: bool = False
    oversized: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something poll() told that is not a record; never an exception by itself.

    `kind`: `lost_position` (offset out of range or log truncated: `partition` is silent until
    assigned anew), `unknown_topic`, `forbidden` (topic or group rights), `damaged` (an
    undecodable batch), `left_group` (max.poll.interval exceeded), `fatal` (the client is
    finished), `other`. `cut`: where a log was truncated, as far as the broker told.
    """

    kind: str
    text: str
    partition: Partition | None = None
    offset: int | None = None
    cut: int | None = None


class Assignments(Protocol):
    """Told, inside `Consumer.poll`, on its thread, which partitions come and go.

    Calls carry increments, never the whole assignment. Nothing raised here is lost: it comes
    out of `poll` after the client has finished its call-back.
    """

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """These are ours now. The answer says where to begin; what it leaves out is not
        fetched until `Consumer.take` is called for it."""

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """These go to another member once this returns; commits still work here."""

    def lost(self, partitions: Sequence[Partition]) -> None:
        """These are somebody else's already; nothing about them may be committed."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Positions with what proves now that a member of the group may commit them: `standing`,
    which a rebalance makes worthless. What it is only `kafka/` knows."""

    standing: Any
    positions: Mapping[Partition, Committed]


class Consumer(Protocol):
    """One member of one group. Only one thread may touch it: any call may serve call-backs."""

    @property
    def joined(self) -> bool:
        """Whether the group has told what is this member's, be it nothing."""

    def subscribe(self, topics: Iterable[str], assignments: Assignments) -> None: ...

    def poll(self, limit: int, patience: float) -> list[Record | Trouble]:
        """Up to `limit` records: waits up to `patience` seconds for the first, then takes
        what is there. Serves rebalances and commit answers meanwhile."""

    def take(self, starts: Mapping[Partition, int]) -> None:
        """Fetch these assigned partitions from these offsets: for partitions that `assigned`
        left out, and, after a lost position, to go on elsewhere."""

    def pause(self, partitions: Iterable[Partition]) -> None: ...

    def resume(self, partitions: Iterable[Partition]) -> None: ...

    def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The next offset to be fetched, past transaction markers; absent where unknown."""

    def committed(
        self, partitions: Iterable[Partition], timeout: float
    ) -> dict[Partition, Committed | None]:
        """The group's positions, None where it has none. A partition that did not answer in
        time (a pending transaction) is absent. Raises KafkaUnavailable."""

    def commit(
        self,
        positions: Mapping[Partition, Committed],
        answered: Callable[[CommitResult], None],
    ) -> None:
        """Commit without waiting; `answered` is called from a later `poll`."""

    def memberships(self, positions: Mapping[Partition, Committed]) -> list[Membership]:
        """Positions for a transaction that is begun now, by the member that each is assigned
        to; those of other partitions are left out."""

    def commit_now(self, positions: Mapping[Partition, Committed]) -> CommitResult:
        """Commit and wait. For rebalance call-backs, in which no answer is polled; it has
        no bound of its own when the broker hangs."""

    def ends(
        self, partitions: Iterable[Partition], timeout: float
    ) -> dict[Partition, tuple[int, int]]:
        """First offset and end (high watermark) of each. A partition whose topic is gone is
        absent. Raises KafkaUnavailable."""

    def offsets_at(
        self, partitions: Iterable[Partition], timestamp: float, timeout: float
    ) -> dict[Partition, int]:
        """The first offset at or after that time (seconds since the epoch), else the end."""

    def seen_ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The ends that came along with what was fetched, without asking; absent where nothing
        was fetched yet. What is paused is not fetched, so its end grows old."""

    def close(self) -> None:
        """Leave the group; serves `revoked` for what is still assigned."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a message was written, acknowledged by all in-sync replicas."""

    topic: str
    partition: int
    offset: int
    timestamp: float | None  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message was not acknowledged.

    `permanent`: sending the same bytes again will never help (`kind`: `too_large`,
    `forbidden`, `unknown_topic`, `invalid`). Otherwise (`kind`: `unavailable`) it may
    or may not have been written; sending it again may repeat it.
    """

    kind: str
    text: str
    permanent: bool


class Producer(Protocol):
    """Sends with acks=all, idempotent, murmur2. May be called from any thread."""

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        answered: Callable[[Receipt | Refusal], None],
        *,
        partition: int | None = None,
        timestamp: float | None = None,
    ) -> None:
        """Queue one message. `answered` is called exactly once, on the producer's own thread
        (or at once, for what is refused before it is queued); it must be quick and not raise.
        Blocks while the client's queue is full, for as long as Kafka takes nothing."""

    def offer(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        answered: Callable[[Receipt | Refusal], None],
    ) -> bool:
        """`send`, but where that would block: False, and the message was not taken."""

    def flush(self, timeout: float) -> int:
        """Wait until all is answered; how many are not after `timeout` seconds."""

    def cluster_id(self, timeout: float) -> str | None:
        """The cluster that it sends to; None where nobody tells within `timeout` seconds."""

    @property
    def last_words(self) -> str:
        """Why nothing is acknowledged, as far as the client knows; else ""."""

    def close(self, timeout: float = 10.0) -> None:
        """Flush, then stop; what is not answered by then is answered with a Refusal."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way to Kafka."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class Written:
    """A transaction is committed: its messages and its positions."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A transaction was aborted because of these of its messages, by their places in it. Where
    one is too large or invalid, others that went in the same batch are refused with it."""

    refusals: Mapping[int, Refusal]


@dataclass(frozen=True, slots=True)
class Undone:
    """A transaction was aborted, or will be: nothing of it is visible, ever. `expected` where a
    rebalance is the reason."""

    text: str
    expected: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """A transaction was to be committed, and nobody says whether it was; it is over by the time
    that the group's positions are told."""

    text: str


Ended = Written | Refused | Undone | Unknown


class Transactions(Protocol):
    """Transactions under one id, of which this is the only user. Only one thread at a time may
    call it."""

    def open(self) -> None:
        """Become the only user; ends what another one left open. Raises KafkaUnavailable and
        CannotGoOn."""

    def commit(self, messages: Sequence[Outgoing], members: Sequence[Membership]) -> Ended:
        """One transaction with these messages and positions; may block for a minute. Raises
        CannotGoOn when another process uses the id, KafkaUnavailable when access is refused."""

    def close(self) -> None:
        """Let go; what is open is aborted by its next user or by time."""


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as the broker describes it. `id` None where the broker offers no topic ids;
    `configs` empty where it offers no configurations."""

    name: str
    id: str | None
    partitions: int
    replication: int
    configs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic to be created."""

    name: str
    partitions: int
    replication: int
    configs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a group as its coordinator knows it."""

    client_id: str
    host: str


@dataclass(frozen=True, slots=True)
class Rights:
    """What this user may do, by the names that Kafka gives operations, as "READ"."""

    topics: Mapping[str, frozenset[str]]
    group: frozenset[str]
    cluster: frozenset[str]


class Admin(Protocol):
    """Topics and cluster. May be called from any thread; every call may block for `timeout`."""

    def cluster_id(self) -> str:
        """Raises KafkaUnavailable, with the client's last own words on why."""

    def topics(self) -> dict[str, int]:
        """All topic names with their partition counts. Raises KafkaUnavailable."""

    def describe(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        """Those of the topics that exist. Raises KafkaUnavailable."""

    def create(self, topics: Iterable[NewTopic]) -> dict[str, str | None]:
        """Create topics; per name None for success (one that exists is success), else why
        not. Waits until they can be used."""

    def delete(self, names: Iterable[str]) -> None:
        """Delete topics with all that is in them; one that does not exist is success. Raises
        KafkaUnavailable. The embedded broker keeps them."""

    def members(self, group: str) -> list[Member]:
        """Who is in the group now; nobody where there is no such group, or where the broker
        does not offer to tell. Raises KafkaUnavailable."""

    def rights(self, topics: Iterable[str], group: str) -> Rights | None:
        """What may be done with those of the topics that exist, with the group and with the
        cluster; None where the broker does not tell. Raises KafkaUnavailable."""

    def newest(self, partitions: Iterable[Partition]) -> dict[Partition, float]:
        """The latest timestamp in each, in seconds since the epoch; a partition is absent that
        is empty, or whose broker does not tell. Raises KafkaUnavailable."""

    def close(self) -> None: ...
