"""Sending messages from outside a worker: what returns a receipt is written and replicated."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from . import codec, kafka, stores
from .codec import HeadersGiven
from .errors import KafkaUnavailable, KworkerError, PublishRejected, UsageError
from .headers import MESSAGE_ID
from .kafka import api
from .lines import Answer, KeepingLine, Kept, Letter, Line
from .message import Headers
from .outbox import tell_failed
from .outcome import Output
from .plugins import Plugins, Tell

PUBLISH_WAIT = 5.0  # seconds

Outgoing = Callable[[str, str, Headers], Headers]

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
    """Where a message was written, acknowledged by all in-sync replicas; or, if it is `kept`,
    that it is in the outbox, from where it is sent when Kafka is back.

    One that is kept has no partition and no offset yet. `message_id` is what workers recognise
    it by, should Kafka deliver it again.
    """

    topic: str
    partition: int | None
    offset: int | None
    timestamp: float | None  # seconds since the epoch
    message_id: str
    kept: bool = False


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


@dataclass(frozen=True, slots=True)
class Outbox:
    """Where a publisher keeps what Kafka does not acknowledge in time: the store's file of a
    group. At most `size` bytes; when it is full, a publish is refused, or waits ("block")."""

    path: Path
    group: str
    size: int = 1 << 30
    when_full: str = "reject"


class Publisher:
    """Sends messages and waits until Kafka has acknowledged them; `App.publisher()` makes one.

    It works inside its `with` or `async with`; leaving waits for what is under way. Any
    thread may publish. A process forked meanwhile gets a connection of its own. `publish`
    and `publish_many` block their thread: under asyncio, await `publish_async`.
    """

    def __init__(
        self,
        connect: Callable[[], api.Producer],
        *,
        wait: float,
        outbox: Outbox | None = None,
        tell: Tell | None = None,
        stops: bool = False,
        outgoing: Outgoing | None = None,
    ) -> None:
        self._connect = connect
        self._outgoing = outgoing
        self._wait = wait
        self._outbox = outbox
        self._tell = tell or Plugins(()).tell
        self._stops = stops  # at the first message that is rejected
        self._stopped = ""  # why it did
        self._closed: str | None = _NOT_OPEN
        # By process: a client inherited through fork is dead, and freeing it hangs.
        self._lines: dict[int, Line] = {}

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
        pydantic model, a dataclass. What nobody acknowledged within `publish_wait` is kept in
        the outbox, and the receipt says so; it may have been written then already, and is
        sent again under the same id.

        Raises TypeError or ValueError for what has no bytes, and PublishRejected for what Kafka
        will never take (too large, forbidden, no such topic), which is kept for a person to look
        at; KafkaUnavailable when the message was neither acknowledged nor kept, because there is
        no outbox or no room in it: it may or may not have been written.
        """
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        letter, id = self._letter(topic, value, key, headers, answers.put)
        line = self._line()
        line.send(letter)
        try:
            answer = answers.get(timeout=line.patience)
        except queue.Empty:
            line.overdue([letter])
            answer = answers.get()
        return self._receipt(letter, id, answer)

    def publish_many(self, messages: Iterable[Publish | tuple[Any, ...]]) -> list[Receipt]:
        """Send many messages without waiting between them; their receipts, in their order.

        One that fails keeps none of the others back. If any did, raises PartlyRejected
        (a PublishRejected) or PartlyUnavailable (a KafkaUnavailable), which hold the
        receipts of all others.
        """
        line = self._line()
        answers: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
        sent: dict[int, tuple[Letter, str]] = {}
        receipts: list[Receipt | None] = []
        errors: dict[int, KworkerError] = {}
        for place, message in enumerate(messages):
            receipts.append(None)
            try:
                letter, id = self._letter(
                    *Publish(*message),
                    lambda answer, place=place: answers.put((place, answer)),  # type: ignore[misc]
                )
            except (TypeError, ValueError) as error:
                errors[place] = _unsendable(error)
            except PublishRejected as error:
                errors[place] = error
            else:
                sent[place] = letter, id
                line.send(letter)
        until = time.monotonic() + line.patience
        overdue = False
        while sent:
            try:
                timeout = None if overdue else max(0.0, until - time.monotonic())
                place, answer = answers.get(timeout=timeout)
            except queue.Empty:
                overdue = True
                line.overdue(letter for letter, _ in sent.values())
                continue
            try:
                receipts[place] = self._receipt(*sent.pop(place), answer)
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
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()

        def resolve(given: Answer) -> None:
            if not answer.done():
                answer.set_result(given)

        def answered(given: Answer) -> None:
            # A loop that was closed meanwhile refuses the call; then nobody waits either.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(resolve, given)

        letter, id = self._letter(topic, value, key, headers, answered)
        line = self._line()
        await line.send_soon(letter)
        await asyncio.wait([answer], timeout=line.patience)
        if not answer.done():
            line.overdue([letter])
        return self._receipt(letter, id, await answer)

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
            line.close()

    def _line(self) -> Line:
        if self._closed is not None:
            raise UsageError(self._closed)
        process = os.getpid()
        line = self._lines.get(process)
        if line is None:
            fresh = self._new_line()
            line = self._lines.setdefault(process, fresh)
            if line is not fresh:  # another thread of this process was first
                fresh.close()
        return line

    def _new_line(self) -> Line:
        outbox = self._outbox
        if outbox is None:
            return Line(self._connect(), self._wait)
        return KeepingLine(
            self._connect(),
            lambda cluster: stores.open_keeper(outbox.path, group=outbox.group, cluster=cluster),
            wait=self._wait,
            most=outbox.size,
            when_full=outbox.when_full,
            tell=self._tell,
            rejected=self._stop,
        )

    def _letter(
        self,
        topic: str,
        value: Any,
        key: str | bytes | None,
        headers: HeadersGiven,
        answered: Callable[[Answer], None],
    ) -> tuple[Letter, str]:
        """A message, encoded; and its id."""
        if self._stopped:
            raise PublishRejected(
                f"this publisher has stopped, because Kafka refused a message for good: "
                f"{self._stopped}"
            )
        given = codec.check_headers(headers)
        id = message_id()
        all_headers: Headers = (*given, (MESSAGE_ID, id.encode()))
        if self._outgoing is not None:
            all_headers += self._outgoing(topic, id, all_headers)
        output = Output(topic, codec.encode_key(key), codec.encode(value), all_headers, id)
        return Letter(output, answered), id

    def _receipt(self, letter: Letter, id: str, answer: Answer) -> Receipt:
        if isinstance(answer, api.Receipt):
            return Receipt(answer.topic, answer.partition, answer.offset, answer.timestamp, id)
        if isinstance(answer, Kept):
            return Receipt(letter.output.topic, None, None, None, id, kept=True)
        error: PublishRejected | KafkaUnavailable
        if answer.permanent:
            way_out = _WAY_OUT.get(answer.kind)
            error = PublishRejected(answer.text + (f"; {way_out}" if way_out else ""))
            self._stop(answer.text)
        else:
            error = KafkaUnavailable(f"{answer.text}; the message may or may not have been written")
        if self._outbox is None:
            tell_failed(self._tell, letter.output, error, kept=False)
        raise error

    def _stop(self, why: str) -> None:
        if self._stops and not self._stopped:
            self._stopped = why


def open(
    bootstrap_servers: str,
    *,
    common: Mapping[str, str],
    producer: Mapping[str, str],
    publish_wait: float = PUBLISH_WAIT,
    client_id: str = "kworker-publisher",
    outbox: Outbox | None = None,
    on_permanent_failure: str = "raise",
    tell: Tell | None = None,
    outgoing: Outgoing | None = None,
) -> Publisher:
    """A publisher for that cluster, to be entered with `with` or `async with`.

    `common` and `producer` are raw librdkafka properties; entering raises SettingsError for
    what they may not say, and StoreError where the outbox cannot be used. Without an outbox
    nothing is kept. `publish_wait` is in seconds; `tell` is told of what fails;
    `outgoing` gives the headers that plugins add to a message of that topic, id and headers.
    """

    def connect() -> api.Producer:
        cluster = kafka.connect(
            bootstrap_servers,
            common=common,
            producer=producer,
            client_id=client_id,
        )
        return cluster.producer(delivery_timeout=publish_wait if outbox is None else None)

    return Publisher(
        connect,
        wait=publish_wait,
        outbox=outbox,
        tell=tell,
        stops=on_permanent_failure == "stop",
        outgoing=outgoing,
    )


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
