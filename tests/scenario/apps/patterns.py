"""Handlers that take topics by regular expressions; one of them also takes one by its name."""

from __future__ import annotations

import os

from telling import tell

from kworker import App, Message, Retry

app = App("patterns", retry=Retry(attempts=1, delays=["1s"]))


@app.handler(f"^{os.environ['PREFIX']}\\.orders", name="take")
def take(message: Message[dict]) -> None:
    tell("take", message)
    if message.value.get("fail") and message.attempt == 1:
        raise ValueError("once")
    if message.value.get("fatal"):
        raise ValueError("for ever")


@app.handler(f"^{os.environ['PREFIX']}\\.", name="audit")
def audit(message: Message[dict]) -> None:
    tell("audit", message)
