"""Which offsets were settled: the table `position`, for people the view `positions`."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from ...ranges import Ranges
from ..api import Log
from .care import Damaged


def find(connection: sqlite3.Connection, handler: str, log: Log) -> Ranges:
    """The offsets of this log that the handler has settled."""
    row = connection.execute(
        "SELECT ranges FROM position WHERE handler = ? AND topic_id = ? AND partition = ?",
        (handler, *log),
    ).fetchone()
    try:
        return Ranges() if row is None else Ranges.decode(row[0])
    except ValueError as error:
        raise Damaged(str(error)) from error


def add(
    connection: sqlite3.Connection,
    done: Mapping[tuple[str, Log], Ranges],
    topics: Mapping[str, str],
    now: float,
) -> None:
    """Add these to what is stored now, which another process may have written."""
    for (handler, log), ranges in done.items():
        union = find(connection, handler, log)
        union.update(ranges)
        connection.execute(
            "INSERT INTO position (handler, topic_id, partition, topic, ranges, at) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (handler, topic_id, partition) DO UPDATE SET "
            "topic = coalesce(excluded.topic, topic), ranges = excluded.ranges, at = excluded.at",
            (handler, *log, topics.get(log.topic_id), union.encode(), now),
        )
