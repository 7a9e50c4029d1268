"""Two members of one group behind one face: what each worker gets, and what is common to both."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest

from kworker.kafka.api import CommitResult, Committed
from kworker.message import Partition

from .conftest import Member, until

SIX = range(6)


@pytest.fixture
def apart():
    """The group's own topics have a member of their own."""
    return lambda topic: "orders" not in topic


@pytest.fixture
def topics(topic) -> tuple[str, str, str]:
    """A source, a retry and a replay topic, of six partitions each."""
    return tuple(topic(name, partitions=len(SIX)) for name in ("orders", "retry", "replay"))


def shares(members: Sequence[Member], apart) -> list[list[int]]:
    """How many source partitions, and how many of copies, each has."""
    counts = [Counter(apart(one.topic) for one in member.owned) for member in members]
    return [sorted(count[kind] for count in counts) for kind in (False, True)]


def settle(members: Sequence[Member], expected: list[list[int]], apart) -> None:
    """Wait until they have these shares."""

    def turn(_: float) -> None:
        for member in members:
            member.turn(0.02)

    def shared() -> bool:
        owned = [partition for member in members for partition in member.owned]
        return len(owned) == len(set(owned)) and shares(members, apart) == expected

    try:
        until(shared, 30.0, turn)
    except AssertionError:
        raise AssertionError(f"{shares(members, apart)} instead of {expected}") from None


def test_whoever_joins_and_whoever_is_replaced_each_kind_is_shared_fairly(topics, join, apart):
    first = join(*topics)
    settle([first], [[6], [12]], apart)

    second = join(*topics)
    settle([first, second], [[3, 3], [6, 6]], apart)
    third = join(*topics)
    settle([first, second, third], [[2, 2, 2], [4, 4, 4]], apart)
    second.consumer.close()
    replacement = join(*topics)
    settle([first, third, replacement], [[2, 2, 2], [4, 4, 4]], apart)
    first.consumer.close()
    settle([third, replacement], [[3, 3], [6, 6]], apart)


def test_a_commit_about_both_kinds_is_answered_once_with_all_that_was_stored(
    topics, join, cluster, group
):
    places = {Partition(topic, 0): Committed(0, 0, topic) for topic in topics}
    member = join(*topics)
    member.until(lambda: len(member.owned) == 18)
    answers: list[CommitResult] = []

    member.consumer.commit(places, answers.append)
    member.consumer.commit({}, answers.append)
    member.until(lambda: len(answers) == 2)
    member.turn(0.2)
    now = member.consumer.commit_now(places)

    empty, whole = sorted(answers, key=lambda answer: len(answer.stored))
    assert empty == CommitResult({}, {})
    assert whole == now == CommitResult(dict.fromkeys(places, 0), {})
    assert member.consumer.committed(places, 5.0) == places
    assert cluster.committed(group, places, 5.0) == places


def test_a_refusal_by_one_of_both_is_told_beside_what_the_other_stored(topics, join):
    orders, retry, _ = topics
    member = join(*topics)
    member.until(lambda: len(member.owned) == 18)

    too_long = {
        Partition(orders, 0): Committed(0),
        Partition(retry, 0): Committed(0, 0, "x" * 5000),
    }
    answer, now = member.commit(too_long), member.consumer.commit_now(too_long)

    for result in (answer, now):
        assert result.stored == {Partition(orders, 0): 0}
        assert list(result.refused) == [Partition(retry, 0)]
        assert not result.expected


def test_refusals_are_expected_where_those_of_both_are(topics, cluster, group, join, apart):
    orders, retry, _ = topics
    member = join(*topics)
    member.until(lambda: len(member.owned) == 18)
    stranger = cluster.consumer(group, apart=apart)
    places = {Partition(orders, 0): Committed(0), Partition(retry, 0): Committed(0)}

    both = stranger.commit_now(places)
    mixed = stranger.commit_now({**places, Partition(retry, 0): Committed(0, None, "x" * 5000)})

    stranger.close()
    assert set(both.refused) == set(mixed.refused) == set(places)
    assert both.expected


def test_copies_flow_while_the_sources_do_and_neither_takes_more_than_its_part(topics, join, send):
    orders, retry, _ = topics
    for _ in range(30):
        send(orders, partition=0)
        send(retry, partition=0)
    member = join(*topics, starts=lambda given: {})
    member.until(lambda: len(member.owned) == 18)
    member.consumer.take({Partition(orders, 0): 0, Partition(retry, 0): 0})
    taken: list[list[str]] = []

    def turn(_: float) -> None:
        taken.append([record.topic for record in member.consumer.poll(10, 0.05)])

    until(lambda: sum(map(len, taken)) == 60, 20.0, turn)

    assert max(map(len, taken)) == 10
    assert max(batch.count(retry) for batch in taken) == 5


@pytest.mark.parametrize("broken", ["orders", "retry"])
def test_what_a_call_back_of_one_raises_comes_out_of_the_next_poll_and_no_record_is_lost(
    topics, join, send, broken
):
    for topic in topics:
        for _ in range(20):
            send(topic, partition=0)
    member = join(*topics)
    member.until(lambda: len(member.owned) == 18)
    [place] = [Partition(topic, 1) for topic in topics if broken in topic]

    member.consumer.commit({place: Committed(0)}, lambda result: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        member.until(lambda: False, 5.0)
    member.until(lambda: len(member.records) == 60)
    assert all(
        [record.offset for record in member.records if record.topic == topic] == list(range(20))
        for topic in topics
    )


def test_every_act_finds_the_member_that_has_the_partition(topics, join, send):
    _, retry, replay = topics
    places = [Partition(topic, 0) for topic in topics]
    now = time.time()
    for place in places:
        send(place.topic, partition=0, timestamp=now - 100)
        send(place.topic, partition=0, timestamp=now)
    member = join(*topics, starts=lambda given: {})
    member.until(lambda: len(member.owned) == 18)
    consumer = member.consumer

    consumer.take(dict.fromkeys(places, 1))
    consumer.pause(places[:2])
    member.until(lambda: bool(member.records))
    member.turn(0.3)
    while_paused = [record.topic for record in member.records]
    consumer.resume(places[:2])
    member.until(lambda: len(member.records) == 3)

    assert while_paused == [replay]
    assert consumer.positions(places) == dict.fromkeys(places, 2)
    assert consumer.ends(places, 5.0) == dict.fromkeys(places, (0, 2))
    assert consumer.offsets_at(places, now - 50, 5.0) == dict.fromkeys(places, 1)
    with pytest.raises(Exception, match="not assigned"):
        consumer.take({Partition(retry, 0): 0, Partition("nobody's", 0): 0})


def test_both_leave_and_hand_over_what_they_had(topics, join, cluster, group):
    orders, retry, _ = topics
    member = join(*topics)
    member.until(lambda: len(member.owned) == 18)
    member.on_revoked = lambda given: member.consumer.commit_now(
        {partition: Committed(0, 0, "end") for partition in given}
    )
    names = sorted(one.client_id for one in cluster.admin().members(group))

    member.consumer.close()

    ends = [Partition(orders, 0), Partition(retry, 5)]
    assert names == ["kworker", "kworker-copies"]
    assert member.owned == set()
    assert cluster.admin().members(group) == []
    assert cluster.committed(group, ends, 5.0) == dict.fromkeys(ends, Committed(0, 0, "end"))


def test_the_copies_are_read_though_the_sources_are_not_there(topic, join, send):
    retry = topic("retry", partitions=1)
    send(retry)

    member = join("orders-that-nobody-made", retry)
    member.until(lambda: bool(member.records and member.troubles))

    assert member.records[0].topic == retry
    assert member.troubles[0].kind == "unknown_topic"


def test_the_sources_flow_on_while_the_group_shares_out_copies_anew(topics, join, cluster):
    orders, retry, _ = topics
    producer = cluster.producer(delivery_timeout=10.0)
    for _ in range(5000):
        producer.send(orders, None, b"v", (), lambda answer: None, partition=0)
    producer.close()
    member = join(*topics, starts=lambda given: {})
    member.until(lambda: len(member.owned) == 18)
    member.consumer.take({Partition(orders, 0): 0})
    arrivals: list[tuple[int, float]] = []
    other = join(retry)

    def turn(_: float) -> None:
        now = time.monotonic()
        arrivals.extend((record.offset, now) for record in member.consumer.poll(4, 0.0))
        other.turn(0.01)

    until(lambda: len(other.owned) == 6, 20.0, turn)
    shared = len(arrivals)
    until(lambda: len(arrivals) >= shared + 200, 20.0, turn)

    assert [offset for offset, _ in arrivals] == list(range(len(arrivals)))
    assert max(after - before for (_, before), (_, after) in pairwise(arrivals)) < 0.3
