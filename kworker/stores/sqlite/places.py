"""Up to where all is done in a log: the table `place`."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from ..api import Log


def find(connection: sqlite3.Connection, log: Log) -> int | None:
    row = connection.execute(
        "SELECT next FROM place WHERE topic_id = ? AND partition = ?", log
    ).fetchone()
    return None if row is None else int(row[0])


def put(connection: sqlite3.Connection, places: Mapping[Log, int]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO place (topic_id, partition, next) VALUES (?, ?, ?)",
        [(*log, offset) for log, offset in places.items()],
    )
