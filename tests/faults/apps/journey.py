"""An app for one message at a time: each kind takes a way of its own, as short as it can be.

With TRANSACTION set, what handlers do they write into the store's file, in their Transaction.
"""

from __future__ import annotations

import os
import time
from typing import Any

from effects import effect
from witness import Witness

from kworker import App, Context, Message, Retry, Transaction

app = App("journey", plugins=[Witness()])

RETRY = Retry(attempts=1, delays=["100ms"])


class Broken(Exception):
    """What failing kinds raise."""


def behave(message: Message[dict[str, Any]], context: Context) -> None:
    match message.value["kind"]:
        case "mail":
            context.publish(os.environ["MAILS"], message.value["id"])
        case "chain" if message.attempt == 1:
            raise Broken("works from the retry topic")
        case "always":
            raise Broken("never works")
        case "nap":
            time.sleep(2.0)


if "TRANSACTION" in os.environ:

    @app.handler(os.environ["TOPIC"], name="journey", retry=RETRY)
    def write(message: Message[dict[str, Any]], context: Context, file: Transaction) -> None:
        with effect(message, "journey"):
            file.execute("CREATE TABLE IF NOT EXISTS made (id TEXT)")
            file.execute("INSERT INTO made VALUES (?)", [message.value["id"]])
            behave(message, context)

else:

    @app.handler(os.environ["TOPIC"], name="journey", retry=RETRY)
    def handle(message: Message[dict[str, Any]], context: Context) -> None:
        with effect(message, "journey"):
            behave(message, context)
