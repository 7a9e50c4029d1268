"""Notes the id of each message it handles; what has an id that came before is skipped."""

from __future__ import annotations

import json
import os
from typing import Any

from kworker import App, Message

app = App("arrivals")
LOG = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def number(message: Message[Any]) -> str:
    return str(json.loads(message.raw or b"{}")["id"])


@app.handler(os.environ["TOPIC"], dedup=number)
def note(order: dict[str, int]) -> None:
    os.write(LOG, f"{order['id']}\n".encode())
