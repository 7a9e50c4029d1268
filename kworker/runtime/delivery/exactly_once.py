"""Exactly once: what a message leaves on the wire and its offset become visible together.

The order of steps is that of `at_least_once`, but for one: outputs and copies are not sent one
by one. Those of all messages that have ended since the last transaction go into the next one,
with the positions of all partitions, and count as acknowledged when it is committed. So a
crash at any point leaves either all of it or nothing:

1. before the commit: the broker aborts, no reader of committed data has seen anything, and the
   messages come again; their handlers run again;
2. after it: their outputs and copies are there, and their offsets are done.

What a message leaves nothing of on the wire needs no transaction of its own: its offset goes
with the next one. The store is a cache of what Kafka knows.

A message's offset is closed when its transaction begins, so that the positions in it are those
that hold once it is committed, and opened again if it is not.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from ...kafka.api import (
    CommitResult,
    Committed,
    Ended,
    Membership,
    Outgoing,
    Receipt,
    Refused,
    Transactions,
    Undone,
    Unknown,
    Written,
)
from ...message import Partition
from ..work import Work
from .api import Shipment
from .at_least_once import AtLeastOnce

log = logging.getLogger("kworker.runtime")

LAST = 2.0  # seconds that a partition waits for its last transaction when it moves away
PAUSES = 0.1, 5.0  # seconds after a transaction that came to nothing: the first, the longest
SHARED = frozenset({"too_large", "invalid"})
"""Kinds of refusals that a message may share with the one that is the reason."""

Parcels = dict[Work, list[Shipment]]
"""What goes out for works, in the order in which they ended."""


class Bundle:
    """One on its way: what is in it, and what became of it once `over` is set."""

    __slots__ = ("ended", "members", "messages", "over", "parcels", "points")

    def __init__(
        self,
        parcels: Parcels,
        points: dict[Partition, Committed],
        members: list[Membership],
    ) -> None:
        self.parcels = parcels
        self.points = points
        self.members = members
        self.messages = [
            Outgoing(one.topic, one.key, one.value, one.headers)
            for shipments in parcels.values()
            for one in shipments
        ]
        self.over = threading.Event()
        self.ended: Ended | BaseException | None = None


class ExactlyOnce(AtLeastOnce):
    """See the module. Only the loop's thread touches it; transactions are made on another one,
    for a broker that hangs holds them up."""

    def __init__(
        self,
        *,
        transactions: Transactions,
        answer: Callable[[tuple[Bundle, None]], None],
        released: Callable[[], None],
        now: Callable[[], float],
        **parts: Any,
    ) -> None:
        """Ends what the last user of the id has left open. Raises KafkaUnavailable."""
        super().__init__(send=self._gather, **parts)
        self._transactions = transactions
        self._answer = answer
        self._released = released  # told when nothing uses the transactional id any more
        self._now = now
        self._gathered: Parcels = {}
        self._again: deque[Parcels] = deque()  # each to go by itself, before what is gathered
        self._running: Bundle | None = None
        self._wanted = False  # a commit of what is done was asked for while one was running
        self._written: set[Work] = set()  # closed, and not recorded yet
        self._vain = 0  # transactions in a row that came to nothing
        self._rested = 0.0  # when the next may begin
        self._jobs: SimpleQueue[Bundle | None] = SimpleQueue()
        transactions.open()
        threading.Thread(target=self._serve, name="kworker-transactions", daemon=True).start()

    @property
    def committing(self) -> bool:
        return self._running is not None or self._wanted

    def record(self, patience: float = 0.0) -> None:
        super().record(patience)
        if self._again or self._gathered or self._wanted:
            self._go_on()

    def commit(self, patience: float = 0.0) -> None:
        self._wanted = True
        self._go_on()

    def _go_on(self) -> None:
        if self._running is None and self._now() >= self._rested:
            self._wanted = False
            self._begin(self._next())

    def commit_last(self, partitions: Iterable[Partition], patience: float) -> None:
        if not self._await(LAST):
            return  # it is fenced off, or over, before the next owner is told where to begin
        self._begin({}, self._hands.points(partitions, patience))
        self._await(LAST)

    def close(self) -> None:
        self._jobs.put(None)

    # --- a transaction begins ------------------------------------------------------------

    def _gather(self, shipment: Shipment) -> None:
        self._gathered.setdefault(shipment.work, []).append(shipment)

    def _next(self) -> Parcels:
        """What the next bundle is to hold, as far as it is still ours to send."""
        if self._again:
            parcels = self._again.popleft()
        else:
            parcels, self._gathered = self._gathered, {}
        return {work: shipments for work, shipments in parcels.items() if work.ours}

    def _begin(self, parcels: Parcels, points: dict[Partition, Committed] | None = None) -> None:
        super()._close(parcels)
        if points is None:
            points = self._hands.points(None, 0.0)
        for work in parcels:
            # Also where nothing moves: the group's refusal of it is what fences us off.
            ledger = work.ledger
            points.setdefault(ledger.partition, replace(ledger.point(), metadata=ledger.said))
        if not points:
            return
        members = self._consumer.memberships(points)
        bundle = Bundle(parcels, points, members)
        if len(points) > sum(len(member.positions) for member in members):
            self._came_to_nothing(bundle, Undone("not a member of the group now", True))
            return
        self._running = bundle
        self._jobs.put(bundle)

    def _serve(self) -> None:
        while (bundle := self._jobs.get()) is not None:
            try:
                bundle.ended = self._transactions.commit(bundle.messages, bundle.members)
            except BaseException as error:  # noqa: BLE001 - raised again on the loop's thread
                bundle.ended = error
            bundle.over.set()
            self._answer((bundle, None))
        self._transactions.close()
        self._released()

    # --- and ends ------------------------------------------------------------------------

    def answered(self, sent: Any, answer: Any) -> None:
        if not isinstance(sent, Bundle):
            super().answered(sent, answer)
        elif sent is self._running:
            self._ended(sent)

    def _await(self, patience: float) -> bool:
        """Whether nothing is running, at the latest after that many seconds."""
        bundle = self._running
        if bundle is None:
            return True
        if not bundle.over.wait(patience):
            return False
        self._ended(bundle)
        return True

    def _ended(self, bundle: Bundle) -> None:
        self._running = None
        match bundle.ended:
            case Written():
                self._vain = 0
                self._acknowledge(bundle)
            case Refused() as refused:
                self._reopen(bundle.parcels)
                self._sift(bundle.parcels, refused)
            case Undone() as undone:
                self._came_to_nothing(bundle, undone)
            case Unknown(text):
                log.warning(
                    "nobody says whether a transaction was committed (%s): going on from the "
                    "group's positions", text,
                )  # fmt: skip
                self._hands.begin_again(bundle.points)
            case error:
                assert isinstance(error, BaseException)
                raise error

    def _acknowledge(self, bundle: Bundle) -> None:
        offsets = {one: point.offset for one, point in bundle.points.items()}
        self._hands.committed(bundle.points, CommitResult(offsets, {}))
        for work, shipments in bundle.parcels.items():
            if work.ours:
                self._written.add(work)
                for one in shipments:
                    super().answered(one, Receipt(one.topic, -1, -1, None))

    def _close(self, works: Iterable[Work]) -> None:
        super()._close([work for work in works if work not in self._written])
        self._written.difference_update(works)

    def _reopen(self, parcels: Parcels) -> None:
        for work in parcels:
            if work.ours:
                work.ledger.reopen(work.record.offset, work.part, work.record.size)

    def _came_to_nothing(self, bundle: Bundle, undone: Undone) -> None:
        """Again, as it is: what handlers published is still here, so they need not run."""
        self._reopen(bundle.parcels)
        if bundle.parcels:
            self._again.appendleft(bundle.parcels)
        if undone.expected:
            self._rested = self._now() + PAUSES[0]
            return
        self._vain += 1
        pause = min(PAUSES[1], PAUSES[0] * 2 ** (self._vain - 1))
        log.warning("a transaction came to nothing: %s; again in %g s", undone.text, pause)
        stuck = {work.ledger.partition: work for work in bundle.parcels}
        for work in stuck.values():
            self._hands.stuck(work, undone.text)
        self._rested = self._now() + pause

    def _sift(self, parcels: Parcels, refused: Refused) -> None:
        """Find the message that Kafka does not take: half by half, where the others of its
        batch were refused with it."""
        numbered = [
            (work, shipment) for work, shipments in parcels.items() for shipment in shipments
        ]
        found = {numbered[number]: why for number, why in refused.refusals.items()}
        culprits = {
            work: (shipment, why)
            for (work, shipment), why in found.items()
            if why.kind not in SHARED or len(parcels) == 1
        }
        rest = [(work, shipments) for work, shipments in parcels.items() if work not in culprits]
        if culprits:
            parts = [dict(rest)]
        else:
            middle = len(rest) // 2
            parts = [dict(rest[:middle]), dict(rest[middle:])]
        for part in reversed(parts):
            if part:
                self._again.appendleft(part)
        for shipment, why in culprits.values():
            super().answered(shipment, replace(why, permanent=True))
