"""Every name kworker writes on the wire, and reading them back."""

from __future__ import annotations

from collections.abc import Iterable

from .message import Headers

PREFIX = "kworker-"

MESSAGE_ID = "kworker-message-id"
HANDLER = "kworker-handler"
HOP = "kworker-hop"
ATTEMPT = "kworker-attempt"
NOT_BEFORE = "kworker-not-before"
ORIGINAL_TOPIC = "kworker-original-topic"
ORIGINAL_PARTITION = "kworker-original-partition"
ORIGINAL_OFFSET = "kworker-original-offset"
ORIGINAL_TIMESTAMP = "kworker-original-timestamp"
ORIGINAL_GROUP = "kworker-original-group"
FIRST_FAILED_AT = "kworker-first-failed-at"
ERROR_TYPE = "kworker-error-type"
ERROR_MESSAGE = "kworker-error-message"
ERROR_STACKTRACE = "kworker-error-stacktrace"
ERROR_FINGERPRINT = "kworker-error-fingerprint"
DISPOSITION = "kworker-disposition"
REPLAY_COUNT = "kworker-replay-count"
DLQ_EVENT = "kworker-dlq-event"
REFERENCE = "kworker-reference"

CE_SOURCE = "ce_source"
CE_ID = "ce_id"


def producers(headers: Headers) -> Headers:
    """The producer's own headers: everything but the reserved ones."""
    return tuple(pair for pair in headers if not pair[0].startswith(PREFIX))


def reserved(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """The reserved headers that occur exactly once and are UTF-8 text, by name.

    Believed only on topics that kworker itself writes. One that is repeated is somebody
    else's work (the first of two is not necessarily ours), so it counts as absent.
    """
    found: dict[str, str | None] = {}
    for name, value in headers:
        if not name.startswith(PREFIX):
            continue
        if name in found or value is None:
            found[name] = None
            continue
        try:
            found[name] = value.decode("utf-8")
        except UnicodeDecodeError:
            found[name] = None
    return {name: text for name, text in found.items() if text is not None}
