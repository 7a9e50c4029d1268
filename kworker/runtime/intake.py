"""The way in: whose is this record, was it done before, may it go on now?"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from .. import headers as names
from ..clock import Clock
from ..errors import KworkerError, Undecodable
from ..handlers import Handler, Register
from ..message import Message, Partition, Position, Record
from ..ranges import Ranges
from ..stores.api import Log, Mark, Store
from ..topics import GroupTopics
from .ledger import Ledger
from .work import Work

log = logging.getLogger("kworker.runtime")

LONGEST_WAIT = 366 * 86_400.0  # seconds: what a not-before from a jumped clock may ask for


class UnknownHandler(KworkerError):
    """A copy names a handler that this worker does not have."""


@dataclass(slots=True)
class Admitted:
    """What a batch of records has become, each list in the order of the records."""

    ready: list[Work] = field(default_factory=list)
    later: list[tuple[Work, float]] = field(default_factory=list)  # seconds until it is due
    decided: list[tuple[Work, str]] = field(default_factory=list)  # only its copy is to be sent
    duplicates: list[Work] = field(default_factory=list)
    broken: list[tuple[Work, str, Exception]] = field(default_factory=list)  # disposition


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
        topic_ids: Mapping[str, str],
        store: Store,
        clock: Clock,
        unknown_handler_wait: float,
    ) -> None:
        self._register = register
        self._topics = topics
        self._topic_ids = topic_ids
        self._store = store
        self._clock = clock
        self._unknown_handler_wait = unknown_handler_wait
        self._done: dict[tuple[str, Log], Ranges] = {}
        self._flying: dict[Mark, Work] = {}

    # --- partitions come and go ----------------------------------------------------------

    def recall(self, partition: Partition) -> None:
        """Read from the store what was done by position in this partition."""
        place = self._log(partition.topic, partition.index)
        for handler in self._register.for_topic(partition.topic):
            self._done[handler.name, place] = self._store.done(handler.name, place)

    def release(self, ledger: Ledger) -> list[Work]:
        """Forget what flies in this partition; the twins elsewhere that may run now."""
        freed: list[Work] = []
        for work in list(self._flying.values()):
            if work.ledger is ledger:
                freed.extend(self.abandon(work))
            elif work.twins:
                work.twins = [twin for twin in work.twins if twin.ledger is not ledger]
        return freed

    # --- one batch -----------------------------------------------------------------------

    def admit(self, records: Iterable[tuple[Record, Ledger]]) -> Admitted:
        """Open every record's offset and sort its works by what may become of them."""
        admitted = Admitted()
        works: list[Work] = []
        for record, ledger in records:
            made = self._works(record, ledger, admitted)
            ledger.open(record.offset, len(made), record.size, record.leader_epoch)
            works.extend(made)
        self._question(works, admitted)
        return admitted

    def _works(self, record: Record, ledger: Ledger, admitted: Admitted) -> list[Work]:
        handlers = self._register.for_topic(record.topic)
        if handlers:
            return [self._first_arrival(record, ledger, handler) for handler in handlers]
        return [self._copy(record, ledger)]

    def _first_arrival(self, record: Record, ledger: Ledger, handler: Handler) -> Work:
        original = Position(record.topic, record.partition, record.offset)
        given = None
        broken = record.damage
        if broken is None and handler.trust_ids:
            given, broken = self._given_id(record, handler)
        place = None
        if given is None:
            place = self._log(record.topic, record.partition)
            given = f"{place.topic_id}/{record.partition}/{record.offset}"
        return Work(
            record=record,
            ledger=ledger,
            handler=handler,
            mark=Mark(handler.name, record.topic, given),
            original=original,
            timestamp=record.timestamp,
            log=place,
            broken=broken,
        )

    def _given_id(self, record: Record, handler: Handler) -> tuple[str | None, str | None]:
        """The id a record brings for a handler; or why that could not be found out."""
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
        timestamp = _whole(ours.get(names.ORIGINAL_TIMESTAMP), -1)
        identity = ours.get(names.MESSAGE_ID)
        return Work(
            record=record,
            ledger=ledger,
            handler=handler,
            mark=Mark(
                handler.name if handler is not None else name,
                original.topic,
                identity or f"{self._topic_id(record.topic)}/{record.partition}/{record.offset}",
                _whole(ours.get(names.REPLAY_COUNT), 0),
                _whole(ours.get(names.HOP), 0),
            ),
            original=original,
            timestamp=timestamp / 1000 if timestamp >= 0 else record.timestamp,
            calls=_whole(ours.get(names.ATTEMPT), 0),
            arrived_through=self._topics.delay_of(record.topic),
            first_failed_at=_instant(ours.get(names.FIRST_FAILED_AT)),
            broken=record.damage,
        )

    # --- was it done before? -------------------------------------------------------------

    def _question(self, works: list[Work], admitted: Admitted) -> None:
        asked = [work.mark for work in works if work.log is None]
        seen = self._store.seen(asked) if asked else set()
        tried = self._store.attempts([work.mark for work in works]) if works else {}
        for work in works:
            if work.log is None:
                done = work.mark in seen
            else:
                known = self._done.get((work.mark.handler, work.log))
                done = known is not None and work.original.offset in known
            if done:
                admitted.duplicates.append(work)
                continue
            first = self._flying.setdefault(work.mark, work)
            if first is not work:
                first.twins.append(work)
                continue
            attempt = tried.get(work.mark)
            if attempt is not None:
                work.noted = True
                work.calls = max(work.calls, attempt.calls)
                work.first_failed_at = work.first_failed_at or attempt.first_failed_at
                if attempt.decided is not None:
                    admitted.decided.append((work, attempt.decided))
                    continue
            self._sort(work, admitted)

    def _sort(self, work: Work, admitted: Admitted) -> None:
        if work.broken is not None:
            admitted.broken.append((work, "undecodable", Undecodable(work.broken)))
        elif work.handler is None:
            if not work.mark.handler:
                error = UnknownHandler("the copy names no handler: kworker did not write it")
                admitted.broken.append((work, "unknown_handler", error))
            else:
                admitted.later.append((work, self._unknown_handler_wait))
        elif wait := self._wait(work):
            admitted.later.append((work, wait))
        else:
            admitted.ready.append(work)

    def _wait(self, work: Work) -> float:
        """Seconds until a copy is due; the header's clock may be wrong, so it is bounded."""
        if not work.mark.hop:
            return 0.0
        due = _whole(names.reserved(work.record.headers).get(names.NOT_BEFORE), 0) / 1000
        return min(max(0.0, due - self._clock.wall()), LONGEST_WAIT)

    def again(self, works: Iterable[Work]) -> Admitted:
        """Admit anew the twins whose first never landed."""
        admitted = Admitted()
        for work in works:
            first = self._flying.setdefault(work.mark, work)
            if first is not work:
                first.twins.append(work)
            else:
                self._sort(work, admitted)
        return admitted

    def landed(self, work: Work) -> list[Work]:
        """The work is settled and recorded; what flew behind it is a duplicate of it."""
        if work.log is not None:
            known = self._done.get((work.mark.handler, work.log))
            if known is not None:
                known.add(work.original.offset)
        return self.abandon(work)

    def abandon(self, work: Work) -> list[Work]:
        """The work is left unsettled; what flew behind it."""
        if self._flying.get(work.mark) is work:
            del self._flying[work.mark]
        twins, work.twins = work.twins, []
        return [twin for twin in twins if twin.ours]

    @property
    def flying(self) -> Iterable[Work]:
        """What has been admitted and has not landed, twins left out."""
        return self._flying.values()

    def _log(self, topic: str, partition: int) -> Log:
        return Log(self._topic_id(topic), partition)

    def _topic_id(self, topic: str) -> str:
        return self._topic_ids.get(topic, topic)


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
