"""The store's file, lent to handlers: their writes and our record in one transaction."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ...outcome import Output
from ..api import Log, Mark, Turn
from . import care, outbox, schema
from .store import SqliteStore

_OPENING = 10.0  # seconds to wait for a lock that SQLite takes
_LOOK = 1000  # SQLite's instructions between two looks at the time
_READABLE = frozenset(
    [
        "table_info",
        "table_xinfo",
        "table_list",
        "index_info",
        "index_xinfo",
        "index_list",
        "foreign_key_list",
        "foreign_key_check",
    ]
)  # fmt: skip  # pragmas that take an argument and change nothing
_ACTING = frozenset(["wal_checkpoint", "optimize", "incremental_vacuum", "shrink_memory"])

_TABLES = frozenset(
    {
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_DROP_TABLE,
        sqlite3.SQLITE_DROP_VIEW,
        sqlite3.SQLITE_DROP_INDEX,
        sqlite3.SQLITE_DROP_TEMP_TABLE,
        sqlite3.SQLITE_DROP_TEMP_VIEW,
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_CREATE_TEMP_VIEW,
    }
)  # the first argument is what is written, or what would hide it
_ON_TABLES = frozenset(
    {
        sqlite3.SQLITE_ALTER_TABLE,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_CREATE_TEMP_INDEX,
        sqlite3.SQLITE_CREATE_TRIGGER,
        sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
        sqlite3.SQLITE_DROP_TRIGGER,
        sqlite3.SQLITE_DROP_INDEX,
    }
)  # the second is


class SqliteLender(SqliteStore):
    """See `Lender`. It has a memory of the store's contents of its own."""

    _connection: Lent

    def _connect(self, path: Path) -> sqlite3.Connection:
        # No statement is kept: each is judged anew, in the transaction that it runs in.
        connection = sqlite3.connect(
            path, timeout=_OPENING, isolation_level=None, factory=Lent, cached_statements=0
        )
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def begin(self, patience: float) -> bool:
        with care.telling(self._path):
            if self._roomy():
                return self._enter(patience)
        time.sleep(patience)
        return False

    def known(self, marks: Sequence[Mark], log: Log | None, offset: int) -> bool:
        if log is None:
            return bool(self.seen(marks))
        return any(offset in self.done(mark.handler, log) for mark in marks)

    @contextmanager
    def lent(self, seconds: float) -> Iterator[sqlite3.Connection]:
        self._connection.lend(seconds)
        try:
            yield self._connection
        except sqlite3.Error as error:
            if self._connection.refused is not None:
                error.add_note(self._connection.refused)
            raise
        finally:
            self._connection.take_back()

    @property
    def whole(self) -> bool:
        return self._connection.in_transaction

    def commit(self, turn: Turn, outputs: Sequence[Output]) -> None:
        try:
            try:
                self._write(turn)
                outbox.add(self._connection, outputs, self._clock.wall())
            except BaseException:
                self._leave(commit=False)
                raise
            self._leave(commit=True)
        except sqlite3.Error as error:
            # A reference that leads nowhere, a statement left half-way: the handler's.
            if isinstance(error, sqlite3.IntegrityError) or care.busy(error) or self.full(error):
                raise
            with care.telling(self._path):
                raise
        self._guard.look_at()

    def full(self, error: BaseException) -> bool:
        return isinstance(error, sqlite3.Error) and care.full(error, self._path)

    def rollback(self) -> None:
        with care.telling(self._path):
            self._leave(commit=False)


class Lent(sqlite3.Connection):
    """The connection that handlers get. While it is lent, the transaction cannot be ended.

    What SQL may not do, an authorizer refuses; what Python's methods would, they refuse
    themselves. A transaction that an error has ended (a conflict clause ROLLBACK, a full disk,
    an interruption) stays ended: nothing more is done in it.
    """

    _is_lent = False
    refused: str | None = None  # why something was, the last time

    def lend(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.refused = None
        super().set_authorizer(self._judge)
        super().set_progress_handler(lambda: time.monotonic() > until, _LOOK)
        self._is_lent = True

    def take_back(self) -> None:
        self._is_lent = False
        super().set_authorizer(None)
        super().set_progress_handler(None, 0)
        self.row_factory, self.text_factory = None, str

    def _judge(self, action: int, one: str | None, two: str | None, *_: str | None) -> int:
        self.refused = self._fault(action, (one or "").lower(), (two or "").lower())
        return sqlite3.SQLITE_OK if self.refused is None else sqlite3.SQLITE_DENY

    def _fault(self, action: int, one: str, two: str) -> str | None:
        if not self.in_transaction:
            return "the transaction is over: an error before has rolled it back"
        if action == sqlite3.SQLITE_TRANSACTION:
            return f"{one.upper()} is kworker's, together with the record; savepoints work"
        if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH):
            return "the transaction is that of one file, no other can take part in it"
        if action == sqlite3.SQLITE_PRAGMA and (one in _ACTING or (two and one not in _READABLE)):
            return f"PRAGMA {one} would change kworker's connection"
        if (action in _TABLES and one in schema.OURS) or (
            action in _ON_TABLES and two in schema.OURS
        ):
            return f"{one if action in _TABLES else two} is kworker's own"
        return None


def _refuses(name: str) -> Callable[..., Any]:
    theirs = getattr(sqlite3.Connection, name)

    def method(self: Lent, *arguments: Any, **more: Any) -> Any:
        if self._is_lent:
            _refuse(name)
        return theirs(self, *arguments, **more)

    method.__name__ = name
    return method


def _refuse(name: str) -> NoReturn:
    raise sqlite3.ProgrammingError(
        f"{name} of a handler's Transaction: kworker ends it, together with the record of the "
        "message; write, and return (savepoints work)"
    )


for _name in (
    "commit", "rollback", "close", "executescript", "backup", "deserialize", "set_authorizer",
    "set_progress_handler", "load_extension", "__enter__",
):  # fmt: skip
    if hasattr(sqlite3.Connection, _name):
        setattr(Lent, _name, _refuses(_name))
for _name in ("isolation_level", "autocommit"):
    # Setting either would commit.
    setattr(Lent, _name, property(lambda self: None, lambda self, value: _refuse("a setting")))
