"""The whole story in half a minute: `make demo`, or `python examples/demo.py`.

Starts a broker inside a process of its own, a real worker (`kworker run`) on it, sends it
A to Z and some poison, and shows what becomes of each. The first half is an app as you would
write it; the second half is the show, which believes only what the handler printed and what
`kworker dlq` reports. Ends with 0 when everything came as it should, else with 1 and what is
missing. Leaves nothing behind.
"""

from __future__ import annotations

import json
import os

from pydantic import BaseModel

from kworker import App, Message, Retry

app = App("demo")

BUG_IS_FIXED = os.environ.get("DEMO_BUG_IS_FIXED") == "1"


class Letter(BaseModel):
    letter: str


def number(message: Message) -> str | None:
    return message.header("letter-number")  # what a duplicate is recognised by


@app.handler("letters", retry=Retry(attempts=1, delays=["1s", "2s"]), dedup=number)
def spell(letter: Letter, message: Message) -> None:
    report("called", letter, message)
    if letter.letter == "M" and message.attempt < 3:
        raise TimeoutError("M needs three calls")
    if letter.letter == "X" and not BUG_IS_FIXED:
        raise ValueError("nobody has thought of X")
    report("handled", letter, message)


def report(what: str, letter: Letter, message: Message) -> None:
    facts = {
        "what": what,
        "letter": letter.letter,
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "attempt": message.attempt,
        "replay": message.replay,
    }
    print(json.dumps(facts), flush=True)
