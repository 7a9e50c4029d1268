"""What transactions promise, on a real Kafka."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator

import pytest

from kworker.errors import CannotGoOn
from kworker.kafka import Kafka
from kworker.kafka.api import (
    Committed,
    Outgoing,
    Refused,
    Transactions,
    Undone,
    Written,
)
from kworker.message import Partition

from .conftest import Member


@pytest.fixture
def transactions(cluster: Kafka) -> Iterator[Transactions]:
    made = cluster.transactions(f"shop.{uuid.uuid4().hex}.0")
    made.open()
    yield made
    made.close()


@pytest.fixture
def member(cluster, topic, group) -> Iterator[Member]:
    """Two members behind one face: of `orders`, and of the group's own `copies`."""
    orders, copies = topic("orders", partitions=2), topic("copies", partitions=1)
    consumer = cluster.consumer(group, apart=lambda name: name == copies)
    joined = Member(consumer, [orders, copies])
    joined.orders, joined.copies = orders, copies
    joined.until(lambda: len(joined.owned) == 3)
    yield joined
    consumer.close()


def seen(cluster: Kafka, topic: str) -> list[bytes | None]:
    """What a reader of committed data sees of the first partition."""
    place = Partition(topic, 0)
    [(_, end)] = cluster.ends([place]).values()
    return [record.value for record in cluster.read({place: None}, {place: end})]


def test_messages_and_positions_of_both_members_become_visible_together(
    cluster, topic, member, transactions, group
):
    out = topic("out", partitions=1)
    points = {
        Partition(member.orders, 0): Committed(5, 0, "kw1 a"),
        Partition(member.orders, 1): Committed(6),
        Partition(member.copies, 0): Committed(7, None, "kw1 b"),
        Partition("foreign", 0): Committed(8),
    }

    memberships = member.consumer.memberships(points)
    ended = transactions.commit([Outgoing(out, b"k", b"v", (("h", b"1"),))], memberships)

    assert len(memberships) == 2
    assert ended == Written()
    assert seen(cluster, out) == [b"v"]
    points.pop(Partition("foreign", 0))
    assert cluster.committed(group, points) == points


def test_who_is_no_longer_the_member_that_it_was_leaves_nothing(
    cluster, topic, member, transactions, group
):
    out = topic("out", partitions=1)
    points = {Partition(member.orders, 0): Committed(5)}
    before = member.consumer.memberships(points)
    other = cluster.consumer(group)
    second = Member(other, [member.orders])
    member.until(lambda: bool(second.turn(0.0) or second.owned))

    ended = transactions.commit([Outgoing(out, None, b"v", ())], before)

    assert isinstance(ended, Undone)
    assert ended.expected
    assert seen(cluster, out) == []
    assert cluster.committed(group, points) == dict.fromkeys(points)
    other.close()


def test_after_a_message_that_is_too_large_the_next_transaction_works(cluster, topic, transactions):
    out = topic("out", partitions=1, **{"max.message.bytes": "20000"})
    large = Outgoing(out, None, random.Random(1).randbytes(50_000), ())
    small = Outgoing(out, None, b"small", ())

    refused = transactions.commit([small, large], [])
    ended = transactions.commit([small], [])

    assert isinstance(refused, Refused)
    assert refused.refusals[1].kind == "too_large"
    assert ended == Written()
    assert seen(cluster, out) == [b"small"]


def test_an_unknown_topic_is_refused_and_the_next_transaction_works(cluster, topic, transactions):
    out = topic("out", partitions=1)
    nowhere = f"nowhere-{uuid.uuid4().hex}"

    refused = transactions.commit(
        [Outgoing(out, None, b"1", ()), Outgoing(nowhere, None, b"2", ())], []
    )
    ended = transactions.commit([Outgoing(out, None, b"3", ())], [])

    assert isinstance(refused, Refused)
    assert {number: why.kind for number, why in refused.refusals.items()} == {1: "unknown_topic"}
    assert ended == Written()
    assert seen(cluster, out) == [b"3"]


def test_whoever_is_fenced_by_another_user_of_its_id_cannot_go_on(cluster, topic):
    out = topic("out", partitions=1)
    first, second = (cluster.transactions("shop.same.0") for _ in range(2))
    first.open()
    assert first.commit([Outgoing(out, None, b"1", ())], []) == Written()
    second.open()

    with pytest.raises(CannotGoOn, match=r"another process uses the transactional id 'shop.same"):
        first.commit([Outgoing(out, None, b"2", ())], [])
    ended = second.commit([Outgoing(out, None, b"3", ())], [])

    assert ended == Written()
    assert seen(cluster, out) == [b"1", b"3"]
    second.close()


def test_a_new_user_ends_what_the_last_one_left_open(cluster, topic):
    out = topic("out", partitions=1)
    left, next_one = (cluster.transactions(f"shop.{out}.0") for _ in range(2))
    left.open()
    left._client.begin_transaction()
    left._client.produce(out, b"never seen")
    left._client.flush(10)

    next_one.open()
    ended = next_one.commit([Outgoing(out, None, b"seen", ())], [])

    assert ended == Written()
    assert seen(cluster, out) == [b"seen"]
    next_one.close()
