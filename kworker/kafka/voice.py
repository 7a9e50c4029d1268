"""What a Kafka client says by itself: its log and its errors, brought into ours.

Authentication, TLS and connection failures never raise: the client says them here, goes on
trying, and every call just takes too long. So the last words are kept for whoever has to
tell the user why.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from ..errors import Bug, CannotGoOn, KafkaUnavailable, KworkerError

log = logging.getLogger("kworker.librdkafka")

_QUIET = 30.0  # seconds before the same thing is logged again
_FRESH = 120.0  # seconds for which last words explain a failure
_AFTER = re.compile(r" \(after \d+ms in state [^)]*\)|, \d+ identical error\(s\) suppressed")
_FOREIGN = re.compile(r"Configuration property (\S+) is a (?:consumer|producer) property")

_CREDENTIALS = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
    }
)
_FORBIDDEN = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
_OURS = frozenset({KafkaError._STATE, KafkaError._INVALID_ARG, KafkaError._CONFLICT})


class Voice:
    """The log and the last words of all clients of one connection. Any thread may call.

    Nothing here raises: an exception in a call-back of the client would destroy messages.
    """

    def __init__(self, address: str, expected_elsewhere: Iterable[str] = ()) -> None:
        self.address = address
        self._expected_elsewhere = frozenset(expected_elsewhere)
        self._last: tuple[float, int, str] | None = None
        self._logged: dict[object, float] = {}
        self._quiet = False

    def hearing(self, fatal: Callable[[str], None] | None = None) -> dict[str, Any]:
        """The properties by which a client reports here; `fatal` is told its fatal error."""

        def told(error: KafkaError) -> None:
            try:
                self._told(error)
                if fatal is not None and (error.fatal() or error.code() == KafkaError._FATAL):
                    fatal(clean(error.str()))
            except BaseException:
                log.debug("an error of the Kafka client could not be told", exc_info=True)

        return {"error_cb": told, "logger": self}

    def log(self, level: int, pattern: str, *words: Any) -> None:
        """Called by the client in place of a logger's `log`."""
        try:
            facility = words[0] if words else ""
            text = clean(str(words[-1]) if words else pattern)
            foreign = _FOREIGN.search(text)
            if foreign and foreign[1] in self._expected_elsewhere:
                return
            if facility in ("FAIL", "ERROR"):
                level = logging.DEBUG  # told as an error, too
            self._log(level, (facility, foreign and foreign[1]), f"{facility}: {text}")
        except BaseException:
            log.debug("a line of the Kafka client could not be logged", exc_info=True)

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Log for debugging alone meanwhile: whoever asks is told by an error, with the words."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def last_words(self) -> str:
        """The reason the client gave last, "" where it gave none lately."""
        if self._last is None or time.monotonic() - self._last[0] > _FRESH:
            return ""
        return self._last[2]

    @property
    def credentials_refused(self) -> bool:
        """Whether the last words are a broker's about who we are."""
        return bool(self.last_words()) and self._last is not None and self._last[1] in _CREDENTIALS

    def unreachable(self, timeout: float) -> KafkaUnavailable:
        """Nobody answered in `timeout` seconds; says why, as far as the client knows."""
        reason = self.last_words() or "no answer"
        return KafkaUnavailable(
            f"cannot reach Kafka at {self.address} within {timeout:g} s: {reason}; {self._advice()}"
        )

    def translated(self, error: BaseException, doing: str, timeout: float = 0.0) -> KworkerError:
        """A client's exception as one of ours; `doing` completes "could not …"."""
        kafka_error = error.args[0] if isinstance(error, KafkaException) and error.args else None
        if not isinstance(kafka_error, KafkaError):
            return Bug(f"the Kafka client failed when it was to {doing}: {error!r}")
        code, text = kafka_error.code(), clean(kafka_error.str())
        if kafka_error.fatal() or code in (KafkaError._FATAL, KafkaError._FENCED):
            return CannotGoOn(f"the Kafka client is finished, could not {doing}: {text}")
        if code in _FORBIDDEN or code in _CREDENTIALS:
            return KafkaUnavailable(
                f"Kafka at {self.address} refuses to {doing}: {text}; "
                "give this user the right, or use another one"
            )
        if code in _OURS:
            return Bug(f"could not {doing}: {text}")
        if timeout and code in (
            KafkaError._TIMED_OUT,
            KafkaError._TRANSPORT,
            KafkaError._ALL_BROKERS_DOWN,
            KafkaError._WAIT_COORD,
        ):
            return self.unreachable(timeout)
        return KafkaUnavailable(f"Kafka at {self.address} could not {doing}: {text}; try again")

    def _told(self, error: KafkaError) -> None:
        code, text = error.code(), clean(error.str())
        if code == KafkaError._ALL_BROKERS_DOWN and self.last_words():
            log.debug("%s", text)  # says less than what was said before
            return
        self._last = (time.monotonic(), code, text)
        self._log(logging.WARNING, code, text)

    def _log(self, level: int, kind: object, text: str) -> None:
        now = time.monotonic()
        if self._quiet:
            level = logging.DEBUG
        if level > logging.DEBUG:
            if now - self._logged.get(kind, -_QUIET) < _QUIET:
                level = logging.DEBUG
            else:
                self._logged[kind] = now
        log.log(level, "%s", text)

    def _advice(self) -> str:
        code = self._last[1] if self._last is not None and self.last_words() else None
        if code in _CREDENTIALS:
            return "check sasl.mechanisms, sasl.username and sasl.password"
        if "PLAINTEXT" in self.last_words() or "SSL connection closed" in self.last_words():
            return "check security.protocol"
        if code == KafkaError._SSL:
            return "check ssl.ca.location and the broker's certificate"
        if code == KafkaError._RESOLVE:
            return "check the host name given with -b"
        if code == KafkaError._ALL_BROKERS_DOWN:
            return (
                "is it running? A listener that wants TLS or credentials says no more than "
                "this: check security.protocol"
            )
        return "is it running, and is the address given with -b right?"


def clean(words: str) -> str:
    """The client's words on one line, without what only its authors can read."""
    return " ".join(_AFTER.sub("", words).split())


def served(call: Callable[[float], object], seconds: float) -> None:
    """Call a producer's `poll` or `flush`. Raises KafkaException, and SystemError for what the
    client raises at a fatal end and is no exception: a bare `KafkaError`, which goes past every
    `except` that names a class, and must not become the context of another.
    """
    strange = False
    try:
        call(seconds)
    except BaseException:
        raise
    except:  # noqa: E722 - see above
        strange = True
    if strange:
        raise SystemError("the client told its end by raising what is no exception")
