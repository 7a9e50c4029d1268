"""Typed payloads and async handlers: a union of events, a client that is opened once, an answer.

    cd examples/04_typed_async
    kworker dev notify:app --concurrency 20
                                                           (in a second terminal)
    kworker publish events '{"kind": "placed", "order": 1, "email": "ann@example.com"}'
    kworker publish events '{"kind": "shipped", "order": 1, "parcel": "1Z999"}'
    kworker publish events '{"kind": "lost", "order": 1}'   no such event: a dead letter
    kworker tail notices -o earliest -e                    what the handler returned

Twenty messages are under way at once on one event loop; those of one key still come in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from kworker import App, Message

app = App("notify")


class Placed(BaseModel):
    kind: Literal["placed"]
    order: int
    email: str


class Shipped(BaseModel):
    kind: Literal["shipped"]
    order: int
    parcel: str


Event = Annotated[Placed | Shipped, Field(discriminator="kind")]


class Notice(BaseModel):
    order: int
    text: str


class Mailer:
    """Stands for a client with connections of its own."""

    sent = 0

    async def send(self, text: str) -> None:
        await asyncio.sleep(0.05)  # the network
        self.sent += 1


@app.provide
async def mailer() -> AsyncIterator[Mailer]:
    made = Mailer()
    yield made
    print(f"sent {made.sent} mails", flush=True)


@app.handler("events", timeout="5s", publish_to="notices")
async def notify(event: Event, message: Message[Event], mailer: Mailer) -> Notice:
    match event:
        case Placed():
            text = f"thank you for order {event.order}, {event.email}"
        case Shipped():
            text = f"order {event.order} is on its way as {event.parcel}"
    await mailer.send(text)
    print(f"{text} (attempt {message.attempt})", flush=True)
    return Notice(order=event.order, text=text)
