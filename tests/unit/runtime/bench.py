"""A worker's loop without Kafka: a scripted consumer and producer, a clock of the test's own,
the real store. A `Bench` can be thrown away and another built on the same log and store."""

from __future__ import annotations

import tempfile
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from kworker import App
from kworker.errors import KafkaUnavailable
from kworker.facts import HandlerInfo
from kworker.hookspecs import hookimpl
from kworker.kafka.api import (
    Assignments,
    CommitResult,
    Committed,
    Membership,
    Receipt,
    Refusal,
    Trouble,
)
from kworker.message import Headers, Partition, Record
from kworker.outbox import Courier, Parcel
from kworker.outcome import Outcome
from kworker.runtime.batches import Gathering
from kworker.runtime.delivery.api import Delivery, Hands, Shipment
from kworker.runtime.delivery.at_least_once import AtLeastOnce
from kworker.runtime.executors import (
    NO_HOOKS,
    Answer,
    Down,
    Executor,
    Hooks,
    Performed,
    Threads,
)
from kworker.runtime.gates import Gates
from kworker.runtime.handover import Handover
from kworker.runtime.intake import Intake
from kworker.runtime.lanes import Lanes, Run
from kworker.runtime.loop import Inbox, Limits, Loop
from kworker.runtime.positions import EARLIEST, Positions
from kworker.runtime.post import Post
from kworker.runtime.suspects import Suspects
from kworker.runtime.timers import Timers
from kworker.runtime.transactions import Transactions
from kworker.stores import Store, open_lender, open_store
from kworker.topics import GroupTopics

TOPICS = GroupTopics("shop", "{group}.retry.{delay}", "{group}.replay", "{group}.dlq")
P0, P1 = Partition("orders", 0), Partition("orders", 1)
TOO_LARGE = Refusal("too_large", "larger than the topic takes", True)
AWAY = Refusal("unavailable", "no broker answers", False)
FORBIDDEN = Refusal("forbidden", "not authorised", True)


class Clock:
    """Stands still until the test moves it, but for the moment that every look takes: whoever
    waits for a deadline sees it pass. `meanwhile` happens while somebody waits, at the looks
    that are counted from now on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.look = 0.0001
        self.meanwhile: dict[int, Callable[[], None]] = {}

    def monotonic(self) -> float:
        self.now += self.look
        self.meanwhile = {looks - 1: call for looks, call in self.meanwhile.items()}
        call = self.meanwhile.pop(0, None)
        if call is not None:
            call()
        return self.now

    def wall(self) -> float:
        return 1_700_000_000.0 + self.now


class Broker:
    """What outlives a worker: the partitions' logs and the group's positions."""

    def __init__(self) -> None:
        self.logs: dict[Partition, list[Record]] = defaultdict(list)
        self.ends: dict[Partition, int] = defaultdict(int)
        self.begins: dict[Partition, int] = defaultdict(int)
        self.committed: dict[Partition, Committed] = {}
        self.ids = {"orders": "id-of-orders", "shop.replay": "id-of-replay"}

    def write(
        self, partition: Partition, value: bytes = b"{}", key: bytes | None = None,
        headers: Headers = (), timestamp: float | None = 1_600_000_000.0,
    ) -> Record:  # fmt: skip
        offset = self.ends[partition]
        record = Record(
            partition.topic, partition.index, offset, key, value, headers, timestamp, leader_epoch=7
        )
        self.logs[partition].append(record)
        self.ends[partition] += 1
        return record

    def mark(self, partition: Partition) -> None:
        """A transaction's marker: takes an offset and is never delivered."""
        self.ends[partition] += 1

    def cut(self, partition: Partition, begin: int) -> None:
        """Retention: what stands below is gone."""
        self.begins[partition] = begin
        self.logs[partition] = [one for one in self.logs[partition] if one.offset >= begin]

    def truncate(self, partition: Partition, end: int) -> None:
        """Replicas that lagged behind have won: what stands there and above is gone."""
        self.ends[partition] = end
        self.logs[partition] = [one for one in self.logs[partition] if one.offset < end]

    def remake(self, topic: str) -> None:
        """The topic is deleted, and the group's offsets with it, and made anew."""
        for table in (self.logs, self.ends, self.begins, self.committed):
            for partition in [one for one in table if one.topic == topic]:
                del table[partition]
        self.ids[topic] += "-anew"


class Consumer:
    """Gives what the broker has. `script` holds what the next polls do before they give any."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.script: deque[Callable[[], list[Record | Trouble] | None]] = deque()
        self.places: dict[Partition, int] = {}
        self.owned: set[Partition] = set()
        self.paused: set[Partition] = set()
        self.answers: list[Callable[[], None]] = []
        self.silent = False  # whether the coordinator does not answer
        self.away = False  # whether no broker answers
        self.refuse = ""  # why commits are refused
        self.takes = 4095  # characters with a commit
        self.polls = 0
        self.joined = True
        self.seen: dict[Partition, int] = {}
        self.watch: Callable[[Partition, int], None] = lambda partition, offset: None
        self.assignments: Assignments

    def subscribe(self, topics: Iterable[str], assignments: Assignments) -> None:
        self.assignments = assignments

    def assign(self, *partitions: Partition) -> None:
        self.owned.update(partitions)
        self.take(self.assignments.assigned(partitions))

    def revoke(self, *partitions: Partition) -> None:
        self.assignments.revoked(partitions)
        self._forget(partitions)

    def lose(self, *partitions: Partition) -> None:
        self.assignments.lost(partitions)
        self._forget(partitions)

    def _forget(self, partitions: Sequence[Partition]) -> None:
        self.owned.difference_update(partitions)
        self.paused.difference_update(partitions)
        for partition in partitions:
            self.places.pop(partition, None)

    def poll(self, limit: int, patience: float) -> list[Record | Trouble]:
        self.polls += 1
        while self.script:
            told = self.script.popleft()()
            if told is not None:
                return told
        answers, self.answers = self.answers, []
        arrived = self._fetched(limit)
        for answer in answers:  # as in the client: when it stands behind what has arrived
            answer()
        return arrived

    def _fetched(self, limit: int) -> list[Record | Trouble]:
        arrived: list[Record | Trouble] = []
        for partition, place in self.places.items():
            if partition in self.paused:
                continue
            there = [one for one in self.broker.logs[partition] if one.offset >= place]
            given = there[: limit - len(arrived)]
            arrived += given
            if len(given) < len(there):
                self.places[partition] = there[len(given)].offset
                break
            self.places[partition] = self.broker.ends[partition]
        return arrived

    def take(self, starts: Mapping[Partition, int]) -> None:
        assert starts.keys() <= self.owned
        self.places.update(starts)

    def pause(self, partitions: Iterable[Partition]) -> None:
        self.paused.update(self.owned.intersection(partitions))

    def resume(self, partitions: Iterable[Partition]) -> None:
        self.paused.difference_update(partitions)

    def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return {one: self.places[one] for one in partitions if one in self.places}

    def committed(
        self, partitions: Iterable[Partition], timeout: float
    ) -> dict[Partition, Committed | None]:
        if self.silent:
            return {}
        return {one: self.broker.committed.get(one) for one in partitions}

    def commit(
        self, positions: Mapping[Partition, Committed], answered: Callable[[CommitResult], None]
    ) -> None:
        result = self.commit_now(positions)
        self.answers.append(lambda: answered(result))

    def commit_now(self, positions: Mapping[Partition, Committed]) -> CommitResult:
        if self.refuse:
            return CommitResult({}, dict.fromkeys(positions, self.refuse), True)
        if any(len(point.metadata) > self.takes for point in positions.values()):
            return CommitResult({}, dict.fromkeys(positions, "too large"), oversized=True)
        for partition, point in positions.items():
            self.watch(partition, point.offset)
            self.broker.committed[partition] = point
        return CommitResult({one: point.offset for one, point in positions.items()}, {})

    def memberships(self, positions: Mapping[Partition, Committed]) -> list[Membership]:
        own = {one: point for one, point in positions.items() if one in self.owned}
        return [Membership(None, own)] if own and not self.refuse else []

    def ends(
        self, partitions: Iterable[Partition], timeout: float
    ) -> dict[Partition, tuple[int, int]]:
        if self.away:
            raise KafkaUnavailable("no broker answers")
        return {one: (self.broker.begins[one], self.broker.ends[one]) for one in partitions}

    def offsets_at(
        self, partitions: Iterable[Partition], timestamp: float, timeout: float
    ) -> dict[Partition, int]:
        raise NotImplementedError

    def seen_ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        fetched = [one for one in partitions if one not in self.paused]
        self.seen |= {one: self.broker.ends[one] for one in fetched}
        return self.seen

    def close(self) -> None:
        self.revoke(*self.owned)


class Inline(Threads):
    """Performs runs on the test's own thread, when it says so; the call itself is Threads'."""

    def __init__(self, answer: Answer, down: Down, hooks: Hooks = NO_HOOKS) -> None:
        super().__init__(1, answer, down, hooks=hooks)
        self.waiting: deque[Run] = deque()
        self.put = answer

    def start(self, run: Run) -> None:
        self.waiting.append(run)

    def begin(self, calls: int = 1) -> Callable[[], None]:
        """Begin with the next run, its first handlers being called; what ends it."""
        run = self.waiting.popleft()
        run.active = True
        handler = run.scope.handler
        if handler is not None and handler.batch is not None:
            calls = len(run.works)  # one call has all of them
        results = list(self._performed(run.works[:calls], run))

        def end() -> None:
            results.extend(self._performed(run.works[calls:], run))
            self.put(Performed(results, run, True))

        return end

    def perform(self) -> None:
        """All that waits, run by run."""
        while self.waiting:
            self.begin()()


class Facts:
    """Remembers what observers are told."""

    def __init__(self) -> None:
        self.settled: list[tuple[str, int]] = []
        self.retrying: list[tuple[int, float]] = []
        self.dead: list[tuple[str, int]] = []
        self.skipped: list[int] = []
        self.lost: list[tuple[int, int, int | None]] = []
        self.stuck: list[str] = []
        self.outages: list[str] = []
        self.ended = 0

    @hookimpl
    def message_settled(self, message: Any, outcome: Outcome) -> None:
        self.settled.append((type(outcome).__name__, message.offset))

    @hookimpl
    def message_retrying(self, message: Any, attempt: int, delay: float) -> None:
        self.retrying.append((attempt, delay))

    @hookimpl
    def message_dead_lettered(self, message: Any, handler: HandlerInfo, disposition: str) -> None:
        self.dead.append((disposition, message.offset))

    @hookimpl
    def message_skipped(self, message: Any) -> None:
        self.skipped.append(message.offset)

    @hookimpl
    def position_lost(self, expected: int, found: int, missing: int | None) -> None:
        self.lost.append((expected, found, missing))

    @hookimpl
    def partition_stuck(self, reason: str) -> None:
        self.stuck.append(reason)

    @hookimpl
    def outage_started(self, reason: str) -> None:
        self.outages.append(reason)

    @hookimpl
    def outage_ended(self) -> None:
        self.ended += 1


class Bench:
    """One worker's life: a loop put together as the worker does it.

    `sent` holds what was handed to the producer and not answered yet.
    """

    def __init__(
        self,
        app: App,
        broker: Broker | None = None,
        folder: Path | None = None,
        *,
        executor: Callable[[Answer, Down], Executor] = Inline,
        store: Callable[[Store], Store] = lambda store: store,
        assign: Sequence[Partition] = (P0,),
        ends: Mapping[Partition, int] | None = None,
        on_lost_position: str = "earliest",
        reference: bool = False,
        max_in_flight: int = 1000,
        clock: Clock | None = None,
        transaction_timeout: float = 5.0,
        mode: Callable[[Hands, dict[str, Any]], Delivery] = lambda hands, parts: AtLeastOnce(
            hands=hands, **parts
        ),
    ) -> None:
        self.app = app
        self.broker = broker or Broker()
        self.folder = folder or Path(tempfile.mkdtemp())
        self.clock = clock = clock or Clock()
        self.facts = Facts()
        self.sent: list[Shipment | Parcel] = []
        self.log: list[Shipment | Parcel] = []
        self.plugins = plugins = app.load_plugins([self.facts])
        self.register = register = app.register(plugins)
        self.consumer = Consumer(self.broker)
        self.store = open_store(self.folder / "shop.db", group="shop", cluster="c", clock=clock)
        self.room = 1_000_000  # how many the producer takes before they are answered
        post = Post(self._offer)
        inbox: Inbox = SimpleQueue()
        self.inbox = inbox
        timers = Timers(clock)
        tell = plugins.tell
        kept = store(self.store)

        def cap(name: str) -> int | None:
            found = register.named(name)
            return None if found is None else found.concurrency

        gates = Gates(
            cap,
            timers.after,
            rates={one.name: one.rate for one in register if one.rate is not None},
            monotonic=clock.monotonic,
        )
        self.executor = executor(inbox.put, gates.down)
        if any(handler.takes_transaction for handler in register):
            self.executor = Transactions(
                lambda: open_lender(
                    self.folder / "shop.db", group="shop", cluster="c", clock=clock
                ),
                timeout=transaction_timeout,
                answer=inbox.put,
                failed=inbox.put,
                down=gates.down,
                others=self.executor,
            )

        def delivery(hands: Hands) -> Delivery:
            parts = {
                "store": kept,
                "topics": TOPICS,
                "send": post.send,
                "consumer": self.consumer,
                "tell": tell,
                "wall": clock.wall,
                "reference_when_too_large": reference,
            }
            return mode(hands, parts)

        intake = Intake(
            register=register,
            topics=TOPICS,
            topic_ids=lambda topics: self.broker.ids,
            store=kept,
            clock=clock,
            unknown_handler_wait=900.0,
        )
        handover = Handover(cluster="c", store=kept, intake=intake)

        def heard(partition: Partition, point: Committed | None, end: int) -> int | None:
            if point is not None:
                self.loop.delivery.heard(partition, point)
            return handover.heard(partition, point, end)

        lanes = Lanes(gates, lambda batch: Gathering(batch, clock.monotonic, timers.after))
        self.loop = Loop(
            consumer=self.consumer,
            topics=["orders"],
            intake=intake,
            gates=gates,
            lanes=lanes,
            executor=self.executor,
            delivery=delivery,
            store=kept,
            post=post,
            outbox=Courier(kept, self._offer, clock=clock, tell=tell),
            positions=Positions(
                self.consumer,
                start_from=lambda partition: EARLIEST,
                on_lost_position=on_lost_position,
                tell=tell,
                recorded=intake.recorded,
                forget=intake.forget,
                heard=heard,
            ),
            timers=timers,
            inbox=inbox,
            limits=Limits(
                commit_every=1.0,
                revoke_timeout=25.0,
                max_in_flight=max_in_flight,
                max_in_flight_bytes=1 << 26,
                dedup_retention=7 * 86_400.0,
            ),
            clock=clock,
            tell=tell,
            ends=ends,
            handover=handover,
            suspects=Suspects(lanes=lanes, handover=handover, timers=timers, concurrency=1),
        )
        self.consumer.subscribe(self.loop.topics, self.loop)
        if assign:
            self.consumer.assign(*assign)

    def _offer(self, shipment: Shipment | Parcel) -> bool:
        if len(self.sent) >= self.room:
            return False
        self.sent.append(shipment)
        self.log.append(shipment)
        return True

    def answer(self, answer: Refusal | None = None, *, only: int | None = None) -> None:
        """Kafka's answer to what was sent: an acknowledgement, unless told otherwise."""
        sent = self.sent if only is None else [self.sent[only]]
        self.sent = [one for one in self.sent if one not in sent]
        for number, one in enumerate(sent):
            self.inbox.put((one, answer or Receipt(one.topic, 0, number, None)))

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop.turn()

    def perform(self) -> None:
        """Until nothing that waits for a handler is left."""
        idle = 0
        self.turn()
        while isinstance(self.executor, Inline) and idle < 3:
            if not (self.executor.waiting or self.loop.suspects.waits):
                return
            idle = 0 if self.executor.waiting else idle + 1  # Kafka may not hear of a suspect
            self.executor.perform()
            self.turn()

    def settle(self) -> None:
        """Perform, acknowledge what is sent, and commit."""
        self.perform()
        while self.sent:
            self.answer()
            self.perform()
        self.commit()

    def commit(self) -> None:
        self.clock.now += 1.1
        self.turn(2)

    def die(self) -> tuple[Broker, Path]:
        """The process ends without a word; what another one finds."""
        self.store.close()
        return self.broker, self.folder

    def again(self, **changes: Any) -> Bench:
        """The next process after this one's death."""
        broker, folder = self.die()
        return Bench(self.app, broker, folder, clock=self.clock, **changes)

    def committed(self, partition: Partition = P0) -> int:
        point = self.broker.committed.get(partition)
        return -1 if point is None else point.offset

    @property
    def open(self) -> int:
        return sum(ledger.count for ledger in self.loop.ledgers.values())
