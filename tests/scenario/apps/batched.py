"""Batches, plain and as coroutines, of which some messages are bad; and a handler with a rate."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from telling import tell

from kworker import App, Batch, BatchFailure, Message, Retry

app = App("batched", retry=Retry(attempts=1))


@app.handler(os.environ["TOPIC"], name="whole", batch=Batch(20, wait="200ms"))
def whole(orders: list[Message[dict]]) -> None:
    if any(one.value["n"] % 50 == 7 for one in orders):
        raise ValueError("one of these is bad")
    for one in orders:
        tell("whole", one)
    if any(one.value["n"] == 150 for one in orders):
        die_once()


@app.handler(os.environ["TOPIC"], name="named", batch=Batch(20, wait="200ms"))
async def named(orders: list[Message[dict]]) -> None:
    bad = {i: ValueError("bad") for i, one in enumerate(orders) if one.value["n"] % 50 == 7}
    for index, one in enumerate(orders):
        if index not in bad:
            tell("named", one)
    if bad:
        raise BatchFailure(bad)


@app.handler(os.environ["LIMITED"], name="limited", rate="20/s")
def limited(message: Message[dict]) -> None:
    tell("limited", message)


def die_once() -> None:
    """Give the other handler a moment to record, and end as kill -9 does; the first time."""
    mark = Path(os.environ["MARK"])
    if not mark.exists():
        mark.touch()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
