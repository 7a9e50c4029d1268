"""The tables, how they came about, and whose they are."""

from __future__ import annotations

import base64
import json
import sqlite3
import uuid
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import StoreError

if TYPE_CHECKING:
    from sqlite_utils import Database, Migrations

VERSION = 6  # how many migrations there are
UNBOUND = ""  # the cluster of a file that was made while no Kafka was there to name it
_OURS = 0x6B776B72  # "kwkr": marks a database file as a store of kworker's


def recognise(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse, untouched, the file of another program or of a newer version.

    Raises StoreError.
    """
    (ours,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (empty,) = connection.execute("SELECT NOT EXISTS (SELECT 1 FROM sqlite_master)").fetchone()
    if not empty and ours != _OURS:
        raise StoreError(f"{path}: is a database of another program; name another file with --db")
    if version > VERSION:
        raise StoreError(
            f"{path}: was written by a newer kworker (store version {version}, this one knows "
            f"{VERSION}); upgrade kworker, or name another file with --db"
        )


def bring_up(
    connection: sqlite3.Connection, path: Path, *, group: str, cluster: str | None, now: float
) -> None:
    """Make or migrate the tables and bind a new file to group and cluster.

    Raises StoreError for a file of another group or cluster. Whoever calls it has the turn.
    Without a cluster a new file is bound to none, until somebody `bind`s it.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version < VERSION:
        _migrate(connection, group=group, cluster=cluster or UNBOUND, now=now)
    owner = connection.execute('SELECT "group", cluster FROM meta').fetchone()
    if owner is None:
        raise StoreError(f"{path}: does not say whose it is; name another file with --db")
    if owner[0] != group:
        raise _foreign(path, "group", owner[0], group)
    if cluster is not None:
        bind(connection, path, cluster)


def bind(connection: sqlite3.Connection, path: Path, cluster: str) -> None:
    """Say which cluster the file belongs to, or hear that it belongs to another: StoreError."""
    (found,) = connection.execute("SELECT cluster FROM meta").fetchone()
    if found == UNBOUND:
        connection.execute("UPDATE meta SET cluster = ?", (cluster,))
    elif found != cluster:
        raise _foreign(path, "cluster", found, cluster)


def _foreign(path: Path, what: str, found: str, expected: str) -> StoreError:
    return StoreError(
        f"{path}: belongs to {what} {found!r}, not to {expected!r}; name another file with --db"
    )


def _migrate(connection: sqlite3.Connection, *, group: str, cluster: str, now: float) -> None:
    """All or nothing: a file is never left between two versions."""
    from sqlite_utils import Database  # takes 0.1 s, which only a new version has to pay

    connection.execute("BEGIN IMMEDIATE")
    try:
        migrations().apply(Database(connection, execute_plugins=False))
        connection.execute(
            'INSERT OR IGNORE INTO meta (one, uuid, "group", cluster, created_at) '
            "VALUES (1, ?, ?, ?, ?)",
            (str(uuid.uuid4()), group, cluster, now),
        )
        connection.execute(f"PRAGMA application_id = {_OURS}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def migrations() -> Migrations:
    """Every step from an empty file to the present version, in order.

    A step that was released is never changed: it is applied once a file.
    """
    from sqlite_utils import Migrations

    steps = Migrations("kworker")
    for step in (
        _the_first_tables,
        _skipped_duplicates,
        _first_arrivals_in_blocks,
        _transactions_of_handlers,
        _attempts_that_are_due,
        _messages_that_were_kept,
    ):
        steps(name=step.__name__.lstrip("_"))(step)
    return steps


def _the_first_tables(db: Database) -> None:
    for statement in _FIRST:
        db.execute(statement)


def _skipped_duplicates(db: Database) -> None:
    db.execute("CREATE TABLE skip (handler TEXT PRIMARY KEY, duplicates INTEGER NOT NULL)")
    db.execute("CREATE VIEW skipped AS SELECT handler, duplicates FROM skip")


def _first_arrivals_in_blocks(db: Database) -> None:
    for statement in _BLOCKS:
        db.execute(statement)
    rows = db.execute("SELECT scope, id, at FROM mark WHERE replay = 0 AND hop = 0 ORDER BY mark")
    number = 0
    for (scope, _), run in groupby(rows, key=lambda row: (row[0], row[2] // 60)):
        while some := list(islice(run, 500)):
            number += len(some)
            ids = json.dumps([id for _, id, _ in some], separators=(",", ":"))
            youngest = max(at for _, _, at in some)
            db.execute("INSERT INTO block VALUES (?, ?, ?, ?)", (number, scope, youngest, ids))
    db.execute("DELETE FROM mark WHERE replay = 0 AND hop = 0")


def _transactions_of_handlers(db: Database) -> None:
    for statement in _TRANSACTIONS:
        db.execute(statement)


def _attempts_that_are_due(db: Database) -> None:
    for statement in _DUE:
        db.execute(statement)


def _messages_that_were_kept(db: Database) -> None:
    for statement in _KEPT:
        db.execute(statement)
    rows = db.execute("SELECT output, key, value, headers FROM output").fetchall()
    for number, key, value, headers in rows:
        told = [[name, _told(value)] for name, value in json.loads(headers)]
        size = sum(len(one or b"") for one in (key, value)) + len(headers)
        db.execute(
            "UPDATE output SET headers = ?, size = ? WHERE output = ?",
            (json.dumps(told, ensure_ascii=False), size, number),
        )


def _told(value: str | None) -> str | dict[str, str] | None:
    """A header's value, in base64 so far: as text where it is text."""
    if value is None:
        return None
    try:
        return base64.b64decode(value).decode()
    except UnicodeDecodeError:
        return {"base64": value}


# Marks are kept in the order of writing, which makes the oldest cheap to find and the end
# of the table the only place that grows; handler and topic, which repeat, are kept once.
_FIRST = (
    """CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        uuid TEXT NOT NULL,
        "group" TEXT NOT NULL,
        cluster TEXT NOT NULL,
        created_at REAL NOT NULL
    )""",
    """CREATE TABLE scope (
        scope INTEGER PRIMARY KEY,
        handler TEXT NOT NULL,
        topic TEXT NOT NULL,
        UNIQUE (handler, topic)
    )""",
    """CREATE TABLE mark (
        mark INTEGER PRIMARY KEY,
        scope INTEGER NOT NULL,
        id TEXT NOT NULL,
        replay INTEGER NOT NULL,
        hop INTEGER NOT NULL,
        at REAL NOT NULL
    )""",
    "CREATE UNIQUE INDEX mark_by_id ON mark (scope, id, replay, hop)",
    """CREATE VIEW seen AS
        SELECT handler, topic, id, replay, hop,
            strftime('%Y-%m-%dT%H:%M:%fZ', at, 'unixepoch') AS recorded_at
        FROM mark JOIN scope USING (scope)""",
    """CREATE TABLE attempt (
        attempt INTEGER PRIMARY KEY,
        scope INTEGER NOT NULL,
        id TEXT NOT NULL,
        replay INTEGER NOT NULL,
        hop INTEGER NOT NULL,
        calls INTEGER NOT NULL,
        decided TEXT,
        first_failed_at REAL,
        at REAL NOT NULL,
        UNIQUE (scope, id, replay, hop)
    )""",
    """CREATE VIEW attempts AS
        SELECT handler, topic, id, replay, hop, calls, decided,
            strftime('%Y-%m-%dT%H:%M:%fZ', first_failed_at, 'unixepoch') AS first_failed_at,
            strftime('%Y-%m-%dT%H:%M:%fZ', at, 'unixepoch') AS recorded_at
        FROM attempt JOIN scope USING (scope)""",
    """CREATE TABLE position (
        handler TEXT NOT NULL,
        topic_id TEXT NOT NULL,
        partition INTEGER NOT NULL,
        topic TEXT,
        ranges TEXT NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (handler, topic_id, partition)
    ) WITHOUT ROWID""",
    """CREATE VIEW positions AS
        SELECT handler, topic, partition, ranges, topic_id,
            strftime('%Y-%m-%dT%H:%M:%fZ', at, 'unixepoch') AS recorded_at
        FROM position""",
)


# See `arrivals`, `runs` and `sieve`.
_BLOCKS = (
    """CREATE TABLE block (
        block INTEGER PRIMARY KEY,
        scope INTEGER NOT NULL,
        at REAL NOT NULL,
        ids TEXT NOT NULL
    )""",
    """CREATE TABLE run (
        run INTEGER PRIMARY KEY,
        level INTEGER NOT NULL,
        after INTEGER NOT NULL,
        last INTEGER NOT NULL,
        into_run INTEGER,
        moved INTEGER
    )""",
    "CREATE TABLE piece (piece INTEGER PRIMARY KEY, entries BLOB NOT NULL)",
    "CREATE TABLE sieve (part INTEGER PRIMARY KEY, words BLOB NOT NULL)",
    """CREATE TABLE sieve_state (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        since INTEGER NOT NULL,
        upto INTEGER NOT NULL,
        next_since INTEGER NOT NULL,
        until INTEGER NOT NULL,
        part INTEGER NOT NULL
    )""",
    "INSERT INTO sieve_state VALUES (1, 0, 0, 0, 0, 0)",
    "DROP VIEW seen",
    """CREATE VIEW seen AS
        SELECT handler, topic, id, replay, hop,
            strftime('%Y-%m-%dT%H:%M:%fZ', at, 'unixepoch') AS recorded_at
        FROM (
            SELECT scope, value AS id, 0 AS replay, 0 AS hop, at FROM block, json_each(ids)
            UNION ALL
            SELECT scope, id, replay, hop, at FROM mark
        ) JOIN scope USING (scope)""",
)


# See `outbox` and `places`.
_TRANSACTIONS = (
    """CREATE TABLE output (
        output INTEGER PRIMARY KEY AUTOINCREMENT,
        topic TEXT NOT NULL,
        key BLOB,
        value BLOB,
        headers TEXT NOT NULL,
        id TEXT NOT NULL,
        at REAL NOT NULL
    )""",
    """CREATE VIEW outbox AS
        SELECT output AS number, topic, key, value, headers, id AS message_id,
            strftime('%Y-%m-%dT%H:%M:%fZ', at, 'unixepoch') AS recorded_at
        FROM output""",
    """CREATE TABLE place (
        topic_id TEXT NOT NULL,
        partition INTEGER NOT NULL,
        next INTEGER NOT NULL,
        PRIMARY KEY (topic_id, partition)
    ) WITHOUT ROWID""",
)

_DUE = (
    "ALTER TABLE attempt ADD COLUMN due REAL",
    "DROP VIEW attempts",
    """CREATE VIEW attempts AS
        SELECT handler, topic, id, replay, hop, calls, decided,
            strftime('%Y-%m-%dT%H:%M:%fZ', due, 'unixepoch') AS due_at,
            strftime('%Y-%m-%dT%H:%M:%fZ', first_failed_at, 'unixepoch') AS first_failed_at,
            strftime('%Y-%m-%dT%H:%M:%fZ', at, 'unixepoch') AS recorded_at
        FROM attempt JOIN scope USING (scope)""",
)

# See `outbox`. The state is `waiting` or `rejected`; the holder is the `Slot` of whoever is about
# to send it.
_KEPT = (
    "ALTER TABLE output ADD COLUMN state TEXT NOT NULL DEFAULT 'waiting'",
    "ALTER TABLE output ADD COLUMN error TEXT",
    "ALTER TABLE output ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE output ADD COLUMN holder INTEGER",
    "ALTER TABLE output ADD COLUMN size INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX output_free ON output (output) WHERE state = 'waiting' AND holder IS NULL",
    "CREATE INDEX output_held ON output (holder) WHERE holder IS NOT NULL",
    "CREATE INDEX output_size ON output (size)",
    "DROP VIEW outbox",
    """CREATE VIEW outbox AS
        SELECT output AS id, id AS message_id, topic, key, value, headers, state, error, attempts,
            strftime('%Y-%m-%dT%H:%M:%fZ', at, 'unixepoch') AS created_at
        FROM output""",
)

OURS = frozenset(
    {
        "meta", "scope", "mark", "mark_by_id", "seen", "attempt", "attempts", "position",
        "positions", "skip", "skipped", "block", "run", "piece", "sieve", "sieve_state", "output",
        "output_free", "output_held", "output_size", "outbox", "place", "_sqlite_migrations",
    }
)  # fmt: skip
"""Every table, view and index of ours: a handler that shares the file leaves them alone."""
