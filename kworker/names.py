"""Names: which ones Kafka takes for a topic, and which one was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LONGEST_TOPIC = 249

_TOPIC = re.compile(r"[a-zA-Z0-9._-]+")


def topic_fault(name: object) -> str | None:
    """Why Kafka would refuse a topic of that name, None where it takes it."""
    if not isinstance(name, str):
        return f"{name!r} is not a topic name: give text"
    if not name:
        return "a topic name cannot be empty"
    if name in (".", ".."):
        return f"{name!r} is not a topic name that Kafka takes"
    if len(name) > LONGEST_TOPIC:
        return f"topic name {name[:20]!r}… has {len(name)} characters: {LONGEST_TOPIC} at most"
    if not _TOPIC.fullmatch(name):
        return f"topic name {name!r} may hold only letters (a-z), digits, '.', '_' and '-'"
    return None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'orders'?`, or nothing where no known name is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
