from __future__ import annotations

import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from kworker.context import Context, derived_id
from kworker.message import Message, Position
from kworker.testing import message


def context(of: Message | None = None, handler: str = "shop.charge", mine: bool = True) -> Context:
    return Context(of or message(1, id="m1"), handler, lambda: mine)


def test_what_is_published_is_collected_encoded_and_in_order():
    ctx = context()

    first = ctx.publish("charges", {"id": 1}, key="k", headers={"trace": "t", "none": None})
    second = ctx.publish("charges", None, key=b"k")

    one, other = ctx.outputs
    assert (one.topic, one.key, one.value, one.id) == ("charges", b"k", b'{"id":1}', first)
    assert one.headers == (
        ("kworker-message-id", first.encode()), ("trace", b"t"), ("none", None),
    )  # fmt: skip
    assert (other.key, other.value, other.id) == (b"k", None, second)


def test_a_second_run_publishes_the_same_ids():
    first, second = context(), context()

    ids = [[ctx.publish("a", number) for number in range(3)] for ctx in (first, second)]

    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 3
    assert all(str(uuid.UUID(one)) == one for one in ids[0])


def test_another_handler_message_topic_or_replay_publishes_other_ids():
    made = {
        derived_id(message(1, id="m1"), "shop.charge", 0),
        derived_id(message(1, id="m1"), "shop.charge", 1),
        derived_id(message(1, id="m1"), "shop.mail", 0),
        derived_id(message(1, id="m2"), "shop.charge", 0),
        derived_id(message(1, id="m1", replay=1), "shop.charge", 0),
        derived_id(message(1, id="m1", topic="orders.eu"), "shop.charge", 0),
    }

    assert len(made) == 6


def test_a_retry_copy_publishes_the_ids_of_the_first_arrival():
    first = message(1, id="m1", topic="orders", offset=3)
    copy = message(1, id="m1", topic="shop.retry.5s", attempt=2, original=Position("orders", 0, 3))

    assert context(first).publish("a", 1) == context(copy).publish("a", 1)


@pytest.mark.parametrize(
    ("topic", "value", "options"),
    [
        ("no topic", 1, {}),
        ("", 1, {}),
        ("a", object(), {}),
        ("a", float("nan"), {}),
        ("a", 1, {"key": 3}),
        ("a", 1, {"headers": {"kworker-attempt": "3"}}),
    ],
)
def test_what_cannot_be_sent_raises_at_once_and_leaves_nothing_behind(topic, value, options):
    ctx = context()

    with pytest.raises((ValueError, TypeError)):
        ctx.publish(topic, value, **options)

    assert ctx.outputs == ()


def test_what_is_published_is_what_the_value_was_then():
    ctx = context()
    value = {"state": "new"}

    ctx.publish("a", value)
    value["state"] = "changed"

    assert ctx.outputs[0].value == b'{"state":"new"}'


def test_threads_of_a_handler_publish_under_ids_of_their_own():
    ctx = context()
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    try:
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(lambda number: ctx.publish("a", number), range(500)))
    finally:
        sys.setswitchinterval(often)

    assert len(set(ids)) == 500
    assert {output.id: output.value for output in ctx.outputs} == {
        id: str(number).encode() for number, id in enumerate(ids)
    }


def test_a_handler_learns_that_its_partition_has_moved():
    assert context(mine=True).still_mine
    assert not context(mine=False).still_mine
