"""An app whose handler does nothing but say so: what it costs is the worker's own work."""

from __future__ import annotations

import os
from typing import Any

from effects import effect

from kworker import App, Message

app = App("quick")


@app.handler(os.environ["TOPIC"], name="quick")
def quick(message: Message[dict[str, Any]]) -> None:
    with effect(message, "quick"):
        pass
