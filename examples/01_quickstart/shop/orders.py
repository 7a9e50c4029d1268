"""The README's example: one topic, one handler.

cd examples/01_quickstart
kworker dev shop.orders:app
kworker publish orders '{"id": 1, "amount": 9.5}'     (in a second terminal)
"""

from __future__ import annotations

from pydantic import BaseModel

from kworker import App, Retry

app = App("shop")  # the name is the consumer group, unless told otherwise


class Order(BaseModel):
    id: int
    amount: float


@app.handler("orders", retry=Retry(attempts=3, delays=["5s", "1m", "10m"]))
def charge(order: Order) -> None:
    print(f"charging order {order.id}: {order.amount:.2f}", flush=True)
