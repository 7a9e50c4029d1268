"""An app whose handler publishes: what it leaves on the wire is a function of what it takes."""

from __future__ import annotations

import os
import time
import zlib
from typing import Any

import tenacity
from effects import effect

from kworker import App, Context, Message, Reject, Retry

app = App(
    "copier",
    delivery=os.environ["MODE"],
    retry=Retry(attempts=2, wait=tenacity.wait_fixed(0.02), delays=["1s"]),
)

PACE = int(os.environ.get("PACE", "30"))


@app.handler(os.environ["TOPIC"], name="copier")
def copy(message: Message[dict[str, Any]], ctx: Context) -> None:
    value = message.value
    with effect(message, "copier"):
        time.sleep(zlib.crc32(f"{value['id']}{os.getpid()}".encode()) % PACE / 1000)
        ctx.publish(os.environ["OUT"], {"of": value["id"], "part": 0}, key=value["key"])
        match value["kind"]:
            case "nap":
                time.sleep(value["seconds"])
            case "twice":
                ctx.publish(os.environ["OUT"], {"of": value["id"], "part": 1})
            case "once" if message.attempt == 1:
                raise ValueError("the first call fails")
            case "chain" if message.attempt <= 2:
                raise ValueError("works from the retry topic on")
            case "reject":
                raise Reject("not for us")
