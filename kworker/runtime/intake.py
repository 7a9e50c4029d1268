"""The way in: whose is this record, was it done before, may it go on now?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from .. import headers as names
from ..clock import Clock
from ..errors import KworkerError, Undecodable
from ..handlers import Handler, Register
from ..message import Message, Partition, Position, Record
from ..note import ANYONE, Note
from ..ranges import Ranges
from ..stores.api import Attempt, Log, Store, Turn
from ..topics import GroupTopics
from .ledger import Ledger
from .work import Scope, Work

NOTHING_DONE = Ranges()
DEATHS = 3  # while it ran alone, after which a message is not run again
LONGEST_WAIT = 366 * 86_400.0  # seconds: what a not-before from a jumped clock may ask for


class UnknownHandler(KworkerError):
    """A copy names a handler that this worker does not have."""


class ProcessKiller(KworkerError):
    """Processes have ended while they handled this message and nothing else."""

    def __init__(self, deaths: int) -> None:
        super().__init__(f"{deaths} processes have ended while it was all they handled")


@dataclass(slots=True)
class Admitted:
    """What a batch of records has become, each list in the order of the records."""

    ready: list[Work] = field(default_factory=list)
    later: list[tuple[Work, float]] = field(default_factory=list)  # seconds until it is due
    # Failed before a crash, and called again in so many seconds.
    again: list[tuple[Work, float]] = field(default_factory=list)
    decided: list[tuple[Work, str]] = field(default_factory=list)  # only its copy is to be sent
    duplicates: list[Work] = field(default_factory=list)
    broken: list[tuple[Work, str, Exception]] = field(default_factory=list)  # disposition


class Taker:
    """One handler of one source partition, and what it has done there: by position, as the
    store knows, and above the commit, as the last owner has said."""

    __slots__ = ("above", "done", "handler", "log", "plain", "scope")

    def __init__(
        self, scope: Scope, handler: Handler, log: Log, done: Ranges, above: Ranges
    ) -> None:
        self.scope = scope
        self.handler = handler
        self.log = log
        self.done = done
        self.above = above
        self.plain = handler.trust_ids and handler.dedup is None


Batch = tuple[Ledger, list[Record]]


class Intake:
    """Turns records into works, and asks once a batch which were done before.

    Of two works with one mark the second waits behind the first, as its twin, until the
    first has landed. Only the loop's thread touches it.
    """

    def __init__(
        self,
        *,
        register: Register,
        topics: GroupTopics,
        topic_ids: Callable[[Iterable[str]], Mapping[str, str]],
        store: Store,
        clock: Clock,
        unknown_handler_wait: float,
    ) -> None:
        self._register = register
        self.topics = topics
        self._ask_topic_ids = topic_ids
        self._topic_ids: dict[str, str] = {}
        self._store = store
        self._clock = clock
        self._unknown_handler_wait = unknown_handler_wait
        self._scopes: dict[tuple[str, str], Scope] = {}
        self._takers: dict[Partition, tuple[Taker, ...]] = {}
        self.received: Counter[str] = Counter()  # records, by topic
        self._copied: dict[Partition, Ranges] = {}  # copies that the last owner has done

    def scope(self, name: str, topic: str) -> Scope:
        """The one scope of a handler's name and an original topic."""
        scope = self._scopes.get((name, topic))
        if scope is None:
            scope = Scope(name, topic, self._register.named(name))
            self._scopes[name, topic] = scope
        return scope

    def log_of(self, partition: Partition) -> Log:
        """The incarnation of a partition that Kafka has now, as far as is known."""
        return Log(self._topic_id(partition.topic), partition.index)

    def transactional(self, partition: Partition) -> tuple[str, ...]:
        """The handlers with a Transaction whose messages, or whose copies, it brings."""
        register, topic = self._register, partition.topic
        handlers = register if self.topics.owns(topic) else register.for_topic(topic)
        return tuple(one.name for one in handlers if one.takes_transaction is not None)

    def names(self, handlers: Iterable[str]) -> set[str]:
        """Every name that these handlers have or had."""
        found = [self._register.named(name) for name in handlers]
        return {name for one in found if one is not None for name in (one.name, *one.aliases)}

    # --- partitions come and go ----------------------------------------------------------

    def identify(self, topics: Iterable[str]) -> set[str]:
        """Learn which incarnations of these topics Kafka has now; which of them were made anew
        since they were last looked at. Raises KafkaUnavailable.

        What was done in an old one by position says nothing about the new.
        """
        found = self._ask_topic_ids(topics)
        anew = {name for name, id in found.items() if self._topic_ids.get(name, id) != id}
        self._topic_ids.update(found)
        return anew

    def strange(self, ids: Mapping[str, str]) -> set[str]:
        """The topics of these whose id is not the one that is known."""
        return {name for name, id in ids.items() if self._topic_ids.get(name, id) != id}

    def recall(self, ledger: Ledger, note: Note, committed: int) -> None:
        """Read from the store what was done by position in this partition, and from the note
        of its last owner what was done above the committed offset. Reading begins at the
        ledger's start, which is lower where the store has lost effects that were committed.
        """
        partition, start = ledger.partition, ledger.start
        place = self.log_of(partition)
        takers = []
        for number, handler in enumerate(self._register.for_topic(partition.topic)):
            scope = self.scope(handler.name, partition.topic)
            scope.part = 1 << number
            above = Ranges()
            if handler.takes_transaction is None:
                above.add_range(min(start, committed), committed)
            for name in (handler.name, *handler.aliases):
                above.update(note.done.get(name, NOTHING_DONE))
            takers.append(Taker(scope, handler, place, self._done(handler, place), above))
        self._takers[partition] = tuple(takers)
        for (name, offset), doubt in note.doubts.items():
            known = self._register.named(name)
            ledger.doubts[known.name if known is not None else name, offset] = doubt
        if not takers and ANYONE in note.done:
            self._copied[partition] = note.done[ANYONE]

    def parts(self, partition: Partition) -> dict[str, int]:
        """Whose part of an offset each bit is, by every name that a handler has or had; of a
        copy, which is for one handler, there is one."""
        if self.topics.owns(partition.topic):
            return {ANYONE: 1}
        return {
            name: taker.scope.part
            for taker in self._takers.get(partition, ())
            for name in (*taker.handler.aliases, taker.handler.name)
        }

    def recorded(self, partition: Partition) -> int:
        """The offset above all that the store knows to be done by position in this partition."""
        log = self.log_of(partition)
        handlers = self._register.for_topic(partition.topic)
        return max((self._done(handler, log).end for handler in handlers), default=0)

    def forget(self, cuts: Mapping[Partition, int], patience: float) -> bool:
        """These logs were cut, at these offsets or above them: what the store knows by position
        of what stood there is no longer true. False: another process has its turn."""
        logs = {self.log_of(partition): at for partition, at in cuts.items()}
        return self._store.record(Turn(cut=logs), patience=patience)

    def _done(self, handler: Handler, place: Log) -> Ranges:
        """What the handler has done in a log, under whatever name it had."""
        done = self._store.done(handler.name, place)
        for alias in handler.aliases:
            done.update(self._store.done(alias, place))
        return done

    def release(self, ledger: Ledger) -> list[Work]:
        """Forget what flies in this partition; the twins elsewhere that may run now."""
        self._takers.pop(ledger.partition, None)
        self._copied.pop(ledger.partition, None)
        freed: list[Work] = []
        for scope in self._scopes.values():
            for work in list(scope.flying.values()):
                if work.ledger is ledger:
                    freed += self.land([work])
                elif work.twins:
                    work.twins = [twin for twin in work.twins if twin.ledger is not ledger]
        return freed

    # --- one batch -----------------------------------------------------------------------

    def admit(self, batches: Iterable[Batch]) -> Admitted:
        """Open every record's offset and sort its works by what may become of them."""
        admitted = Admitted()
        for ledger, records in batches:
            ledger.arrived(records)
            self.received[ledger.partition.topic] += len(records)
            takers = self._takers.get(ledger.partition, ())
            if not takers and not self.topics.owns(ledger.partition.topic):
                # A topic that was ours a moment ago: left open, so that it is not committed.
                ledger.open(records, 1)
                continue
            parts = (1 << len(takers)) - 1 or 1
            ledger.open(records, parts)
            if takers:
                for taker in takers:
                    self._take(taker, ledger, records, admitted)
            else:
                self._take_copies([self._copy(record, ledger) for record in records], admitted)
        return admitted

    def _take_copies(self, copies: list[Work], admitted: Admitted) -> None:
        """Copies of our own topics: one that was handled at this hop before is left out."""
        if self._copied:
            copies = self._not_copied(copies, admitted)
        seen = self._store.seen([mark for work in copies for mark in work.marks])
        fresh: list[Work] = []
        for work in copies:
            if seen and not seen.isdisjoint(work.marks):
                admitted.duplicates.append(work)
            else:
                fresh.append(work)
        self._launch(fresh, admitted)

    def _not_copied(self, copies: list[Work], admitted: Admitted) -> list[Work]:
        """Those that the last owner of their partition has not done."""
        fresh: list[Work] = []
        for work in copies:
            done = self._copied.get(work.ledger.partition, NOTHING_DONE)
            (admitted.duplicates if work.record.offset in done else fresh).append(work)
        return fresh

    def _not_done(
        self, taker: Taker, ledger: Ledger, records: list[Record], admitted: Admitted
    ) -> list[Record]:
        """Those that the handler has not done with the partition's last owner."""
        fresh: list[Record] = []
        for record in records:
            if record.offset in taker.above:
                admitted.duplicates.append(self._particular(taker, ledger, record))
            else:
                fresh.append(record)
        return fresh

    def _take(
        self, taker: Taker, ledger: Ledger, records: list[Record], admitted: Admitted
    ) -> None:
        """First arrivals for one handler: what was done before is left out."""
        if records[0].offset < taker.above.end:
            records = self._not_done(taker, ledger, records, admitted)
            if not records:
                return
        scope, log, done = taker.scope, taker.log, taker.done
        unknown = records[0].offset >= done.end  # as a rule nothing here was done
        works: list[Work] = []
        ids: list[str] = []
        for record in records:
            if taker.plain and record.damage is None:
                given = _brought_id(record) if record.headers else None
                work = Work(record, ledger, scope, given, None if given is not None else log)
            else:
                work = self._particular(taker, ledger, record)
            if work.log is None:
                ids.append(work.id)
            elif not unknown and record.offset in done:
                admitted.duplicates.append(work)
                continue
            works.append(work)
        if ids:
            seen = self._store.seen_ids(scope.name, scope.topic, ids)
            for alias in taker.handler.aliases:
                seen |= self._store.seen_ids(alias, scope.topic, ids)
            if seen:
                fresh: list[Work] = []
                for work in works:
                    known = work.log is None and work.id in seen
                    (admitted.duplicates if known else fresh).append(work)
                works = fresh
        self._launch(works, admitted)

    def _particular(self, taker: Taker, ledger: Ledger, record: Record) -> Work:
        """A first arrival whose id is not simply its header's, or that is broken."""
        given, broken = None, record.damage
        if broken is None and taker.handler.trust_ids:
            given, broken = _chosen_id(record, taker.handler)
        work = Work(record, ledger, taker.scope, given, None if given is not None else taker.log)
        work.broken = broken
        return work

    def _copy(self, record: Record, ledger: Ledger) -> Work:
        """A work from one of our own topics, where our own headers are believed."""
        ours = names.reserved(record.headers)
        original = Position(
            ours.get(names.ORIGINAL_TOPIC, record.topic),
            _whole(ours.get(names.ORIGINAL_PARTITION), record.partition),
            _whole(ours.get(names.ORIGINAL_OFFSET), record.offset),
        )
        name = ours.get(names.HANDLER, "")
        handler = self._register.named(name)
        place = f"{self._topic_id(record.topic)}/{record.partition}/{record.offset}"
        work = Work(
            record,
            ledger,
            self.scope(name if handler is None else handler.name, original.topic),
            ours.get(names.MESSAGE_ID) or place,
            None,
        )
        work.origin = original
        work.part = 1
        work.replay = _whole(ours.get(names.REPLAY_COUNT), 0)
        work.hop = _whole(ours.get(names.HOP), 0)
        if work.hop or work.replay:
            work.flight = (work.id, work.replay, work.hop)
        work.calls = _whole(ours.get(names.ATTEMPT), 0)
        work.arrived_through = self.topics.delay_of(record.topic)
        work.first_failed_at = _instant(ours.get(names.FIRST_FAILED_AT))
        work.broken = record.damage
        timestamp = _whole(ours.get(names.ORIGINAL_TIMESTAMP), -1)
        if timestamp >= 0:
            work.sent_at = timestamp / 1000
        return work

    def _launch(self, works: list[Work], admitted: Admitted) -> None:
        """Let works fly, each mark once; go on with those that were in doubt at a crash."""
        doubts = self._store.doubts or (works and works[0].ledger.doubts)
        tried = self._tried(works) if doubts else {}
        for work in works:
            if work.flight is not None:
                first = work.scope.flying.setdefault(work.flight, work)
                if first is not work:
                    first.twins = [*(first.twins or ()), work]
                    continue
            if tried and self._has_past(work, tried.get(work), admitted):
                continue
            if work.broken is None and not work.hop and work.scope.handler is not None:
                admitted.ready.append(work)
            else:
                self._sort(work, admitted)

    def _tried(self, works: list[Work]) -> dict[Work, Attempt]:
        """What is known of those that are in doubt, from the store or from the note of the last
        owner; the more calls, the later."""
        stored = self._store.attempts([mark for work in works for mark in work.marks])
        tried: dict[Work, Attempt] = {}
        for work in works:
            found = [stored[one] for one in work.marks if one in stored]
            if (told := work.ledger.doubts.get(work.key)) is not None:
                found.append(Attempt(told.calls, told.decided, due=told.due))
            if found:
                tried[work] = max(found, key=lambda one: one.calls)
        return tried

    def _has_past(self, work: Work, attempt: Attempt | None, admitted: Admitted) -> bool:
        """Go on with what was tried before; whether that says what is next."""
        if attempt is None:
            return False
        work.calls = max(work.calls, attempt.calls)
        work.keep_in_doubt(attempt.decided, attempt.due)
        work.first_failed_at = work.first_failed_at or attempt.first_failed_at
        deaths = work.ledger.doubts[work.key].deaths
        if attempt.decided is None and deaths >= DEATHS:
            work.calls += deaths
            admitted.broken.append((work, "process_killer", ProcessKiller(deaths)))
            return True
        if attempt.decided is not None:
            admitted.decided.append((work, attempt.decided))
            return True
        if wait := self._until(attempt.due):
            admitted.again.append((work, wait))
            return True
        return False

    def _sort(self, work: Work, admitted: Admitted) -> None:
        if work.broken is not None:
            admitted.broken.append((work, "undecodable", Undecodable(work.broken)))
        elif work.scope.handler is None:
            if not work.scope.name:
                error = UnknownHandler("the copy names no handler: kworker did not write it")
                admitted.broken.append((work, "unknown_handler", error))
            else:
                admitted.later.append((work, self._unknown_handler_wait))
        elif wait := self._wait(work):
            admitted.later.append((work, wait))
        else:
            admitted.ready.append(work)

    def _wait(self, work: Work) -> float:
        """Seconds until a copy is due."""
        if not work.hop:
            return 0.0
        return self._until(
            _whole(names.reserved(work.record.headers).get(names.NOT_BEFORE), 0) / 1000
        )

    def _until(self, due: float | None) -> float:
        """Seconds until something is due; the clock that said when may be wrong, so it is
        bounded."""
        return 0.0 if due is None else min(max(0.0, due - self._clock.wall()), LONGEST_WAIT)

    # --- landing -------------------------------------------------------------------------

    def again(self, works: list[Work]) -> Admitted:
        """Admit anew the twins whose first never landed."""
        admitted = Admitted()
        if works:
            self._launch(works, admitted)
        return admitted

    def land(self, works: Iterable[Work]) -> list[Work]:
        """These fly no more; what flew behind them. Where they were settled and recorded that is
        duplicates, where they are left unsettled it may be admitted `again`."""
        behind: list[Work] = []
        for work in works:
            flight = work.flight
            if flight is None:
                continue
            flying = work.scope.flying
            if flying.get(flight) is work:
                del flying[flight]
            if work.twins is not None:
                behind += [twin for twin in work.twins if twin.ours]
                work.twins = None
        return behind

    def _topic_id(self, topic: str) -> str:
        return self._topic_ids.get(topic, topic)


def _chosen_id(record: Record, handler: Handler) -> tuple[str | None, str | None]:
    """The id a record has for a handler; or why that could not be found out."""
    if handler.dedup is not None:
        try:
            chosen = handler.dedup(_first_look(record, handler))
        except Undecodable:
            return None, None  # its handler's call will say so
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            return None, f"dedup of {handler.name} raised {type(error).__name__}: {error}"
        if chosen is not None:
            return str(chosen), None
    return _brought_id(record), None


def _first_look(record: Record, handler: Handler) -> Message[object]:
    """The message that a `dedup` function is asked about, before it is any handler's."""
    return Message(
        handler.decode(record.value, record.headers),
        raw=record.value,
        key=record.key,
        headers=record.headers,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp,
        id="",
    )


def _brought_id(record: Record) -> str | None:
    """The id in a record's headers: ours, else CloudEvents'. A repeated one is not believed."""
    if not record.headers:
        return None
    ours: str | None = None
    times = 0
    source = event = None
    for name, value in record.headers:
        if name == names.MESSAGE_ID:
            times += 1
            ours = _text(value)
        elif name == names.CE_SOURCE:
            source = _text(value)
        elif name == names.CE_ID:
            event = _text(value)
    if times == 1 and ours:
        return ours
    if times == 0 and source and event:
        return f"{source}#{event}"
    return None


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _whole(text: str | None, otherwise: int) -> int:
    """A header's whole number; whatever else it says counts as absent."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 18:
        return otherwise
    return int(text)


def _instant(text: str | None) -> float | None:
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
