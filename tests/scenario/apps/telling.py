"""Handlers tell what they saw: one line of JSON a call, bytes in base64.

Of a large value the first bytes are told, and its size.
"""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

from kworker import Message


def tell(handler: str, message: Message[Any]) -> None:
    def text(raw: bytes | None) -> str | None:
        return None if raw is None else base64.b64encode(raw).decode()

    line = {
        "handler": handler,
        "at": time.time(),
        "raw": text(None if message.raw is None else message.raw[:100]),
        "size": None if message.raw is None else len(message.raw),
        "key": text(message.key),
        "headers": [
            [name, text(value)]
            for name, value in message.headers
            if not name.startswith("kworker-")
        ],
        "place": [message.topic, message.partition, message.offset],
        "original": list(message.original),
        "timestamp": message.timestamp,
        "id": message.id,
        "attempt": message.attempt,
        "replay": message.replay,
    }
    log = os.open(os.environ["TOLD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(log, json.dumps(line).encode() + b"\n")
    os.close(log)
