"""A cluster starts, suffers what it is told to, and keeps what it acknowledged."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource
from kworker_broker import BrokerFailed, Cluster, client, ports


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster.start() as cluster:
        yield cluster


def send(cluster: Cluster, topic: str, values: list[bytes]) -> None:
    """Send values and wait until every one is acknowledged."""
    errors = []
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers, "acks": "all"})
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(30) == 0
    assert errors == [None] * len(values)


def read(cluster: Cluster, topic: str, count: int) -> list[bytes]:
    """The first `count` values of partition 0."""
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap_servers, "group.id": "reader"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages = consumer.consume(count, timeout=30)
    consumer.close()
    assert all(message.error() is None for message in messages)
    return [message.value() for message in messages]


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


def answers(cluster: Cluster) -> bool:
    """Whether a new client gets an answer within a second."""
    try:
        AdminClient(
            {"bootstrap.servers": cluster.bootstrap_servers, "error_cb": lambda _: None}
        ).list_topics(timeout=1)
    except KafkaException:
        return False
    return True


def test_a_cluster_answers_as_soon_as_it_is_started():
    began = time.monotonic()

    with Cluster.start() as cluster:
        took = time.monotonic() - began
        seen = AdminClient({"bootstrap.servers": cluster.bootstrap_servers}).list_topics(timeout=2)

    assert set(seen.brokers) == {1}
    assert took < 15  # two on an idle machine


def test_a_closed_cluster_answers_nobody_and_leaves_nothing(cluster):
    node, folder = cluster.nodes[0], cluster.folder

    cluster.close()
    cluster.close()

    assert node.pid is None
    assert not folder.exists()
    assert not answers(cluster)


def test_two_clusters_are_strangers(cluster):
    with Cluster.start() as other:
        ids = {
            AdminClient({"bootstrap.servers": each.bootstrap_servers})
            .list_topics(timeout=5)
            .cluster_id
            for each in (cluster, other)
        }

    assert len(ids) == 2


def test_what_was_acknowledged_is_there_after_kill_and_restart(cluster, topic):
    orders = topic("orders", partitions=1, on=cluster)
    send(cluster, orders, [b"a", b"b"])
    before = cluster.nodes[0].pid

    cluster.nodes[0].kill()
    cluster.nodes[0].restart()

    assert cluster.nodes[0].pid != before
    assert read(cluster, orders, 2) == [b"a", b"b"]


def test_a_terminated_node_comes_back_at_its_address(cluster, topic):
    orders = topic("orders", partitions=1, on=cluster)
    send(cluster, orders, [b"a"])

    cluster.nodes[0].terminate()
    assert not answers(cluster)
    cluster.nodes[0].restart()

    assert read(cluster, orders, 1) == [b"a"]


def test_a_stopped_node_answers_nobody_until_it_is_resumed(cluster):
    cluster.nodes[0].stop()
    assert not answers(cluster)

    cluster.nodes[0].resume()

    assert eventually(lambda: answers(cluster))


def test_a_node_that_does_not_run_cannot_be_stopped(cluster):
    cluster.nodes[0].kill()

    with pytest.raises(BrokerFailed, match="node 1 does not run"):
        cluster.nodes[0].stop()


def test_server_properties_reach_the_broker():
    with Cluster.start(message_max_bytes=54321, **{"log.cleaner.enable": False}) as cluster:
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
        resource = ConfigResource(ConfigResource.Type.BROKER, "1")
        configs = admin.describe_configs([resource])[resource].result(timeout=10)

    assert configs["message.max.bytes"].value == "54321"
    assert configs["log.cleaner.enable"].value == "false"


def test_a_property_that_start_owns_is_refused_by_name():
    with pytest.raises(ValueError, match=r"advertised\.listeners"):
        Cluster.start(advertised_listeners="PLAINTEXT://elsewhere:9092")


def test_a_property_that_kafka_refuses_is_told_in_one_line():
    with pytest.raises(BrokerFailed, match="node 1 ended with 1 before it listens") as refusal:
        Cluster.start(message_max_bytes="plenty")

    assert "message.max.bytes" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_port_that_somebody_took_meanwhile_is_given_up_for_another(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        taken, choose = somebody.getsockname()[1], ports.free
        answers_of_free = iter([[taken, *choose(1)], [*choose(1), taken], choose(2)])
        monkeypatch.setattr(ports, "free", lambda count: next(answers_of_free))

        with Cluster.start() as cluster:
            assert answers(cluster)


def test_a_topic_has_the_configs_it_was_given(kafka, topic):
    name = topic("orders", partitions=2, retention_ms=60_000)

    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    configs = admin.describe_configs([resource])[resource].result(timeout=10)

    assert len(admin.list_topics(name, timeout=5).topics[name].partitions) == 2
    assert configs["retention.ms"].value == "60000"


def test_a_topic_that_cannot_be_created_is_told(kafka):
    with pytest.raises(BrokerFailed, match="topic no/slash could not be created"):
        client.create_topic(kafka.bootstrap_servers, "no/slash", partitions=1, configs={})


def test_three_nodes_go_on_without_one_and_hold_still_without_two(own_kafka, topic):
    cluster = own_kafka(nodes=3)
    orders = topic("orders", partitions=1, on=cluster)
    send(cluster, orders, [b"with three"])

    cluster.nodes[0].kill()
    send(cluster, orders, [b"with two"])
    cluster.nodes[1].kill()
    cluster.nodes[0].restart(wait=False)
    cluster.nodes[1].restart(wait=False)
    cluster.wait_until_ready()

    assert read(cluster, orders, 2) == [b"with three", b"with two"]
