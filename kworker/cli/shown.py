"""How what stood in a message is shown: bytes and times, for programs and for people."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

_SHORT = 80  # characters of an error's message or of a key in a table


def as_json(value: bytes | None) -> Any:
    """Bytes for JSON: text where they are UTF-8, else in base64."""
    if value is None:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def as_text(value: bytes | None) -> str:
    """Bytes for people, in one line once it is made printable."""
    told = as_json(value)
    if told is None:
        return "-"
    return told if isinstance(told, str) else f"base64 {told['base64']}"


def short(text: str) -> str:
    """What a cell of a table has room for."""
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…"


def iso(when: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC, to the millisecond."""
    return None if when is None else _utc(when, "milliseconds")


def time(when: float | None) -> str:
    """A time for people, to the second."""
    return "-" if when is None else _utc(when, "seconds").replace("+00:00", "Z")


def _utc(when: float, to: str) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec=to)
