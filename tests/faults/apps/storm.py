"""The app of the kill storm: every payload says by its kind how its handling goes.

Handlers take up to PACE milliseconds, so that a kill finds many of them at work.
"""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path
from typing import Any

import tenacity
from effects import effect
from witness import Witness

from kworker import App, Message, Reject, Retry, Skip

app = App("storm", plugins=[Witness()])

PACE = int(os.environ.get("PACE", "40"))
RETRY = Retry(
    attempts=2, wait=tenacity.wait_fixed(0.02), delays=os.environ.get("DELAYS", "1s 2s").split()
)


class Broken(Exception):
    """What failing kinds raise."""


@app.handler(
    os.environ["TOPIC"], name="storm", retry=RETRY, retry_order=os.environ.get("RETRY_ORDER")
)
def storm(message: Message[dict[str, Any]]) -> None:
    with effect(message, "storm"):
        behave(message.value["kind"], message)


def behave(kind: str, message: Message[dict[str, Any]]) -> None:
    time.sleep(zlib.crc32(message.value["id"].encode()) % PACE / 1000)
    match kind:
        case "nap":
            time.sleep(message.value["seconds"])
        case "held":
            while Path(os.environ["HELD"]).exists():
                time.sleep(0.02)
        case "once" if message.attempt == 1:
            raise Broken("the first call of all fails")
        case "chain" if message.attempt <= 2:
            raise Broken("works from the first retry topic on")
        case "chain2" if message.attempt <= 3:
            raise Broken("works from the second retry topic on")
        case "always":
            raise Broken("never works")
        case "reject":
            raise Reject("not for us")
        case "skip":
            raise Skip("nothing to do")
        case "mood" if zlib.crc32(f"{os.getpid()}/{message.id}".encode()) % 2:
            raise Broken("this process does not like it, another may")
