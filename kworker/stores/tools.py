"""Looking into a store from outside, for people: read only, also while workers write to it.

What is asked goes through the store's views and takes as long as reading them does.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import StoreError
from ..message import Headers
from .sqlite import care, forget, outbox, schema
from .sqlite.marks import stored_id


@dataclass(frozen=True, slots=True)
class HandlerMemory:
    """What a store remembers of one handler: how many messages it `settled` (their copies and
    replays are not counted again), and when the `oldest` that brought an id was recorded
    (ISO 8601).
    """

    handler: str
    settled: int
    skipped_duplicates: int
    oldest: str | None


@dataclass(frozen=True, slots=True)
class Trace:
    """One thing that a store knows of an id.

    `settled`: it was settled and is skipped when it comes again. Otherwise its handler was
    called `calls` times, and `decided` says whether what becomes of it is decided, so that it
    is not called again. `recorded_at` is ISO 8601; of what is known by position, when
    anything of its partition was recorded last.
    """

    handler: str
    topic: str
    id: str
    replay: int
    hop: int
    settled: bool
    calls: int | None
    decided: bool
    recorded_at: str


@dataclass(frozen=True, slots=True)
class Unsent:
    """A message of the outbox. `state` is `waiting` or `rejected`, `created_at` ISO 8601."""

    id: int
    message_id: str
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    state: str
    error: str | None
    attempts: int
    created_at: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Which messages of the outbox are meant; what is None says nothing. Seconds since the
    epoch; of a `limit` the oldest."""

    topic: str | None = None
    key: bytes | None = None
    state: str | None = None
    since: float | None = None
    until: float | None = None
    limit: int | None = None

    @property
    def given(self) -> bool:
        return self != Choice()


def owner(path: Path) -> str | None:
    """The group of the store in that file, None where there is none. Raises StoreError."""
    if not path.is_file() or not path.stat().st_size:
        return None
    view = View(path)
    view.close()
    return view.group


class View:
    """A store's file, opened to be looked at. Raises StoreError for what is no store."""

    def __init__(self, path: Path) -> None:
        from sqlite_utils import Database

        self._path = path
        if not path.is_file():
            raise StoreError(
                f"{path}: there is no store; no worker has run here yet, or it keeps its store "
                "elsewhere: check the folder, --db and --group"
            )
        with care.telling(path):
            address = f"file:{quote(str(path.absolute()))}?mode=ro"
            connection = sqlite3.connect(address, uri=True, isolation_level=None)
            try:
                schema.recognise(connection, path)
                owner = connection.execute('SELECT "group", cluster FROM meta').fetchone()
            except BaseException:
                connection.close()
                raise
        if owner is None:
            connection.close()
            raise StoreError(f"{path}: does not say whose it is; name another file with --db")
        self.group: str = owner[0]
        self.cluster: str = owner[1]
        self._connection = connection
        self._database = Database(connection, execute_plugins=False)

    @property
    def size(self) -> int:
        """Bytes on disk, with what is not moved into the database yet."""
        files = (self._path.with_name(self._path.name + suffix) for suffix in ("", "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def names(self) -> set[str]:
        """The handlers of which anything was ever recorded here."""
        with self._telling():
            rows = self._database.query(
                "SELECT handler FROM scope UNION SELECT handler FROM positions"
            )
            return {row["handler"] for row in rows}

    def handlers(self) -> list[HandlerMemory]:
        """What is remembered of each handler, by name."""
        settled: Counter[str] = Counter()
        oldest: dict[str, str] = {}
        with self._telling():
            for row in self._database.query(
                "SELECT handler, sum(replay = 0 AND hop = 0) AS settled, "
                "min(recorded_at) AS oldest FROM seen GROUP BY handler"
            ):
                settled[row["handler"]] += row["settled"]
                oldest[row["handler"]] = row["oldest"]
            for row in self._database.query("SELECT handler, ranges FROM positions"):
                settled[row["handler"]] += forget.decoded(row["ranges"]).total
            skipped = {
                row["handler"]: row["duplicates"]
                for row in self._database.query("SELECT * FROM skipped")
            }
        return [
            HandlerMemory(name, settled[name], skipped.get(name, 0), oldest.get(name))
            for name in sorted(settled.keys() | skipped.keys())
        ]

    def find(self, id: str) -> list[Trace]:
        """Everything that is known of an id, which may be a position: topic/partition/offset."""
        with self._telling():
            names = sorted(forget.aliases(self._connection, id))
            return [trace for name in names for trace in self._of(name)]

    def matching(
        self, *, id: str | None = None, handler: str | None = None
    ) -> Mapping[tuple[str, str], int]:
        """How many marks, offsets and attempts agree with all that is given, by handler and
        topic: what `Store.forget` would remove."""
        found: Counter[tuple[str, str]] = Counter()
        if id is not None:
            for trace in self.find(id):
                if handler in (None, trace.handler):
                    found[trace.handler, trace.topic] += 1
            return found
        with self._telling():
            for row in self._database.query(
                "SELECT handler, topic, count(*) AS entries FROM "
                "(SELECT handler, topic FROM seen UNION ALL SELECT handler, topic FROM attempts) "
                "WHERE handler = :handler GROUP BY handler, topic",
                {"handler": handler},
            ):
                found[row["handler"], row["topic"]] += row["entries"]
            for row in self._database.query(
                "SELECT handler, coalesce(topic, topic_id) AS topic, ranges FROM positions "
                "WHERE handler = :handler",
                {"handler": handler},
            ):
                found[row["handler"], row["topic"]] += forget.decoded(row["ranges"]).total
        return found

    def older(self, before: float) -> int:
        """How many marks were recorded before that time (seconds since the epoch)."""
        moment = _moment(before)
        with self._telling():
            [row] = self._database.query(
                "SELECT count(*) AS marks FROM seen WHERE recorded_at < :moment",
                {"moment": moment},
            )
        return int(row["marks"])

    def unsent(self, choice: Choice) -> list[Unsent]:
        """The messages of the outbox that are meant, the oldest first."""
        return self._unsent(choice)

    def unsent_named(self, id: str) -> list[Unsent]:
        """Those with that number, or that message id, of which there may be several."""
        return self._unsent(Choice(), "(:id IN (CAST(id AS TEXT), message_id))", {"id": id})

    def search(self, words: str, choice: Choice) -> list[Unsent]:
        """Those that are meant and have all of the words in value, key, headers, error or topic.

        Nothing is indexed when messages are kept: what is meant is indexed (FTS5) when somebody
        searches, on disk where it is large.
        """
        from sqlite_utils import Database

        found = {one.id: one for one in self._unsent(replace(choice, limit=None))}
        index = Database(sqlite3.connect(""), execute_plugins=False)
        try:
            table = index.table("messages", pk="id")
            table.insert_all(map(_searched, found.values()))
            if not found:
                return []
            table.enable_fts(_SEARCHED, fts_version="FTS5")
            hits = table.search(words, "id", ["id"], limit=choice.limit, quote=True)
            return [found[row["id"]] for row in hits]
        finally:
            index.close()

    def _unsent(
        self, choice: Choice, also: str = "1", given: Mapping[str, Any] | None = None
    ) -> list[Unsent]:
        conditions = {
            "topic = :topic": choice.topic,
            "key = :key": None if choice.key is None else outbox.stored(choice.key),
            "state = :state": choice.state,
            "created_at >= :since": _moment(choice.since),
            "created_at < :until": _moment(choice.until),
        }
        wanted = [text for text, value in conditions.items() if value is not None]
        values = {text.split(":")[1]: value for text, value in conditions.items()}
        limit = -1 if choice.limit is None else choice.limit
        with self._telling():
            rows = self._database.query(
                f"SELECT * FROM outbox WHERE {' AND '.join([also, *wanted])} "
                "ORDER BY id LIMIT :limit",
                {**values, "limit": limit, **(given or {})},
            )
            return [
                Unsent(
                    **{
                        **row,
                        "key": outbox.as_bytes(row["key"]),
                        "value": outbox.as_bytes(row["value"]),
                        "headers": outbox.decode(row["headers"]),
                    }
                )
                for row in rows
            ]

    def close(self) -> None:
        self._connection.close()

    def _of(self, id: str) -> Iterator[Trace]:
        given = {"id": stored_id(id)}
        for row in self._database.query("SELECT * FROM seen WHERE id = :id", given):
            yield _trace(row, settled=True)
        for row in self._database.query("SELECT * FROM attempts WHERE id = :id", given):
            yield _trace(row, settled=False)
        place = forget.place(id)
        if place is None:
            return
        log, offset = place
        for row in self._database.query(
            "SELECT * FROM positions WHERE topic_id = :topic_id AND partition = :partition",
            log._asdict(),
        ):
            if offset in forget.decoded(row["ranges"]):
                named = {**row, "topic": row["topic"] or row["topic_id"], "id": id}
                yield _trace({**named, "replay": 0, "hop": 0}, settled=True)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        with care.telling(self._path):
            yield


_SEARCHED = ["value", "key", "headers", "error", "topic"]


def _searched(one: Unsent) -> dict[str, Any]:
    """The texts of a message that are searched."""

    def text(value: bytes | None) -> str | None:
        return None if value is None else value.decode("utf-8", "replace")

    return {
        "id": one.id,
        "value": text(one.value),
        "key": text(one.key),
        "headers": "\n".join(f"{name}: {text(value) or ''}" for name, value in one.headers),
        "error": one.error,
        "topic": one.topic,
    }


def _moment(when: float | None) -> str | None:
    """A time as the store's views have it."""
    if when is None:
        return None
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _trace(row: Mapping[str, Any], *, settled: bool) -> Trace:
    return Trace(
        handler=row["handler"],
        topic=row["topic"],
        id=row["id"],
        replay=row["replay"],
        hop=row["hop"],
        settled=settled,
        calls=None if settled else row["calls"],
        decided=not settled and row["decided"] is not None,
        recorded_at=row["recorded_at"],
    )
