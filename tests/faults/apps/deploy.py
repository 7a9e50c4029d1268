"""An app that changes from deploy to deploy: in its new code (CODE=new) `bill` is called `charge`,
`mail` is gone and `audit` is there. What is logged as `bill` is the one both have."""

from __future__ import annotations

import os
import time
import zlib
from typing import Any

from effects import effect

from kworker import App, Message, Retry

app = App("deploy")

TOPIC = os.environ["TOPIC"]
NEW = os.environ.get("CODE") == "new"
RETRY = Retry(attempts=1, delays=["200ms"])


def work(message: Message[dict[str, Any]], handler: str) -> None:
    with effect(message, handler):
        time.sleep(zlib.crc32(message.value["id"].encode()) % 80 / 1000)
        if message.value["kind"] == "once" and message.attempt == 1:
            raise ValueError("works from the retry topic on")


if NEW:

    @app.handler(TOPIC, name="charge", aliases=["bill"], retry=RETRY)
    def charge(message: Message[dict[str, Any]]) -> None:
        work(message, "bill")

    @app.handler(TOPIC, name="audit", retry=RETRY)
    def audit(message: Message[dict[str, Any]]) -> None:
        work(message, "audit")

else:

    @app.handler(TOPIC, name="bill", retry=RETRY)
    def bill(message: Message[dict[str, Any]]) -> None:
        work(message, "bill")

    @app.handler(TOPIC, name="mail", retry=RETRY)
    def mail(message: Message[dict[str, Any]]) -> None:
        work(message, "mail")
