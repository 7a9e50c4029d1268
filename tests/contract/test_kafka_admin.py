"""Topics, cluster and what is said when nobody answers: on a real Kafka and the embedded one."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing

import pytest

from kworker.errors import KafkaUnavailable, SettingsError, TopicsMissing
from kworker.kafka import connect, embedded
from kworker.kafka.api import Committed, NewTopic, Receipt, TopicInfo
from kworker.message import Partition, Record


@pytest.fixture(scope="module")
def mock():
    with embedded.start() as broker:
        yield connect(broker.bootstrap_servers, consumer={"session.timeout.ms": "6000"})


def new(name: str, partitions: int = 2, **configs: str) -> NewTopic:
    return NewTopic(name, partitions, 1, {key.replace("_", "."): configs[key] for key in configs})


def test_a_created_topic_is_as_it_was_asked_for_and_can_be_used_at_once(cluster, group, send):
    name = f"{group}-orders"
    admin = cluster.admin()

    answers = admin.create([new(name, 3, retention_ms="123456")])
    receipt = send(name)

    described = admin.describe([name, "nobody-made-this"])
    assert answers == {name: None}
    assert isinstance(receipt, Receipt)
    assert list(described) == [name]
    assert (described[name].partitions, described[name].replication) == (3, 1)
    assert described[name].configs["retention.ms"] == "123456"
    assert admin.topics()[name] == 3


def test_a_topic_that_exists_is_success_and_a_bad_name_is_not(cluster, topic):
    orders = topic("orders", partitions=1)

    answers = cluster.admin().create([new(orders, 5), new("not a topic")])

    assert answers[orders] is None
    assert "not a topic" in answers["not a topic"]
    assert cluster.admin().describe([orders])[orders].partitions == 1


def test_two_topics_have_two_ids(cluster, topic):
    first, second = topic("orders"), topic("orders")

    described = cluster.admin().describe([first, second])

    assert described[first].id and described[second].id
    assert described[first].id != described[second].id


def test_ends_of_a_topic_that_is_not_there(cluster):
    with pytest.raises(TopicsMissing, match="create the topic"):
        cluster.ends([Partition("nobody-made-this", 0)], 5.0)


def test_a_wrong_address_is_told_with_the_reason(caplog):
    caplog.set_level(logging.WARNING, "kworker.librdkafka")
    begun = time.monotonic()

    with pytest.raises(KafkaUnavailable) as told:
        connect("127.0.0.1:1").admin(timeout=2.0).cluster_id()

    assert str(told.value).startswith("cannot reach Kafka at 127.0.0.1:1 within 2 s: ")
    assert "Connection refused" in str(told.value)
    assert "-b" in str(told.value)
    assert "\n" not in str(told.value)
    assert time.monotonic() - begun < 4.0
    assert len([line for line in caplog.records if "refused" in line.message]) == 1


def test_a_listener_that_speaks_something_else_is_told(kafka):
    secured = {"security.protocol": "SSL"}

    with pytest.raises(KafkaUnavailable, match=r"check security\.protocol"):
        connect(kafka.bootstrap_servers, common=secured).admin(timeout=2.0).cluster_id()


def test_an_unknown_property_is_refused_when_a_client_is_made(kafka):
    mistaken = connect(kafka.bootstrap_servers, consumer={"sesion.timeout.ms": "1"})

    with pytest.raises(SettingsError, match=r"did you mean 'session\.timeout\.ms'"):
        mistaken.consumer("group")


def test_a_property_for_consumers_alone_does_not_disturb_the_others(kafka, topic, caplog):
    orders = topic("orders", partitions=1)
    answers = []
    mixed = connect(kafka.bootstrap_servers, common={"session.timeout.ms": "3000"})

    with closing(mixed.producer(delivery_timeout=10.0)) as producer:
        producer.send(orders, None, b"v", (), answers.append)
        producer.flush(10.0)

    assert isinstance(answers[0], Receipt)
    assert "session.timeout.ms" not in caplog.text


def test_the_embedded_broker_makes_topics_of_four_partitions(mock):
    answers = mock.admin(5.0).create([new("orders", 4)])

    assert answers == {"orders": None}
    assert mock.admin(5.0).describe(["orders", "nothing"]) == {
        "orders": TopicInfo("orders", None, 4, 1, {})
    }


def test_on_the_embedded_broker_a_message_makes_its_way_and_its_commit_is_kept(mock):
    mock.admin(5.0).create([new("journey", 4)])
    where = [Partition("journey", index) for index in range(4)]
    answers, records = [], []
    with closing(mock.producer(delivery_timeout=5.0)) as producer:
        producer.send("journey", b"k", b"v", (("a", None),), answers.append)
        producer.flush(5.0)
    consumer = mock.consumer("travellers")
    consumer.subscribe(["journey"], FromTheBeginning())

    begun = time.monotonic()
    while not records:
        assert time.monotonic() - begun < 20
        records += consumer.poll(10, 0.05)
    joined = time.monotonic() - begun
    arrived = Partition("journey", records[0].partition)
    consumer.commit_now({arrived: Committed(1, 0, "map")})
    consumer.close()

    assert isinstance(records[0], Record)
    assert records[0].headers == (("a", None),)
    assert mock.committed("travellers", [arrived], 5.0)[arrived] == Committed(1, 0, "map")
    assert [end for _, end in mock.ends(where, 5.0).values()].count(1) == 1
    assert joined < 2.0


def test_the_embedded_broker_outlives_signals_and_ends_with_close():
    broker = embedded.start()
    admin = connect(broker.bootstrap_servers).admin(5.0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        os.kill(broker._process.pid, number)

    alive = admin.cluster_id()
    broker.close()

    assert alive
    assert broker._process.returncode == 0


def test_the_embedded_broker_ends_with_the_process_that_started_it():
    program = """
        import os
        from kworker.kafka import embedded
        print(embedded.start()._process.pid, flush=True)
        os.kill(os.getpid(), 9)
    """

    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
    )

    deadline = time.monotonic() + 10
    while runs(int(killed.stdout)):
        assert time.monotonic() < deadline, "left behind"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class FromTheBeginning:
    def assigned(self, partitions):
        return dict.fromkeys(partitions, 0)

    def revoked(self, partitions): ...

    def lost(self, partitions): ...
