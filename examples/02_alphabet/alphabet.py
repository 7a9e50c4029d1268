"""The worker: prints every letter that arrives, and where it came from.

cd examples/02_alphabet
kworker dev alphabet:app
"""

from __future__ import annotations

from kworker import App, Message

app = App("alphabet")


def letter_of_a_run(message: Message[str]) -> str:
    """What a letter is recognised by, however often it is published: a producer that was
    killed cannot know whether its last letter went out, and publishes it again."""
    run = dict(message.headers).get("run") or b""
    return f"{run.decode()}/{message.value}"


@app.handler("letters", dedup=letter_of_a_run)
def show(message: Message[str]) -> None:
    place = f"{message.topic}/{message.partition}/{message.offset}"
    print(f"handled {message.value} from {place}", flush=True)
