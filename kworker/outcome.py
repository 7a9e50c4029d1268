"""What can become of a message: what handlers raise, and the values made of it.

Handlers say what they want by raising; `runtime.executors` turns each exception into one of
the frozen values below once, and from there on the code matches on data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import durations
from .message import Headers

LONGEST_DELAY = 7 * 86_400.0  # seconds: the least that retry and replay topics keep a message


class Reject(Exception):
    """Raised by a handler: dead-letter this message at once."""


class Skip(Exception):
    """Raised by a handler: this message is done, recorded as skipped."""


class RetryLater(Exception):
    """Raised by a handler: call it again after `delay` (`"30s"`, or seconds).

    It spends one call. The message comes again through the nearest retry topic that is not
    shorter, else the longest, else the replay topic. Raises ValueError for no duration.
    """

    def __init__(self, delay: str | float, reason: str = "") -> None:
        super().__init__(reason or f"again in {delay}")
        self.delay = durations.seconds(delay)
        if self.delay > LONGEST_DELAY:
            raise ValueError(
                f"RetryLater({delay!r}): longer than the 7 days that its topic keeps a message; "
                "use a scheduler"
            )


class BatchFailure(Exception):
    """Raised by a handler of batches: these of its messages failed, and the others are done.

    `errors` says why, by place in the list that the handler got.
    """

    def __init__(self, errors: Mapping[int, BaseException]) -> None:
        super().__init__(f"{len(errors)} of the batch failed")
        self.errors = dict(errors)


class Outage(Exception):
    """Raised by a handler: what it needs is down. Nobody is to blame, least the message.

    Its handler's messages wait unfinished, no call is spent and nothing is copied; one is
    tried at a time, with growing pauses, until one does not end so.
    """


class Expired(Exception):
    """The message is older than its handler's `expires`; it is dead-lettered unhandled."""


class HandlerTimeout(Exception):
    """A coroutine ran longer than its handler's `timeout` and was cancelled."""


@dataclass(frozen=True, slots=True)
class Output:
    """A message that a handler publishes, encoded; sent only if the handler ends well."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    id: str


@dataclass(frozen=True, slots=True)
class Done:
    """The handler ended well; `outputs` go out before its message is settled."""

    outputs: tuple[Output, ...] = ()


DONE = Done()
"""Nothing was published, as a rule: one value for all, known by its identity."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Nothing was to be done: the handler said so, or it was done before (`duplicate`)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised; or its message could not be decoded, and it was not `called`."""

    error: BaseException
    called: bool = True


@dataclass(frozen=True, slots=True)
class Dropped:
    """The handler was not called: its partition has moved or the worker stops."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """The handler was not called, or could do nothing: what it needs is down."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The handler's own transaction holds what it wrote, and the record of it.

    `published`: what it published is in the same transaction, and waits in the outbox.
    `duplicate`: it was recorded before, and the handler was not called.
    """

    published: bool = False
    duplicate: bool = False


Outcome = Done | Skipped | Failed | Dropped | Postponed | Recorded


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Call the handler again in this process, `delay` seconds from now."""

    delay: float  # seconds


@dataclass(frozen=True, slots=True)
class SendOn:
    """Copy the message to the retry topic of `through` and call the handler after `delay`.

    `through` None stands for the replay topic, which takes what no retry topic can.
    """

    through: float | None  # seconds: names the topic
    delay: float  # seconds: when it is due


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Copy the message to the dead-letter topic."""

    disposition: str


Decision = TryAgain | SendOn | GiveUp
