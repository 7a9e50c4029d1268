"""A web application that publishes: an order is taken, whether Kafka is there or not.

    pip install fastapi uvicorn
    cd examples/07_fastapi
    KWORKER_BOOTSTRAP_SERVERS=localhost:9092 uvicorn shop:site
    curl -X POST localhost:8000/orders -H 'content-type: application/json' -d '{"id": 1}'

The worker is the same app, run beside it: `kworker run shop:app`. It sends what the site has kept,
should the site be gone by the time Kafka is back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel

from kworker import App, KafkaUnavailable, PublishRejected

app = App("shop")


class Order(BaseModel):
    id: int


@app.handler("orders", dedup=lambda message: str(message.value.id))
def charge(order: Order) -> None:
    print(f"charged order {order.id}", flush=True)


@asynccontextmanager
async def lifespan(site: FastAPI) -> AsyncIterator[None]:
    async with app.publisher() as publisher:  # one for the life of the process
        site.state.publisher = publisher
        yield


site = FastAPI(lifespan=lifespan)


@site.post("/orders", status_code=202)
async def place(order: Order, request: Request) -> dict[str, Any]:
    publisher = request.app.state.publisher
    try:
        receipt = await publisher.publish_async("orders", order, key=str(order.id))
    except PublishRejected as error:
        raise HTTPException(422, str(error)) from error
    except KafkaUnavailable as error:  # the outbox is full as well
        raise HTTPException(503, str(error)) from error
    return {"id": receipt.message_id, "kept": receipt.kept}
