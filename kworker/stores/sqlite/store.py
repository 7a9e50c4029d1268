"""The store: what a group remembers, written in one transaction a turn."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ...ranges import Ranges
from ..api import Attempt, Log, Mark, Turn
from . import attempts, care, forget, places, positions, seen, skips
from .arrivals import Arrivals
from .file import StoreFile
from .marks import Scopes

_SINGLE = 1000  # rows
_NOTHING = Turn()


class SqliteStore(StoreFile):
    """The memory of one group on one host, in one file that its processes share."""

    def _load(self, connection: sqlite3.Connection) -> None:
        self._scopes = Scopes(connection)
        self._arrivals = Arrivals(connection, self._scopes)
        self._arrivals.load()

    def _ended(self, committed: bool) -> None:
        self._scopes.keep(committed)
        self._arrivals.keep(committed)

    def seen(self, marks: Sequence[Mark]) -> set[Mark]:
        arrivals, copies = _told_apart(marks)
        with care.telling(self._path):
            found = seen.find(self._connection, self._scopes, copies) if copies else set()
            for (handler, topic), ids in arrivals.items():
                known = self._arrivals.find(handler, topic, ids)
                found.update([Mark(handler, topic, id) for id in known])
        return found

    def seen_ids(self, handler: str, topic: str, ids: Sequence[str]) -> set[str]:
        if not ids:
            return set()
        with care.telling(self._path):
            return self._arrivals.find(handler, topic, ids)

    def done(self, handler: str, log: Log) -> Ranges:
        with care.telling(self._path):
            return positions.find(self._connection, handler, log)

    @property
    def doubts(self) -> bool:
        with care.telling(self._path):
            return not attempts.none(self._connection)

    def attempts(self, marks: Sequence[Mark]) -> dict[Mark, Attempt]:
        if not marks:
            return {}
        with care.telling(self._path):
            return attempts.find(self._connection, self._scopes, marks)

    def record(self, turn: Turn, *, patience: float = 0.0) -> bool:
        if turn == _NOTHING:
            return True
        return self._in_turn(lambda: self._write(turn), patience)

    def _write(self, turn: Turn) -> None:
        now = self._clock.wall()
        if turn.cut:
            forget.cut(self._connection, turn.cut)
        if turn.ids:
            self._arrivals.add(turn.ids, now)
        if turn.seen:
            arrivals, copies = _told_apart(turn.seen)
            self._arrivals.add(arrivals, now)
            seen.add(self._connection, self._scopes, copies, now)
        if turn.done:
            positions.add(self._connection, turn.done, turn.topics or {}, now)
        if turn.attempts:
            attempts.write(self._connection, self._scopes, turn.attempts, now)
        if turn.settled:
            attempts.remove(self._connection, self._scopes, turn.settled)
        if turn.skipped:
            skips.add(self._connection, turn.skipped)
        if turn.places:
            places.put(self._connection, turn.places)
        self._arrivals.tend()

    @property
    def uuid(self) -> str:
        with care.telling(self._path):
            (uuid,) = self._connection.execute("SELECT uuid FROM meta").fetchone()
        return str(uuid)

    def place(self, log: Log) -> int | None:
        with care.telling(self._path):
            return places.find(self._connection, log)

    def prune(self, before: float, *, limit: int = 10_000) -> int:
        with care.telling(self._path):
            try:
                with self._turn(0.0) as mine:
                    return self._prune(before, limit) if mine else 0
            except sqlite3.Error as error:
                if not care.full(error, self._path):
                    raise
                return 0  # forgetting takes room, too

    def _prune(self, before: float, limit: int) -> int:
        # A row each, and pages all over the table: fewer at once than of those in blocks.
        single = min(limit, _SINGLE)
        attempts.forget(self._connection, before, single)
        count = seen.forget(self._connection, before, single)
        count += self._arrivals.forget(before, limit - count)
        self._arrivals.tend()
        return count

    def forget(
        self,
        *,
        id: str | None = None,
        handler: str | None = None,
        topic: str | None = None,
        patience: float = 0.0,
    ) -> int | None:
        if id is None and handler is None and topic is None:
            raise ValueError("nothing is said about what to forget")
        with care.telling(self._path), self._turn(patience) as mine:
            if not mine:
                return None
            return forget.forget(
                self._connection, self._arrivals.erase, id=id, handler=handler, topic=topic
            )

    @property
    def size(self) -> int:
        size = 0
        for path in (self._path, self._path.with_name(f"{self._path.name}-wal")):
            with suppress(OSError):
                size += path.stat().st_size
        return size


def _told_apart(
    marks: Sequence[Mark],
) -> tuple[Mapping[tuple[str, str], Sequence[str]], Sequence[Mark]]:
    """The first arrivals, their ids by handler and topic; and the copies and replays."""
    arrivals: dict[tuple[str, str], list[str]] = {}
    copies: list[Mark] = []
    for mark in marks:
        handler, topic, id, replay, hop = mark
        if replay or hop:
            copies.append(mark)
        else:
            arrivals.setdefault((handler, topic), []).append(id)
    return arrivals, copies
