"""What properties a client gets, and which are refused."""

from __future__ import annotations

import logging

import pytest

from kworker.errors import SettingsError
from kworker.kafka import connect
from kworker.kafka.config import Config


def config(common=None, consumer=None, producer=None) -> Config:
    return Config(
        "localhost:9092",
        common=common or {},
        consumer=consumer or {},
        producer=producer or {},
        client_id="kworker-shop-host-0",
    )


OWNED = [
    "acks",
    "auto.commit.enable",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "plugin.library.paths",
    "request.required.acks",
    "transactional.id",
]


@pytest.mark.parametrize("name", OWNED)
@pytest.mark.parametrize("place", ["common", "consumer", "producer"])
def test_a_property_that_would_break_a_promise_is_refused_by_name_with_the_reason(name, place):
    with pytest.raises(SettingsError) as refused:
        config(**{place: {name: "hunter2"}})

    assert f"'{name}' is refused: " in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert len(str(refused.value)) > len(f"Kafka property '{name}' is refused: ") + 10


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sasl.jaas.config", "sasl.username and sasl.password"),
        ("ssl.truststore.location", "ssl.ca.location"),
        ("max.request.size", "message.max.bytes"),
    ],
)
def test_a_name_of_javas_client_is_translated(name, hint):
    with pytest.raises(SettingsError, match="Java") as refused:
        config(common={name: "secret"})

    assert hint in str(refused.value)
    assert "secret" not in str(refused.value)


def test_more_in_flight_than_keeps_the_order_is_refused():
    assert config(producer={"max.in.flight": "5"}).producer(5.0)
    for value in ("6", "0", "many"):
        with pytest.raises(SettingsError, match="1 to 5"):
            config(producer={"max.in.flight": value})


def test_the_users_properties_come_over_the_defaults_and_its_own_kind_over_the_common():
    given = config(
        {"fetch.wait.max.ms": "1", "linger.ms": "1"},
        {"fetch.wait.max.ms": "2"},
        {"queue.buffering.max.ms": "3", "compression.codec": "zstd"},
    )

    assert given.consumer("shop")["fetch.wait.max.ms"] == "2"
    assert given.producer(5.0)["linger.ms"] == "3"
    assert given.producer(5.0)["compression.type"] == "zstd"
    assert "queue.buffering.max.ms" not in given.producer(5.0)


def test_the_defaults_keep_the_promises():
    consumer, producer = config().consumer("shop"), config().producer(2.5)

    assert (consumer["group.id"], consumer["client.id"]) == ("shop", "kworker-shop-host-0")
    assert consumer["enable.auto.commit"] is False
    assert consumer["auto.offset.reset"] == "error"
    assert consumer["isolation.level"] == "read_committed"
    assert consumer["partition.assignment.strategy"] == "cooperative-sticky"
    assert (producer["acks"], producer["enable.idempotence"]) == ("all", True)
    assert producer["partitioner"] == "murmur2_random"
    assert producer["message.timeout.ms"] == 2500


def test_a_shorter_session_beats_faster_unless_told_otherwise():
    short = {"session.timeout.ms": "3000"}

    assert config(short).consumer("shop")["heartbeat.interval.ms"] == 500
    told = config({**short, "heartbeat.interval.ms": "900"}).consumer("shop")
    assert told["heartbeat.interval.ms"] == "900"


def test_credentials_travel_over_tls_unless_another_way_is_asked_for_by_name(caplog):
    credentials = {"sasl.username": "app", "sasl.password": "hunter2", "sasl.mechanism": "PLAIN"}

    assert config(credentials).admin()["security.protocol"] == "sasl_ssl"
    for protocol in ("plaintext", "SSL"):
        with pytest.raises(SettingsError, match="SASL_SSL") as refused:
            config({**credentials, "security.protocol": protocol})
        assert "hunter2" not in str(refused.value)
    with caplog.at_level(logging.WARNING):
        config({**credentials, "security.protocol": "SASL_PLAINTEXT"})
    assert "without TLS" in caplog.text


def test_a_certificate_means_tls():
    assert config({"ssl.ca.location": "ca.pem"}).admin()["security.protocol"] == "ssl"
    with pytest.raises(SettingsError, match="=SSL"):
        config({"ssl.ca.location": "ca.pem", "security.protocol": "plaintext"})


def test_switching_verification_off_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        config({"security.protocol": "ssl", "enable.ssl.certificate.verification": "false"})

    assert "not verified" in caplog.text


def test_no_address_is_refused():
    with pytest.raises(SettingsError, match="-b"):
        connect(" ")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sesion.timeout.ms": "hunter2"}, "did you mean 'session.timeout.ms'"),
        ({"nonsense": "hunter2"}, "unknown Kafka property 'nonsense'"),
        ({"session.timeout.ms": "hunter2"}, "'session.timeout.ms' has a value"),
        ({"security.protocol": "hunter2"}, "'security.protocol' has a value"),
        ({"session.timeout.ms": "400000"}, "max.poll.interval.ms"),
        ({"security.protocol": "ssl", "ssl.ca.location": "/hunter2/none.pem"}, "ssl.ca.location"),
    ],
)
def test_what_the_client_refuses_is_told_by_name_and_never_with_its_value(given, says):
    with pytest.raises(SettingsError) as refused:
        connect("localhost:1", common=given).consumer("shop")

    assert says in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None
