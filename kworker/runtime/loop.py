"""The turn: poll, admit, dispatch, settle, record, commit."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Any

from ..clock import Clock, Deadline, Every
from ..errors import CannotGoOn, KafkaUnavailable
from ..facts import Snapshot
from ..failures import words
from ..kafka.api import CommitResult, Committed, Consumer, Trouble
from ..message import Partition, Record
from ..outbox import Courier, Parcel
from ..outcome import DONE, Done, Dropped, Failed, Outage, Outcome, Postponed, Recorded, Skipped
from ..plugins import Tell
from ..ranges import Ranges
from ..stores.api import Log, Store, Turn
from . import stacks
from .damage import Damage, Read
from .delivery.api import BUSY, Delivery, Hands
from .executors import Executor, Performed
from .gates import Gates
from .handover import Handover
from .intake import Admitted, Batch, Intake, UnknownHandler
from .lags import Lags
from .lanes import Lanes, Run
from .ledger import Ledger
from .positions import Positions
from .post import Post
from .quota import Quota
from .suspects import Suspects
from .timers import Timers
from .watch import Seen
from .work import Work, close

log = logging.getLogger("kworker.runtime")

BATCH = 500  # records taken from Kafka in one turn
IDLE = 0.05  # seconds that a turn waits for Kafka when nothing else can happen
GRACE = 0.1  # seconds without a poll before a full partition is paused: pausing costs a refetch
BEHIND = 10  # times max_in_flight: what may be finished behind an offset that is not
LATER = 1.0  # seconds until something that Kafka did not answer is asked again
PLACING = 0.5  # seconds that the last commit of a partition may wait for its turn at the store
LAST_SENT = 2.0  # seconds that a stop waits for Kafka to take what handlers' transactions published
LAST_COMMIT = 0.3  # seconds that a stop waits for it in any case
PARKED = 3  # times that one place is told to be unreadable before its partition is parked
REREAD = 60.0  # seconds until it is tried again
LASTING = 300.0  # seconds after which a handler without a timeout is told of; then twice that
PRUNE = 1.0  # seconds between two steps of forgetting

Answered = tuple[Any, Any]  # what was sent, and what Kafka said to it
Inbox = SimpleQueue[Performed | Answered | BaseException]


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a loop. Seconds, messages and bytes."""

    commit_every: float
    revoke_timeout: float
    max_in_flight: int
    max_in_flight_bytes: int
    dedup_retention: float


@dataclass(frozen=True, slots=True)
class Stray:
    """Why a partition's position points at nothing: its topic was made `anew`, its log was
    `cut` there, or nobody knows yet."""

    anew: bool = False
    cut: int | None = None


class Loop:
    """Owns the consumer, the ledgers, the lanes and the store: one thread runs all of it.

    Handlers' threads and the producer answer into `inbox`. `run` ends when `stop` was called
    and all is finished, recorded and committed, or when its deadline has passed.
    """

    def __init__(
        self,
        *,
        consumer: Consumer,
        topics: Sequence[str],
        intake: Intake,
        gates: Gates,
        lanes: Lanes,
        executor: Executor,
        delivery: Callable[[Hands], Delivery],
        store: Store,
        post: Post,
        outbox: Courier,
        positions: Positions,
        timers: Timers,
        inbox: Inbox,
        limits: Limits,
        clock: Clock,
        tell: Tell,
        ends: Mapping[Partition, int] | None = None,
        quota: Quota | None = None,
        handover: Handover,
        suspects: Suspects,
        seen: Callable[[], Seen | None] = lambda: None,
        read: Read = lambda partition, offset: None,
        asked_ends: Callable[[], Mapping[Partition, int] | None] = lambda: None,
        serves: Callable[[Mapping[str, int]], list[str]] | None = None,
    ) -> None:
        self.consumer = consumer
        self.topics = topics
        self.intake = intake
        self.gates = gates
        self.lanes = lanes
        self.executor = executor
        self.store = store
        self.post = post
        self.outbox = outbox
        self.positions = positions
        self.timers = timers
        self.inbox = inbox
        self.limits = limits
        self.clock = clock
        self.tell = tell
        self.ends = ends
        self.quota = quota
        self.handover = handover
        self.damage = Damage(read)
        self.suspects = suspects
        self.seen = seen  # what became of the cluster's topics
        self.serves = serves  # which of them are read
        self.delivery = delivery(
            Hands(
                lanes.enter,
                self._closed,
                self._again,
                timers.after,
                self._to_commit,
                self._committed,
                self._begin_again,
                self._stuck_with,
            )
        )
        self.lags = Lags(consumer, asked_ends, intake.topics.delay_of, clock.wall)
        self.ledgers: dict[Partition, Ledger] = {}
        self.runs: set[Run] = set()
        self.paused: set[Partition] = set()
        self.room = True  # for what is to be recorded
        self.untaken: set[Partition] = set()
        self.anew: set[Partition] = set()  # made anew, and no start in them yet
        self.strays: dict[Partition, Stray] = {}
        self.damaged: dict[Partition, tuple[int, int]] = {}  # from where on, how often it was told
        self.stuck: dict[Partition, tuple[int, str]] = {}  # until what offset is done, and why
        self.committed: dict[Partition, int] = {}
        self.handled = 0
        self.skipped = 0
        self._lasting: dict[Work, float] = {}  # handlers that run for long, and when to tell
        self._polling = False
        self._asking = False
        self._finding = False
        self._tells_settled = tell.wants("message_settled")
        self._skips: Counter[str] = Counter()  # by handler, not recorded yet
        self._stop_within: float | None = None
        self._full_since: float | None = None
        self._beat = Every(clock, limits.commit_every)
        self._second = Every(clock, 1.0)
        self._prune = Every(clock, PRUNE)
        self._took = 0.0

    # --- the story -----------------------------------------------------------------------

    def turn(self) -> None:
        """One turn: in by batch, one by one between, out by batch."""
        self.mind_the_store()
        records = self.poll()
        self.dispatch(self.intake.admit(self.mine(records)))
        self.timers.run()
        self.hear(self.news(self.timers.patience(self.delivery.patience)))
        due = self._beat.due()
        if due:
            self.hear(self.held())
        self.delivery.record()
        self.outbox.turn()
        self.start()
        if due:
            self.delivery.commit()
        if self.quota is not None:
            self.quota.look()
        self.beat()

    def run(self, stopping: Callable[[], None] = lambda: None) -> bool:
        """Turn until stopped. Whether everything was finished and committed.

        `stopping` is called once, when nothing more is taken, also where a turn has failed.
        """
        try:
            self.consumer.subscribe(self.topics, self)
            while self._stop_within is None:
                begun = self.clock.monotonic()
                self.turn()
                self._took = self.clock.monotonic() - begun
        finally:
            stopping()
        return self._finish(Deadline(self.clock, self._stop_within))

    def stop(self, within: float) -> None:
        """End soon: may be called from any thread, and from a signal handler."""
        self._stop_within = within

    # --- in ------------------------------------------------------------------------------

    def poll(self) -> list[Record | Trouble]:
        """Records from Kafka: at once when handlers are at work, else waiting a moment."""
        if self.full():
            now = self.clock.monotonic()
            if self._full_since is None:
                self._full_since = now
            if now - self._full_since < GRACE:
                return []
        else:
            self._full_since = None
        self.reconcile()
        patience = 0.0 if self.busy or not self.inbox.empty() else self.timers.patience(IDLE)
        self._polling = True
        try:
            return self.consumer.poll(BATCH, patience)
        finally:
            self._polling = False

    def mine(self, records: Iterable[Record | Trouble]) -> Iterator[Batch]:
        """The records of partitions that are ours and still read, with their ledgers."""
        ledger: Ledger | None = None
        batch: list[Record] = []
        topic, partition, reached = "", -1, 0
        for record in records:
            if isinstance(record, Trouble):
                self.trouble(record)
                continue
            if record.partition != partition or record.topic != topic:
                if ledger is not None and batch:
                    yield ledger, batch
                topic, partition, batch = record.topic, record.partition, []
                ledger = self.ledgers.get(Partition(topic, partition))
                reached = ledger.next if ledger is not None and ledger.starting else sys.maxsize
            if record.offset < reached:
                continue
            assert ledger is not None
            if self.ends is None or self._within(ledger, record.offset):
                batch.append(record)
        if ledger is not None and batch:
            yield ledger, batch

    def _within(self, ledger: Ledger, offset: int) -> bool:
        """Whether an offset is to be read; beyond its end a partition is sealed."""
        assert self.ends is not None
        end = self.ends.get(ledger.partition)
        if end is None or offset < end:
            return True
        ledger.sealed = True
        return False

    def dispatch(self, admitted: Admitted) -> None:
        """Send every work its way: to its lane, to wait, or straight to its end."""
        for work in admitted.duplicates:
            self._duplicate(work)
        for work, decided in admitted.decided:
            if work.scope.holds:
                self.lanes.hold(work)
            self.delivery.resume(work, decided)
        for work, delay in admitted.again:
            if work.scope.holds:
                self.lanes.hold(work)
            self._again(work, delay)
        for work, disposition, error in admitted.broken:
            self.delivery.give_up(work, disposition, error)
            if disposition == "process_killer":
                self.suspects.found(work)
        for work, delay in admitted.later:
            if work.scope.handler is not None:
                work.ledger.parked += 1
            self.timers.after(delay, partial(self._due, work))
        self._enter(admitted.ready)
        self.start()

    def _enter(self, works: list[Work]) -> None:
        if self.quota is not None:
            works = [work for work in works if self.quota.admits(work)]
        if works:
            self.delivery.admit(works)

    def _due(self, work: Work) -> None:
        if work.scope.handler is not None:
            work.ledger.parked -= 1
        if not work.ledger.starting:
            return
        if work.scope.handler is not None:
            self._enter([work])
        else:
            error = UnknownHandler(f"no handler named {work.scope.name!r} in this app")
            self.delivery.give_up(work, "unknown_handler", error)

    def _again(self, work: Work, delay: float) -> None:
        """A handler that failed is called again in this process; its lane flows meanwhile,
        unless the work holds it."""
        self.timers.after(delay, partial(self._retry, work))

    def _retry(self, work: Work) -> None:
        if work.ledger.starting:
            self.lanes.enter([work], first=True)
            if work.scope.holds:
                self.lanes.release(work)

    def start(self) -> None:
        """Hand the runs that may start to whoever is idle."""
        if not self.room:
            return
        suspects = self.suspects
        for run in (
            suspects.runs(self.runs, self._commit_soon) if suspects.active else self.lanes.runs()
        ):
            self.runs.add(run)
            self.executor.start(run)

    # --- out -----------------------------------------------------------------------------

    def news(self, patience: float) -> list[Performed | Answered | BaseException]:
        """What handlers and Kafka have answered; waits a moment when only they can go on."""
        news: list[Performed | Answered | BaseException] = []
        if self.inbox.empty():
            if not self.busy:
                return news
            try:
                news.append(self.inbox.get(timeout=patience))
            except Empty:
                return news
        for _ in range(self.inbox.qsize()):
            news.append(self.inbox.get_nowait())
        return news

    def held(self) -> list[Performed]:
        """What handlers have ended and their threads hold back, while another one is called."""
        return [Performed(run.take(), run, False) for run in self.runs if run.results]

    def hear(self, news: Iterable[Performed | Answered | BaseException]) -> None:
        """Let every answer have its consequence. Raises what somebody else could not bear."""
        for one in news:
            if isinstance(one, Performed):
                if one.results:
                    self.settle(one.results, one.run)
                if one.over:
                    self.runs.discard(one.run)
                    self.lanes.leave(one.run)
            elif isinstance(one, BaseException):
                raise one
            elif isinstance(one[0], Parcel):
                self.outbox.answered(one[0], one[1])
            else:
                self.delivery.answered(one[0], one[1])
        self.post.turn()  # an answer makes room

    def settle(self, results: list[tuple[Work, Outcome]], run: Run) -> None:
        """Handlers have ended, or were not even started."""
        simple = [
            (outcome is DONE or (outcome.__class__ is Done and not work.scope.holds))
            and work.ledger.ours
            for work, outcome in results
        ]
        if not self.gates.shut_any and all(simple):
            self.delivery.settle(results)  # as a rule, and together
            return
        for work, outcome in results:
            self._settle(work, outcome, run)

    def _settle(self, work: Work, outcome: Outcome, run: Run) -> None:
        if isinstance(outcome, Failed) and isinstance(outcome.error, Outage):
            self._shut(work, outcome.error)
            outcome = Postponed()
        elif _was_called(outcome) and self.gates.open(work.scope.name):
            self.tell("outage_ended", handler=work.scope.fact)
        if isinstance(outcome, Recorded):
            self._recorded(work, outcome)
        elif isinstance(outcome, Postponed) and work.ledger.starting:
            run.again.append(work)
        elif isinstance(outcome, Dropped | Postponed):
            self.dispatch(self.intake.again(self.intake.land([work])))
        elif work.ours:
            if work.scope.holds and work.ledger.starting and outcome is not DONE:
                self.lanes.hold(work)
            self.delivery.settle([(work, outcome)])
        else:
            log.warning(
                "%s ran longer than its partition was ours; its result is not recorded",
                work.scope.name,
                extra=where(work),
            )

    def _recorded(self, work: Work, outcome: Recorded) -> None:
        """A handler's own transaction has recorded its message already."""
        if outcome.published:
            self.outbox.wake()
        if not work.ours:
            return  # whoever has it now finds it recorded, if it is on this host
        if not outcome.duplicate:
            work.calls += 1
            close([work])
            self._closed([(work, DONE)])
            return
        for one in (work, *self.intake.land([work])):
            self._duplicate(one)

    def _shut(self, work: Work, outage: Outage) -> None:
        """What a handler needs is down: its messages wait, and one at a time tries."""
        reason = words(outage) or "what it needs is down"
        if self.gates.shut(work.scope.name, reason):
            self.tell("outage_started", handler=work.scope.fact, reason=reason)

    def _closed(self, results: Sequence[tuple[Work, Outcome]]) -> None:
        """Works are settled and recorded, and their parts of their offsets closed."""
        for work, _ in results:
            if work.scope.holds:
                self.lanes.release(work)
        if self.quota is not None:
            for work, _ in results:
                self.quota.closed(work)
        for twin in self.intake.land([work for work, _ in results]):
            self._duplicate(twin)
        done = [outcome.__class__ is Done for _, outcome in results]
        self.handled += sum(done)
        if self._tells_settled or not all(done):
            for work, outcome in results:
                self._tell_closed(work, outcome)

    def _tell_closed(self, work: Work, outcome: Outcome) -> None:
        if outcome.__class__ is Done:
            if self._tells_settled:
                self._tell_settled(work, outcome)
        elif isinstance(outcome, Skipped):
            self.handled += 1
            self._tell_settled(work, outcome)
            self._tell_skipped(work, outcome.reason)

    def _tell_settled(self, work: Work, outcome: Outcome) -> None:
        self.tell(
            "message_settled",
            message=work.message(),
            handler=work.scope.fact,
            outcome=outcome,
            seconds=work.seconds,
        )

    def _tell_skipped(self, work: Work, reason: str) -> None:
        if self.tell.wants("message_skipped"):
            self.tell(
                "message_skipped",
                message=work.message(),
                handler=work.scope.fact,
                reason=reason,
            )

    def _duplicate(self, work: Work) -> None:
        close([work])
        if self.quota is not None:
            self.quota.closed(work)
        self.skipped += 1
        self._skips[work.scope.name] += 1
        self._tell_skipped(work, "duplicate")

    # --- bounds --------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether an answer may come that Kafka's records do not bring."""
        return bool(self.runs or self.delivery.pending or self.suspects.waits)

    def _fills(self) -> Callable[[Ledger, int], bool]:
        """Whether a ledger, taken so many times, holds as much as one partition may."""
        ledgers = self.ledgers.values()
        messages = _room(self.limits.max_in_flight, [ledger.count for ledger in ledgers])
        size = _room(self.limits.max_in_flight_bytes, [ledger.size for ledger in ledgers])
        behind = BEHIND * self.limits.max_in_flight

        def fills(ledger: Ledger, times: int) -> bool:
            return (
                ledger.count * times >= messages(ledger.count)
                or ledger.size * times >= size(ledger.size)
                or ledger.span * times >= behind
                or (ledger.spread * times >= ledger.far and self.handover.crowded(ledger, times))
            )

        return fills

    def full(self) -> bool:
        """Whether a partition that is read holds as much as it may."""
        fills = self._fills()
        return any(
            partition not in self.paused and fills(ledger, 1)
            for partition, ledger in self.ledgers.items()
        )

    def mind_the_store(self) -> None:
        """Take and start nothing while there is no room to record what becomes of it."""
        if self.store.has_room() == self.room:
            return
        self.room = not self.room
        if self.room:
            log.info("there is room for the store again; its worker goes on")
            return
        reason = "the disk of the store is full, so nothing is taken until there is room again"
        for partition, ledger in self.ledgers.items():
            self._stuck(partition, ledger.safe, reason)

    def reconcile(self) -> None:
        """Pause what is full or not due, resume what is not; the others flow on.

        Whoever asks has waited `GRACE` for what is full to flow off.
        """
        fills = self._fills()
        pause: list[Partition] = []
        resume: list[Partition] = []
        for partition, ledger in self.ledgers.items():
            paused = partition in self.paused
            # What was full stays so until half of it is gone.
            wanted = (
                not self.room
                or self.damaged.get(partition, (0, 0))[1] >= PARKED
                or ledger.parked > 0
                or ledger.sealed
                or fills(ledger, 2 if paused else 1)
            )
            if wanted and not paused:
                pause.append(partition)
            elif paused and not wanted:
                resume.append(partition)
        if pause:
            self.consumer.pause(pause)
            self.paused.update(pause)
        if resume:
            self.consumer.resume(resume)
            self.paused.difference_update(resume)

    # --- commit --------------------------------------------------------------------------

    def points(self, partitions: Iterable[Partition]) -> dict[Partition, Committed]:
        """What may be committed and is not yet, with its note; only for partitions that are
        ours."""
        points: dict[Partition, Committed] = {}
        for partition in partitions:
            ledger = self.ledgers.get(partition)
            if ledger is None or not ledger.ours or partition in self.strays:
                continue
            point = self.handover.point(ledger, self.committed.get(partition, -1))
            if point is not None:
                points[partition] = point
        return points

    def _placed(
        self, points: dict[Partition, Committed], patience: float = 0.0
    ) -> dict[Partition, Committed]:
        """What may be committed once the store knows: where handlers share its transactions,
        the commit names the store, which then says up to where it holds their effects. A store
        that is older than the commit is found out by that."""
        places: dict[Log, int] = {}
        done: dict[tuple[str, Log], Ranges] = {}
        named: set[Partition] = set()
        for partition, point in points.items():
            handlers = self.intake.transactional(partition)
            if not handlers:
                continue
            place = self.intake.log_of(partition)
            places[place] = point.offset
            named.add(partition)
            start = self.ledgers[partition].start
            if start < point.offset:
                # Gaps below it are markers or compacted records: closed, they take no room.
                settled = Ranges([(start, point.offset)])
                known = [name for name in handlers if self.store.done(name, place).total]
                done.update({(name, place): settled for name in known})
        if not named:
            return points
        if not self.store.record(Turn(places=places, done=done), patience=patience):
            return {one: point for one, point in points.items() if one not in named}
        return points

    def _to_commit(
        self, partitions: Iterable[Partition] | None, patience: float
    ) -> dict[Partition, Committed]:
        """What the delivery may commit; see `Hands`."""
        if partitions is None:
            self._pass_markers()
            partitions = self.ledgers
        return self._placed(self.points(partitions), patience)

    def _pass_markers(self) -> None:
        """An empty ledger stands where the client stands: past transaction markers.

        But not within a poll, which serves answers to commits: the client stands past what it
        has taken and not given us yet.
        """
        if self._polling:
            return
        empty: list[Partition] = []
        for partition, ledger in self.ledgers.items():
            if ledger.count or partition in self.strays:
                continue
            if ledger.sealed and self.ends is not None:
                ledger.reach(self.ends[partition])
            else:
                empty.append(partition)
        for partition, position in self.consumer.positions(empty).items():
            end = self.ends.get(partition) if self.ends is not None else None
            self.ledgers[partition].reach(position if end is None else min(position, end))

    def _committed(self, points: Mapping[Partition, Committed], result: CommitResult) -> bool:
        """Remember what Kafka has; whether it is worth committing again at once."""
        for partition, offset in result.stored.items():
            ledger = self.ledgers.get(partition)
            # An answer from before the log was made anew may be about a higher offset.
            if ledger is not None and offset <= ledger.safe:
                self.committed[partition] = max(offset, self.committed.get(partition, -1))
                ledger.said, ledger.said_at = points[partition].metadata, offset
        if result.stored:
            self.tell("offsets_committed", offsets=MappingProxyType(result.stored))
        if result.refused:
            # With a rebalance that is as it should be, and each beat says it again.
            level = logging.DEBUG if result.expected else logging.WARNING
            partition, why = next(iter(result.refused.items()))
            log.log(
                level, "commits refused, as of %s: %s; they are committed again", partition, why,
                extra={"partitions": [str(one) for one in result.refused]},
            )  # fmt: skip
        return self.handover.learn(points, result, self.ledgers)

    # --- partitions come and go (inside poll) --------------------------------------------

    def assigned(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Ours from now on: ledgers opened, memory read, starts resolved and committed."""
        if not partitions:
            return {}
        starts = self._starts(partitions) if self._stop_within is None else {}
        self.untaken.update(one for one in partitions if one not in starts)
        self._take_all(starts)
        self._ask_again()
        self.tell("partitions_assigned", partitions=tuple(partitions))
        return starts

    def _starts(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Where to begin in each, as far as Kafka tells."""
        try:
            anew = self._identify({partition.topic for partition in partitions})
        except KafkaUnavailable as error:
            log.warning("no start for %d partitions yet: %s", len(partitions), error)
            return {}
        self.anew.update(one for one in partitions if one.topic in anew)
        return self.positions.starts(partitions, self.anew)

    def _identify(self, topics: Iterable[str]) -> set[str]:
        """Ask which incarnations Kafka has of these topics; which of them were made anew.
        Reading begins anew in what we hold of those. Raises KafkaUnavailable."""
        anew = self.intake.identify(topics)
        for topic in sorted(anew):
            log.error("topic %s was deleted and made anew", topic)
        for partition in self.ledgers:
            if partition.topic in anew:
                self._stray(partition, anew=True)
        return anew

    def _take(self, partition: Partition, start: int) -> None:
        self.untaken.discard(partition)
        self.anew.discard(partition)
        self.ledgers[partition] = ledger = Ledger(partition, start)
        self.committed[partition] = start
        self.paused.add(partition)  # a pause outlives a revocation: the next turn resumes it
        self.handover.begin(ledger)

    def _take_all(self, starts: Mapping[Partition, int]) -> None:
        """Ours from there on. Kafka is told at once that we hold them, so that a death is known
        for one however soon it comes."""
        for partition, start in starts.items():
            self._take(partition, start)
        self.suspects.begin([self.ledgers[partition] for partition in starts])
        if starts:
            self._commit_soon()

    def _commit_soon(self) -> None:
        """In this turn, but not inside a poll, where records may have come that are not open."""
        self.timers.after(0.0, self.delivery.commit)

    def _take_rest(self) -> None:
        """Ask again for the partitions whose start Kafka did not answer for."""
        self._asking = False
        if not self.untaken or self._stop_within is not None:
            return
        starts = self._starts(sorted(self.untaken))
        self._take_all(starts)
        if starts:
            self.consumer.take(starts)
        self._ask_again()

    def _ask_again(self) -> None:
        """Once at a time: each question may take as long as Kafka does."""
        if self.untaken and not self._asking:
            self._asking = True
            self.timers.after(LATER, self._take_rest)

    def _begin_again(self, partitions: Iterable[Partition]) -> None:
        """Forget what was done with these, and read them from where Kafka says."""
        held = [one for one in partitions if one in self.ledgers]
        self._withdraw(held)
        self._let_go(held, lost=True)
        self.untaken.update(held)
        self._ask_again()

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Going to another member: drop what has not started, wait for what runs within the
        budget, record, commit, let go."""
        if not partitions:
            return
        try:
            self._empty(partitions)
            self.delivery.commit_last(partitions, PLACING)
        finally:
            self._let_go(partitions, lost=False)

    def _empty(self, partitions: Sequence[Partition]) -> None:
        """Drop what has not started, let what runs end within the budget, record it."""
        ledgers = self._withdraw(partitions)
        budget = self.limits.revoke_timeout
        if self._stop_within is not None:
            budget = min(budget, self._stop_within)
        deadline = Deadline(self.clock, budget)
        self._drain(deadline, lambda: self._occupied(ledgers))

    def lost(self, partitions: Sequence[Partition]) -> None:
        """Another member's already: fenced first, never recorded or committed."""
        for partition in partitions:
            if partition in self.ledgers:
                self.ledgers[partition].ours = False
        self._withdraw(partitions)
        self._let_go(partitions, lost=True)

    def _withdraw(self, partitions: Sequence[Partition]) -> set[Ledger]:
        """Nothing of these partitions starts any more."""
        ledgers = {self.ledgers[one] for one in partitions if one in self.ledgers}
        for ledger in ledgers:
            ledger.starting = False
        self.lanes.drop(lambda work: work.ledger in ledgers)
        return ledgers

    def _occupied(self, ledgers: set[Ledger]) -> bool:
        """Whether handlers or acknowledgements of these partitions are still out."""
        if any(
            run.active and any(work.ledger in ledgers for work in run.works) for run in self.runs
        ):
            return True
        return self.delivery.holds(ledgers)

    def _drain(self, deadline: Deadline, wanted: Callable[[], bool]) -> None:
        """Go on hearing and recording, without polling, until nothing is wanted any more."""
        while True:
            self.hear(self.news(min(0.02, deadline.remaining)))
            self.hear(self.held())
            self.delivery.record(patience=min(0.05, deadline.remaining))
            self.start()
            if deadline.passed or not wanted():
                return

    def _let_go(self, partitions: Sequence[Partition], *, lost: bool) -> None:
        gone: list[Ledger] = []
        for partition in partitions:
            self.untaken.discard(partition)
            self.anew.discard(partition)
            self.strays.pop(partition, None)
            self.paused.discard(partition)
            self.damaged.pop(partition, None)
            self.committed.pop(partition, None)
            self.handover.end(partition)
            self.suspects.end(partition)
            ledger = self.ledgers.pop(partition, None)
            if ledger is not None:
                ledger.ours = False
                gone.append(ledger)
        for ledger in gone:
            self.dispatch(self.intake.again(self.intake.release(ledger)))
        if partitions:
            self.tell("partitions_revoked", partitions=tuple(partitions), lost=lost)

    # --- what poll tells besides records -------------------------------------------------

    def trouble(self, trouble: Trouble) -> None:
        """Something went wrong that is not a record's fault."""
        if trouble.kind == "fatal":
            raise CannotGoOn(f"the Kafka client cannot go on: {trouble.text}")
        if trouble.kind == "lost_position" and trouble.partition is not None:
            # Not now: records that came with it are still to be admitted.
            self._stray(trouble.partition, cut=trouble.cut)
        elif trouble.partition is not None and trouble.kind == "damaged":
            self._damaged(trouble.partition, trouble.text)
        elif trouble.partition is not None and trouble.kind == "forbidden":
            ledger = self.ledgers.get(trouble.partition)
            offset = -1 if ledger is None else ledger.next
            self._stuck(trouble.partition, offset, trouble.text)
        else:
            log.warning("Kafka: %s", trouble.text, extra={"kind": trouble.kind})

    def _damaged(self, partition: Partition, text: str) -> None:
        """What comes next cannot be read, and is asked for again and again. The third time the
        partition is parked, as it stands: nothing is skipped, and the others flow."""
        ledger = self.ledgers.get(partition)
        if ledger is None or not ledger.ours:
            return
        offset, times = self.damaged.get(partition, (ledger.next, 0))
        times = times + 1 if offset == ledger.next else 1
        self.damaged[partition] = ledger.next, times
        if times == PARKED:
            self._stuck(partition, ledger.next, f"parked, it cannot be read any further: {text}")
            self.damage.look(partition, ledger.next)
            self.timers.after(REREAD, partial(self._read_again, partition, ledger))

    def _read_again(self, partition: Partition, ledger: Ledger) -> None:
        if self.ledgers.get(partition) is ledger:
            del self.damaged[partition]

    def _tell_damage(self) -> None:
        for partition, first, whole in self.damage.news():
            if self.damaged.get(partition, (None, 0))[0] == first:
                reason = (
                    f"parked: offsets {first} to {whole - 1} cannot be read, damaged or written in "
                    "a way that this client does not know; nothing is skipped. Mend the log, or "
                    f"stop the workers and let `kworker offsets reset` set it to {whole}"
                )
                self._stuck(partition, first, reason)

    def _stray(self, partition: Partition, *, anew: bool = False, cut: int | None = None) -> None:
        """What we hold of it points at nothing any more: nothing of it is committed until its
        place is found."""
        ledger = self.ledgers.get(partition)
        if ledger is None or not ledger.ours:
            return
        known = self.strays.get(partition, Stray())
        self.strays[partition] = Stray(known.anew or anew, known.cut if cut is None else cut)
        self._find_later(0.0)

    def _find_later(self, seconds: float) -> None:
        """Once at a time, and all together: each look may take as long as Kafka does."""
        if self.strays and not self._finding:
            self._finding = True
            self.timers.after(seconds, self._find)

    def _find(self) -> None:
        """Find where to go on in the partitions that have lost their place."""
        self._finding = False
        if not self.strays or self._stop_within is not None:
            return
        try:
            self._identify({partition.topic for partition in self.strays})
            found = self.positions.again(
                {one: self.ledgers[one].next for one in self.strays},
                anew={one for one, stray in self.strays.items() if stray.anew},
                cuts={one: at.cut for one, at in self.strays.items() if at.cut is not None},
            )
        except KafkaUnavailable as error:
            log.warning("%s: no position yet: %s", ", ".join(map(str, self.strays)), error)
            self._find_later(LATER)
            return
        starts = {one: at for one, at in found.items() if self._is_ahead(one, at)}
        for partition, start in starts.items():
            self.ledgers[partition].reach(start)
            del self.strays[partition]
        starts |= self._begin_anew({one: at for one, at in found.items() if one not in starts})
        if starts:
            self.consumer.take(starts)
        self._find_later(LATER)

    def _is_ahead(self, partition: Partition, start: int) -> bool:
        """Whether what is open stands yet, and reading goes on behind it."""
        return start >= self.ledgers[partition].next and not self.strays[partition].anew

    def _begin_anew(self, starts: dict[Partition, int]) -> dict[Partition, int]:
        """Logs made anew or cut: their offsets mean other messages from there on, and what is
        committed is of the log that is gone. Which of them have begun."""
        if not starts:
            return {}
        self._empty(list(starts))
        cut = {one: self.strays[one].cut or 0 for one in starts if not self.strays[one].anew}
        if not self.positions.forgotten(cut):
            starts = {one: at for one, at in starts.items() if one not in cut}
        self._let_go(list(starts), lost=False)
        for partition, start in starts.items():
            self._take(partition, start)
            del self.committed[partition]
        if starts:
            self.tell("partitions_assigned", partitions=tuple(starts))
        return starts

    def _look_at_topics(self) -> None:
        """Notice what the client does not tell: a topic that was made anew under its name, and
        one that is new and ours to read."""
        seen = self.seen()
        if seen is None or self._stop_within is not None:
            return
        if self.serves is not None and self.ends is None:
            self._subscribe(self.serves(seen.counts))
        if strange := self.intake.strange(seen.ids):
            try:
                self._identify(strange)
            except KafkaUnavailable as error:
                log.warning("%s may have been made anew: %s", ", ".join(strange), error)

    def _subscribe(self, wanted: list[str]) -> None:
        """Read these topics from now on."""
        now, before = set(wanted), set(self.topics)
        if now == before:
            return
        self.topics = wanted
        for topic in sorted(now - before):
            log.info("topic %s is read from now on", topic)
        for topic in sorted(before - now):
            log.warning("topic %s is gone", topic)
        self.consumer.subscribe(wanted, self)

    # --- the end -------------------------------------------------------------------------

    def _finish(self, deadline: Deadline) -> bool:
        """Stop taking, let what runs end, record, commit, leave."""
        for ledger in self.ledgers.values():
            ledger.starting = False
        self.consumer.pause(self.ledgers)
        self.handover.leaving = True
        self.delivery.commit()  # what ends the process from now on is not what runs
        self.lanes.drop(lambda work: not work.ledger.starting)
        while (self.runs or self.delivery.pending) and not deadline.passed:
            self.consumer.poll(BATCH, 0.0)
            self.hear(self.news(BUSY))
            self.hear(self.held())
            self.timers.run()
            self.delivery.record()
            self.start()
            if self._beat.due():
                self.delivery.commit()
        finished = not (self.runs or self.delivery.pending)
        if not finished:
            self.delivery.close()
            self.tell("worker_beat", snapshot=self.snapshot())
        self._let_out(Deadline(self.clock, min(LAST_SENT, deadline.remaining)))
        self.delivery.commit(patience=min(PLACING, deadline.remaining))
        last = Deadline(self.clock, max(LAST_COMMIT, deadline.remaining))
        while self.delivery.committing and not last.passed:
            self.consumer.poll(BATCH, 0.01)
            self.hear(self.news(0.0))
            self.timers.run()
            self.delivery.record()
        self.beat()
        self._count_skips(patience=min(0.5, deadline.remaining))
        return finished and not self.delivery.committing

    def _let_out(self, deadline: Deadline) -> None:
        """Wait a moment for what is on its way; the next worker sends what then is left."""
        while self.outbox.pending and not deadline.passed:
            self.consumer.poll(BATCH, 0.0)
            self.timers.run()
            with suppress(Empty):
                self.hear([self.inbox.get(timeout=BUSY)])
            self.outbox.turn(patience=BUSY)

    def close(self) -> None:
        """Leave the group; serves `revoked` for what is still ours."""
        try:
            self.consumer.close()
        finally:
            self.delivery.close()

    def abandon(self, within: float) -> bool:
        """Leave at once after an error: nothing more is recorded or committed. Whether what runs
        has ended within so many seconds."""
        try:
            self.lost(list(self.ledgers))
        finally:
            self.close()
        deadline = Deadline(self.clock, within)
        while self.runs and not deadline.passed:
            ended = self.news(min(BUSY, deadline.remaining))
            self.runs.difference_update(
                one.run for one in ended if isinstance(one, Performed) and one.over
            )
        return not self.runs

    # --- beats ---------------------------------------------------------------------------

    def beat(self) -> None:
        """Once a second: say how it goes. Now and then: forget what is old."""
        if self._second.due():
            self.store.look()
            self._look_after_handlers()
            self._look_at_topics()
            self._tell_damage()
            self.tell("worker_beat", snapshot=self.snapshot())
            self._count_skips()
        if self._prune.due():
            self.store.prune(self.clock.wall() - self.limits.dedup_retention)

    def _count_skips(self, patience: float = 0.0) -> None:
        """Record how many duplicates were skipped. Nothing hangs on it: after a crash some are
        not counted."""
        if self._skips and self.store.record(Turn(skipped=dict(self._skips)), patience=patience):
            self._skips.clear()

    def _look_after_handlers(self) -> None:
        """Tell of handlers that run longer than their timeout: a thread cannot be cancelled, so
        its message stays unsettled until it ends. And, now and then, of those without a timeout
        that run for long, which may be as it should be."""
        lasting: dict[Work, float] = {}
        for run in self.runs:
            for work in run.works:
                # Read once: its thread may end the call at any moment.
                timebox, started = work.timebox, work.started
                if started is None:
                    continue
                ran = self.clock.monotonic() - started
                if timebox is not None:
                    if not timebox.told and timebox.left <= 0:
                        timebox.told = True
                        reason = _lasts(run, work, ran, "longer than its timeout")
                        self._stuck_with(work, reason)
                elif ran >= LASTING:
                    due = self._lasting.get(work, LASTING)
                    if ran >= due:
                        _lasts(run, work, ran, "and has no timeout")
                        due = 2 * ran
                    lasting[work] = due
        self._lasting = lasting

    def _stuck_with(self, work: Work, reason: str) -> None:
        self._stuck(work.ledger.partition, work.record.offset, reason)

    def _stuck(self, partition: Partition, offset: int, reason: str) -> None:
        """Tell that a partition waits: until what stands at that offset is done."""
        before, _ = self.stuck.get(partition, (offset, reason))
        self.stuck[partition] = max(before, offset), reason
        self.tell("partition_stuck", partition=partition, reason=reason)

    def _still_stuck(self) -> dict[Partition, str]:
        for partition, (offset, _) in list(self.stuck.items()):
            ledger = self.ledgers.get(partition)
            if ledger is None or ledger.safe > offset:
                del self.stuck[partition]
        return {partition: reason for partition, (_, reason) in self.stuck.items()}

    def _why_paused(self) -> dict[Partition, str]:
        """What takes no messages now, and why."""
        why = dict.fromkeys(self.untaken, "Kafka has not told yet where to begin")
        for partition in self.paused:
            ledger = self.ledgers[partition]
            if ledger.parked:
                why[partition] = f"messages that are not due yet: {ledger.parked}"
            elif ledger.sealed:
                why[partition] = "its end was reached"
            elif self.damaged.get(partition, (0, 0))[1] >= PARKED:
                why[partition] = "what comes next cannot be read"
            else:
                why[partition] = f"messages in flight, as many as it may hold: {ledger.count}"
        return why

    def snapshot(self) -> Snapshot:
        return Snapshot(
            joined=self.consumer.joined,
            in_flight=sum(ledger.count for ledger in self.ledgers.values()),
            waiting=len(self.timers) + self.delivery.pending,
            partitions=len(self.ledgers),
            paused=MappingProxyType(self._why_paused()),
            stuck=MappingProxyType(self._still_stuck()),
            lag=MappingProxyType(self.lags.now(self.ledgers)),
            received=MappingProxyType(dict(self.intake.received)),
            handled=self.handled,
            retried=self.delivery.retried,
            dead_lettered=self.delivery.dead_lettered,
            skipped=self.skipped,
            lost=self.delivery.lost,
            store_bytes=self.store.size,
            last_turn=self._took,
        )


def _room(bound: int, held: Sequence[int]) -> Callable[[int], int]:
    """How much a partition that holds so much may hold: half of the bound is shared out evenly,
    so that nobody starves; the rest is for whoever needs it."""
    share = max(1, bound // 2 // max(1, len(held)))
    spare = bound - share * len(held)
    spare -= sum(own - share for own in held if own > share)
    return lambda own: share + max(0, spare + max(0, own - share))


def _was_called(outcome: Outcome) -> bool:
    """Whether a handler ran, so that it can say whether what it needs is there again."""
    if isinstance(outcome, Recorded):
        return not outcome.duplicate
    if isinstance(outcome, Failed):
        return outcome.called
    return not isinstance(outcome, Dropped | Postponed)


def _lasts(run: Run, work: Work, ran: float, how: str) -> str:
    """Log that a handler runs for long, with its stack; the line's beginning."""
    reason = f"{work.scope.name} has run for {ran:.1f} s on {work.original}"
    log.warning("%s, %s\n%s", reason, how, stacks.of(run.caller), extra=where(work))
    return reason


def where(work: Work) -> dict[str, object]:
    """The fields that say which message a log line is about."""
    record = work.record
    return {
        "handler": work.scope.name,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "attempt": work.calls,
        "id": work.id,
    }
