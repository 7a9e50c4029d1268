"""For tests of handlers: a message and a context to call a handler with, as it is.

def test_a_charge_is_published() -> None:
    ctx = context()

    charge(Order(id=1, amount=9.5), ctx)

    assert ctx.published[0].topic == "charges"
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, TypeVar

from .. import codec
from ..context import Context
from ..message import Headers, Message, Position

__all__ = ["Published", "TestContext", "context", "message"]

T = TypeVar("T")


def message(
    value: T,
    *,
    raw: bytes | None = None,
    key: str | bytes | None = None,
    headers: codec.HeadersGiven = None,
    topic: str = "test",
    partition: int = 0,
    offset: int = 0,
    timestamp: float | None = None,
    id: str | None = None,
    attempt: int = 1,
    replay: int = 0,
    original: Position | None = None,
) -> Message[T]:
    """A message as a handler gets it, with `value` decoded.

    What is not given is as plain as can be: `raw` is the value encoded, `timestamp` now (in
    seconds since the epoch), `id` the position. Raises TypeError or ValueError for a value
    that has no bytes, where `raw` is not given.
    """
    return Message(
        value,
        raw=codec.encode(value) if raw is None else raw,
        key=codec.encode_key(key),
        headers=codec.to_headers(headers),
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp=time.time() if timestamp is None else timestamp,
        id=f"{topic}/{partition}/{offset}" if id is None else id,
        attempt=attempt,
        replay=replay,
        original=original,
    )


@dataclass(frozen=True, slots=True)
class Published:
    """What a handler published: value and key as it gave them, headers as they are sent."""

    topic: str
    value: Any
    key: str | bytes | None
    headers: Headers
    id: str


class TestContext(Context):
    """A context that remembers what was published, and refuses what a worker would refuse.

    Set `mine` to False to see what a handler does whose partition has moved.
    """

    __slots__ = ("mine", "published")
    __test__ = False  # pytest takes a class of this name for a test

    def __init__(self, message: Message[Any], handler_name: str) -> None:
        super().__init__(message, handler_name, lambda: self.mine)
        self.mine = True
        self.published: list[Published] = []

    def publish(
        self,
        topic: str,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: codec.HeadersGiven = None,
    ) -> str:
        id = super().publish(topic, value, key=key, headers=headers)
        sent = next(output.headers for output in self.outputs if output.id == id)
        self.published.append(Published(topic, value, key, sent, id))
        return id


def context(of: Message[Any] | None = None, *, handler: str = "test") -> TestContext:
    """A context to call a handler with; of that message, where the published ids matter."""
    return TestContext(message(None) if of is None else of, handler)
