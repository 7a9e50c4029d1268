"""The producer: sends A to Z, one a second, and prints key, time and delivery of each.

    cd examples/02_alphabet
    KWORKER_BOOTSTRAP_SERVERS=localhost:9092 python producer.py --interval 0.1

`kworker dev` prints the address of the broker it started: give that one.
"""

from __future__ import annotations

import argparse
import string
import time
from datetime import datetime

from alphabet import app

from kworker import KafkaUnavailable, PublishRejected

VOWELS = "AEIOU"


def main() -> int:
    parser = argparse.ArgumentParser(description="Send A to Z.")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between letters")
    interval = parser.parse_args().interval

    failed = 0
    with app.publisher() as publisher:
        for letter in string.ascii_uppercase:
            key = "vowel" if letter in VOWELS else "consonant"
            sent = datetime.now()
            try:
                receipt = publisher.publish("letters", letter, key=key)
            except (KafkaUnavailable, PublishRejected) as error:
                failed += 1
                status = f"failed: {error}"
            else:
                status = f"delivered to {receipt.topic}/{receipt.partition}/{receipt.offset}"
            print(f"{sent:%H:%M:%S.%f}  {letter}  key={key:<9}  {status}", flush=True)
            time.sleep(interval)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
