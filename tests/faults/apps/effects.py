"""The effects log of fault tests: what handlers did, in a file that survives kill -9.

One line a phase, each by a single write to a file opened for appending, so lines of several
processes never mix and a killed process leaves whole lines only.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kworker import Message, Skip

_log = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def write(
    phase: str, message: Message[Any], handler: str, *, id: str, key: str | None, seq: int
) -> None:
    line = {
        "handler": handler,
        "id": id,
        "key": key,
        "seq": seq,
        "phase": phase,
        "attempt": message.attempt,
        "replay": message.replay,
        "pid": os.getpid(),
        "place": [message.topic, message.partition, message.offset],
        "at": time.monotonic(),
    }
    os.write(_log, json.dumps(line).encode() + b"\n")


@contextmanager
def effect(message: Message[Any], handler: str) -> Iterator[None]:
    """Log start and end of one call for a payload of the producer of truth."""
    value = message.value
    facts = {"id": value["id"], "key": value["key"], "seq": value["seq"]}
    write("start", message, handler, **facts)
    try:
        yield
    except Skip:
        write("end", message, handler, **facts)
        raise
    except BaseException:
        write("fail", message, handler, **facts)
        raise
    write("end", message, handler, **facts)
