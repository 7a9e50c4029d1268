"""A store's file: one connection, whose writes take turns with those of others."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ...clock import Clock
from ...errors import StoreError
from ..api import Waiting
from . import care, outbox, schema
from .guard import Guard
from .slot import Slot
from .turnstile import Turnstile

_OPENING = 10.0  # seconds to wait for another process that opens or writes
_CLOSING = 1.0  # seconds
_READING = 1000  # milliseconds to wait for a lock that SQLite takes while it recovers
_LONG = 2**18  # bytes of a log that is worth moving where there is little room
_FULL = 0.5  # seconds between two looks at whether a full disk has room again
_CHECKPOINT = 1024  # pages in the log before they are moved into the database: 5 ms or so


class StoreFile:
    """What stores, lenders and outboxes have in common.

    The connection belongs to the thread that opened it, and to a process that does not fork
    afterwards. Whatever writes does so in its turn (`Turnstile`), checkpoints included:
    SQLite makes them at the end of a commit, when the turn is still ours. Readers need no
    turn and see what is committed.

    `cluster` None: not known yet; a file that is bound to one is taken as it is.
    """

    def __init__(self, path: Path, *, group: str, cluster: str | None, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._closed = False
        self._slot: Slot | None = None
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

    def claim(self, limit: int) -> list[Waiting] | None:
        slot = self._my_slot()
        with care.telling(self._path):
            if not outbox.left(self._connection, slot):
                return []  # as a rule, and no turn is needed to see it
        claimed: list[Waiting] = []
        taken = self._in_turn(
            lambda: claimed.extend(outbox.claim(self._connection, slot, limit)), 0.0
        )
        if not taken:
            return None
        slot.fresh = False
        return claimed

    def posted(
        self, sent: Sequence[int], rejected: Mapping[int, str], *, patience: float = 0.0
    ) -> bool:
        def write() -> None:
            outbox.remove(self._connection, sent)
            outbox.reject(self._connection, rejected)

        return self._in_turn(write, patience)

    def has_room(self) -> bool:
        if self._full and time.monotonic() >= self._next_try:
            self._next_try = time.monotonic() + _FULL
            self._full = not self._roomy()
        return not self._full

    def look(self) -> None:
        self._guard.look_at()
        self._guard.look_into()

    def _in_turn(self, write: Callable[[], object], patience: float) -> bool:
        """Have it written in a transaction. False where another has the turn, or the disk has
        no room: then nothing was written."""
        with care.telling(self._path):
            try:
                self._full = not self._roomy()
                if self._full:
                    return False
                with self._turn(patience) as mine:
                    if mine:
                        write()
            except sqlite3.Error as error:
                if not care.full(error, self._path):
                    raise
                self._full = True
                return False
        # A file that is gone has taken it all the same.
        self._guard.look_at()
        return mine

    def _roomy(self) -> bool:
        """Whether there is room for a turn. Where there is little, the log is moved into the
        database, where pages that were written often are there once."""
        if care.free(self._path) >= care.LOW:
            return True
        log = self._path.with_name(self._path.name + "-wal")
        if log.exists() and log.stat().st_size > _LONG and self._turnstile.enter():
            try:
                with suppress(sqlite3.Error):  # no room for that either
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._turnstile.leave()
        return care.has_room(self._path)

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
            if self._slot is not None:
                self._slot.leave()

    def _open(self, group: str, cluster: str | None) -> None:
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
                    self._load(connection)
                    connection.execute(f"PRAGMA busy_timeout = {_READING}")
                except BaseException:
                    connection.close()
                    raise
                self._connection = connection
                self._guard = Guard(path)
        finally:
            self._turnstile.leave()

    def _load(self, connection: sqlite3.Connection) -> None:
        """Read what is kept in memory; part of opening, in our turn."""

    def _ended(self, committed: bool) -> None:
        """A transaction has ended: what was kept in memory because of it holds, or not."""

    def _my_slot(self) -> Slot:
        """The place that this connection has among those who send from the file."""
        if self._slot is None:
            try:
                self._slot = Slot.take(self._path)
            except OSError as error:
                raise StoreError(f"{error.filename}: {error.strerror}; remove it") from error
        return self._slot

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
                self._ended(committed)
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
