"""Which of an app's handlers and topics a worker serves."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable

from .errors import UsageError
from .handlers import Handler, Register
from .names import did_you_mean


def chosen(
    register: Register,
    *,
    handlers: Collection[str] | None = None,
    topics: Collection[str] | None = None,
    exclude_topics: Collection[str] | None = None,
) -> Register:
    """The handlers that a worker serves, each with the topics it takes from.

    `handlers` are names (former ones, too); None stands for all. A topic that a regular
    expression matches may be chosen by its name; one that is excluded so is not left out
    here, but when topics are looked for. Raises UsageError for what
    the app does not have, and where nothing is left.
    """
    names = _names(register, handlers)
    declared = dict.fromkeys(topic for handler in register for topic in handler.topics)
    _refuse_unknown("--topics", topics, declared)
    _refuse_unknown("--exclude-topics", exclude_topics, declared)
    kept = []
    for handler in register:
        if names is not None and handler.name not in names:
            continue
        wanted = handler.topics
        if topics is not None:
            wanted = tuple(one for one in topics if _takes(wanted, one))
        left = tuple(one for one in wanted if one not in (exclude_topics or ()))
        if left == handler.topics:
            kept.append(handler)
        elif left:
            kept.append(dataclasses.replace(handler, topics=left))
    if not kept:
        raise UsageError(
            "nothing is left to serve: --handlers, --topics and --exclude-topics leave out every "
            f"handler of the app ({', '.join(one.name for one in register)})"
        )
    return Register(kept)


def refuse_shared_group(whole: Register, served: Register, group: str, usual: str) -> None:
    """A group that passes over messages would never hand them to the handlers left out, so
    these keep the app's `usual` group to themselves. Raises UsageError."""
    left = [one.name for one in whole if served.named(one.name) is None]
    if left and group == usual:
        raise UsageError(
            f"{', '.join(left)} would be left out, and group {group!r} would pass over "
            f"{'its' if len(left) == 1 else 'their'} messages; give this choice a group of its "
            "own with --group"
        )


def _names(register: Register, wanted: Collection[str] | None) -> set[str] | None:
    if wanted is None:
        return None
    found: list[Handler] = []
    for name in wanted:
        handler = register.named(name)
        if handler is None:
            known = [one.name for one in register]
            raise UsageError(
                f"--handlers: the app has no handler {name!r}{did_you_mean(name, known)}; it has "
                f"{', '.join(known)}"
            )
        found.append(handler)
    return {one.name for one in found}


def _takes(declared: Iterable[str], topic: str) -> bool:
    return any(topic == one or (one.startswith("^") and re.match(one, topic)) for one in declared)


def _refuse_unknown(flag: str, wanted: Iterable[str] | None, known: Collection[str]) -> None:
    for topic in wanted or ():
        if not _takes(known, topic):
            raise UsageError(
                f"{flag}: no handler takes {topic!r}{did_you_mean(topic, known)}; they take "
                f"{', '.join(known)}"
            )
