"""A handler that cannot bear messages beginning with F, and says so at length."""

from __future__ import annotations

import os
import random

from telling import tell

from kworker import App, Message, Retry

app = App("large")


@app.handler(os.environ["TOPIC"], name="large", retry=Retry(attempts=1))
def large(message: Message[bytes]) -> None:
    tell("large", message)
    if message.value.startswith(b"F"):
        raise ValueError(random.Random(1).randbytes(1000).hex())
