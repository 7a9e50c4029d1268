"""A cache in each process: every worker gets every message."""

from __future__ import annotations

import os

from telling import tell

from kworker import UNIQUE, App, Message, Retry

app = App(os.environ["APP"], group=UNIQUE, retry=Retry(attempts=1, delays=["500ms"]))


@app.handler(os.environ["ORDERS"], name="forget")
def forget(message: Message[dict]) -> None:
    tell(os.environ["NAME"], message)
    if message.value.get("fatal") or (message.value.get("fail") and message.attempt == 1):
        raise ValueError("no")
