"""The app that `workers.py` measures: 2 ms of CPU a message."""

from __future__ import annotations

import os
import time

from workers import LINE

from kworker import App

COST = 0.002  # seconds of CPU
app = App("bench", group=os.environ["BENCH_GROUP"])
handled = os.open(os.environ["BENCH_RESULT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@app.handler(os.environ["BENCH_TOPIC"])
def busy(order: dict) -> None:
    until = time.thread_time() + COST
    while time.thread_time() < until:
        pass
    os.write(handled, LINE.pack(os.getpid(), time.monotonic()))
