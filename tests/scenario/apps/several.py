"""Three handlers of two topics, in the group that the test names."""

from __future__ import annotations

import os

from telling import tell

from kworker import App, Message, Retry

app = App(os.environ["APP"], retry=Retry(attempts=1, delays=["1s"]))


@app.handler(os.environ["ORDERS"], name="charge")
def charge(message: Message[dict]) -> None:
    tell("charge", message)
    if message.value.get("fail"):
        raise ValueError("no money")


@app.handler(os.environ["ORDERS"], name="notify")
def notify(message: Message[dict]) -> None:
    tell("notify", message)


@app.handler(os.environ["ORDERS"], os.environ["RETURNS"], name="count")
def count(message: Message[dict]) -> None:
    tell("count", message)
