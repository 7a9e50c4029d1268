"""Sending messages from outside a worker: what returns a receipt is written and replicated."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

from . import codec, kafka
from .codec import HeadersGiven
from .errors import KafkaUnavailable, KworkerError, PublishRejected, UsageError
from .headers import MESSAGE_ID
from .kafka import api
from .message import Headers

PUBLISH_WAIT = 5.0  # seconds

# The client answers within its delivery timeout, which it looks at once a second. Whatever
# is silent for this much longer is not going to answer.
_GRACE = 5.0  # seconds

_Answered = Callable[[api.Receipt | api.Refusal], None]

_NOT_OPEN = "this publisher is not open: publish inside `with app.publisher() as publisher:`"
_CLOSED = "this publisher is closed: publish inside its `with`, or take another one"

_WAY_OUT = {
    "too_large": "make it smaller, or raise the topic's max.message.bytes",
    "forbidden": "give this client the right to write to the topic",
    "unknown_topic": "create the topic, or correct its name",
}


class Publish(NamedTuple):
    """One message for `publish_many`; a plain tuple in this order is as good."""

    topic: str
    value: Any
    key: str | bytes | None = None
    headers: HeadersGiven = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a message was written, acknowledged by all in-sync replicas.

    `message_id` is what workers recognise it by, should Kafka deliver it again.
    """

    topic: str
    partition: int
    offset: int
    timestamp: float | None  # seconds since the epoch
    message_id: str


class Partly(KworkerError):
    """Some of many messages were not published; the others were.

    `receipts` has a place for every message, in the order given, None where there is no
    receipt; `errors` says why not, by that place.
    """

    def __init__(
        self, receipts: Sequence[Receipt | None], errors: Mapping[int, KworkerError]
    ) -> None:
        place = min(errors)
        super().__init__(
            f"{len(errors)} of {len(receipts)} messages were not published; "
            f"the first is number {place + 1}: {errors[place]}"
        )
        self.receipts = list(receipts)
        self.errors = dict(errors)


class PartlyRejected(Partly, PublishRejected):
    """Of many messages, Kafka will never take at least one."""


class PartlyUnavailable(Partly, KafkaUnavailable):
    """Of many messages, at least one was not acknowledged in time; none was rejected."""


class Publisher:
    """Sends messages and waits until Kafka has acknowledged them; `App.publisher()` makes one.

    It works inside its `with` or `async with`; leaving waits for what is under way. Any
    thread may publish. A process forked meanwhile gets a connection of its own. `publish`
    and `publish_many` block their thread: under asyncio, await `publish_async`.
    """

    def __init__(self, connect: Callable[[], api.Producer], *, wait: float) -> None:
        self._connect = connect
        self._wait = wait
        self._closed: str | None = _NOT_OPEN
        # By process: a client inherited through fork is dead, and freeing it hangs.
        self._lines: dict[int, _Line] = {}

    def __enter__(self) -> Publisher:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    async def __aenter__(self) -> Publisher:
        await asyncio.to_thread(self._open)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._close)

    def publish(
        self,
        topic: str,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: HeadersGiven = None,
    ) -> Receipt:
        """Send one message and wait for its receipt.

        `value` is bytes, text, None (a tombstone) or what becomes JSON: a dict, a list, a
        pydantic model, a dataclass. Raises TypeError or ValueError for what has no bytes,
        PublishRejected for what Kafka will never take (too large, forbidden, no such topic),
        and KafkaUnavailable when nobody acknowledged it within `publish_wait`: it may or may
        not have been written then.
        """
        letter = _letter(topic, value, key, headers)
        answers: queue.SimpleQueue[api.Receipt | api.Refusal] = queue.SimpleQueue()
        self._line().send(letter, answers.put)
        try:
            answer = answers.get(timeout=self._wait + _GRACE)
        except queue.Empty:
            answer = self._silence(letter)
        return self._receipt(letter, answer)

    def publish_many(self, messages: Iterable[Publish | tuple[Any, ...]]) -> list[Receipt]:
        """Send many messages without waiting between them; their receipts, in their order.

        One that fails keeps none of the others back. If any did, raises PartlyRejected
        (a PublishRejected) or PartlyUnavailable (a KafkaUnavailable), which hold the
        receipts of all others.
        """
        line = self._line()
        answers: queue.SimpleQueue[tuple[int, api.Receipt | api.Refusal]] = queue.SimpleQueue()
        sent: dict[int, _Letter] = {}
        receipts: list[Receipt | None] = []
        errors: dict[int, KworkerError] = {}
        for place, message in enumerate(messages):
            receipts.append(None)
            try:
                letter = _letter(*Publish(*message))
            except (TypeError, ValueError) as error:
                errors[place] = _unsendable(error)
            else:
                sent[place] = letter
                line.send(letter, lambda answer, place=place: answers.put((place, answer)))  # type: ignore[misc]
        until = time.monotonic() + self._wait + _GRACE
        while sent:
            try:
                place, answer = answers.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                place = next(iter(sent))
                answer = self._silence(sent[place])
            try:
                receipts[place] = self._receipt(sent.pop(place), answer)
            except (PublishRejected, KafkaUnavailable) as error:
                errors[place] = error
        if not errors:
            return [receipt for receipt in receipts if receipt is not None]
        if any(isinstance(error, PublishRejected) for error in errors.values()):
            raise PartlyRejected(receipts, errors)
        raise PartlyUnavailable(receipts, errors)

    async def publish_async(
        self,
        topic: str,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: HeadersGiven = None,
    ) -> Receipt:
        """`publish`, without blocking the event loop.

        Messages go out in the order of the calls, also when several are awaited at once.
        One whose task is cancelled may or may not be written.
        """
        letter = _letter(topic, value, key, headers)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[api.Receipt | api.Refusal] = loop.create_future()

        def resolve(given: api.Receipt | api.Refusal) -> None:
            if not answer.done():
                answer.set_result(given)

        def answered(given: api.Receipt | api.Refusal) -> None:
            # A loop that was closed meanwhile refuses the call; then nobody waits either.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(resolve, given)

        await self._line().send_soon(letter, answered)
        try:
            async with asyncio.timeout(self._wait + _GRACE):
                given = await answer
        except TimeoutError:
            given = self._silence(letter)
        return self._receipt(letter, given)

    def _open(self) -> None:
        if self._closed is not _NOT_OPEN:
            raise UsageError(_CLOSED if self._closed else "this publisher is open already")
        self._closed = None
        try:
            self._line()
        except BaseException:
            self._closed = _NOT_OPEN
            raise

    def _close(self) -> None:
        self._closed = _CLOSED
        line = self._lines.pop(os.getpid(), None)
        if line is not None:
            line.close(self._wait + _GRACE)

    def _line(self) -> _Line:
        if self._closed is not None:
            raise UsageError(self._closed)
        process = os.getpid()
        line = self._lines.get(process)
        if line is None:
            fresh = _Line(self._connect())
            line = self._lines.setdefault(process, fresh)
            if line is not fresh:  # another thread of this process was first
                fresh.close(0.0)
        return line

    def _receipt(self, letter: _Letter, answer: api.Receipt | api.Refusal) -> Receipt:
        if isinstance(answer, api.Receipt):
            return Receipt(
                answer.topic, answer.partition, answer.offset, answer.timestamp, letter.id
            )
        if answer.permanent:
            way_out = _WAY_OUT.get(answer.kind)
            raise PublishRejected(answer.text + (f"; {way_out}" if way_out else ""))
        raise KafkaUnavailable(f"{answer.text}; the message may or may not have been written")

    def _silence(self, letter: _Letter) -> api.Refusal:
        patience = self._wait + _GRACE
        text = f"{letter.topic}: the client gave no answer within {patience:g} s"
        return api.Refusal("unavailable", text, permanent=False)


class _Line:
    """One process's connection."""

    def __init__(self, producer: api.Producer) -> None:
        self._producer = producer
        # Waits where an event loop must not, while the client's queue is full. One thread
        # keeps the order.
        self._clerk = ThreadPoolExecutor(1, thread_name_prefix="kworker-publisher")
        self._with_clerk = 0
        self._counting = threading.Lock()

    def send(self, letter: _Letter, answered: _Answered) -> None:
        self._producer.send(letter.topic, letter.key, letter.value, letter.headers, answered)

    async def send_soon(self, letter: _Letter, answered: _Answered) -> None:
        if self._with_clerk == 0 and self._producer.offer(
            letter.topic, letter.key, letter.value, letter.headers, answered
        ):
            return
        with self._counting:
            self._with_clerk += 1
        left = self._clerk.submit(self.send, letter, answered)
        left.add_done_callback(self._clerk_is_done)
        await asyncio.wrap_future(left)

    def _clerk_is_done(self, _: Future[None]) -> None:
        with self._counting:
            self._with_clerk -= 1

    def close(self, timeout: float) -> None:
        self._clerk.shutdown(wait=True)
        self._producer.close(timeout)


class _Letter(NamedTuple):
    """A message, encoded."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    id: str


def open(
    bootstrap_servers: str,
    *,
    common: Mapping[str, str],
    producer: Mapping[str, str],
    publish_wait: float = PUBLISH_WAIT,
    client_id: str = "kworker-publisher",
) -> Publisher:
    """A publisher for that cluster, to be entered with `with` or `async with`.

    `common` and `producer` are raw librdkafka properties; entering raises SettingsError for
    what they may not say. `publish_wait` is in seconds.
    """

    def connect() -> api.Producer:
        cluster = kafka.connect(
            bootstrap_servers,
            common=common,
            producer=producer,
            client_id=client_id,
        )
        return cluster.producer(delivery_timeout=publish_wait)

    return Publisher(connect, wait=publish_wait)


def message_id() -> str:
    """A new id in the layout of a version 7 UUID: ids sort by the time they were made, which
    keeps a store's index of them small and fast."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000  # of the millisecond, in 12 bits
    random = int.from_bytes(os.urandom(8), "big") >> 2
    number = milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random
    return str(uuid.UUID(int=number))


def _unsendable(error: Exception) -> PublishRejected:
    rejected = PublishRejected(f"it cannot be encoded: {error}")
    rejected.__cause__ = error
    return rejected


def _letter(topic: str, value: Any, key: str | bytes | None, headers: HeadersGiven) -> _Letter:
    given = codec.check_headers(headers)
    id = message_id()
    return _Letter(
        topic,
        codec.encode_key(key),
        codec.encode(value),
        (*given, (MESSAGE_ID, id.encode())),
        id,
    )
