"""An app with a handler that shares the store's transaction."""

from __future__ import annotations

import os

from kworker import App, Transaction

app = App("shared", delivery=os.environ["MODE"])


@app.handler(os.environ["TOPIC"])
def write(order: dict, tx: Transaction) -> None: ...
