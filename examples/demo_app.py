"""The app that `demo.py` runs: spells letters, and fails on some of them."""

from __future__ import annotations

import json
import os
import sys

from pydantic import BaseModel

from kworker import App, Message, Retry

app = App("demo", concurrency=4)

BUG_IS_FIXED = os.environ.get("DEMO_BUG_IS_FIXED") == "yes"


class Letter(BaseModel):
    letter: str


def number(message: Message) -> str | None:
    return message.header("letter-number")  # what a duplicate is recognised by


@app.handler("letters", retry=Retry(attempts=1, delays=["1s", "2s"]), dedup=number)
def spell(letter: Letter, message: Message) -> None:
    tell("called", letter, message)
    if letter.letter == "M" and message.attempt < 3:
        raise TimeoutError("M needs three calls")
    if letter.letter == "X" and not BUG_IS_FIXED:
        raise ValueError("nobody has thought of X")
    tell("handled", letter, message)


def tell(what: str, letter: Letter, message: Message) -> None:
    """What happens here, for `demo.py` to read: a line of JSON on stdout."""
    facts = {
        "what": what,
        "letter": letter.letter,
        "topic": message.topic,
        "attempt": message.attempt,
        "replay": message.replay,
    }
    sys.stdout.write(json.dumps(facts) + "\n")  # one write: threads share the stream
    sys.stdout.flush()
