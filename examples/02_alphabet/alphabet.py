"""The worker: prints every letter that arrives, and where it came from.

cd examples/02_alphabet
kworker dev alphabet:app
"""

from __future__ import annotations

from kworker import App, Message

app = App("alphabet")


@app.handler("letters")
def show(message: Message[str]) -> None:
    place = f"{message.topic}/{message.partition}/{message.offset}"
    print(f"handled {message.value} from {place}", flush=True)
