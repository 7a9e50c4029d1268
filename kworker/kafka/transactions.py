"""A producer whose messages, and the group's positions, become visible together or not at all.

Which error leads to what was seen on Kafka 4.2 with this client:

* an error that asks for an abort: aborted, nothing was written; an abort that fails in any way,
  and whatever is neither retriable nor abortable, ends the client, and another one is made. Its
  `init_transactions` ends what the old one left open;
* the answer to a commit that does not come: asked again, until the broker must have given up;
  then nobody knows, and only the group's positions can tell;
* fenced: the broker does the same to a transaction that was open for longer than its timeout
  and to one whose id another process uses. So we keep our own clock;
* a refused message leaves the client with wrong sequence numbers, so it is replaced, too;
* a lost connection or a slow end leave requests behind that could end the next transaction
  (KAFKA-17754): the client is replaced before that, so that they are fenced off.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from ..errors import CannotGoOn, KafkaUnavailable
from .api import Ended, Membership, Outgoing, Refusal, Refused, Undone, Unknown, Written
from .config import Config
from .consumer import commits, made
from .producer import abandon, refusal
from .voice import Voice, clean, served

log = logging.getLogger("kworker.kafka")

TIMEOUT = 60.0  # seconds that a transaction may be open
SOCKET = 20.0  # seconds that a request may take
SLOW = SOCKET / 2  # seconds after which an answer may have been to a second request
CALL = 5.0  # seconds of one call; a call that takes longer is made again
INIT = 30.0  # seconds that becoming the only user of the id may take
TWICE = 60.0  # seconds within which nobody is fenced twice without a rival

_DISTURBANCES = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
_FENCED = frozenset(
    {KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED}
)
_FORBIDDEN = frozenset(
    {
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
# A rebalance: whoever owns the partitions then does it again.
_EXPECTED = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)


class _NotWritten(Exception):
    """Messages were not acknowledged, for no fault of theirs."""


class TransactionalProducer:
    """The only user of one transactional id. Only one thread at a time may call it."""

    def __init__(self, config: Config, voice: Voice, id: str) -> None:
        self.id = id
        self._config = config
        self._voice = voice
        self._client: Any = None
        self._tainted = False
        self._fenced = -TWICE

    def open(self) -> None:
        """Become the only user of the id; ends what another one left open. Raises
        KafkaUnavailable, and CannotGoOn where Kafka refuses."""
        self._drop()
        client = self._made()
        until = time.monotonic() + INIT
        while True:
            try:
                client.init_transactions(CALL)
                break
            except KafkaException as error:
                cause = error.args[0]
                if not cause.retriable() or time.monotonic() > until:
                    abandon(client)
                    if cause.code() in _FORBIDDEN:
                        raise self._forbidden(cause) from error
                    if cause.fatal():
                        raise self._voice.translated(error, "begin transactions") from error
                    raise self._voice.unreachable(INIT) from error
        self._client = client
        self._tainted = False

    def commit(self, messages: Sequence[Outgoing], members: Sequence[Membership]) -> Ended:
        """One transaction with these messages and positions.

        Takes 20 ms as a rule, and as long as TIMEOUT where a broker hangs. Raises CannotGoOn
        when another process uses the id, KafkaUnavailable when Kafka refuses access.
        """
        if self._client is None or self._tainted:
            try:
                self.open()
            except KafkaUnavailable as error:
                return Undone(str(error))
        client, begun = self._client, time.monotonic()
        until = begun + TIMEOUT
        ending = False
        try:
            client.begin_transaction()
            refusals = self._produce(client, messages, until)
            if refusals:
                self._abort(client)
                self._tainted = True
                return Refused(refusals)
            for member in members:
                self._send_offsets(client, member, until)
            ending, asked = True, time.monotonic()
            self._end(client, until)
            self._tainted |= time.monotonic() - asked > SLOW
            return Written()
        except _NotWritten as error:
            return self._aborted(client, begun, str(error))
        except KafkaException as error:
            return self._failed(client, error, begun, ending)
        except SystemError as error:
            # The client's flush says a fatal end in this way; an abort says which.
            return self._aborted(client, begun, f"the Kafka client came to an end: {error}")

    def close(self) -> None:
        """Let go of the client; what is open is aborted by its next user or by time."""
        self._drop()

    # --- the steps -----------------------------------------------------------------------

    def _produce(
        self, client: Any, messages: Sequence[Outgoing], until: float
    ) -> Mapping[int, Refusal]:
        """Send them and wait for the reports; what was refused for good, by its place."""
        reports: dict[int, Refusal] = {}
        failed: list[KafkaError] = []

        def reported(number: int, error: KafkaError | None, _: Any) -> None:
            if error is None:
                return
            told = refusal(messages[number].topic, error, self._voice, TIMEOUT)
            if told.permanent:
                reports[number] = told
            else:
                failed.append(error)

        for number, message in enumerate(messages):
            while True:
                try:
                    client.produce(
                        message.topic,
                        value=message.value,
                        key=message.key,
                        headers=list(message.headers) if message.headers else None,
                        on_delivery=partial(reported, number),
                    )
                    break
                except BufferError:
                    served(client.poll, 0.05)
                except KafkaException as error:
                    told = refusal(message.topic, error.args[0], self._voice, TIMEOUT)
                    if not told.permanent:
                        raise
                    reports[number] = told
                    break
        served(client.flush, max(0.0, until - time.monotonic()))
        if failed and not reports:
            raise _NotWritten(clean(failed[0].str()))
        return reports

    def _send_offsets(self, client: Any, member: Membership, until: float) -> None:
        places = commits(member.positions)
        while True:
            try:
                client.send_offsets_to_transaction(places, member.standing, CALL)
                return
            except KafkaException as error:
                if not self._worth_repeating(error, until):
                    raise

    def _end(self, client: Any, until: float) -> None:
        while True:
            try:
                client.commit_transaction(CALL)
                return
            except KafkaException as error:
                if not self._worth_repeating(error, until):
                    raise

    def _worth_repeating(self, error: KafkaException, until: float) -> bool:
        """Whether the same call is to be made again: it goes on where it was."""
        self._tainted = True
        return bool(error.args[0].retriable()) and time.monotonic() < until

    def _abort(self, client: Any) -> KafkaError | None:
        """Whatever keeps an abort from ending well ends the client, and is answered."""
        asked = time.monotonic()
        cause: KafkaError | None = None
        while time.monotonic() - asked < SOCKET:
            try:
                client.abort_transaction(CALL)
                self._tainted |= time.monotonic() - asked > SLOW
                return None
            except KafkaException as error:
                cause = error.args[0]
                if not cause.retriable():
                    break
            except SystemError:
                break
        log.debug("a transaction could not be aborted: %s; the client is made anew", cause)
        self._drop()
        return cause

    def _aborted(self, client: Any, begun: float, text: str) -> Undone:
        """After messages were not written: why that is only an abort may tell."""
        self._tainted = True
        cause = self._abort(client)
        if cause is not None:
            self._check_fence(cause, begun)
        return Undone(text)

    def _failed(self, client: Any, error: KafkaException, begun: float, ending: bool) -> Ended:
        cause = error.args[0]
        code, text = cause.code(), clean(cause.str())
        if cause.txn_requires_abort():
            self._abort(client)
            if code in _FORBIDDEN:
                raise self._forbidden(cause) from error
            return Undone(text, code in _EXPECTED)
        self._drop()
        if code in _FORBIDDEN:
            raise self._forbidden(cause) from error
        self._check_fence(cause, begun)
        return Unknown(text) if ending else Undone(text)

    def _check_fence(self, cause: KafkaError, begun: float) -> None:
        """Raise CannotGoOn where only another user of the id can have fenced this one off."""
        if cause.code() not in _FENCED:
            return
        now = time.monotonic()
        if now - begun < TIMEOUT - 1.0 or now - self._fenced < TWICE:
            raise CannotGoOn(
                f"another process uses the transactional id {self.id!r}, so this one was fenced "
                "off; give each host an --instance-id of its own, then start again"
            )
        self._fenced = now

    def _forbidden(self, cause: KafkaError) -> KafkaUnavailable:
        return KafkaUnavailable(
            f"Kafka at {self._voice.address} refuses transactions as {self.id!r}: "
            f"{clean(cause.str())}; give this user WRITE on the transactional id and READ on the "
            "group"
        )

    # --- the client ----------------------------------------------------------------------

    def _made(self) -> Any:
        properties = self._config.transactions(self.id, TIMEOUT, SOCKET)
        heard = self._voice.hearing()
        tell = heard["error_cb"]

        def told(error: KafkaError) -> None:
            self._tainted |= error.code() in _DISTURBANCES
            tell(error)

        return made(
            confluent_kafka.Producer, {**properties, **heard, "error_cb": told}, self._config
        )

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            abandon(client)
