"""The apps that `throughput.py` measures: handlers that only parse and count."""

from __future__ import annotations

import os

from throughput import Meter

from kworker import App

meter = Meter()
app = App("bench", group=os.environ["BENCH_GROUP"])
copier = App("bench-copies", group=os.environ["BENCH_GROUP"])
slow = App("bench-async", group=os.environ["BENCH_GROUP"])


@app.handler(os.environ["BENCH_TOPIC"])
def count(order: dict) -> None:
    meter.tick()


@slow.handler(os.environ["BENCH_TOPIC"], name="count-async")
async def count_async(order: dict) -> None:
    meter.tick()


@copier.handler(os.environ["BENCH_TOPIC"], name="copy", publish_to=os.environ["BENCH_OUT"])
def copy(order: dict) -> dict:
    meter.tick()
    return order
