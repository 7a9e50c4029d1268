"""Handlers that are given a pool and a client of it, made on the handlers' event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from telling import tell

from kworker import App, Message

app = App("provided")
LIFE = Path(os.environ["LIFE"])


def note(text: str) -> None:
    with LIFE.open("a") as file:
        file.write(f"{text}\n")


class Pool:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()


class Client:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool


@app.provide
def client(pool: Pool) -> Iterator[Client]:
    if os.environ.get("BROKEN"):
        raise OSError("the bank does not answer")
    note("client opened")
    yield Client(pool)
    note("client closed")


@app.provide
async def pool() -> AsyncIterator[Pool]:
    note("pool opened")
    yield Pool()
    note("pool closed")


@app.handler(os.environ["TOPIC"], name="awaited")
async def awaited(message: Message[dict], client: Client) -> None:
    assert client.pool.loop is asyncio.get_running_loop()
    tell("awaited", message)


@app.handler(os.environ["TOPIC"], name="threaded")
def threaded(message: Message[dict], pool: Pool) -> None:
    tell("threaded", message)
