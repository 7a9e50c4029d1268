"""What was tried and is not settled: the table `attempt`, for people the view `attempts`."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from ..api import Attempt, Mark
from .marks import Scopes, by_kind, stored_id


def find(
    connection: sqlite3.Connection, scopes: Scopes, marks: Sequence[Mark]
) -> dict[Mark, Attempt]:
    """What is known of these; nearly free while nothing is in doubt, which is the rule."""
    found: dict[Mark, Attempt] = {}
    if none(connection):
        return found
    for (handler, topic, replay, hop), ids in by_kind(marks).items():
        scope = scopes.find(handler, topic)
        if scope is None:
            continue
        for id, mark in ids.items():
            row = connection.execute(
                "SELECT calls, decided, first_failed_at, due FROM attempt "
                "WHERE scope = ? AND id = ? AND replay = ? AND hop = ?",
                (scope, id, replay, hop),
            ).fetchone()
            if row is not None:
                found[mark] = Attempt(*row)
    return found


def write(
    connection: sqlite3.Connection, scopes: Scopes, attempts: Mapping[Mark, Attempt], now: float
) -> None:
    """Write these, in place of what stood there."""
    connection.executemany(
        "INSERT INTO attempt (scope, id, replay, hop, calls, decided, first_failed_at, due, at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, id, replay, hop) DO UPDATE SET "
        "calls = excluded.calls, decided = excluded.decided, "
        "first_failed_at = excluded.first_failed_at, due = excluded.due, at = excluded.at",
        [
            (
                *_row(scopes, mark),
                attempt.calls,
                attempt.decided,
                attempt.first_failed_at,
                attempt.due,
                now,
            )
            for mark, attempt in attempts.items()
        ],
    )


def remove(connection: sqlite3.Connection, scopes: Scopes, marks: Sequence[Mark]) -> None:
    """They are settled: nothing is in doubt about them any more."""
    if none(connection):
        return
    connection.executemany(
        "DELETE FROM attempt WHERE scope = ? AND id = ? AND replay = ? AND hop = ?",
        [_row(scopes, mark) for mark in marks],
    )


def forget(connection: sqlite3.Connection, before: float, limit: int) -> int:
    """Remove the oldest, up to `limit`, last written before that time: messages that were
    settled by another host, or will never come again."""
    return connection.execute(
        "DELETE FROM attempt WHERE at < ? "
        "AND attempt IN (SELECT attempt FROM attempt ORDER BY attempt LIMIT ?)",
        (before, limit),
    ).rowcount


def none(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM attempt LIMIT 1").fetchone() is None


def _row(scopes: Scopes, mark: Mark) -> tuple[int, str, int, int]:
    return scopes.give(mark.handler, mark.topic), stored_id(mark.id), mark.replay, mark.hop
