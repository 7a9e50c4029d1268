"""Context: what a handler can do. What it publishes is collected here, not sent."""

from __future__ import annotations

import hashlib
import math
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from . import codec
from .headers import MESSAGE_ID
from .message import Headers, Message
from .names import topic_fault
from .outcome import Output


class Shared:
    """What `kworker.Transaction` is annotated with: by it a handler asks for the transaction
    that its message is recorded in."""


class Timebox:
    """How long one call of a handler may take; `seconds` None: as long as it likes."""

    __slots__ = ("_on_restart", "_until", "seconds", "told")

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._until = math.inf if seconds is None else time.monotonic() + seconds
        self.told = False  # that it is over
        self._on_restart: Callable[[float], None] | None = None

    @property
    def left(self) -> float:
        """Seconds left, below 0 when it is over."""
        return self._until - time.monotonic()

    def restart(self) -> None:
        """The time begins anew, for the handler is alive."""
        if self.seconds is not None:
            self._until = time.monotonic() + self.seconds
            self.told = False
            if self._on_restart is not None:
                self._on_restart(self.seconds)

    def on_restart(self, told: Callable[[float], None]) -> None:
        """Have `told(seconds)` called, on the handler's thread, at each restart."""
        self._on_restart = told


class Context:
    """What a handler can do while it handles one message.

    May be used from any thread the handler starts, as long as it waits for them.
    """

    __slots__ = (
        "_handler",
        "_lock",
        "_message",
        "_outgoing",
        "_outputs",
        "_still_mine",
        "_timebox",
    )  # fmt: skip

    def __init__(
        self,
        message: Message[Any],
        handler_name: str,
        still_mine: Callable[[], bool],
        timebox: Timebox | None = None,
        outgoing: Callable[[str, str, Headers], Headers] | None = None,
    ) -> None:
        self._message = message
        self._handler = handler_name
        self._still_mine = still_mine
        self._timebox = timebox or Timebox(None)
        self._outgoing = outgoing  # what plugins put into the headers
        self._outputs: list[Output] = []
        self._lock = threading.Lock()

    def publish(
        self,
        topic: str,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: codec.HeadersGiven = None,
    ) -> str:
        """Publish a message if, and only if, the handler ends well; returns the message's id.

        It is encoded at once and never blocks. It is sent after the handler has ended and
        before its message is settled; a refusal then fails the handler. A second run of the
        handler that publishes the same in the same order publishes the same ids. Raises
        ValueError or TypeError for what cannot be sent.
        """
        fault = topic_fault(topic)
        if fault is not None:
            raise ValueError(fault)
        encoded = codec.encode(value)
        encoded_key = codec.encode_key(key)
        given = codec.check_headers(headers)
        with self._lock:
            id = derived_id(self._message, self._handler, len(self._outputs))
            more = () if self._outgoing is None else self._outgoing(topic, id, given)
            all_headers: Headers = ((MESSAGE_ID, id.encode()), *given, *more)
            self._outputs.append(Output(topic, encoded_key, encoded, all_headers, id))
        return id

    @property
    def still_mine(self) -> bool:
        """Whether the message's partition is still this worker's.

        When it has moved, another worker handles the message, and what becomes of it here is
        not recorded: a long handler asks now and then, and stops.
        """
        return self._still_mine()

    @property
    def time_left(self) -> float:
        """Seconds until the handler's `timeout`, infinite without one.

        A coroutine is cancelled then; a thread cannot be, so what runs in one asks this and
        ends by itself.
        """
        return self._timebox.left

    def heartbeat(self) -> None:
        """Say that long work makes progress: the handler's `timeout` begins anew."""
        self._timebox.restart()

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What was published so far, in its order."""
        with self._lock:
            return tuple(self._outputs)


def derived_id(message: Message[Any], handler: str, number: int) -> str:
    """The id of the message that a handler publishes as number `number` for `message`.

    The original topic is part of it, because a message id counts within its topic: two
    topics may both hold an id "1".
    """
    parts = (handler, message.original.topic, str(message.replay), str(number), message.id)
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
    bits = int.from_bytes(digest[:16], "big")
    # Version 8 of RFC 9562: an id made in a way of one's own.
    bits = bits & ~(0xF << 76) | (8 << 76)
    bits = bits & ~(0x3 << 62) | (2 << 62)
    return str(uuid.UUID(int=bits))
