"""What a settled message leaves on the wire: copies for retries and dead letters. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from .. import headers as names
from ..failures import fingerprint, stack_trace, type_name, words
from ..message import Headers
from ..outcome import GiveUp, SendOn
from ..topics import GroupTopics
from .work import Work

MESSAGE_LIMIT = 1024  # characters of an error's message


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a message for a topic of the group: where it goes and what we write on it.

    The rest (key, value, the producer's headers) is the record's own; so a copy fits into a
    store as text and can be sent again after a crash, the same to the byte.
    """

    topic: str
    written: tuple[tuple[str, str], ...]
    bare: bool = False  # coordinates only: without value and producer's headers

    def encode(self) -> str:
        return json.dumps({"topic": self.topic, "written": self.written, "bare": self.bare})

    @classmethod
    def decode(cls, text: str) -> Copy:
        data = json.loads(text)
        return cls(data["topic"], tuple((n, v) for n, v in data["written"]), data["bare"])

    def get(self, name: str) -> str | None:
        return next((value for given, value in self.written if given == name), None)

    def headers(self, work: Work) -> Headers:
        ours: Headers = tuple((name, value.encode()) for name, value in self.written)
        return ours if self.bare else names.producers(work.record.headers) + ours

    def smaller(self) -> Copy | None:
        """Without its stack trace, then without its error message; None if neither is there."""
        for name in (names.ERROR_STACKTRACE, names.ERROR_MESSAGE):
            if self.get(name) is not None:
                kept = tuple(pair for pair in self.written if pair[0] != name)
                return replace(self, written=kept)
        return None


def brief(decided: str | None) -> str | None:
    """A decision without its error's stack trace, for where there is little room."""
    if decided is None:
        return None
    copy = Copy.decode(decided)
    kept = tuple(pair for pair in copy.written if pair[0] != names.ERROR_STACKTRACE)
    return replace(copy, written=kept).encode()


def copy_for(
    work: Work, decision: SendOn | GiveUp, error: BaseException, topics: GroupTopics, now: float
) -> Copy:
    """The copy that carries out a decision about a failed work; `now` in epoch seconds.

    `work.calls` counts the call that failed already.
    """
    original = work.original
    written = {
        names.MESSAGE_ID: work.id,
        names.HANDLER: work.scope.name,
        names.HOP: str(work.hop + 1),
        names.ATTEMPT: str(work.calls),
        names.ORIGINAL_TOPIC: original.topic,
        names.ORIGINAL_PARTITION: str(original.partition),
        names.ORIGINAL_OFFSET: str(original.offset),
        names.ORIGINAL_GROUP: topics.group,
        names.FIRST_FAILED_AT: iso(now if work.first_failed_at is None else work.first_failed_at),
        names.ERROR_TYPE: type_name(error),
        names.ERROR_MESSAGE: words(error)[:MESSAGE_LIMIT],
        names.ERROR_FINGERPRINT: fingerprint(work.scope.name, error),
        names.REPLAY_COUNT: str(work.replay),
    }
    if work.sent_at is not None:
        written[names.ORIGINAL_TIMESTAMP] = str(round(work.sent_at * 1000))
    if isinstance(decision, GiveUp):
        topic = topics.dlq
        written[names.DISPOSITION] = decision.disposition
        written[names.ERROR_STACKTRACE] = stack_trace(error)
    else:
        topic = topics.replay if decision.through is None else topics.retry(decision.through)
        written[names.NOT_BEFORE] = str(round((now + decision.delay) * 1000))
    return Copy(topic, tuple((name, _text(value)) for name, value in written.items()))


def iso(when: float) -> str:
    """Epoch seconds as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")


def _text(value: str) -> str:
    """What UTF-8 can carry: a lone surrogate in an error's message is replaced."""
    return value.encode("utf-8", "replace").decode("utf-8")
