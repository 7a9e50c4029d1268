"""Reading to the end, on a real Kafka: the end may be something nobody is given."""

from __future__ import annotations

import threading

import confluent_kafka
import pytest

from kworker.errors import KafkaUnavailable, TopicsMissing
from kworker.message import Partition


@pytest.fixture
def transactions(kafka, group):
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": group}
    )
    producer.init_transactions(20)
    return producer


def all_of(topic: str, count: int) -> list[Partition]:
    return [Partition(topic, index) for index in range(count)]


def read_all(cluster, partitions, **patience):
    ends = {partition: end for partition, (_, end) in cluster.ends(partitions, 10.0).items()}
    return list(cluster.read(dict.fromkeys(partitions), ends, **patience))


def test_everything_is_read_from_beginning_to_end_and_no_further(cluster, topic, send):
    orders = topic("orders", partitions=3)
    for index in (0, 0, 2):
        send(orders, partition=index)
    ends = {part: end for part, (_, end) in cluster.ends(all_of(orders, 3), 10.0).items()}
    send(orders, partition=0)
    send(orders, partition=1)

    records = list(cluster.read(dict.fromkeys(all_of(orders, 3)), ends))

    assert sorted((r.partition, r.offset) for r in records) == [(0, 0), (0, 1), (2, 0)]


def test_reading_begins_where_it_is_told(cluster, topic, send):
    orders = topic("orders", partitions=1)
    for _ in range(5):
        send(orders)

    records = list(cluster.read({Partition(orders, 0): 3}, {Partition(orders, 0): 5}))

    assert [record.offset for record in records] == [3, 4]


def test_empty_partitions_end_at_once(cluster, topic):
    assert read_all(cluster, all_of(topic("orders", partitions=4), 4)) == []


def test_markers_and_aborted_records_at_the_end_are_passed(cluster, topic, transactions):
    orders = topic("orders", partitions=2)
    transactions.begin_transaction()
    transactions.produce(orders, b"kept", partition=0)
    transactions.commit_transaction(20)
    for index in (0, 1):
        transactions.begin_transaction()
        transactions.produce(orders, b"aborted", partition=index)
        transactions.flush(10)
        transactions.abort_transaction(20)

    records = read_all(cluster, all_of(orders, 2), patience=10.0)

    assert [(record.partition, record.value) for record in records] == [(0, b"kept")]


def test_an_open_transaction_at_the_end_is_told_and_not_skipped(cluster, topic, transactions):
    orders = topic("orders", partitions=1)
    transactions.begin_transaction()
    transactions.produce(orders, b"undecided", partition=0)
    transactions.flush(10)

    with pytest.raises(KafkaUnavailable, match="open transaction"):
        read_all(cluster, all_of(orders, 1), patience=1.0)
    transactions.abort_transaction(20)


def test_a_transaction_that_ends_meanwhile_lets_the_reading_end(cluster, topic, transactions):
    orders = topic("orders", partitions=1)
    where = Partition(orders, 0)
    transactions.begin_transaction()
    transactions.produce(orders, b"undecided", partition=0)
    transactions.flush(10)
    (_, end) = cluster.ends([where], 10.0)[where]
    undecided = threading.Timer(1.0, transactions.abort_transaction, [20])
    undecided.start()

    records = list(cluster.read({where: 0}, {where: end}, patience=15.0))

    undecided.join()
    assert end == 1
    assert records == []


def test_a_topic_that_is_not_there_is_told(cluster):
    nowhere = Partition("nobody-made-this", 0)

    with pytest.raises(TopicsMissing):
        list(cluster.read({nowhere: 0}, {nowhere: 1}))


def test_reading_may_be_left_off(cluster, topic, send):
    orders = topic("orders", partitions=1)
    for _ in range(3):
        send(orders)

    records = cluster.read({Partition(orders, 0): 0}, {Partition(orders, 0): 3})
    first = next(iter(records))
    records.close()

    assert first.offset == 0


def test_the_first_record_of_each_partition_is_found_behind_gaps_and_markers(
    cluster, topic, send, transactions
):
    orders = topic("orders", partitions=4)
    transactions.begin_transaction()
    transactions.produce(orders, b"aborted", partition=0)
    transactions.flush(10)
    transactions.abort_transaction(20)
    behind, _, _ = (send(orders, partition=index) for index in (0, 1, 1))
    transactions.begin_transaction()
    transactions.produce(orders, b"undecided", partition=2)
    transactions.flush(10)

    firsts = cluster.firsts({part: int(part.index == 1) for part in all_of(orders, 4)})

    transactions.abort_transaction(20)
    assert {part.index: record.offset for part, record in firsts.items()} == {
        0: behind.offset,
        1: 1,
    }


def test_following_gives_what_is_there_and_what_comes_and_says_when_nothing_does(
    cluster, topic, send
):
    orders = topic("orders", partitions=1)
    send(orders)
    send(orders)

    records = cluster.follow({Partition(orders, 0): 1})
    first = next(one for one in records if one is not None)
    quiet = next(one for one in records if one is None)
    send(orders)
    second = next(one for one in records if one is not None)
    records.close()

    assert (first.offset, quiet, second.offset) == (1, None, 2)


def test_the_offset_at_a_time_is_that_of_the_next_record_or_the_end(cluster, topic, send):
    orders = topic("orders", partitions=2, retention_ms=-1)
    for index in range(3):
        send(orders, partition=0, timestamp=1_700_000_000.0 + index)

    found = [cluster.at(all_of(orders, 2), 1_700_000_000.5 + later, 10.0) for later in (0, 9)]

    assert [sorted(one.values()) for one in found] == [[0, 1], [0, 3]]
