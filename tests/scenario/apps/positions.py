"""One handler that tells what it saw."""

from __future__ import annotations

import os

from telling import tell

from kworker import App, Message

app = App("positions")


@app.handler(os.environ["ORDERS"], name="take")
def take(message: Message[dict]) -> None:
    tell("take", message)
