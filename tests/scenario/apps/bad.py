"""A handler of JSON objects that fails where it is told to, and one that takes anything."""

from __future__ import annotations

import os
from typing import Any

from telling import tell

from kworker import App, Message, Retry

app = App("bad")


class Broken(Exception):
    """What a failing message raises."""


@app.handler(os.environ["TOPIC"], name="objects", retry=Retry(attempts=1))
def objects(message: Message[dict[str, Any]]) -> None:
    tell("objects", message)
    if message.value.get("fail"):
        raise Broken("told to fail")


@app.handler(os.environ["ANYTHING"], name="anything", retry=Retry(attempts=1))
def anything(message: Message[bytes | None]) -> None:
    tell("anything", message)
