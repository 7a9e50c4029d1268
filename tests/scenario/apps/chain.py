"""Two handlers on one topic, and messages that say how the first of them goes on."""

from __future__ import annotations

import os
import time
from typing import Any

import tenacity
from telling import tell

from kworker import App, Message, Reject, Retry, RetryLater, Skip

app = App("chain")

DELAYS = os.environ.get("DELAYS", "1s 2s").split()


class Broken(Exception):
    """What a failing kind raises."""


class Other(Exception):
    """Another failure."""


def lend() -> None:
    """A function of the user's inside which a handler fails."""
    raise Broken("nothing to lend")


@app.handler(
    os.environ["TOPIC"],
    name="first",
    retry=Retry(attempts=2, wait=tenacity.wait_fixed(0.05), delays=DELAYS, never=Other),
)
def first(message: Message[dict[str, Any]]) -> None:
    tell("first", message)
    order = message.value
    match order["kind"]:
        case "always":
            raise Broken(f"order {order['id']} is beyond repair")
        case "inside":
            lend()
        case "third time" if message.attempt < 3:
            raise Broken("not yet")
        case "after replay" if message.replay == 0:
            raise Broken("not before somebody replays it")
        case "never retried":
            raise Other("of the type that is never retried")
        case "reject":
            raise Reject("not for us")
        case "skip":
            raise Skip("nothing to do")
        case "later" if message.attempt == 1:
            raise RetryLater(order["delay"])
        case "always later":
            raise RetryLater("1s")
        case "slow":
            time.sleep(0.5)


@app.handler(os.environ["TOPIC"], name="second", retry=Retry(attempts=3))
def second(message: Message[bytes]) -> None:
    """Has no retry topics; fails only once, and only when told so."""
    tell("second", message)
    if b"second later" in message.value and message.attempt == 1:
        raise RetryLater("1s", "the second handler wants to see it again")


if os.environ.get("OLD") != "gone":

    @app.handler(os.environ["TOPIC"], name="old", retry=Retry(attempts=1, delays=["1s"]))
    def old(message: Message[bytes]) -> None:
        """A handler that a deploy takes away, or brings back."""
        tell("old", message)
        if b"old fails" in message.value and message.attempt == 1:
            raise Broken("the old one fails once")
