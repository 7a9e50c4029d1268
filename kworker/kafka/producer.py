"""Sends, and answers for every message it was given."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from ..errors import Bug
from ..message import Headers
from .api import Receipt, Refusal
from .config import Config
from .consumer import made
from .voice import Voice, clean, served

log = logging.getLogger("kworker.kafka")

_KINDS = {
    KafkaError.MSG_SIZE_TOO_LARGE: "too_large",
    KafkaError.RECORD_LIST_TOO_LARGE: "too_large",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "forbidden",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "forbidden",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "forbidden",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "unknown_topic",
    KafkaError._UNKNOWN_TOPIC: "unknown_topic",
    KafkaError._UNKNOWN_PARTITION: "unknown_topic",
    KafkaError.TOPIC_EXCEPTION: "invalid",
    KafkaError.INVALID_RECORD: "invalid",
    KafkaError.INVALID_TIMESTAMP: "invalid",
    KafkaError.INVALID_MSG: "invalid",
    KafkaError.POLICY_VIOLATION: "invalid",
    KafkaError._INVALID_ARG: "invalid",
}

# Refused for a whole batch, of which one message may be the reason.
_BATCHWIDE = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError._INVALID_DIFFERENT_RECORD,
    }
)

_FATAL = frozenset({KafkaError._FATAL, KafkaError._FENCED})


class _Sending:
    """A message on its way."""

    __slots__ = (
        "answered",
        "client",
        "headers",
        "key",
        "partition",
        "timestamp",
        "topic",
        "value",
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int,
        timestamp: int,
        answered: Callable[[Receipt | Refusal], None],
    ) -> None:
        self.topic = topic
        self.key = key
        self.value = value
        self.headers = headers
        self.partition = partition
        self.timestamp = timestamp
        self.answered = answered
        self.client: Any = None


class ReliableProducer:
    """Sends with acks=all, idempotent, murmur2. May be called from any thread.

    Its own daemon thread serves the client and gives the answers. A client that has come to
    a fatal end is replaced by a new one there; what it still held is answered as
    `unavailable`, for nobody knows whether it was written; where nothing is ever given up
    (`delivery_timeout` None) the new client sends it again, before anything else. A batch that
    is refused for the sake of one message is sent again one by one, so that only that one is
    refused.
    """

    def __init__(self, config: Config, delivery_timeout: float | None, voice: Voice) -> None:
        self._config = config
        self._delivery_timeout = delivery_timeout
        self._patient = delivery_timeout is None
        self._voice = voice
        self._pid = os.getpid()
        self._open: dict[int, _Sending] = {}
        self._answered = threading.Condition()
        self._swapping = threading.Lock()
        self._singly: deque[_Sending] = deque()
        self._lone: Any = None
        self._fatal: str | None = None
        self._rebuilt = 0.0
        self._stopping = False
        self._client = self._new_client()
        self._poller = threading.Thread(target=self._serve, name="kworker-producer", daemon=True)
        self._poller.start()
        # What was sent and not flushed would end with the process, unsaid.
        atexit.register(self.close)

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        answered: Callable[[Receipt | Refusal], None],
        *,
        partition: int | None = None,
        timestamp: float | None = None,
    ) -> None:
        """Queue one message. `answered` is called exactly once, on the producer's own thread
        (or at once, for what is refused before it is queued); it must be quick and not raise.
        Blocks while the client's queue is full, for as long as Kafka takes nothing."""
        self._check_process()
        sending = _Sending(
            topic,
            key,
            value,
            headers,
            -1 if partition is None else partition,
            0 if timestamp is None else round(timestamp * 1000),
            answered,
        )
        self._open[id(sending)] = sending
        wait = 0.001
        while not self._stopping:
            if self._produce(sending):
                return
            time.sleep(wait)
            wait = min(0.05, wait * 2)
        self._answer(sending, Refusal("unavailable", "the producer is closed", False))

    def offer(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        answered: Callable[[Receipt | Refusal], None],
    ) -> bool:
        """`send`, but where that would block: False, and the message was not taken."""
        self._check_process()
        sending = _Sending(topic, key, value, headers, -1, 0, answered)
        self._open[id(sending)] = sending
        if not self._stopping and self._produce(sending):
            return True
        # Not there any more: answered meanwhile, because its client came to an end.
        return self._open.pop(id(sending), None) is None

    def flush(self, timeout: float) -> int:
        """Wait until all is answered; how many are not after `timeout` seconds."""
        self._check_process()
        with self._answered:
            self._answered.wait_for(lambda: not self._open, timeout)
            return len(self._open)

    def cluster_id(self, timeout: float) -> str | None:
        """The cluster that it sends to; None where nobody tells within `timeout` seconds."""
        self._check_process()
        with self._swapping:
            client = self._client
        try:
            found: str | None = client.list_topics(timeout=timeout).cluster_id
        except (KafkaException, SystemError):
            return None
        return found or None

    @property
    def last_words(self) -> str:
        """Why nothing is acknowledged, as far as the client knows; else ""."""
        return self._voice.last_words()

    def close(self, timeout: float = 10.0) -> None:
        """Flush, then stop; what is not answered by then is answered with a Refusal."""
        atexit.unregister(self.close)
        if self._pid != os.getpid() or self._stopping:
            return
        self.flush(timeout)
        self._stopping = True
        if threading.current_thread() is not self._poller:
            self._poller.join(10.0)

    def _produce(self, sending: _Sending, *, alone: bool = False) -> bool:
        """Whether it is on its way, or answered; False: try again in a moment."""
        with self._swapping:
            client = self._lone if alone else self._client
            try:
                self._hand(client, sending)
                return True
            except BufferError:
                sending.client = None  # not the client's: its queue is full
                return False
            except KafkaException as error:
                refused = error.args[0]
                if _fatal(refused):
                    sending.client = None  # nor this one's: the next client takes it
                    self._hear_fatal(clean(refused.str()))
                    return False
                refusal = self._refusal(sending, refused)
            except (TypeError, ValueError, OverflowError) as error:
                refusal = Refusal("invalid", f"{sending.topic}: {error}", True)
        self._answer(sending, refusal)
        return True

    def _hand(self, client: Any, sending: _Sending) -> None:
        sending.client = client
        client.produce(
            sending.topic,
            value=sending.value,
            key=sending.key,
            partition=sending.partition,
            timestamp=sending.timestamp,
            headers=list(sending.headers) if sending.headers else None,
            on_delivery=partial(self._reported, sending, client),
        )

    # The producer's own thread.

    def _serve(self) -> None:
        while not self._stopping:
            try:
                if self._lone is None:
                    served(self._client.poll, 0.1)
                else:
                    served(self._client.poll, 0.01)
                    served(self._lone.poll, 0.01)
            except KafkaException as error:
                # A fatal end is told by one poll, once, or by none.
                self._hear_fatal(clean(error.args[0].str()))
            except SystemError as error:
                self._hear_fatal(str(error))
            if self._fatal is not None:
                self._rebuild()
            while self._singly and self._send_alone(self._singly[0]):
                self._singly.popleft()
        with self._swapping:
            clients = [client for client in (self._client, self._lone) if client is not None]
        for client in clients:
            abandon(client)
        left = Refusal("unavailable", "not acknowledged before the producer was closed", False)
        for sending in list(self._open.values()):
            self._answer(sending, left)

    def _reported(
        self, sending: _Sending, client: Any, error: KafkaError | None, message: Any
    ) -> None:
        """One message's report; inside the client's poll, where nothing may be raised."""
        try:
            if error is not None and sending.client is not client:
                return  # what a client that came to an end says of what another has now
            if error is None:
                kind, stamp = message.timestamp()
                self._answer(
                    sending,
                    Receipt(
                        sending.topic,
                        message.partition(),
                        message.offset(),
                        stamp / 1000 if kind else None,
                    ),
                )
            elif error.code() in _BATCHWIDE and client is not self._lone:
                self._singly.append(sending)
            elif self._patient and _fatal(error):
                self._hear_fatal(clean(error.str()))  # the next client gets it
            else:
                if _fatal(error):
                    self._hear_fatal(clean(error.str()))
                self._answer(sending, self._refusal(sending, error))
        except BaseException:
            log.exception("a delivery report could not be handled")

    def _answer(self, sending: _Sending, answer: Receipt | Refusal) -> None:
        if self._open.pop(id(sending), None) is None:
            return  # answered before, when its client had come to an end
        try:
            sending.answered(answer)
        except BaseException:
            log.exception("the receiver of a delivery report failed")
        if not self._open:
            with self._answered:
                self._answered.notify_all()

    def _send_alone(self, sending: _Sending) -> bool:
        """Again, in a batch of its own: of another client, for one cannot do both."""
        if self._lone is None:
            self._lone = self._new_client(alone=True)
        return self._produce(sending, alone=True)

    def _hear_fatal(self, text: str) -> None:
        self._fatal = self._fatal or text

    def _rebuild(self) -> None:
        """A new client in place of one that has come to a fatal end."""
        pause = self._rebuilt + 1.0 - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        text = self._fatal or ""
        log.error("the Kafka producer came to an end and is made anew: %s", text)
        # The client wraps the reason up; only its text still has it.
        forbidden = "authorization failed" in text.lower()
        replacement = self._new_client()
        with self._swapping:
            ended = [client for client in (self._client, self._lone) if client is not None]
            self._client, self._lone, self._fatal = replacement, None, None
            self._rebuilt = time.monotonic()
            if self._patient and not forbidden:
                self._again(ended)
        refusal = Refusal(
            "forbidden" if forbidden else "unavailable",
            f"the Kafka producer came to an end: {text}",
            forbidden,
        )
        waiting = set(map(id, self._singly))
        for sending in list(self._open.values()):
            if id(sending) not in waiting and any(sending.client is one for one in ended):
                self._answer(sending, refusal)
        for client in ended:
            abandon(client)

    def _again(self, ended: list[Any]) -> None:
        """Give the new client what those held, in its order, before anybody else gives it more.
        What was written already is written twice, under one id."""
        alone = set(map(id, self._singly))
        for sending in [one for one in self._open.values() if id(one) not in alone]:
            held_by = sending.client
            if not any(held_by is one for one in ended):
                continue
            try:
                self._hand(self._client, sending)
            except (KafkaException, BufferError):
                sending.client = held_by  # it is answered, with those that cannot be sent again

    def _new_client(self, *, alone: bool = False) -> Any:
        properties = self._config.producer(self._delivery_timeout)
        properties |= self._voice.hearing(self._hear_fatal)
        if alone:
            properties |= {"batch.num.messages": 1, "linger.ms": 0}
        return made(confluent_kafka.Producer, properties, self._config)

    def _refusal(self, sending: _Sending, error: KafkaError) -> Refusal:
        return refusal(sending.topic, error, self._voice, self._delivery_timeout)

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise Bug("a Kafka producer does not survive a fork; connect in the child process")


def _fatal(error: KafkaError) -> bool:
    return bool(error.fatal()) or error.code() in _FATAL


def refusal(topic: str, error: KafkaError, voice: Voice, timeout: float | None) -> Refusal:
    """Why a message for that topic was not acknowledged, the client having tried so long."""
    kind = _KINDS.get(error.code(), "unavailable")
    text = f"{topic}: {clean(error.str())}"
    if error.code() == KafkaError._MSG_TIMED_OUT:
        text = f"{topic}: not acknowledged by Kafka at {voice.address}"
        if timeout is not None:
            text += f" within {timeout:g} s"
        if reason := voice.last_words():
            text += f": {reason}"
    return Refusal(kind, text, kind != "unavailable")


def abandon(client: Any) -> None:
    """Let go of what the client still holds, so that its end does not wait for a broker."""
    try:
        client.purge()
        served(client.poll, 0)
    except (KafkaException, SystemError):
        log.debug("a finished Kafka producer could not be emptied", exc_info=True)
