"""Which copies and replays were settled: the table `mark`.

First arrivals are kept apart (`arrivals`); they are many, these are few.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice

from ..api import Mark
from .marks import Scopes, by_kind

_AT_ONCE = 500  # ids in one statement


def find(connection: sqlite3.Connection, scopes: Scopes, marks: Sequence[Mark]) -> set[Mark]:
    """Which of these were recorded."""
    found: set[Mark] = set()
    for (handler, topic, replay, hop), ids in by_kind(marks).items():
        scope = scopes.find(handler, topic)
        if scope is None:
            continue
        for some in _portions(ids):
            rows = connection.execute(_question(len(some)), [scope, replay, hop, *some])
            found.update([ids[id] for (id,) in rows])
    return found


def add(connection: sqlite3.Connection, scopes: Scopes, marks: Sequence[Mark], now: float) -> None:
    """Record these; what was recorded before keeps its time."""
    for (handler, topic, replay, hop), ids in by_kind(marks).items():
        scope = scopes.give(handler, topic)
        for some in _portions(ids):
            connection.execute(_statement(len(some)), [scope, replay, hop, now, *some])


def forget(connection: sqlite3.Connection, before: float, limit: int) -> int:
    """Remove the oldest, up to `limit`, as far as they were recorded before that time.

    Only the first rows are looked at. Should the clock have jumped, some stay until those
    written ahead of them go: too long rather than too short.
    """
    return connection.execute(
        "DELETE FROM mark WHERE at < ? AND mark IN (SELECT mark FROM mark ORDER BY mark LIMIT ?)",
        (before, limit),
    ).rowcount


def _portions(ids: Iterable[str]) -> Iterable[list[str]]:
    rest = iter(ids)
    while some := list(islice(rest, _AT_ONCE)):
        yield some


@lru_cache(maxsize=_AT_ONCE)
def _question(count: int) -> str:
    ids = ",".join("?" * count)
    return f"SELECT id FROM mark WHERE scope = ? AND replay = ? AND hop = ? AND id IN ({ids})"


@lru_cache(maxsize=_AT_ONCE)
def _statement(count: int) -> str:
    rows = ",".join(f"(?1,?{place},?2,?3,?4)" for place in range(5, 5 + count))
    return f"INSERT OR IGNORE INTO mark (scope, id, replay, hop, at) VALUES {rows}"
