"""The store: one connection, one transaction a turn."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ...clock import Clock
from ...errors import StoreError
from ...outcome import Output
from ...ranges import Ranges
from ..api import Attempt, Log, Mark, Turn
from . import attempts, care, forget, outbox, places, positions, schema, seen, skips
from .arrivals import Arrivals
from .guard import Guard
from .marks import Scopes
from .turnstile import Turnstile

_OPENING = 10.0  # seconds to wait for another process that opens or writes
_CLOSING = 1.0  # seconds
_READING = 1000  # milliseconds to wait for a lock that SQLite takes while it recovers
_SINGLE = 1000  # rows
_LONG = 2**18  # bytes of a log that is worth moving where there is little room
_FULL = 0.5  # seconds between two looks at whether a full disk has room again
_NOTHING = Turn()
_CHECKPOINT = 1024  # pages in the log before they are moved into the database: 5 ms or so


class SqliteStore:
    """The memory of one group on one host, in one file that its processes share.

    The connection belongs to the thread that opened it, and to a process that does not fork
    afterwards. Whatever writes does so in its turn (`Turnstile`), checkpoints included:
    SQLite makes them at the end of a commit, when the turn is still ours. Readers need no
    turn and see what is committed.
    """

    def __init__(self, path: Path, *, group: str, cluster: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._closed = False
        self._full = False  # its disk, the last time
        self._next_try = 0.0  # to make room there
        care.prepare(path)
        try:
            self._turnstile = Turnstile(path.with_name(path.name + ".lock"))
        except OSError as error:
            raise StoreError(f"{error.filename}: {error.strerror}; remove it") from error
        try:
            self._open(group, cluster)
        except BaseException:
            self._turnstile.close()
            raise

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
        with care.telling(self._path):
            try:
                self._full = not self._roomy()
                if self._full:
                    return False
                with self._turn(patience) as mine:
                    if mine:
                        self._write(turn)
            except sqlite3.Error as error:
                if not care.full(error, self._path):
                    raise
                self._full = True
                return False
        # A file that is gone has taken it all the same.
        self._guard.look_at()
        return mine

    def has_room(self) -> bool:
        if self._full and time.monotonic() >= self._next_try:
            self._next_try = time.monotonic() + _FULL
            self._full = not self._roomy()
        return not self._full

    def _roomy(self) -> bool:
        """Whether there is room for a turn. Where there is little, the log is moved into the
        database, where pages that were written often are there once."""
        if care.free(self._path) >= care.LOW:
            return True
        log = self._path.with_name(self._path.name + "-wal")
        if log.exists() and log.stat().st_size > _LONG and self._turnstile.enter():
            try:
                with contextlib.suppress(sqlite3.Error):  # no room for that either
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._turnstile.leave()
        return care.has_room(self._path)

    def look(self) -> None:
        self._guard.look_at()
        self._guard.look_into()

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
        if turn.sent:
            outbox.remove(self._connection, turn.sent)
        self._arrivals.tend()

    @property
    def uuid(self) -> str:
        with care.telling(self._path):
            (uuid,) = self._connection.execute("SELECT uuid FROM meta").fetchone()
        return str(uuid)

    def place(self, log: Log) -> int | None:
        with care.telling(self._path):
            return places.find(self._connection, log)

    def outbox(self, before: float, limit: int = 1000) -> list[tuple[int, Output]]:
        with care.telling(self._path):
            return outbox.waiting(self._connection, before, limit)

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

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # The last to close moves the log into the database. Without the turn it cannot be
        # the last: whoever has it is still connected.
        self._turnstile.enter(_CLOSING)
        try:
            with care.telling(self._path):
                self._connection.close()
        finally:
            self._turnstile.close()

    def _open(self, group: str, cluster: str) -> None:
        path = self._path
        if not self._turnstile.enter(_OPENING):
            raise StoreError(
                f"{path}: another process has had its turn for {_OPENING:.0f} s; "
                f"end the one that holds {path.name}.lock, then start again"
            )
        try:
            with care.telling(path):
                connection = self._connect(path)
                try:
                    schema.recognise(connection, path)
                    for pragma in (
                        "journal_mode = WAL",
                        "synchronous = FULL",
                        f"wal_autocheckpoint = {_CHECKPOINT}",
                        "temp_store = MEMORY",
                        "trusted_schema = OFF",
                    ):
                        connection.execute(f"PRAGMA {pragma}").fetchall()
                    now = self._clock.wall()
                    schema.bring_up(connection, path, group=group, cluster=cluster, now=now)
                    care.refuse_foreign(path)
                    care.check(connection, path)
                    self._scopes = Scopes(connection)
                    self._arrivals = Arrivals(connection, self._scopes)
                    self._arrivals.load()
                    connection.execute(f"PRAGMA busy_timeout = {_READING}")
                except BaseException:
                    connection.close()
                    raise
                self._connection = connection
                self._guard = Guard(path)
        finally:
            self._turnstile.leave()

    def _connect(self, path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=_OPENING, isolation_level=None)

    @contextmanager
    def _turn(self, patience: float) -> Iterator[bool]:
        """One write transaction in our turn; False where another has the turn, or a program
        that knows no turns is writing."""
        if not self._enter(patience):
            yield False
            return
        try:
            yield True
        except BaseException:
            self._leave(commit=False)
            raise
        self._leave(commit=True)

    def _enter(self, patience: float) -> bool:
        deadline = time.monotonic() + patience
        if not self._turnstile.enter(patience):
            return False
        begun = False
        try:
            begun = self._begin(max(0.0, deadline - time.monotonic()))
        finally:
            if not begun:
                self._turnstile.leave()
        return begun

    def _leave(self, *, commit: bool) -> None:
        committed = False
        try:
            if commit:
                self._connection.execute("COMMIT")
                committed = True
        finally:
            try:
                if not committed and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                self._scopes.keep(committed)
                self._arrivals.keep(committed)
            finally:
                self._turnstile.leave()

    def _begin(self, patience: float) -> bool:
        self._connection.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if care.busy(error):
                return False
            raise
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {_READING}")
        return True


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
