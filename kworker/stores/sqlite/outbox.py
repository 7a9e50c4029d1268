"""What is to be sent: the table `output`, for people the view `outbox`.

Messages of one key (and topic) are a lane; those without a key are one, too. Whoever sends from
the table takes rows on (`claim`), in their order, and no row of a lane of which somebody else
who is alive has taken on an earlier one. So a lane is sent in its order, whoever sends it.
"""

from __future__ import annotations

import base64
import binascii
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ...message import Headers
from ...outcome import Output
from ..api import Lane, Waiting
from .care import Damaged
from .slot import Slot

WAITING, REJECTED = "waiting", "rejected"
_NOBODY = -1  # no slot has this number

_CLAIM = """
    WITH others AS (
        SELECT topic, key, min(output) AS first FROM output
        WHERE state = 'waiting' AND holder IS NOT NULL AND holder <> :me GROUP BY topic, key
    )
    SELECT output FROM output AS one
    WHERE state = 'waiting' AND holder IS NULL AND NOT EXISTS (
        SELECT 1 FROM others
        WHERE others.topic = one.topic AND others.key IS one.key AND others.first < one.output
    )
    ORDER BY output LIMIT :limit
"""

_TAKE = """
    WITH others AS (
        SELECT topic, key, min(output) AS first FROM output
        WHERE state = 'waiting' AND holder IS NOT :me
            AND output NOT IN (SELECT number FROM chosen)
        GROUP BY topic, key
    )
    SELECT output FROM output AS one
    WHERE holder IS NULL AND output IN (SELECT number FROM chosen) AND NOT (:in_order AND EXISTS (
        SELECT 1 FROM others
        WHERE others.topic = one.topic AND others.key IS one.key AND others.first < one.output
    ))
"""


def add(
    connection: sqlite3.Connection,
    outputs: Iterable[Output],
    now: float,
    *,
    state: str = WAITING,
    error: str | None = None,
    holder: int | None = None,
) -> list[int]:
    """Write these; the number of each, which none had before. Those with a `holder` are on
    their way already."""
    numbers: list[int] = []
    for one in outputs:
        headers = _encode(one.headers)
        size = len(one.key or b"") + len(one.value or b"") + len(headers)
        number = connection.execute(
            "INSERT INTO output (topic, key, value, headers, id, at, state, error, attempts, "
            "holder, size) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (one.topic, stored(one.key), stored(one.value), headers, one.id, now, state, error,
             int(holder is not None or state == REJECTED), holder, size),
        ).lastrowid  # fmt: skip
        assert number is not None
        numbers.append(number)
    return numbers


def left(connection: sqlite3.Connection, slot: Slot) -> bool:
    """Whether rows wait that nobody who is alive has taken on, those of a lane that is somebody
    else's included."""
    free = "SELECT 1 FROM output WHERE state = 'waiting' AND holder IS NULL LIMIT 1"
    return bool(_dead(connection, slot)) or connection.execute(free).fetchone() is not None


def claim(connection: sqlite3.Connection, slot: Slot, limit: int) -> list[Waiting]:
    """Take on up to so many rows; they are ours until they are removed or let go."""
    release(connection, *_dead(connection, slot))
    given = {"me": slot.number, "limit": limit}
    numbers = [number for (number,) in connection.execute(_CLAIM, given)]
    connection.executemany(
        "UPDATE output SET holder = ?, attempts = attempts + 1 WHERE output = ?",
        [(slot.number, number) for number in numbers],
    )
    return read(connection, numbers)


def take(
    connection: sqlite3.Connection, slot: Slot, numbers: Sequence[int], *, in_order: bool
) -> list[int]:
    """Take on these rows, rejected ones too, as far as nobody else has them, nor, `in_order`, an
    earlier one of their lane is to be sent first; which they are."""
    release(connection, *_dead(connection, slot))
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS chosen (number INTEGER PRIMARY KEY)")
    connection.execute("DELETE FROM chosen")
    connection.executemany("INSERT OR IGNORE INTO chosen VALUES (?)", [(one,) for one in numbers])
    given = {"me": slot.number, "in_order": in_order}
    taken = sorted(number for (number,) in connection.execute(_TAKE, given))
    connection.executemany(
        "UPDATE output SET state = 'waiting', holder = ?, attempts = attempts + 1 WHERE output = ?",
        [(slot.number, number) for number in taken],
    )
    return taken


def read(connection: sqlite3.Connection, numbers: Iterable[int]) -> list[Waiting]:
    """These rows."""
    return [_read(connection, number) for number in numbers]


def release(connection: sqlite3.Connection, *holders: int) -> None:
    """Let go of what these have taken on."""
    for holder in holders:
        connection.execute("UPDATE output SET holder = NULL WHERE holder = ?", (holder,))


def behind(connection: sqlite3.Connection, slot: Slot) -> Counter[Lane]:
    """The lanes of which rows wait that are not ours, with their numbers."""
    rows = connection.execute(
        "SELECT topic, key, count(*) FROM output WHERE state = 'waiting' AND holder IS NOT ? "
        "GROUP BY topic, key",
        (_NOBODY if slot.fresh else slot.number,),
    )
    return Counter({Lane(topic, as_bytes(key)): count for topic, key, count in rows})


def remove(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    connection.executemany("DELETE FROM output WHERE output = ?", [(one,) for one in numbers])


def reject(connection: sqlite3.Connection, reasons: Mapping[int, str]) -> None:
    """Keep these for a person, with the reasons."""
    connection.executemany(
        "UPDATE output SET state = 'rejected', holder = NULL, error = ? WHERE output = ?",
        [(reason, number) for number, reason in reasons.items()],
    )


def used(connection: sqlite3.Connection) -> int:
    """Bytes of all that is there."""
    (size,) = connection.execute("SELECT coalesce(sum(size), 0) FROM output").fetchone()
    return int(size)


def _dead(connection: sqlite3.Connection, slot: Slot) -> list[int]:
    """The holders of rows that are not there any more."""
    found = connection.execute("SELECT DISTINCT holder FROM output WHERE holder IS NOT NULL")
    return [
        holder
        for (holder,) in found
        if not slot.alive(holder) or (slot.fresh and holder == slot.number)
    ]


def _read(connection: sqlite3.Connection, number: int) -> Waiting:
    topic, key, value, headers, id, error = connection.execute(
        "SELECT topic, key, value, headers, id, error FROM output WHERE output = ?", (number,)
    ).fetchone()
    output = Output(topic, as_bytes(key), as_bytes(value), decode(headers), id)
    return Waiting(number, output, error is not None)


def stored(value: bytes | None) -> str | bytes | None:
    """Text where it is text, so that people can read it and search for it."""
    if value is None or b"\0" in value:
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def as_bytes(value: str | bytes | None) -> bytes | None:
    """What was `stored`."""
    return value.encode() if isinstance(value, str) else value


def _encode(headers: Headers) -> str:
    def told(value: bytes | None) -> str | dict[str, str] | None:
        text = stored(value)
        return {"base64": base64.b64encode(text).decode()} if isinstance(text, bytes) else text

    return json.dumps([[name, told(value)] for name, value in headers], ensure_ascii=False)


def decode(text: str) -> Headers:
    """The headers of a row. Raises Damaged."""

    def bytes_of(told: str | dict[str, str] | None) -> bytes | None:
        return base64.b64decode(told["base64"]) if isinstance(told, dict) else as_bytes(told)

    try:
        return tuple((str(name), bytes_of(told)) for name, told in json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error) as error:
        raise Damaged(str(error)) from error
