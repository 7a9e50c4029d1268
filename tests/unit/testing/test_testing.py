from __future__ import annotations

from pydantic import BaseModel

from kworker import App, Context, Message, handler
from kworker.message import Position
from kworker.testing import context, message


class Order(BaseModel):
    id: int


app = App("shop")


@handler("orders")
def charge(order: Order, ctx: Context) -> str:
    return ctx.publish("charges", {"order": order.id}, key=str(order.id), headers={"by": "test"})


@handler("orders")
async def audit(message: Message[Order]) -> tuple[int, bytes | None]:
    return message.value.id, message.raw


def test_a_test_calls_a_handler_as_it_is_and_sees_what_it_published():
    ctx = context()

    id = charge(Order(id=7), ctx)

    (published,) = ctx.published
    assert (published.topic, published.value, published.key) == ("charges", {"order": 7}, "7")
    assert published.headers == (("kworker-message-id", id.encode()), ("by", b"test"))
    assert published.id == id


def test_a_message_has_its_bytes_and_plain_coordinates():
    plain = message(Order(id=7))

    assert plain.value == Order(id=7)
    assert plain.raw == b'{"id":7}'
    assert (plain.key, plain.headers) == (None, ())
    assert plain.original == Position(plain.topic, plain.partition, plain.offset)
    assert (plain.attempt, plain.replay) == (1, 0)
    assert plain.timestamp is not None


def test_a_message_is_what_a_test_says():
    given = message(
        None, key="k", headers={"kworker-attempt": "2", "a": b"x"}, topic="orders", partition=3,
        offset=9, timestamp=1.5, id="m1", attempt=3, replay=1, original=Position("o", 1, 2),
    )  # fmt: skip

    assert given.raw is None
    assert given.key == b"k"
    assert given.header("kworker-attempt") == "2"
    assert (given.topic, given.partition, given.offset) == ("orders", 3, 9)
    assert (given.timestamp, given.id, given.attempt, given.replay) == (1.5, "m1", 3, 1)
    assert given.original == Position("o", 1, 2)


def test_bytes_of_ones_own_go_with_any_value():
    assert message(Order(id=1), raw=b"{}").raw == b"{}"


def test_a_context_of_a_message_publishes_the_ids_a_worker_would():
    of = message(Order(id=1), id="m1")

    first = context(of, handler="charge").publish("a", 1)

    assert first == context(of, handler="charge").publish("a", 1)
    assert first != context(message(Order(id=1), id="m2"), handler="charge").publish("a", 1)


def test_a_test_takes_the_partition_away():
    ctx = context()

    ctx.mine = False

    assert not ctx.still_mine
