"""Forgetting on demand: what is known of an id, of a handler, of a topic."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping

from ...ranges import Ranges
from ..api import Log
from .care import Damaged
from .marks import stored_id

_PLACE = re.compile(r"(.+)/([0-9]{1,9})/([0-9]{1,18})", re.DOTALL)


def forget(
    connection: sqlite3.Connection,
    erase: Callable[[int, Collection[str] | None], int],
    *,
    id: str | None,
    handler: str | None,
    topic: str | None,
) -> int:
    """Remove what agrees with all that is given; how many marks, offsets and attempts.

    `erase` does so with the first arrivals of a scope: these ids, or all.
    """
    given = {"handler": handler, "topic": topic}
    scopes = [
        scope
        for (scope,) in connection.execute(
            "SELECT scope FROM scope WHERE (:handler IS NULL OR handler = :handler) "
            "AND (:topic IS NULL OR topic = :topic)",
            given,
        )
    ]
    names = None if id is None else [stored_id(name) for name in aliases(connection, id)]
    count = 0
    for scope in scopes:
        count += erase(scope, names) + _remove(connection, "mark", scope, names)
        count += _remove(connection, "attempt", scope, names)
    return count + _remove_offsets(connection, id, given)


def cut(connection: sqlite3.Connection, logs: Mapping[Log, int]) -> None:
    """Remove all that is known by a position of these logs at or above that offset."""
    for log, at in logs.items():
        key = (log.topic_id, log.partition)
        for handler, text in connection.execute(
            "SELECT handler, ranges FROM position WHERE topic_id = ? AND partition = ?", key
        ).fetchall():
            left = Ranges((start, min(stop, at)) for start, stop in decoded(text) if start < at)
            connection.execute(
                "UPDATE position SET ranges = ? "
                "WHERE handler = ? AND topic_id = ? AND partition = ?",
                (left.encode(), handler, *key),
            )
        connection.execute(
            "DELETE FROM place WHERE topic_id = ? AND partition = ? AND next > ?", (*key, at)
        )
        prefix = f"{log.topic_id}/{log.partition}/"
        for table in ("mark", "attempt"):
            connection.execute(
                f"DELETE FROM {table} WHERE substr(id, 1, :many) = :prefix "
                "AND CAST(substr(id, :many + 1) AS INTEGER) >= :at",
                {"many": len(prefix), "prefix": prefix, "at": at},
            )


def aliases(connection: sqlite3.Connection, id: str) -> set[str]:
    """The id, and those it has where it is the position of a message that brought none: in it
    stands the topic's id, of which people know the topic's name."""
    place = _PLACE.fullmatch(id)
    if place is None:
        return {id}
    topic, partition, offset = place.groups()
    return {id} | {
        f"{topic_id}/{partition}/{offset}"
        for (topic_id,) in connection.execute(
            "SELECT DISTINCT topic_id FROM position WHERE topic = ?", (topic,)
        )
    }


def place(id: str) -> tuple[Log, int] | None:
    """The position that an id stands for, None where it is no position."""
    found = _PLACE.fullmatch(id)
    return None if found is None else (Log(found[1], int(found[2])), int(found[3]))


def _remove(connection: sqlite3.Connection, table: str, scope: int, ids: list[str] | None) -> int:
    if ids is None:
        return connection.execute(f"DELETE FROM {table} WHERE scope = ?", (scope,)).rowcount
    return connection.executemany(
        f"DELETE FROM {table} WHERE scope = ? AND id = ?", [(scope, id) for id in ids]
    ).rowcount


def _remove_offsets(
    connection: sqlite3.Connection, id: str | None, given: dict[str, str | None]
) -> int:
    places = None if id is None else set(_places(connection, id))
    count = 0
    for handler, topic_id, partition, text in connection.execute(
        "SELECT handler, topic_id, partition, ranges FROM position "
        "WHERE (:handler IS NULL OR handler = :handler) "
        "AND (:topic IS NULL OR topic = :topic OR topic_id = :topic)",
        given,
    ).fetchall():
        log = Log(topic_id, partition)
        known = decoded(text)
        if places is None:
            left = Ranges()
        else:
            left = known.copy()
            for place, offset in places:
                if place == log:
                    left = without(left, offset)
        count += known.total - left.total
        if left:
            connection.execute(
                "UPDATE position SET ranges = ? "
                "WHERE handler = ? AND topic_id = ? AND partition = ?",
                (left.encode(), handler, *log),
            )
        else:
            connection.execute(
                "DELETE FROM position WHERE handler = ? AND topic_id = ? AND partition = ?",
                (handler, *log),
            )
    return count


def without(ranges: Ranges, offset: int) -> Ranges:
    """The same set but for one offset."""
    left = Ranges()
    for start, stop in ranges:
        if start <= offset < stop:
            left.add_range(start, offset)
            left.add_range(offset + 1, stop)
        else:
            left.add_range(start, stop)
    return left


def decoded(text: str) -> Ranges:
    """What is stored of offsets. Raises Damaged."""
    try:
        return Ranges.decode(text)
    except ValueError as error:
        raise Damaged(str(error)) from error


def _places(connection: sqlite3.Connection, id: str) -> Iterator[tuple[Log, int]]:
    for name in aliases(connection, id):
        found = place(name)
        if found is not None:
            yield found
