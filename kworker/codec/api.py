"""The promise of a codec: bytes to value by annotation, value to bytes by its class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..message import Headers

Read = Callable[[bytes], Any]
"""Bytes to value, never None to anything. Raises Undecodable, and nothing else."""

Decoder = Callable[[bytes | None, Headers], Any]
"""A message's bytes (None: a tombstone) to what its handler's annotation says.

Raises Undecodable, and nothing else; a plugin's may also raise Outage. Its text says what is
wrong and where, and never holds the payload: error texts travel further than messages may.
"""


class Codec(Protocol):
    """One way between bytes and values. Keeps no state; may be called from any thread."""

    def reader(self, annotation: Any) -> Read | None:
        """What reads that annotation; None where it is not this codec's business.

        Raises TypeError, with the reason, for what is its business and cannot be read.
        """

    def write(self, value: Any) -> bytes | None:
        """The value's bytes; None where it is not this codec's business.

        Raises ValueError or TypeError for what is its business and cannot be written.
        """
