"""What a member of a group may count on, on a real Kafka."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

import pytest

from kworker.errors import Bug
from kworker.kafka import connect
from kworker.kafka.api import CommitResult, Committed
from kworker.message import Partition

from .conftest import Member, until


@pytest.fixture(
    params=[None, lambda topic: "orders" not in topic, lambda topic: "orders" in topic],
    ids=["one", "first-of-two", "second-of-two"],
)
def apart(request):
    """One member, and two behind one face of which the one or the other has the orders."""
    return request.param


def partitions(topic: str, count: int) -> list[Partition]:
    return [Partition(topic, index) for index in range(count)]


def test_a_record_is_what_was_sent_and_says_where_it_stood(topic, join, send):
    orders = topic("orders", partitions=1, retention_ms=-1)
    sent = send(orders, b"value", b"key", (("a", b"1"), ("b", b"")), timestamp=1_700_000_000.25)

    member = join(orders)
    member.until(lambda: bool(member.records))

    record = member.records[0]
    assert (record.topic, record.partition, record.offset) == (orders, 0, sent.offset)
    assert (record.key, record.value) == (b"key", b"value")
    assert record.headers == (("a", b"1"), ("b", b""))
    assert record.timestamp == 1_700_000_000.25
    assert record.leader_epoch == 0
    assert record.damage is None


def test_tombstones_empty_values_and_every_kind_of_header_arrive_as_they_are(topic, join, send):
    orders = topic("orders", partitions=1)
    headers = (("twice", b"1"), ("none", None), ("twice", b"2"), ("", b"no name"), ("ü", b"\xff"))
    send(orders, None, b"")
    send(orders, b"", None)
    send(orders, b"v", b"k\0", headers)

    member = join(orders)
    member.until(lambda: len(member.records) == 3)

    tombstone, empty, decorated = member.records
    assert (tombstone.key, tombstone.value, tombstone.headers) == (b"", None, ())
    assert (empty.key, empty.value) == (None, b"")
    assert (decorated.key, decorated.headers) == (b"k\0", headers)


def test_a_header_name_that_is_not_utf8_is_damage_and_nothing_else_breaks(kafka, topic, join, send):
    orders = topic("orders", partitions=1)
    send(orders, b"before")
    write_with_header_name(kafka.bootstrap_servers, orders, b"\xff\xfe", b"killer")
    send(orders, b"after")

    member = join(orders)
    member.until(lambda: len(member.records) == 3)

    assert [record.value for record in member.records] == [b"before", b"killer", b"after"]
    assert [record.damage is not None for record in member.records] == [False, True, False]
    assert member.records[1].headers == ()


def test_a_second_member_gets_half_and_starts_where_the_first_committed(topic, join, send):
    orders = topic("orders", partitions=2)
    for index in (0, 1):
        for _ in range(3):
            send(orders, partition=index)
    first = join(orders)
    first.until(lambda: len(first.records) == 6)
    first.on_revoked = lambda moving: first.consumer.commit_now(
        {partition: Committed(2, 0, "map") for partition in moving}
    )

    second = join(
        orders,
        starts=lambda given: {
            partition: position.offset
            for partition, position in second.consumer.committed(given, 5.0).items()
        },
    )
    second.until(lambda: first.turn() is None and len(second.records) == 1)

    (moved,) = second.owned
    assert first.owned == set(partitions(orders, 2)) - {moved}
    assert second.records[0].offset == 2
    assert [what for what, _ in first.told] == ["assigned", "revoked"]


def test_a_commit_without_waiting_counts_for_the_next_owner_of_a_partition(topic, join, send):
    orders = topic("orders", partitions=2)
    for index in (0, 1):
        for _ in range(3):
            send(orders, partition=index)
    first, answers = join(orders), []
    first.until(lambda: len(first.records) == 6)
    first.on_revoked = lambda moving: first.consumer.commit(
        {partition: Committed(2) for partition in moving}, answers.append
    )

    second = join(
        orders,
        starts=lambda given: {
            partition: position.offset
            for partition, position in second.consumer.committed(given, 5.0).items()
        },
    )
    second.until(lambda: first.turn() is None and bool(second.records and answers))

    assert [record.offset for record in second.records] == [2]
    assert set(answers[0].stored) == second.owned


def test_a_commit_keeps_offset_epoch_and_metadata(topic, join, cluster, group):
    orders = topic("orders", partitions=2)
    member = join(orders)
    member.until(lambda: len(member.owned) == 2)
    done = Committed(0, 0, "x" * 4000)

    answer = member.commit({Partition(orders, 0): done})

    assert answer == CommitResult({Partition(orders, 0): 0}, {})
    expected = {Partition(orders, 0): done, Partition(orders, 1): None}
    assert member.consumer.committed(partitions(orders, 2), 5.0) == expected
    assert cluster.committed(group, partitions(orders, 2), 5.0) == expected


def test_a_refused_commit_is_answered_and_not_raised(topic, join):
    orders = topic("orders", partitions=1)
    member = join(orders)
    member.until(lambda: bool(member.owned))

    answer = member.commit({Partition(orders, 7): Committed(1)})
    now = member.consumer.commit_now({Partition(orders, 0): Committed(1, None, "x" * 5000)})

    assert list(answer.refused) == [Partition(orders, 7)]
    assert list(now.refused) == [Partition(orders, 0)]
    assert not answer.expected
    assert not now.expected


def test_a_refusal_that_comes_with_a_rebalance_is_expected(topic, join, cluster, group):
    orders = topic("orders", partitions=1)
    member = join(orders)
    member.until(lambda: bool(member.owned))
    stranger = cluster.consumer(group)

    answer = stranger.commit_now({Partition(orders, 0): Committed(1)})

    assert answer.refused
    assert answer.expected
    stranger.close()


def test_every_commit_gets_its_own_answer_even_when_two_are_alike(topic, join):
    orders = topic("orders", partitions=1)
    member = join(orders)
    member.until(lambda: bool(member.owned))
    answers = []

    for number in range(3):
        member.consumer.commit(
            {Partition(orders, 0): Committed(0)}, lambda _, n=number: answers.append(n)
        )
    member.consumer.commit({}, lambda _: answers.append("nothing"))
    member.until(lambda: len(answers) == 4)

    assert sorted(answers, key=str) == [0, 1, 2, "nothing"]


def test_what_assigned_raises_comes_out_of_poll_and_no_record_is_lost(topic, join, send):
    orders, others = topic("orders", partitions=1), topic("others", partitions=1)
    for _ in range(50):
        send(others)
    refused = []

    def starts(given):
        if not refused and any(partition.topic == orders for partition in given):
            refused.append(1)
            raise ZeroDivisionError("on purpose")
        return dict.fromkeys(given, 0)

    member = join(others, starts=starts)
    member.until(lambda: len(member.records) >= 1)
    member.consumer.subscribe([orders, others], member)
    raised = []

    def turn() -> bool:
        try:
            member.turn()
        except ZeroDivisionError as error:
            raised.append(error)
        return bool(raised)

    member_until = time.monotonic() + 20
    while not turn():
        assert time.monotonic() < member_until
    member.until(lambda: len(member.records) == 50)

    assert [record.offset for record in member.records] == list(range(50))


def test_what_an_answer_raises_comes_out_of_the_next_poll(topic, join):
    orders = topic("orders", partitions=1)
    member = join(orders)
    member.until(lambda: bool(member.owned))

    member.consumer.commit({Partition(orders, 0): Committed(0)}, lambda result: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        member.until(lambda: False, 5.0)
    member.turn()


def test_a_partition_that_was_left_out_is_fetched_once_it_is_taken(topic, join, send):
    orders = topic("orders", partitions=2)
    for index in (0, 1):
        for _ in range(3):
            send(orders, partition=index)
    member = join(orders, starts=lambda given: {Partition(orders, 0): 0})
    member.until(lambda: len(member.records) == 3)

    member.turn(0.5)
    left_out = [record for record in member.records if record.partition == 1]
    member.consumer.take({Partition(orders, 1): 1})
    member.until(lambda: len(member.records) == 5)

    assert left_out == []
    assert [record.offset for record in member.records if record.partition == 1] == [1, 2]


def test_a_lost_position_is_told_and_taking_the_partition_anew_goes_on(topic, join, send, cluster):
    orders = topic("orders", partitions=1)
    for _ in range(3):
        send(orders)
    where = Partition(orders, 0)
    member = join(orders, starts=lambda given: {where: 500})
    member.until(lambda: bool(member.troubles))

    (trouble,) = member.troubles
    member.consumer.take({where: cluster.ends([where], 5.0)[where][0]})
    member.until(lambda: len(member.records) == 3)

    assert (trouble.kind, trouble.partition) == ("lost_position", where)


class Failing:
    """A client that fails once after it has taken messages: so does a call-back that raises."""

    def __init__(self, client) -> None:
        self._client = client
        self.taken = 0

    def consume(self, limit, patience):
        self.taken += len(self._client.consume(limit, 1.0))
        raise SystemError("a call-back raised")

    def __getattr__(self, name):
        return getattr(self._client, name)


def test_no_position_is_told_that_may_stand_behind_what_a_failing_client_destroyed(
    topic, cluster, group, send
):
    orders = topic("orders", partitions=1)
    consumer = cluster.consumer(group)
    member = Member(consumer, [orders])
    member.until(lambda: bool(member.owned))
    where = list(member.owned)
    consumer._client = failing = Failing(consumer._client)
    for _ in range(5):
        send(orders)

    until(lambda: failing.taken > 0, each=lambda _: member.turn())

    assert len(member.records) < 5
    assert consumer.positions(where) == {}
    with pytest.raises(Bug):
        member.turn()
    consumer.close()


def test_a_negative_start_and_a_foreign_partition_are_bugs(topic, join):
    orders = topic("orders", partitions=1)
    member = join(orders)
    member.until(lambda: bool(member.owned))

    for start in ({Partition(orders, 0): -1001}, {Partition("nobody's", 0): 0}):
        with pytest.raises(Bug):
            member.consumer.take(start)


def test_a_paused_partition_waits_while_others_flow_and_comes_back_unpaused(topic, join, send):
    orders = topic("orders", partitions=2)
    member = join(orders)
    member.until(lambda: len(member.owned) == 2)

    member.consumer.pause([Partition(orders, 0)])
    for index in (0, 1):
        send(orders, partition=index)
    member.until(lambda: len(member.records) == 1)
    member.turn(0.3)
    while_paused = [record.partition for record in member.records]
    member.consumer.subscribe([topic("elsewhere", partitions=1)], member)
    member.until(lambda: Partition(orders, 0) not in member.owned)
    member.consumer.subscribe([orders], member)
    member.until(lambda: any(record.partition == 0 for record in member.records))

    assert while_paused == [1]


def test_a_resumed_partition_goes_on_at_once_where_it_was_though_all_were_paused(topic, join, send):
    orders = topic("orders", partitions=1)
    for _ in range(40):
        send(orders)
    member = join(orders)
    arrivals, waited = [], []

    def turn(_: float) -> None:
        arrivals.extend(member.consumer.poll(10, 0.01))

    for read in (10, 20, 30, 40):
        until(lambda goal=read: len(arrivals) == goal, 20.0, turn)
        member.consumer.pause(partitions(orders, 1))
        while_paused = member.consumer.poll(10, 0.1)
        member.consumer.resume(partitions(orders, 1))
        begun = time.monotonic()
        until(lambda goal=read: len(arrivals) > goal or goal == 40, 20.0, turn)
        waited.append(time.monotonic() - begun)
        assert while_paused == []

    assert [record.offset for record in arrivals] == list(range(40))
    assert min(waited[:3]) < 0.3


def test_a_pause_holds_for_a_partition_that_is_taken_later(topic, join, send):
    orders = topic("orders", partitions=1)
    send(orders)
    member = join(orders, starts=lambda given: {})
    member.until(lambda: bool(member.owned))

    member.consumer.pause(partitions(orders, 1))
    member.consumer.take({Partition(orders, 0): 0})
    member.turn(0.5)
    while_paused = list(member.records)
    member.consumer.resume(partitions(orders, 1))
    member.until(lambda: len(member.records) == 1)

    assert while_paused == []


def test_closing_hands_the_partitions_over_and_a_commit_still_counts(topic, join, cluster, group):
    orders = topic("orders", partitions=1)
    member = join(orders)
    member.until(lambda: bool(member.owned))
    member.on_revoked = lambda given: member.consumer.commit_now({given[0]: Committed(0, 0, "end")})

    member.consumer.close()

    assert member.told[-1] == ("revoked", (Partition(orders, 0),))
    assert cluster.committed(group, partitions(orders, 1), 5.0) == {
        Partition(orders, 0): Committed(0, 0, "end")
    }


def test_ends_positions_and_offsets_at_a_time(topic, join, send):
    orders = topic("orders", partitions=2, retention_ms=-1)
    for second in (100, 200, 300):
        send(orders, partition=0, timestamp=1_700_000_000 + second)
    member = join(orders)
    member.until(lambda: len(member.records) == 3)
    consumer, both = member.consumer, partitions(orders, 2)

    assert consumer.ends(both, 5.0) == {both[0]: (0, 3), both[1]: (0, 0)}
    assert consumer.positions(both) == {both[0]: 3, both[1]: 0}
    assert consumer.offsets_at(both, 1_700_000_150.0, 5.0) == {both[0]: 1, both[1]: 0}
    assert consumer.offsets_at(both, time.time(), 5.0) == {both[0]: 3, both[1]: 0}


def test_ends_come_along_with_what_is_fetched_and_grow_old_while_a_partition_is_paused(
    topic, join, send
):
    orders = topic("orders", partitions=2)
    first, second = partitions(orders, 2)
    for partition in (0, 0, 1):
        send(orders, b"v", partition=partition)

    member = join(orders)
    joined_before = member.consumer.joined
    member.until(lambda: len(member.records) == 3)
    seen = member.consumer.seen_ends([first, second])
    member.consumer.pause([first])
    send(orders, b"v", partition=0)
    send(orders, b"v", partition=1)
    member.until(lambda: len(member.records) == 4)

    assert not joined_before
    assert member.consumer.joined
    assert seen == {first: 2, second: 1}
    assert member.consumer.seen_ends([first, second])[second] == 2
    assert member.consumer.seen_ends([Partition("nowhere", 0)]) == {}


def test_the_ends_of_a_topic_that_is_gone_are_absent(topic, join):
    orders = topic("orders", partitions=1)
    there, gone, beyond = (
        Partition(orders, 0),
        Partition("nobody-made-this", 0),
        Partition(orders, 9),
    )

    ends = join(orders).consumer.ends([there, gone, beyond], 5.0)

    assert ends == {there: (0, 0)}


def test_a_topic_that_is_not_there_is_trouble_and_not_an_error(topic, join):
    member = join(topic("orders", partitions=1), "nobody-made-this")

    member.until(lambda: bool(member.troubles))

    assert member.troubles[0].kind == "unknown_topic"
    assert "nobody-made-this" in member.troubles[0].text


def test_after_a_fork_the_child_is_told_instead_of_waiting_for_ever(kafka, group, apart):
    consumer = connect(kafka.bootstrap_servers).consumer(group, apart=apart)
    reading, writing = os.pipe()

    child = os.fork()
    if child == 0:
        try:
            consumer.poll(1, 0.0)
        except Bug:
            os.write(writing, b"told")
        os._exit(0)
    os.close(writing)

    assert os.read(reading, 10) == b"told"
    os.waitpid(child, 0)
    os.close(reading)
    consumer.close()


def write_with_header_name(servers: str, topic: str, name: bytes, value: bytes) -> None:
    """Python's client takes only text for a name, so its C library is asked, elsewhere."""
    program = """
        import ctypes, glob, os, sys, confluent_kafka
        folder = os.path.dirname(confluent_kafka.__file__)
        wheels = glob.glob(folder + ".libs/librdkafka-*.so*") + glob.glob(folder + "/.dylibs/*")
        lib = ctypes.CDLL(wheels[0])
        P, T, N, I = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
        def function(name, result, *arguments):
            found = getattr(lib, name)
            found.restype, found.argtypes = result, list(arguments)
            return found
        words = ctypes.create_string_buffer(512)
        conf = function("rd_kafka_conf_new", P)()
        function("rd_kafka_conf_set", I, P, T, T, T, N)(
            conf, b"bootstrap.servers", sys.argv[1].encode(), words, 512)
        client = function("rd_kafka_new", P, I, P, T, N)(0, conf, words, 512)
        topic = function("rd_kafka_topic_new", P, P, T, P)(client, sys.argv[2].encode(), None)
        name, value = bytes.fromhex(sys.argv[3]), bytes.fromhex(sys.argv[4])
        headers = function("rd_kafka_headers_new", P, N)(1)
        function("rd_kafka_header_add", I, P, T, ctypes.c_ssize_t, T, ctypes.c_ssize_t)(
            headers, name, len(name), b"1", 1)
        class Field(ctypes.Structure):
            class Value(ctypes.Union):
                class Memory(ctypes.Structure):
                    _fields_ = [("data", T), ("size", N)]
                _fields_ = [("pointer", P), ("memory", Memory), ("i32", ctypes.c_int32),
                            ("pad", ctypes.c_char * 64)]
            _fields_ = [("kind", I), ("value", Value)]
        fields = (Field * 4)()
        fields[0].kind, fields[0].value.pointer = 2, topic
        fields[1].kind = 4
        fields[1].value.memory.data, fields[1].value.memory.size = value, len(value)
        fields[2].kind, fields[2].value.pointer = 10, headers
        fields[3].kind, fields[3].value.i32 = 3, 0
        failed = function("rd_kafka_produceva", P, P, P, N)(client, fields, 4)
        assert not failed
        assert function("rd_kafka_flush", I, P, I)(client, 10000) == 0
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), servers, topic, name.hex(), value.hex()],
        check=True,
        timeout=30,
    )


def test_the_members_of_a_group_are_told_and_nobody_else_may_move_it_meanwhile(
    cluster, group, join, topic
):
    orders = topic("orders", partitions=1)
    where = Partition(orders, 0)
    nobody = cluster.admin().members(group)
    stranger = cluster.consumer(group)
    free = stranger.commit_now({where: Committed(0)})
    member = join(orders)
    member.until(lambda: bool(member.told))

    [found] = cluster.admin().members(group)
    refused = stranger.commit_now({where: Committed(5)})

    stranger.close()
    assert nobody == []
    assert free.stored == {where: 0}
    assert found.client_id in ("kworker", "kworker-copies")
    assert found.host
    assert (refused.stored, list(refused.refused)) == ({}, [where])
    assert refused.expected
    assert cluster.committed(group, [where]) == {where: Committed(0)}
