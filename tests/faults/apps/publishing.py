"""Publishes numbered messages, a few at once, and notes what it was told of.

    python publishing.py BOOTSTRAP TOPIC DB TOTAL NOTES LIMIT

It goes as far as the file LIMIT says, and waits there until that says more.
Started again, it goes on behind its notes: what it was not told of is published again, under
other ids, for nobody knows whether it was written.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from kworker import App

AT_ONCE = 10
KEYS = 7


def main() -> None:
    bootstrap, topic, db, total, notes, limit = sys.argv[1:]
    app = App("publishing", bootstrap_servers=bootstrap, db=db, publish_wait="300ms")
    told = Path(notes).read_text().splitlines() if Path(notes).exists() else []
    log = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    with app.publisher() as publisher:
        for start in range(len(told), int(total), AT_ONCE):
            while start >= int(Path(limit).read_text() or 0):
                time.sleep(0.01)
            numbers = range(start, min(start + AT_ONCE, int(total)))
            receipts = publisher.publish_many(
                (topic, {"id": number}, f"k{number % KEYS}") for number in numbers
            )
            lines = [
                f"{number} {'kept' if receipt.kept else 'acknowledged'}\n"
                for number, receipt in zip(numbers, receipts, strict=True)
            ]
            os.write(log, "".join(lines).encode())


if __name__ == "__main__":
    main()
