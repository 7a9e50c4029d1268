"""A member of a group: records in, positions out, rebalances told as plain calls."""

from __future__ import annotations

import logging
import operator
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from ..errors import Bug, KafkaUnavailable, TopicsMissing
from ..message import Partition, Record
from .admin import ClusterAdmin
from .api import Assignments, CommitResult, Committed, Membership, Trouble
from .config import Config
from .voice import Voice, clean

log = logging.getLogger("kworker.kafka")

SESSION = 45.0  # seconds: the broker's own default
EXPIRY = 3.0  # seconds within which it notices that a session has ended
AGAIN = 1.0  # seconds between two tries to join

Answered = Callable[[CommitResult], None]

# Asked in this way because of header names that are not UTF-8: the client then gives a broken
# list together with an exception. A direct call, once the interpreter has specialised it,
# does not look for the exception, and the list ends the process.
_headers = operator.methodcaller("headers")

_DAMAGE = "the headers cannot be read: a header's name is not UTF-8"

# Refusals that come with a rebalance; the offsets are committed again by whoever owns them.
_EXPECTED = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
    }
)

_OVERSIZED = KafkaError.OFFSET_METADATA_TOO_LARGE

# Where a log was cut stands in the client's words alone.
_CUT = re.compile(r"truncation detected at .*: broker end offset is (\d+)")

_TROUBLES = {
    KafkaError._AUTO_OFFSET_RESET: "lost_position",
    KafkaError._LOG_TRUNCATION: "lost_position",
    KafkaError.OFFSET_OUT_OF_RANGE: "lost_position",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "unknown_topic",
    KafkaError._UNKNOWN_TOPIC: "unknown_topic",
    KafkaError._UNKNOWN_PARTITION: "unknown_topic",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "forbidden",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "forbidden",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "forbidden",
    KafkaError._BAD_MSG: "damaged",
    KafkaError._BAD_COMPRESSION: "damaged",
    KafkaError.INVALID_MSG: "damaged",
    KafkaError._MAX_POLL_EXCEEDED: "left_group",
    KafkaError._FATAL: "fatal",
    KafkaError._FENCED: "fatal",
    KafkaError.FENCED_INSTANCE_ID: "fatal",
    KafkaError.UNRELEASED_INSTANCE_ID: "fatal",
}


class GroupConsumer:
    """One member of one group. Only the thread that polls may touch it.

    What a call-back raises is kept and raised by the next `poll`, so the records that the
    client had already handed out are never lost with it. Whether a partition is paused
    belongs to its assignment: a partition that comes back is not paused.
    """

    def __init__(
        self,
        config: Config,
        group: str,
        voice: Voice,
        admin: ClusterAdmin,
        *,
        beside: bool = False,
    ) -> None:
        self.group = group
        self.joined = False  # whether the group has told what is ours, be it nothing
        self._voice = voice
        self._admin = admin
        self._pid = os.getpid()
        self._assignments: Assignments | None = None
        self._owned: set[Partition] = set()
        self._taken: set[Partition] = set()
        self._stands: dict[Partition, int] = {}  # of what nothing was delivered from since
        self._paused: set[Partition] = set()
        self._revoked_meanwhile: set[Partition] = set()
        self._epochs: dict[Partition, tuple[int, int]] = {}
        self._disturbed = False  # a rebalance pauses and resumes everything in the client
        self._astray = False  # the client stands behind messages that it has destroyed
        self._raised: BaseException | None = None
        self._fatal: str | None = None
        self._unanswered: dict[frozenset[tuple[str, int, int]], deque[Answered]] = {}
        self._answers: list[tuple[Answered, CommitResult]] = []
        self._closing: tuple[threading.Thread, float] | None = None
        self._closed = False
        self._static = config.static
        properties = config.beside(group) if beside else config.member(group)
        properties |= voice.hearing(self._hear_fatal)
        properties["on_commit"] = self._hear_commit
        self._new_client = partial(made, confluent_kafka.Consumer, properties, config)
        self._client = self._new_client()
        self._topics: list[str] = []
        self._wait_until: float | None = None  # for a predecessor under our instance id
        self._join_at: float | None = None  # when to join again

    def subscribe(self, topics: Iterable[str], assignments: Assignments) -> None:
        """Join the group for these topics; another call replaces them, and none leaves it."""
        self._assignments = assignments
        self._topics = wanted = list(topics)
        try:
            if not wanted:
                self._client.unsubscribe()
                return
            self._client.subscribe(
                wanted,
                on_assign=self._hear_assigned,
                on_revoke=self._hear_revoked,
                on_lost=self._hear_lost,
            )
        except KafkaException as error:
            raise self._voice.translated(error, "subscribe") from error

    def poll(self, limit: int, patience: float) -> list[Record | Trouble]:
        """Up to `limit` records: waits up to `patience` seconds for the first, then takes
        what is there. Serves rebalances and commit answers meanwhile.

        What a call-back raised is raised by the call after the one that served it, at once
        and before anything is taken.
        """
        self.check()
        return self.gather(limit, patience)

    def check(self) -> None:
        """Raise what a call-back raised, and Bug in a process that it was forked into."""
        if self._pid != os.getpid():
            raise Bug("a Kafka consumer does not survive a fork; connect in the child process")
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised

    def gather(self, limit: int, patience: float) -> list[Record | Trouble]:
        """`poll`, but for what it raises: that is kept for the next `check`."""
        self._revoked_meanwhile.clear()
        if self._join_at is not None:
            if (pause := self._join_at - time.monotonic()) > 0:
                time.sleep(min(patience, pause))
                return []
            self._guard(self._join_again)
        messages: list[Any] = []
        try:
            first = self._client.poll(patience)
            if first is not None:
                messages.append(first)
                if limit > 1:
                    # Waiting for the first and then taking what is there costs 2 ms of
                    # latency where waiting for a full batch costs all of its patience.
                    more = self._client.consume(limit - 1, 0)
                    if self._revoked_meanwhile:
                        messages = [
                            message
                            for message in messages
                            if _partition(message) not in self._revoked_meanwhile
                        ]
                        more = [message for message in more if _partition(message) in self._taken]
                    messages += more
        except (KafkaException, SystemError, RuntimeError) as error:
            self._astray = True
            self._keep(self._voice.translated(error, "poll"), error)
        if self._disturbed:
            # Not in the call-back, where what was taken with it is not yet counted.
            self._disturbed = False
            self._wake([part for part in self._taken if part not in self._paused])
        self._deliver_answers()
        arrivals = received(messages)
        if self._fatal is not None:
            arrivals.append(Trouble("fatal", self._fatal))
            self._fatal = None
        if self._static and not self.joined and any(map(_is_about_our_name, arrivals)):
            return self._after_predecessor(arrivals)
        return arrivals

    def _after_predecessor(self, arrivals: list[Record | Trouble]) -> list[Record | Trouble]:
        """The group still has a member under our instance id. One that was killed stays there
        until its session has ended; only who is there longer is alive."""
        now = time.monotonic()
        if self._wait_until is None:
            session = self._admin.session(self.group) or SESSION
            self._wait_until = now + session + EXPIRY
            log.warning(
                "the session of whoever was in the group under the same instance_id may not have "
                "ended yet; joining again for up to %.3g s", session + EXPIRY,
            )  # fmt: skip
        if now > self._wait_until:
            return arrivals
        self._close_client()  # it has come to a fatal end
        self._client = self._new_client()
        self._join_at = now + AGAIN
        return []

    def _join_again(self) -> None:
        self._join_at = None
        if self._assignments is not None:
            self.subscribe(self._topics, self._assignments)

    def take(self, starts: Mapping[Partition, int]) -> None:
        """Fetch these assigned partitions from these offsets: for partitions that `assigned`
        left out, and, after a lost position, to go on elsewhere."""
        foreign = [str(partition) for partition in starts if partition not in self._owned]
        if foreign:
            raise Bug(f"{', '.join(foreign)} cannot be taken: not assigned to this consumer")
        self._take(starts)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Take nothing from these until they are resumed; what was fetched waits."""
        wanted = [partition for partition in partitions if partition in self._owned]
        self._paused.update(wanted)
        self._switch(self._client.pause, wanted)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Go on with these where they were paused."""
        wanted = [partition for partition in partitions if partition in self._owned]
        self._paused.difference_update(wanted)
        self._switch(self._client.resume, wanted)
        self._wake([partition for partition in wanted if partition in self._taken])

    def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The next offset to be fetched, past transaction markers; absent where unknown, as
        after an exception out of the client: messages may have gone with it."""
        if self._astray:
            return {}
        try:
            found = self._client.position([_asked(partition) for partition in partitions])
        except KafkaException as error:
            raise self._voice.translated(error, "tell positions") from error
        places = [(_partition_of(place), place.offset) for place in found if place.error is None]
        stands = {
            partition: offset if offset >= 0 else self._stands.get(partition, -1)
            for partition, offset in places
        }
        return {partition: offset for partition, offset in stands.items() if offset >= 0}

    def committed(
        self, partitions: Iterable[Partition], timeout: float
    ) -> dict[Partition, Committed | None]:
        """The group's positions, None where it has none. A partition that did not answer in
        time (a pending transaction) is absent. Raises KafkaUnavailable."""
        found = committed(self._client, self._voice, list(partitions), timeout)
        for partition, position in found.items():
            if position is not None and position.leader_epoch is not None:
                self._epochs[partition] = (position.offset, position.leader_epoch)
        return found

    def commit(self, positions: Mapping[Partition, Committed], answered: Answered) -> None:
        """Commit without waiting; `answered` is called from a later `poll`, or by `close`."""
        offsets = commits(positions)
        if not offsets:
            self._answers.append((answered, CommitResult({}, {})))
            return
        content = _content(offsets)
        self._unanswered.setdefault(content, deque()).append(answered)
        try:
            self._client.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._unanswered[content].pop()
            self._answers.append((answered, _all_refused(positions, error.args[0])))

    def commit_now(self, positions: Mapping[Partition, Committed]) -> CommitResult:
        """Commit and wait. For rebalance call-backs, in which no answer is polled; it has
        no bound of its own when the broker hangs."""
        offsets = commits(positions)
        if not offsets:
            return CommitResult({}, {})
        try:
            return _result(None, self._client.commit(offsets=offsets, asynchronous=False))
        except KafkaException as error:
            return _all_refused(positions, error.args[0])

    def memberships(self, positions: Mapping[Partition, Committed]) -> list[Membership]:
        """Positions for a transaction that is begun now; those of partitions that are not
        assigned are left out, for the broker checks the member's generation alone."""
        own = {part: point for part, point in positions.items() if part in self._owned}
        if not own or not self._client.memberid():
            return []  # what proves nothing would be accepted
        return [Membership(self._client.consumer_group_metadata(), own)]

    def ends(
        self, partitions: Iterable[Partition], timeout: float
    ) -> dict[Partition, tuple[int, int]]:
        """First offset and end (high watermark) of each. A partition whose topic is gone is
        absent. Raises KafkaUnavailable."""
        wanted = list(partitions)
        try:
            return self._admin.ends(wanted, timeout)
        except TopicsMissing:
            known = self._admin.topics()
            there = [part for part in wanted if part.index < known.get(part.topic, 0)]
            return self._admin.ends(there, timeout) if len(there) < len(wanted) else {}

    def offsets_at(
        self, partitions: Iterable[Partition], timestamp: float, timeout: float
    ) -> dict[Partition, int]:
        """The first offset at or after that time (seconds since the epoch), else the end."""
        return self._admin.at(partitions, timestamp, timeout)

    def seen_ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The ends that came along with what was fetched; see `Consumer.seen_ends`."""
        found: dict[Partition, int] = {}
        for partition in partitions:
            try:
                _, end = self._client.get_watermark_offsets(_asked(partition), cached=True)
            except KafkaException:  # nothing is known of it
                continue
            if end >= 0:
                found[partition] = end
        return found

    def close(self) -> None:
        """Leave the group; serves `revoked` for what is still assigned, on this thread.

        Takes at most some seconds more than `revoked` does: a client that waits for a
        broker that hangs is left behind on a thread of its own. Commits without an answer
        are answered as refused. Raises what a call-back raised.
        """
        self.begin_close()
        self.end_close()

    def begin_close(self) -> None:
        """The part of `close` that serves `revoked`; the client ends behind it."""
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        try:
            if self._static:
                self._stand_down()
            else:
                self._leave(5.0)
        except (KafkaException, SystemError, RuntimeError):
            log.debug("the Kafka consumer could not unsubscribe", exc_info=True)
        closing = threading.Thread(target=self._close_client, name="kworker-close", daemon=True)
        closing.start()
        self._closing = closing, time.monotonic() + 10.0

    def end_close(self) -> None:
        """The part of `close` that waits, answers and raises."""
        if self._closing is None:
            return
        (closing, until), self._closing = self._closing, None
        closing.join(max(0.0, until - time.monotonic()))
        if closing.is_alive():
            log.warning("the Kafka consumer could not leave its group within 10 s; left behind")
        for content, waiting in self._unanswered.items():
            refused = {Partition(topic, index): "closed" for topic, index, _ in content}
            self._answers += [(answered, CommitResult({}, refused)) for answered in waiting]
        self._unanswered.clear()
        self._deliver_answers()
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised

    def _leave(self, patience: float) -> None:
        """Give everything back while call-backs still come on the owner's thread."""
        self._client.unsubscribe()
        until = time.monotonic() + patience
        while self._owned and time.monotonic() < until:
            # Records that come now are nobody's any more; nothing commits them.
            self._client.poll(0.05)
        self._deliver_answers()

    def _stand_down(self) -> None:
        """Give everything back without leaving: the group keeps it for whoever comes back
        under the same instance id."""
        partitions = sorted(self._owned)
        if partitions:
            self._hear_revoked(None, [_asked(partition) for partition in partitions])
        self._assignments = None
        self._deliver_answers()

    def _close_client(self) -> None:
        try:
            self._client.close()
        except Exception:
            log.debug("the Kafka consumer failed while it closed", exc_info=True)

    # Call-backs: inside the client's poll, where nothing may be raised: it would destroy the
    # messages that the client has already taken off its queue.

    def _hear_assigned(self, _: Any, given: list[Any]) -> None:
        partitions = [_partition_of(place) for place in given]
        self.joined = self._disturbed = True
        self._owned.update(partitions)
        self._taken.difference_update(partitions)
        self._paused.difference_update(partitions)
        self._guard(self._begin, partitions)
        # Without any such call the client would take everything, from where it likes.
        self._guard(self._client.incremental_assign, [])

    def _hear_revoked(self, _: Any, given: list[Any]) -> None:
        partitions = [_partition_of(place) for place in given]
        if partitions and self._assignments is not None:
            self._guard(self._assignments.revoked, partitions)
        self._guard(self._give_back, partitions)

    def _hear_lost(self, _: Any, given: list[Any]) -> None:
        partitions = [_partition_of(place) for place in given]
        if partitions and self._assignments is not None:
            self._guard(self._assignments.lost, partitions)
        self._guard(self._give_back, partitions)

    def _hear_commit(self, error: KafkaError | None, places: list[Any]) -> None:
        self._guard(self._match, error, places)

    def _hear_fatal(self, text: str) -> None:
        self._fatal = _explained(text)

    def _guard(self, act: Callable[..., object], *given: Any) -> None:
        """Do it; what it raises comes out of the next `poll`."""
        try:
            act(*given)
        except BaseException as error:  # noqa: BLE001 - raised again where it can do no harm
            self._keep(error)

    def _keep(self, raised: BaseException, cause: BaseException | None = None) -> None:
        if cause is not None:
            raised.__cause__ = cause
        if self._raised is None:
            self._raised = raised
        else:
            log.error("a second failure while the first one waits", exc_info=raised)

    def _begin(self, partitions: list[Partition]) -> None:
        if partitions and self._assignments is not None:
            starts = self._assignments.assigned(partitions)
            self._take({part: at for part, at in starts.items() if part in self._owned})

    def _give_back(self, partitions: list[Partition]) -> None:
        self._disturbed = True
        held = [_asked(partition) for partition in partitions if partition in self._taken]
        self._owned.difference_update(partitions)
        self._taken.difference_update(partitions)
        self._paused.difference_update(partitions)
        self._revoked_meanwhile.update(partitions)
        for partition in partitions:
            self._epochs.pop(partition, None)
            self._stands.pop(partition, None)
        self._client.incremental_unassign(held)

    def _match(self, error: KafkaError | None, places: list[Any]) -> None:
        """Find whose commit it is that was answered: the client does not say."""
        content = _content(places)
        waiting = self._unanswered.get(content)
        if not waiting:
            return
        self._answers.append((waiting.popleft(), _result(error, places)))
        if not waiting:
            del self._unanswered[content]

    def _take(self, starts: Mapping[Partition, int]) -> None:
        if not starts:
            return
        below = [str(partition) for partition, offset in starts.items() if offset < 0]
        if below:
            raise Bug(f"{', '.join(below)} cannot be taken from a negative offset")
        again = [_asked(partition) for partition in starts if partition in self._taken]
        try:
            if again:
                self._client.incremental_unassign(again)
                self._taken.difference_update(map(_partition_of, again))
            self._client.incremental_assign(
                [self._place(partition, offset) for partition, offset in starts.items()]
            )
        except KafkaException as error:
            raise self._voice.translated(error, "take partitions") from error
        self._taken.update(starts)
        self._stands.update(starts)
        # A pause outlives the assignment inside the client; ours does not.
        self._switch(self._client.resume, [part for part in starts if part not in self._paused])
        self._switch(self._client.pause, [part for part in starts if part in self._paused])

    def _place(self, partition: Partition, offset: int) -> Any:
        known = self._epochs.get(partition)
        if known is not None and known[0] == offset:
            # With its epoch the broker can tell that the log was truncated below it.
            return _at(partition, offset, known[1])
        return _at(partition, offset)

    def _switch(self, switch: Callable[[list[Any]], None], partitions: list[Partition]) -> None:
        if not partitions:
            return
        try:
            switch([_asked(partition) for partition in partitions])
        except KafkaException as error:
            raise self._voice.translated(error, "pause or resume") from error

    def _wake(self, partitions: list[Partition]) -> None:
        """Have partitions that were paused fetched now, from where they stand: the client
        itself does so when it next wakes, up to a second later where it has nothing else to
        fetch from that broker."""
        for partition, offset in self.positions(partitions).items():
            try:
                self._client.seek(_at(partition, offset))
            except KafkaException:
                log.debug("%s is fetched later", partition, exc_info=True)
            else:
                self._stands[partition] = offset  # the client knows no position after that

    def _deliver_answers(self) -> None:
        while self._answers:
            answers, self._answers = self._answers, []
            for answered, result in answers:
                self._guard(answered, result)


def made(kind: Callable[[dict[str, Any]], Any], properties: dict[str, Any], config: Config) -> Any:
    """A client of that kind. Raises SettingsError for properties that it refuses."""
    try:
        return kind(properties)
    except KafkaException as error:
        if error.args[0].code() != KafkaError._INVALID_ARG:
            raise KafkaUnavailable(f"no Kafka client: {clean(error.args[0].str())}") from error
        # Not "from error": the client's words may hold the value of a property.
        raise config.refused(error.args[0].str()) from None
    except (TypeError, ValueError) as error:
        raise config.refused(str(error)) from None


def received(messages: list[Any]) -> list[Record | Trouble]:
    """The client's messages as ours: one tight pass, for this is done for every record."""
    arrivals: list[Record | Trouble] = []
    append = arrivals.append
    for message in messages:
        error = message.error()
        if error is not None:
            append(_trouble(message, error))
            continue
        kind, stamp = message.timestamp()
        epoch = message.leader_epoch()
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        key, value = message.key(), message.value()
        try:
            # Once and last: after it has failed, touching the message again can end
            # the process.
            headers = _headers(message)
        except Exception:  # noqa: BLE001 - SystemError as a rule, whatever it is: damage
            append(
                Record(
                    topic, partition, offset, key, value, (),
                    stamp / 1000 if kind else None, epoch, _DAMAGE,
                )
            )  # fmt: skip
            continue
        append(
            Record(
                topic, partition, offset, key, value, tuple(headers) if headers else (),
                stamp / 1000 if kind else None, epoch,
            )
        )  # fmt: skip
    return arrivals


def committed(
    client: Any, voice: Voice, partitions: list[Partition], timeout: float
) -> dict[Partition, Committed | None]:
    """A group's positions, asked of one of its consumers; see `Consumer.committed`."""
    if not partitions:
        return {}
    until = time.monotonic() + timeout
    asked = [partitions]
    patience = timeout if len(partitions) == 1 else timeout / 2
    found: dict[Partition, Committed | None] = {}
    unanswered: KafkaException | None = None
    while asked:
        some = asked.pop(0)
        try:
            places = client.committed([_asked(part) for part in some], timeout=patience)
        except KafkaException as error:
            if error.args[0].code() not in (KafkaError._TIMED_OUT, KafkaError._WAIT_COORD):
                raise voice.translated(error, "tell the group's offsets", timeout) from error
            unanswered = error
            # One pending transaction holds up the answer for all: ask one by one.
            asked += [[partition] for partition in some] if len(some) > 1 else []
        else:
            for place in places:
                if place.error is None:
                    found[_partition_of(place)] = _committed(place)
        patience = max(0.1, (until - time.monotonic()) / max(1, len(asked)))
    if unanswered is not None and not found:
        try:
            client.list_topics(partitions[0].topic, timeout=max(1.0, timeout / 4))
        except KafkaException:
            raise voice.unreachable(timeout) from unanswered
    return found


def _committed(place: Any) -> Committed | None:
    if place.offset < 0:
        return None
    return Committed(place.offset, place.leader_epoch, place.metadata or "")


def _asked(partition: Partition) -> Any:
    return TopicPartition(partition.topic, partition.index)


def _partition(message: Any) -> Partition:
    return Partition(message.topic(), message.partition())


def _partition_of(place: Any) -> Partition:
    return Partition(place.topic, place.partition)


def _content(places: Iterable[Any]) -> frozenset[tuple[str, int, int]]:
    return frozenset((place.topic, place.partition, place.offset) for place in places)


def commits(positions: Mapping[Partition, Committed]) -> list[Any]:
    """As the client takes them; a negative offset would fail the whole commit."""
    return [
        _at(partition, position.offset, position.leader_epoch, position.metadata)
        for partition, position in positions.items()
        if position.offset >= 0
    ]


def _at(partition: Partition, offset: int, epoch: int | None = None, metadata: str = "") -> Any:
    if epoch is None:
        return TopicPartition(partition.topic, partition.index, offset, metadata)
    return TopicPartition(partition.topic, partition.index, offset, metadata, epoch)


def _result(error: KafkaError | None, places: Iterable[Any]) -> CommitResult:
    stored: dict[Partition, int] = {}
    refused: dict[Partition, str] = {}
    codes = set()
    places = list(places)
    alone = error is not None and all(place.error is None for place in places)
    for place in places:
        own = error if alone else place.error
        if own is None:
            stored[_partition_of(place)] = place.offset
        else:
            refused[_partition_of(place)] = clean(own.str())
            codes.add(own.code())
    expected = bool(codes) and codes <= _EXPECTED
    return CommitResult(stored, refused, expected, _OVERSIZED in codes)


def _all_refused(positions: Mapping[Partition, Committed], error: KafkaError) -> CommitResult:
    """One bad partition fails the whole answer, whatever was stored: it is unknown, and
    committed again."""
    text = clean(error.str())
    return CommitResult(
        {}, dict.fromkeys(positions, text), error.code() in _EXPECTED, error.code() == _OVERSIZED
    )


def _is_about_our_name(arrival: Record | Trouble) -> bool:
    return (
        isinstance(arrival, Trouble)
        and arrival.kind == "fatal"
        and "instance ID is still used" in arrival.text
    )


def _explained(text: str) -> str:
    """The client's last words, with what to do where they are about static membership."""
    if re.search(r"instance[. ]id", text, re.I):
        return (
            "another process is in the group under the same instance_id: give each its own "
            f"({text})"
        )
    return text


def _trouble(message: Any, error: KafkaError) -> Trouble:
    code = error.code()
    kind = "fatal" if error.fatal() else _TROUBLES.get(code, "other")
    topic, index, offset = message.topic(), message.partition(), message.offset()
    partition = None if topic is None or index is None or index < 0 else Partition(topic, index)
    text = _explained(clean(error.str())) if kind == "fatal" else clean(error.str())
    if topic is not None and topic not in text:
        text = f"{partition or topic}: {text}"
    cut = _CUT.search(text) if kind == "lost_position" else None
    return Trouble(
        kind,
        text,
        partition,
        offset if offset is not None and offset >= 0 else None,
        None if cut is None else int(cut[1]),
    )
