"""The producer: sends A to Z, one a second, and prints key, time and delivery of each.

    cd examples/02_alphabet
    KWORKER_BOOTSTRAP_SERVERS=localhost:9092 python producer.py --interval 0.1

`kworker dev` prints the address of the broker it started: give that one. Or start a Kafka with
`docker compose up`, kill it in the middle (`docker compose kill kafka`), kill this program as
well, and start both again: each letter is handled once, and in its order.
"""

from __future__ import annotations

import argparse
import json
import string
import time
import uuid
from datetime import datetime
from pathlib import Path

from alphabet import app

from kworker import KafkaUnavailable, PublishRejected

NOTES = Path("alphabet.json")  # how far this run is, for when it is killed
KEY = "alphabet"  # one key, one order


def main() -> int:
    parser = argparse.ArgumentParser(description="Send A to Z.")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between letters")
    interval = parser.parse_args().interval

    run, done = begin()
    kept = failed = 0
    with app.publisher() as publisher:
        for letter in string.ascii_uppercase[done:]:
            sent = datetime.now()
            try:
                receipt = publisher.publish("letters", letter, key=KEY, headers={"run": run})
            except (KafkaUnavailable, PublishRejected) as error:
                failed += 1
                status = f"failed: {error}"
            else:
                kept += receipt.kept
                status = (
                    f"kept, Kafka does not answer: kworker outbox search -g alphabet {letter}"
                    if receipt.kept
                    else f"delivered to {receipt.topic}/{receipt.partition}/{receipt.offset}"
                )
                done += 1
                NOTES.write_text(json.dumps({"run": run, "done": done}))
            print(f"{sent:%H:%M:%S.%f}  {letter}  key={KEY}  {status}", flush=True)
            time.sleep(interval)
    NOTES.unlink(missing_ok=True)
    if kept:
        print(f"{kept} were kept; what still waits: kworker outbox list -g alphabet", flush=True)
    return 1 if failed else 0


def begin() -> tuple[str, int]:
    """A new run; or the one that was killed, and how many letters it has sent."""
    try:
        notes = json.loads(NOTES.read_text())
        return notes["run"], notes["done"]
    except (FileNotFoundError, ValueError):
        return str(uuid.uuid4()), 0


if __name__ == "__main__":
    raise SystemExit(main())
