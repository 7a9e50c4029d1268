"""What handlers published in their transactions and is to be sent: the table `output`, for people
the view `outbox`."""

from __future__ import annotations

import base64
import binascii
import json
import sqlite3
from collections.abc import Sequence

from ...message import Headers
from ...outcome import Output
from .care import Damaged


def add(
    connection: sqlite3.Connection, outputs: Sequence[Output], now: float
) -> tuple[tuple[int, Output], ...]:
    """Write these; each with the number it was given, which none had before."""
    numbered: list[tuple[int, Output]] = []
    for one in outputs:
        number = connection.execute(
            "INSERT INTO output (topic, key, value, headers, id, at) VALUES (?, ?, ?, ?, ?, ?)",
            (one.topic, one.key, one.value, _encode(one.headers), one.id, now),
        ).lastrowid
        assert number is not None
        numbered.append((number, one))
    return tuple(numbered)


def waiting(connection: sqlite3.Connection, before: float, limit: int) -> list[tuple[int, Output]]:
    rows = connection.execute(
        "SELECT output, topic, key, value, headers, id FROM output WHERE at <= ? "
        "ORDER BY output LIMIT ?",
        (before, limit),
    )
    return [
        (number, Output(topic, key, value, _decode(headers), id))
        for number, topic, key, value, headers, id in rows
    ]


def remove(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    connection.executemany("DELETE FROM output WHERE output = ?", [(one,) for one in numbers])


def _encode(headers: Headers) -> str:
    return json.dumps(
        [
            [name, None if value is None else base64.b64encode(value).decode()]
            for name, value in headers
        ]
    )


def _decode(text: str) -> Headers:
    try:
        return tuple(
            (str(name), None if value is None else base64.b64decode(value))
            for name, value in json.loads(text)
        )
    except (ValueError, TypeError, binascii.Error) as error:
        raise Damaged(str(error)) from error
