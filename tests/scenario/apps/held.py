"""Handlers that an outage, a time limit or an age holds up, and one whose result is published."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from telling import tell

from kworker import App, Message, Outage, Retry

app = App("held", retry=Retry(attempts=1, delays=["1s"]))


@app.handler(os.environ["TOPIC"], name="bank")
def bank(message: Message[dict]) -> None:
    tell("bank", message)
    if Path(os.environ["DOWN"]).exists():
        raise Outage("the bank is down")
    tell("paid", message)


@app.handler(os.environ["TOPIC"], name="receipt", publish_to=os.environ["RECEIPTS"])
def receipt(order: dict) -> dict | None:
    return {"receipt": order["n"]} if order["n"] % 2 else None


@app.handler(os.environ["TOPIC"], name="slow", timeout="300ms", retry=Retry(attempts=1))
async def slow(message: Message[dict]) -> None:
    tell("slow", message)
    if message.value["n"] == 1:
        await asyncio.Event().wait()


@app.handler(os.environ["TOPIC"], name="fresh", expires="1h")
def fresh(message: Message[dict]) -> None:
    tell("fresh", message)
