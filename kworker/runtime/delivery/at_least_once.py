"""At least once: handle, settle, record, and only then let the offset be committed.

The order of steps, and why no crash between any two of them loses a message:

1. a failure's decision is recorded before its copy is sent, so the handler is not called
   again for what was decided;
2. outputs and copies are acknowledged before their message counts as settled;
3. what is settled is recorded, durably, before its offset is closed;
4. only closed offsets are committed.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from ... import headers as names
from ...errors import PublishRejected
from ...kafka.api import CommitResult, Committed, Consumer, Receipt, Refusal
from ...message import Partition
from ...outcome import (
    DONE,
    Done,
    Dropped,
    Failed,
    GiveUp,
    Outcome,
    RetryLater,
    SendOn,
    Skipped,
    TryAgain,
)
from ...plugins import Tell
from ...ranges import Ranges
from ...retry import Retry, decide
from ...stores.api import Attempt, Log, Mark, Store, Turn
from ...topics import GroupTopics
from ..ledger import Ledger
from ..settle import Copy, copy_for
from ..work import Scope, Work, close
from .api import BUSY, Hands, Shipment

log = logging.getLogger("kworker.runtime")

Send = Callable[[Shipment], None]

RESEND = 1.0, 30.0  # seconds: first and longest pause before a refused copy is sent again
OVERDUE = 10.0  # seconds between two looks for copies without an answer


class _Sending:
    """A copy until Kafka has acknowledged it."""

    __slots__ = ("copy", "error", "shipment", "watched")

    def __init__(self, copy: Copy, error: BaseException | None) -> None:
        self.copy = copy
        self.error = error  # None: it was decided before a crash
        self.shipment: Shipment | None = None  # on its way now
        self.watched = False  # without an answer since the last look


def _next_wait(decision: SendOn, error: BaseException, calls: int, policy: Retry) -> float:
    """Seconds until the next call of one whose retries stay in the process."""
    if isinstance(error, RetryLater):
        return decision.delay
    return policy.delays[min(max(0, calls - policy.attempts), len(policy.delays) - 1)]


class AtLeastOnce:
    """See the module. Only the loop's thread touches it."""

    def __init__(
        self,
        *,
        store: Store,
        topics: GroupTopics,
        send: Send,
        consumer: Consumer,
        hands: Hands,
        tell: Tell,
        wall: Callable[[], float],
        reference_when_too_large: bool,
        in_process: bool = False,
    ) -> None:
        self._store = store
        self._topics = topics
        self._send = send
        self._consumer = consumer
        self._hands = hands
        self._commits = 0  # not answered yet
        self._due = False  # the next one, once that is answered
        self._tell = tell
        self._wall = wall
        self._reference = reference_when_too_large
        self._in_process = in_process  # no retry goes through a topic
        self._settled: list[tuple[Work, Outcome]] = []
        self._retried: list[tuple[Work, float]] = []
        self._decided: list[tuple[Work, Copy]] = []
        self._outputs: dict[Work, set[Shipment]] = {}  # not acknowledged yet
        self._copies: dict[Work, _Sending] = {}
        self._watching = False
        self.dead_lettered = 0
        self.retried = 0
        self.lost = 0

    @property
    def pending(self) -> int:
        return len(self._settled) + len(self._retried) + len(self._outputs) + len(self._copies)

    def holds(self, ledgers: set[Ledger]) -> bool:
        pairs = (*self._settled, *self._retried, *self._decided)
        if any(work.ledger in ledgers for work, _ in pairs):
            return True
        # A copy that was refused waits for its time, and nobody for it.
        return any(work.ledger in ledgers for work in self._outputs) or any(
            work.ledger in ledgers and sending.shipment is not None
            for work, sending in self._copies.items()
        )

    @property
    def committing(self) -> bool:
        return self._commits > 0 or self._due

    def admit(self, works: Sequence[Work]) -> None:
        self._hands.enter(works)

    # --- settle --------------------------------------------------------------------------

    def settle(self, results: Sequence[tuple[Work, Outcome]]) -> None:
        settled = self._settled
        for result in results:
            work, outcome = result
            if outcome is DONE:
                work.calls += 1
                settled.append(result)
            else:
                self._settle(work, outcome)

    def _settle(self, work: Work, outcome: Outcome) -> None:
        if isinstance(outcome, Done):
            work.calls += 1
            if outcome.outputs:
                shipments = [
                    Shipment(work, out.topic, out.key, out.value, out.headers)
                    for out in outcome.outputs
                ]
                self._outputs[work] = set(shipments)
                for shipment in shipments:
                    self._send(shipment)
            else:
                self._settled.append((work, outcome))
        elif isinstance(outcome, Skipped):
            work.calls += 1
            self._settled.append((work, outcome))
        elif isinstance(outcome, Failed):
            work.calls += outcome.called
            self._failed(work, outcome.error)
        else:
            assert isinstance(outcome, Dropped)

    def _failed(self, work: Work, error: BaseException) -> None:
        handler = work.scope.handler
        assert handler is not None
        if work.first_failed_at is None:
            work.first_failed_at = self._wall()
        decision = decide(
            error,
            calls=work.calls,
            hop=work.hop,
            arrived_through=work.arrived_through,
            policy=handler.retry,
        )
        if (self._in_process or handler.holds) and isinstance(decision, SendOn):
            decision = TryAgain(_next_wait(decision, error, work.calls, handler.retry))
        if isinstance(decision, TryAgain):
            self._retried.append((work, decision.delay))
            self._told_retry(work, error, decision.delay)
        else:
            self._decide(work, decision, error)

    def give_up(self, work: Work, disposition: str, error: BaseException) -> None:
        self._decide(work, GiveUp(disposition), error)

    def _decide(self, work: Work, decision: SendOn | GiveUp, error: BaseException) -> None:
        copy = copy_for(work, decision, error, self._topics, self._wall())
        self._decided.append((work, copy))
        self._copies[work] = _Sending(copy, error)
        if isinstance(decision, SendOn):
            self._told_retry(work, error, decision.delay)

    def resume(self, work: Work, decided: str) -> None:
        self._copies[work] = sending = _Sending(Copy.decode(decided), None)
        self._ship(work, sending)

    # --- send ----------------------------------------------------------------------------

    def _ship(self, work: Work, sending: _Sending, tries: int = 0) -> None:
        record, copy = work.record, sending.copy
        value = None if copy.bare else record.value
        shipment = Shipment(work, copy.topic, record.key, value, copy.headers(work))
        shipment.tries = tries
        sending.shipment = shipment
        sending.watched = False
        self._send(shipment)
        if not self._watching:
            self._watching = True
            self._hands.later(OVERDUE, self._watch)

    def _watch(self) -> None:
        """The client tries for long by itself; people want to know before it gives up."""
        stuck: dict[Partition, tuple[Work, str]] = {}
        for work, sending in self._copies.items():
            if sending.watched and work.ours:
                reason = (
                    f"{sending.copy.topic} has not acknowledged the copy of {work.original} yet"
                )
                stuck.setdefault(work.ledger.partition, (work, reason))
            sending.watched = sending.shipment is not None
        for work, reason in stuck.values():
            self._hands.stuck(work, reason)
        self._watching = bool(self._copies)
        if self._watching:
            self._hands.later(OVERDUE, self._watch)

    def answered(self, sent: Shipment, answer: Receipt | Refusal) -> None:
        # An answer that nobody waits for belongs to a call that has failed meanwhile, or to a
        # partition that has gone.
        work = sent.work
        sending = self._copies.get(work)
        if sending is not None and sending.shipment is sent:
            self._copy_answered(work, sending, sent, answer)
        elif sent in self._outputs.get(work, ()):
            self._output_answered(work, sent, answer)

    def _output_answered(self, work: Work, shipment: Shipment, answer: Receipt | Refusal) -> None:
        if isinstance(answer, Receipt):
            self._outputs[work].remove(shipment)
            if not self._outputs[work]:
                del self._outputs[work]
                self._settled.append((work, DONE))
        elif answer.permanent:
            # The rest of what it published may go out: a second run publishes the same ids.
            del self._outputs[work]
            self._failed(work, PublishRejected(f"{shipment.topic} refused it: {answer.text}"))
        else:
            self._wait(shipment, answer, lambda: self._resend_output(work, shipment))

    def _resend_output(self, work: Work, shipment: Shipment) -> None:
        if shipment in self._outputs.get(work, ()) and work.ours:
            self._send(shipment)

    def _copy_answered(
        self, work: Work, sending: _Sending, shipment: Shipment, answer: Receipt | Refusal
    ) -> None:
        copy, error = sending.copy, sending.error
        if isinstance(answer, Receipt):
            del self._copies[work]
            if copy.topic == self._topics.dlq:
                self.dead_lettered += 1
                self._tell(
                    "message_dead_lettered",
                    message=work.message(),
                    handler=work.scope.fact,
                    disposition=copy.get(names.DISPOSITION) or "",
                    error=error,
                )
            else:
                self.retried += 1
            self._settled.append((work, Dropped() if error is None else Failed(error)))
            return
        if answer.kind == "too_large":
            smaller = copy.smaller() or self._as_reference(work, copy)
            if smaller is not None:
                sending.copy = smaller
                self._ship(work, sending)
                return
        tries = shipment.tries + 1
        sending.shipment = None
        self._wait(shipment, answer, lambda: self._resend_copy(work, sending, tries))

    def _as_reference(self, work: Work, copy: Copy) -> Copy | None:
        """The coordinates alone, as a dead letter, where the user chose that."""
        if not self._reference or copy.bare:
            return None
        written = dict(copy.written)
        written.setdefault(names.DISPOSITION, "retries_exhausted")
        written.pop(names.NOT_BEFORE, None)
        written[names.REFERENCE] = "the value was too large"
        return Copy(self._topics.dlq, tuple(written.items()), bare=True)

    def _resend_copy(self, work: Work, sending: _Sending, tries: int) -> None:
        if self._copies.get(work) is sending and work.ours:
            self._ship(work, sending, tries)

    def _wait(self, shipment: Shipment, refusal: Refusal, then: Callable[[], None]) -> None:
        """The partition waits, told, until Kafka takes it: nothing is lost or skipped."""
        shipment.tries += 1
        first, longest = RESEND
        pause = min(longest, first * 2 ** (shipment.tries - 1))
        reason = (
            f"{shipment.topic} does not take the copy of {shipment.work.original}: "
            f"{refusal.text}; trying again in {pause:g} s"
        )
        self._hands.stuck(shipment.work, reason)
        self._hands.later(pause, then)

    # --- record, close, commit -----------------------------------------------------------

    def record(self, patience: float = 0.0) -> None:
        self._forget_foreign()
        if not (self._settled or self._retried or self._decided):
            return
        if not self._store.record(self._turn(), patience=patience):
            return
        settled, self._settled = self._settled, []
        retried, self._retried = self._retried, []
        decided, self._decided = self._decided, []
        for work, copy in decided:
            work.keep_in_doubt(copy.encode())
            self._ship(work, self._copies[work])
        for work, delay in retried:
            work.keep_in_doubt(None, self._wall() + delay)
            self._hands.again(work, delay)
        if settled:
            self._close([work for work, _ in settled])
            self._hands.closed(settled)

    def _close(self, works: Iterable[Work]) -> None:
        close(works)

    def commit(self, patience: float = 0.0) -> None:
        # One at a time: the client sends an unanswered one again after a broker's death, when it
        # may arrive behind a newer one and take the group back.
        self._due = self._commits > 0
        points = {} if self._due else self._hands.points(None, patience)
        if points:
            self._commits += 1
            self._consumer.commit(points, partial(self._committed, points))

    def commit_last(self, partitions: Iterable[Partition], patience: float) -> None:
        while points := self._hands.points(partitions, patience):
            if not self._hands.committed(points, self._consumer.commit_now(points)):
                break

    def heard(self, partition: Partition, point: Committed) -> None:
        pass

    @property
    def patience(self) -> float:
        return BUSY

    def close(self) -> None:
        pass

    def _committed(self, points: Mapping[Partition, Committed], result: CommitResult) -> None:
        self._commits -= 1
        if self._hands.committed(points, result) or self._due:
            # Not here, inside a poll: the client stands behind records that are not open yet, and
            # where nothing else is open they would be taken for markers and passed.
            self._due = True
            self._hands.later(0.0, self._commit_due)

    def _commit_due(self) -> None:
        if self._due:
            self.commit()

    def _forget_foreign(self) -> None:
        """Drop what belongs to partitions that are no longer ours: their new owner decides."""
        self._settled = [pair for pair in self._settled if pair[0].ledger.ours]
        self._retried = [pair for pair in self._retried if pair[0].ledger.ours]
        self._decided = [pair for pair in self._decided if pair[0].ledger.ours]
        for table in (self._outputs, self._copies):
            for work in [work for work in table if not work.ours]:
                del table[work]

    def _turn(self) -> Turn:
        seen: list[Mark] = []
        settled: list[Mark] = []
        done: dict[tuple[str, Log], Ranges] = {}
        topics: dict[str, str] = {}
        arrived: defaultdict[Scope, list[str]] = defaultdict(list)
        for work, _ in self._settled:
            if work.noted:
                settled.extend(work.marks)
            log = work.log
            if log is None:
                if work.hop or work.replay:
                    seen.append(work.mark)
                else:
                    arrived[work.scope].append(work.id)
                continue
            ranges = done.get((work.scope.name, log))
            if ranges is None:
                # Gaps below the lowest unfinished offset are markers or compacted records.
                ranges = Ranges([(work.ledger.start, work.ledger.safe)])
                done[work.scope.name, log] = ranges
                topics[log.topic_id] = work.scope.topic
            ranges.add(work.record.offset)
        now = self._wall()
        attempts = {
            work.mark: Attempt(work.calls, None, work.first_failed_at, now + delay)
            for work, delay in self._retried
        }
        for work, copy in self._decided:
            attempts[work.mark] = Attempt(work.calls, copy.encode(), work.first_failed_at)
        ids = {(scope.name, scope.topic): arrivals for scope, arrivals in arrived.items()}
        return Turn(seen, done, topics, attempts, settled, ids=ids)

    def _told_retry(self, work: Work, error: BaseException, delay: float) -> None:
        self._tell(
            "message_retrying",
            message=work.message(),
            handler=work.scope.fact,
            error=error,
            attempt=work.calls,
            delay=delay,
        )
