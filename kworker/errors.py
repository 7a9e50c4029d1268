"""What a user can meet, by who can act on it. Each says what, where and what now.

`exit_code` is what the command ends with when the error reaches it.
"""

from __future__ import annotations


class KworkerError(Exception):
    """Anything kworker says on purpose; shown as one line, never as a traceback."""

    exit_code = 1


class UsageError(KworkerError):
    """A command was given what it cannot take; whoever typed it can act."""

    exit_code = 2


class SettingsError(KworkerError):
    """A setting or property is unknown, malformed or refused; the operator can act."""

    exit_code = 3


class TargetError(KworkerError):
    """The app could not be found or imported; the author or operator can act."""

    exit_code = 3


class HandlerError(KworkerError):
    """A handler is declared in a way that cannot work; its author can act."""

    exit_code = 3


class ProviderError(KworkerError):
    """What a handler needs could not be made: a function under `@app.provide` raised.

    It may be well in a moment, as a database is that restarts: a new process may try again.
    """

    exit_code = 1


class TopicsMissing(KworkerError):
    """Topics that the app needs do not exist, or are worse than it needs."""

    exit_code = 3


class KafkaUnavailable(KworkerError):
    """Kafka cannot be reached, or refused access."""

    exit_code = 4


class StoreError(KworkerError):
    """The local store cannot be used: not writable, not ours, of a newer version, damaged."""

    exit_code = 5


class CannotGoOn(KworkerError):
    """Going on could lose or repeat messages: fenced client, lost position under `stop`."""

    exit_code = 6


class PublishRejected(KworkerError):
    """Kafka will never take this message: too large, forbidden, unknown topic."""

    exit_code = 1


class Undecodable(KworkerError):
    """A message's bytes are not what its handler's annotation says."""


class Bug(KworkerError):
    """kworker broke a promise to itself; please report it."""
