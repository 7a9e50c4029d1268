"""What goes with a partition to its next owner, and what came with it from the last one."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..kafka.api import CommitResult, Committed
from ..message import Partition
from ..note import ANYONE, LIMIT, Doubt, Foreign, Note, Place, longest, read, room, write
from ..ranges import Ranges
from ..stores.api import Store
from .intake import Intake
from .ledger import Ledger
from .settle import brief
from .work import NO_DOUBT, Work

log = logging.getLogger("kworker.runtime")

NONE = Ranges()
NOBODYS = Note(clean=True)  # where no owner has said anything
AHEAD = 500  # offsets that may be opened after a look at what fits: a turn's records
TOLD_WHOLE = 8  # doubts of a partition that travel with what was decided


@dataclass(slots=True)
class _Held:
    """A partition that is ours: whose parts its offsets have, and what is passed on."""

    parts: Mapping[str, int]  # by every name that a handler has or had
    every: int
    bytes: int  # for the parts of its handlers in a note
    told: dict[str, Ranges] = field(default_factory=dict)  # by the last owner, and to be passed on


class Handover:
    """Writes the notes that go with commits, and reads those of former owners.

    Costs nothing while everything below what is open is finished: a map is made at a commit,
    and only of what is scattered. Only the loop's thread touches it.
    """

    def __init__(self, *, cluster: str, store: Store, intake: Intake) -> None:
        self._cluster = cluster
        self._store = store
        self._intake = intake
        self._heard: dict[Partition, tuple[int, Note]] = {}
        self._held: dict[Partition, _Held] = {}
        self._limit = LIMIT  # characters, until a broker takes less
        self._cut: set[Partition] = set()  # what did not fit has been told
        self._me = secrets.token_hex(4)
        self.leaving = False  # this process ends by itself: whatever it commits is let go

    # --- from the last owner -------------------------------------------------------------

    def heard(self, partition: Partition, point: Committed | None, end: int) -> int | None:
        """Told what is committed, None for nothing that is of this log, and where the log ends;
        up to where the store has the effects of that, below 0 where it has lost even where they
        began, None where the commit names another store or none, or no handler shares its
        transactions."""
        self._heard.pop(partition, None)
        if point is None:
            return None
        try:
            note = read(point.metadata, self._place(partition, point.offset))
            if note is not None and any(done.end > end for done in note.done.values()):
                raise Foreign("it reaches beyond the end of the log, which was cut since")
        except Foreign as error:
            log.warning(
                "%s: the note with the commit of %d is ignored: %s; what was finished above it may "
                "be handled again", partition, point.offset, error,
                extra={"partition": str(partition), "committed": point.offset},
            )  # fmt: skip
            return None
        if note is None:
            return None
        self._heard[partition] = point.offset, note
        if note.store != self._store.uuid or not self._intake.transactional(partition):
            return None
        place = self._store.place(self._intake.log_of(partition))
        return -1 if place is None else place

    def begin(self, ledger: Ledger) -> None:
        """The partition is ours from now on: what its last owner has done is remembered."""
        partition = ledger.partition
        committed, note = self._heard.pop(partition, (ledger.start, NOBODYS))
        if note.by == self._me:
            note = replace(note, clean=True)  # we have not ended
        ledger.takings = _takings(note)
        note = self._believed(partition, note)
        self._intake.recall(ledger, note, committed)
        parts = self._intake.parts(partition)
        every = 0
        for part in parts.values():
            every |= part
        self._held[partition] = held = _Held(parts, every, 0)
        held.told = dict(note.done)
        self._measure(ledger, held)

    def _believed(self, partition: Partition, note: Note) -> Note:
        """The note without what the store knows better: where it holds the effects of handlers
        that share its transactions, it may have lost them. Where an owner has not let go, what
        ran alone is held to have ended it."""
        done = note.done
        if note.store == self._store.uuid and (sharing := self._intake.transactional(partition)):
            known = {*self._intake.names(sharing), ANYONE}
            done = {name: ranges for name, ranges in done.items() if name not in known}
        doubts = {
            one: replace(
                doubt,
                alone=False,
                deaths=doubt.deaths + (doubt.alone and not note.clean),
            )
            for one, doubt in note.doubts.items()
        }
        return replace(note, done=done, doubts=doubts)

    def end(self, partition: Partition) -> None:
        """The partition is not ours any more."""
        self._held.pop(partition, None)
        self._cut.discard(partition)

    # --- to the next one -----------------------------------------------------------------

    def point(self, ledger: Ledger, committed: int) -> Committed | None:
        """What may be committed now, with its note; None where that says nothing new."""
        held = self._held[ledger.partition]
        safe = ledger.safe
        told = ledger.said_at >= 0 and safe <= committed
        if told and not self._has_news(ledger, held):
            return None
        text = self._written(ledger, held)
        if told and text == ledger.said:
            return None
        return replace(ledger.point(), metadata=text)

    def _has_news(self, ledger: Ledger, held: _Held) -> bool:
        """Whether a note may say more than the last one, though the commit stands still."""
        return bool(self.leaving or held.told or ledger.doubts) or ledger.scattered(held.every)

    def _written(self, ledger: Ledger, held: _Held) -> str:
        partition = ledger.partition
        place = self._place(partition, ledger.safe)
        shares = self._intake.transactional(partition)
        note = Note(
            self._done(ledger, held),
            self._doubts(ledger, held) if ledger.doubts else {},
            self._store.uuid if shares else None,
            clean=self.leaving or not ledger.starting,
            taken=ledger.takings,
            by=self._me,
        )
        text, whole = write(note, place, self._limit)
        if not whole and partition not in self._cut:
            self._cut.add(partition)
            log.warning(
                "%s: a commit has no room for all that is finished above it; what has none is "
                "handled again if the partition moves", partition,
                extra={"partition": str(partition), "committed": ledger.safe},
            )  # fmt: skip
        return text

    def _done(self, ledger: Ledger, held: _Held) -> dict[str, Ranges]:
        """What our handlers have done, and what we were told and have not yet come to, or not
        been asked: of handlers that we do not have."""
        done: dict[str, Ranges] = {}
        if ledger.scattered(held.every):
            of = {part: ledger.done(part) for part in set(held.parts.values())}
            done = {name: of[part] for name, part in held.parts.items() if of[part]}
        if held.told:
            for name, ranges in list(held.told.items()):
                left = _from(ranges, ledger.next if name in held.parts else ledger.safe)
                if not left:
                    del held.told[name]
                    continue
                held.told[name] = left.copy()
                left.update(done.get(name, NONE))
                done[name] = left
        return done

    def _doubts(self, ledger: Ledger, held: _Held) -> dict[tuple[str, int], Doubt]:
        """What is still in doubt; of the oldest also what was decided, without its stack."""
        ledger.doubts = {
            (name, offset): doubt
            for (name, offset), doubt in ledger.doubts.items()
            if ledger.awaits(offset, held.parts.get(name, held.every or 1))
        }
        return {
            one: replace(doubt, decided=brief(doubt.decided) if whole else None)
            for number, (one, doubt) in enumerate(sorted(ledger.doubts.items(), key=_offset))
            for whole in (doubt.decided is not None and number < TOLD_WHOLE,)
        }

    # --- alone ---------------------------------------------------------------------------

    def accuse(self, work: Work) -> None:
        """The next commit says that this work runs alone, and no other."""
        doubts = work.ledger.doubts
        for one, doubt in doubts.items():
            if doubt.alone:
                doubts[one] = replace(doubt, alone=False)
        doubts[work.key] = replace(doubts.get(work.key, NO_DOUBT), alone=True)

    def acquit(self, work: Work) -> None:
        """It runs no longer."""
        doubt = work.ledger.doubts.get(work.key)
        if doubt is not None:
            work.ledger.doubts[work.key] = replace(doubt, alone=False)

    def knows(self, work: Work) -> bool:
        """Whether Kafka knows that this work runs alone, or cannot take so much."""
        if self.accuses(work):
            return True
        ledger = work.ledger
        text = self._written(ledger, self._held[ledger.partition])
        note = read(text, self._place(ledger.partition, ledger.safe))
        return note is None or not note.doubts.get(work.key, NO_DOUBT).alone

    def accuses(self, work: Work) -> bool:
        """Whether the last commit that Kafka has says so."""
        ledger = work.ledger
        if ledger.said_at < 0:
            return False
        try:
            note = read(ledger.said, self._place(ledger.partition, ledger.said_at))
        except Foreign:  # Kafka has the commit of a mode that says something else
            return False
        return note is not None and note.doubts.get(work.key, NO_DOUBT).alone

    # --- bounds --------------------------------------------------------------------------

    def crowded(self, ledger: Ledger, times: int) -> bool:
        """Whether what this ledger, taken so many times, may come to have finished above its
        commit might not fit a note."""
        held = self._held[ledger.partition]
        handlers = max(1, held.every.bit_count())
        return handlers * longest(ledger.spread * times, ledger.count * times) >= held.bytes

    def learn(
        self,
        points: Mapping[Partition, Committed],
        result: CommitResult,
        ledgers: Mapping[Partition, Ledger],
    ) -> bool:
        """Whether a commit was refused for its notes, so that shorter ones are worth a try."""
        if not result.oversized:
            return False
        refused = max((len(points[one].metadata) for one in result.refused), default=0)
        if not refused:
            return False
        self._limit = min(self._limit, refused * 3 // 4)
        log.warning(
            "the broker takes less with a commit than %d characters; %d from now on "
            "(offset.metadata.max.bytes)", refused, self._limit,
        )  # fmt: skip
        for partition, held in self._held.items():
            if partition in ledgers:
                self._measure(ledgers[partition], held)
        return True

    def _measure(self, ledger: Ledger, held: _Held) -> None:
        """How far this ledger may reach before it must be looked at closely."""
        names = {*held.parts, *held.told}
        handlers = max(1, held.every.bit_count())
        space = room(self._limit, sum(len(name.encode()) + 2 for name in names))
        held.bytes = space - handlers * AHEAD // 8
        # With nothing open there is always room: a batch at a time goes on.
        ledger.far = max(1, 8 * (held.bytes // handlers - 8))

    def _place(self, partition: Partition, offset: int) -> Place:
        topic_id, index = self._intake.log_of(partition)
        return Place(self._cluster, topic_id, index, offset)


def _takings(note: Note) -> int:
    """How many owners in a row, us included, take a partition from one that had not let go.
    Those whose last message ran alone are not counted: it is known what ended them."""
    if note.clean:
        return int(any(doubt.accused for doubt in note.doubts.values()))
    named = any(doubt.alone for doubt in note.doubts.values())
    return max(1, note.taken) if named else note.taken + 1


def _from(ranges: Ranges, start: int) -> Ranges:
    return Ranges((max(begin, start), stop) for begin, stop in ranges if stop > start)


def _offset(entry: tuple[tuple[str, int], Doubt]) -> int:
    return entry[0][1]
