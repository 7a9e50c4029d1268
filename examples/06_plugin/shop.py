"""An app with a handler that takes its time, for the plugin beside it to notice.

kworker dev shop:app --app-dir examples/06_plugin
kworker publish orders '{"seconds": 1.5}'           the worker warns
"""

import time

from kworker import App

app = App("shop")


@app.handler("orders")
def charge(order: dict) -> None:
    time.sleep(order.get("seconds", 0))
