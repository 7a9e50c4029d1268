"""A handler that one kind of message ends, and the process with it, in the way that it says."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Any

from effects import effect

from kworker import App, Message, Retry

app = App("killer")


@app.handler(os.environ["TOPIC"], name="killer", retry=Retry(attempts=1))
def handle(message: Message[dict[str, Any]]) -> None:
    with effect(message, "killer"):
        match message.value["kind"]:
            case "exit":
                os._exit(3 + 128)
            case "segfault":
                ctypes.string_at(0)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(10)
            case _:
                time.sleep(0.002)
