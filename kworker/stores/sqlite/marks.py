"""How marks stand in the tables."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence

from ..api import Mark

LONGEST_ID = 512  # bytes; the store grows by what strangers write, so this is bounded


Kind = tuple[str, str, int, int]
"""Handler, topic, replay and hop: what most marks of a turn have in common."""


def by_kind(marks: Iterable[Mark]) -> dict[Kind, dict[str, Mark]]:
    """The marks with their ids as stored, each kind by itself: asked and written at once."""
    kinds: dict[Kind, dict[str, Mark]] = {}
    for mark in marks:
        handler, topic, id, replay, hop = mark
        kind = (handler, topic, replay, hop)
        ids = kinds.get(kind)
        if ids is None:
            ids = kinds[kind] = {}
        ids[stored_id(id)] = mark
    return kinds


def storable(ids: Sequence[str]) -> Sequence[str]:
    """The ids as stored, in order; themselves where nothing has to be changed, the rule."""
    if max(map(len, ids)) <= LONGEST_ID and "".join(ids).isascii():
        return ids
    return [stored_id(id) for id in ids]


def stored_id(id: str) -> str:
    """The id itself, or its digest where it is too long, or no text that SQLite can keep."""
    if id.isascii() and len(id) <= LONGEST_ID:
        return id
    data = id.encode("utf-8", "surrogatepass")
    if len(data) <= LONGEST_ID and not any("\ud800" <= char <= "\udfff" for char in id):
        return id
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Scopes:
    """The numbers that stand for (handler, topic).

    One is given once and never taken back, so it may be remembered; but only from a
    committed transaction, which `keep` tells.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: dict[tuple[str, str], int] = {}
        self._fresh: dict[tuple[str, str], int] = {}

    def find(self, handler: str, topic: str) -> int | None:
        """The number, None where nothing was ever written for the two."""
        pair = (handler, topic)
        scope = self._known.get(pair)
        if scope is None:
            row = self._connection.execute(
                "SELECT scope FROM scope WHERE handler = ? AND topic = ?", pair
            ).fetchone()
            if row is not None:
                scope = self._known[pair] = row[0]
        return scope

    def give(self, handler: str, topic: str) -> int:
        """The number, a new one where there was none; inside a write transaction."""
        pair = (handler, topic)
        scope = self._known.get(pair) or self._fresh.get(pair)
        if scope is None:
            self._connection.execute(
                "INSERT OR IGNORE INTO scope (handler, topic) VALUES (?, ?)", pair
            )
            (scope,) = self._connection.execute(
                "SELECT scope FROM scope WHERE handler = ? AND topic = ?", pair
            ).fetchone()
            self._fresh[pair] = scope
        return scope

    def keep(self, committed: bool) -> None:
        """The transaction has ended: its new numbers hold, or they never were."""
        if self._fresh:
            if committed:
                self._known.update(self._fresh)
            self._fresh.clear()
