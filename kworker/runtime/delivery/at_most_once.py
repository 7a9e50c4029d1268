"""At most once: commit, and only when Kafka has acknowledged that, let handlers begin.

What starts next, at most `concurrency` messages, is asked for: a commit past them. Once it is
acknowledged they are begun, and belong to this process whatever becomes of their partition: no
other will ever be given them. So they are finished after a partition has moved away, and when
the worker stops; what is not finished when the process ends is lost.

How many that were is told: by the process itself where it can, else by the next owner of the
partition, for each commit names in its metadata what was begun and not finished then.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ...kafka.api import CommitResult, Committed
from ...message import Partition
from ...ranges import Ranges
from ..ledger import Ledger
from ..work import Work
from .api import Hands
from .at_least_once import AtLeastOnce

log = logging.getLogger("kworker.runtime")

BEGUN = "begun "  # how the metadata of a commit begins that names what was not finished
LIMIT = 4000  # characters of it
AGAIN = 0.5  # seconds until a commit that was refused is tried again
HASTE = 0.0005  # seconds between two looks for the answer to a commit


class AtMostOnce(AtLeastOnce):
    """See the module. Only the loop's thread touches it.

    A work that is begun stands in a ledger of its own, which nobody takes away; what happens
    after its handler has ended is as in `at_least_once`.
    """

    def __init__(self, *, concurrency: int, hands: Hands, **parts: Any) -> None:
        super().__init__(hands=replace(hands, again=self._pause), **parts)
        self._concurrency = concurrency
        self._waiting: dict[Ledger, dict[int, list[Work]]] = {}
        self._asked: dict[Ledger, list[Work]] = {}  # committed, and not acknowledged
        self._begun: dict[Ledger, Ledger] = {}
        self._pausing: dict[Ledger, int] = {}  # how many wait for their next call
        self._over = False

    @property
    def pending(self) -> int:
        asked = sum(len(works) for works in self._asked.values())
        return super().pending + asked + sum(begun.count for begun in self._begun.values())

    @property
    def patience(self) -> float:
        return HASTE if self._asked else super().patience

    def holds(self, ledgers: set[Ledger]) -> bool:
        if super().holds(ledgers):
            return True
        begun = (self._begun.get(ledger) for ledger in ledgers)
        return any(one.count > self._pausing.get(one, 0) for one in begun if one is not None)

    def admit(self, works: Sequence[Work]) -> None:
        for work in works:
            waiting = self._waiting.setdefault(work.ledger, {})
            waiting.setdefault(work.record.offset, []).append(work)

    def record(self, patience: float = 0.0) -> None:
        super().record(patience)
        if self._waiting or self._asked:
            self._forget()
            self._ask()

    # --- what starts next ----------------------------------------------------------------

    def _forget(self) -> None:
        """What has not been asked for stays unfinished when its partition goes; what has been
        asked for and is not ours any more may have been committed."""
        self._waiting = {one: works for one, works in self._waiting.items() if one.starting}
        for ledger in [one for one in self._asked if not one.ours]:
            self._lose(ledger.partition, {work.record.offset for work in self._asked.pop(ledger)})
        self._begun = {one: begun for one, begun in self._begun.items() if one.ours or begun.count}

    def _ask(self) -> None:
        """Commit past what may start next, oldest first and without a gap."""
        room = self._concurrency - sum(len(works) for works in self._asked.values())
        room -= sum(begun.count for begun in self._begun.values())
        asked: dict[Ledger, list[Work]] = {}
        for ledger in list(self._waiting):
            works = [] if ledger in self._asked else self._first(ledger, room)
            if works:
                self._waiting[ledger] = self._waiting.pop(ledger)  # the others' turn is next
                asked[ledger] = works
                room -= len(works)
        if asked:
            self._asked |= asked
            points = {ledger.partition: ledger.point() for ledger in asked}
            self._commit({**self._stale(), **points}, asked)

    def _first(self, ledger: Ledger, room: int) -> list[Work]:
        """The oldest messages of a partition whose works are all here, as many as there is room
        for; their offsets are closed."""
        waiting = self._waiting[ledger]
        first: list[Work] = []
        for offset in ledger.unfinished(room):
            works = waiting.get(offset, [])
            here = 0
            for work in works:
                here |= work.part
            if here != ledger.left(offset):
                break
            first += works
            if len(first) >= room:
                break
        for work in first:
            waiting.pop(work.record.offset, None)
        super()._close(first)
        if not waiting:
            del self._waiting[ledger]
            if first:
                self._waiting[ledger] = {}
        return first

    def _commit(
        self, points: Mapping[Partition, Committed], asked: Mapping[Ledger, list[Work]]
    ) -> None:
        ledgers = {one.partition: one for one in (*self._begun, *asked) if one.ours}
        named = {
            place: self._named(ledgers.get(place), point, asked) for place, point in points.items()
        }
        self._commits += 1
        self._consumer.commit(named, partial(self._granted, asked, named))

    def _granted(
        self,
        asked: Mapping[Ledger, list[Work]],
        points: Mapping[Partition, Committed],
        result: CommitResult,
    ) -> None:
        self._commits -= 1
        self._hands.committed(points, result)
        for ledger, works in asked.items():
            if self._asked.get(ledger) is not works:
                continue  # given back meanwhile
            if ledger.partition in result.stored:
                del self._asked[ledger]
                self._begin(ledger, works)
            else:
                self._hands.later(AGAIN, partial(self._ask_again, ledger, works))

    def _ask_again(self, ledger: Ledger, works: list[Work]) -> None:
        if self._asked.get(ledger) is works and ledger.ours:
            self._commit({ledger.partition: ledger.point()}, {ledger: works})

    def _begin(self, ledger: Ledger, works: list[Work]) -> None:
        begun = self._begun.get(ledger)
        if begun is None:
            self._begun[ledger] = begun = Ledger(ledger.partition, works[0].record.offset)
        by_offset: dict[int, list[Work]] = {}
        for work in works:
            by_offset.setdefault(work.record.offset, []).append(work)
        for some in by_offset.values():
            begun.open([some[0].record], sum(work.part for work in some))
        for work in works:
            work.ledger = begun
        self._hands.enter(works)

    def _pause(self, work: Work, delay: float) -> None:
        """Its next call is due then; no partition that moves away waits for that."""
        ledger = work.ledger
        self._pausing[ledger] = self._pausing.get(ledger, 0) + 1
        self._hands.later(delay, partial(self._resume_call, work))

    def _resume_call(self, work: Work) -> None:
        ledger = work.ledger
        self._pausing[ledger] -= 1
        if not self._pausing[ledger]:
            del self._pausing[ledger]
        self._hands.enter([work])

    def _close(self, works: Iterable[Work]) -> None:
        super()._close(works)
        for work in works:
            work.ledger.doubts.pop((work.scope.name, work.record.offset), None)

    # --- commits -------------------------------------------------------------------------

    def commit(self, patience: float = 0.0) -> None:
        under_way = {ledger.partition for ledger in self._asked}
        points = self._hands.points(None, patience)
        points = {**self._stale(), **points}
        points = {place: point for place, point in points.items() if place not in under_way}
        if points:
            self._commit(points, {})

    def commit_last(self, partitions: Iterable[Partition], patience: float) -> None:
        wanted = set(partitions)
        points = {place: point for place, point in self._stale().items() if place in wanted}
        points |= self._hands.points(wanted, patience)
        given_back = [ledger for ledger in self._asked if ledger.partition in wanted]
        asked = {ledger: self._asked.pop(ledger) for ledger in given_back}
        ledgers = {one.partition: one for one in self._begun if one.ours}
        for ledger, works in asked.items():
            first = works[0].record
            points[ledger.partition] = Committed(first.offset, first.leader_epoch)
        points = {
            place: self._named(ledgers.get(place), point, {}) for place, point in points.items()
        }
        if not points:
            return
        result = self._consumer.commit_now(points)
        self._hands.committed(points, result)
        for ledger, works in asked.items():
            if ledger.partition not in result.stored:
                self._lose(ledger.partition, {work.record.offset for work in works})

    def _stale(self) -> dict[Partition, Committed]:
        """Of what Kafka has to be told anew what is begun there: every commit does, so that
        all of them together never name more than may run at once."""
        return {
            ledger.partition: ledger.point()
            for ledger in self._begun
            if ledger.ours
            and ledger not in self._asked
            and (ledger.said if ledger.said.startswith(BEGUN) else "") != self._text(ledger, {})
        }

    def _named(
        self, ledger: Ledger | None, point: Committed, asked: Mapping[Ledger, list[Work]]
    ) -> Committed:
        """A point that says what is begun and not finished where anything is."""
        text = "" if ledger is None else self._text(ledger, asked)
        return replace(point, metadata=text) if text else point

    def _text(self, ledger: Ledger, asked: Mapping[Ledger, list[Work]]) -> str:
        begun = self._begun.get(ledger)
        offsets = [] if begun is None or self._over else list(begun.unfinished(begun.span))
        offsets += [work.record.offset for work in asked.get(ledger, ())]
        if not offsets:
            return ""
        runs = Ranges((one, one + 1) for one in sorted(set(offsets)))
        text = BEGUN + ",".join(f"{start}-{stop - 1}" for start, stop in runs)
        return text if len(text) <= LIMIT else f"{BEGUN}{len(offsets)}"

    # --- what is lost --------------------------------------------------------------------

    def heard(self, partition: Partition, point: Committed) -> None:
        if not point.metadata.startswith(BEGUN):
            return
        ours: set[int] = set()
        for begun in self._begun.values():
            if begun.partition == partition:
                ours.update(begun.unfinished(begun.span))
        offsets, many = _begun_then(point.metadata.removeprefix(BEGUN))
        self._lose(partition, offsets - ours, many)
        self._consumer.commit_now({partition: replace(point, metadata="")})

    def close(self) -> None:
        super().close()
        self._over = True
        for begun in self._begun.values():
            self._lose(begun.partition, set(begun.unfinished(begun.span)))
        for ledger, works in self._asked.items():
            self._lose(ledger.partition, {work.record.offset for work in works})

    def _lose(self, partition: Partition, offsets: set[int], more: int = 0) -> None:
        """Committed, and not known to be finished: nobody will be given these again."""
        many = len(offsets) + more
        if not many:
            return
        self.lost += many
        shown = ", ".join(map(str, sorted(offsets)[:20])) or "which are not known"
        log.error(
            "%s: %d messages were begun and not finished, and are not given again: offsets %s",
            partition, many, shown,
            extra={"topic": partition.topic, "partition": partition.index, "lost": many},
        )  # fmt: skip


def _begun_then(text: str) -> tuple[set[int], int]:
    """The offsets that a commit names, or how many there were."""
    if "-" not in text:
        return set(), int(text) if text.isdigit() else 0
    offsets: set[int] = set()
    for run in text.split(","):
        start, _, stop = run.partition("-")
        offsets.update(range(int(start), int(stop) + 1))
    return offsets, 0
