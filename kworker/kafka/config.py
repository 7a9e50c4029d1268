"""Our settings as librdkafka's properties: defaults, what the user adds, what is refused.

The only place where milliseconds exist.
"""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Mapping
from typing import Any

from ..errors import SettingsError

log = logging.getLogger("kworker.kafka")

_COMMON: dict[str, Any] = {
    "socket.keepalive.enable": True,
    "topic.metadata.refresh.interval.ms": 60_000,
}

_CONSUMER: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "check.crcs": True,
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": 30_000,
    "max.poll.interval.ms": 120_000,
    "queued.max.messages.kbytes": 16_384,
    "queued.min.messages": 1_000,
    "fetch.queue.backoff.ms": 10,
    "fetch.message.max.bytes": 1 << 20,
    "fetch.max.bytes": 16 << 20,
    "receive.message.max.bytes": 64 << 20,
    "fetch.wait.max.ms": 100,
    "allow.auto.create.topics": False,
}

# What the broker decides where it assigns the partitions itself (KIP-848).
_BROKERS_NOW = ("partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms")

_BESIDE: dict[str, Any] = {
    "queued.max.messages.kbytes": 1_024,
    "queued.min.messages": 100,
    "fetch.max.bytes": 1 << 20,
}

_PRODUCER: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    "partitioner": "murmur2_random",
    "compression.type": "lz4",
    "linger.ms": 5,
    "queue.buffering.max.messages": 50_000,
    "queue.buffering.max.kbytes": 65_536,
    "topic.metadata.propagation.max.ms": 4_000,
    # The topic's limit decides, and the broker knows it; below its 100 MiB request limit.
    "message.max.bytes": 32 << 20,
}

_ALIASES = {
    "auto.commit.enable": "enable.auto.commit",
    "compression.codec": "compression.type",
    "delivery.timeout.ms": "message.timeout.ms",
    "fetch.wait.max": "fetch.wait.max.ms",
    "max.in.flight": "max.in.flight.requests.per.connection",
    "max.partition.fetch.bytes": "fetch.message.max.bytes",
    "message.send.max.retries": "retries",
    "metadata.broker.list": "bootstrap.servers",
    "queue.buffering.max.ms": "linger.ms",
    "request.required.acks": "acks",
    "sasl.mechanism": "sasl.mechanisms",
}

_OWNED = {
    "acks": "a message counts as sent when all in-sync replicas have it",
    "auto.offset.reset": "a lost position would be skipped in silence; "
    "use --start-from and --on-lost-position",
    "bootstrap.servers": "the address is a setting of its own; use -b/--bootstrap-servers",
    "delivery.report.only.error": "every message sent is answered",
    "enable.auto.commit": "only settled messages are committed, so that none is lost",
    "enable.auto.offset.store": "only settled messages are committed, so that none is lost",
    "enable.idempotence": "a retried send would be written twice or out of order",
    "enable.partition.eof": "the ends of partitions are read in another way",
    "enable.sasl.oauthbearer.unsecure.jwt": "unsigned tokens prove nothing",
    "group.id": "the group is a setting of its own; use -g/--group",
    "group.instance.id": "it is a setting of its own; use --instance-id",
    "group.protocol": "it is a setting of its own; use --group-protocol",
    "group.remote.assignor": "the way partitions are handed over is kworker's",
    "isolation.level": "messages of aborted transactions would be handled",
    "message.timeout.ms": "how long a send may take is a setting of its own; "
    "publishers use publish_wait",
    "offset.store.method": "only settled messages are committed, so that none is lost",
    "partition.assignment.strategy": "the way partitions are handed over is kworker's",
    "partitioner": "a key would go to another partition than Java's clients send it to",
    "plugin.library.paths": "it loads foreign code into the process",
    "sasl.kerberos.kinit.cmd": "it runs a shell command",
    "ssl.engine.location": "it loads foreign code into the process",
    "transactional.id": "two processes with one id would fence each other",
}

_JAVA = {
    "buffer.memory": "queue.buffering.max.kbytes",
    "default.api.timeout.ms": "socket.timeout.ms",
    "fetch.max.wait.ms": "fetch.wait.max.ms",
    "interceptor.classes": "nothing: a plugin's hooks (`kworker plugins`)",
    "key.deserializer": "nothing: the handler's annotation decides",
    "key.serializer": "nothing: the value's type decides",
    "max.block.ms": "nothing: the publisher's publish_wait",
    "max.poll.records": "nothing: kworker bounds what is in flight",
    "max.request.size": "message.max.bytes",
    "metric.reporters": "nothing: a plugin's hooks (`kworker plugins`)",
    "partitioner.class": "nothing: a key goes where Java's clients send it",
    "receive.buffer.bytes": "socket.receive.buffer.bytes",
    "sasl.client.callback.handler.class": "sasl.oauthbearer.method",
    "sasl.jaas.config": "sasl.username and sasl.password",
    "sasl.login.callback.handler.class": "sasl.oauthbearer.method",
    "send.buffer.bytes": "socket.send.buffer.bytes",
    "ssl.enabled.protocols": "nothing: OpenSSL agrees on the newest",
    "ssl.keystore.certificate.chain": "ssl.certificate.pem",
    "ssl.keystore.key": "ssl.key.pem",
    "ssl.keystore.type": "ssl.certificate.location and ssl.key.location",
    "ssl.protocol": "nothing: OpenSSL agrees on the newest",
    "ssl.truststore.certificates": "ssl.ca.pem",
    "ssl.truststore.location": "ssl.ca.location (PEM)",
    "ssl.truststore.password": "ssl.ca.location (PEM)",
    "ssl.truststore.type": "ssl.ca.location (PEM)",
    "value.deserializer": "nothing: the handler's annotation decides",
    "value.serializer": "nothing: the value's type decides",
}

_NOTHING = "nothing: "

_CREDENTIALS = (
    "sasl.mechanisms",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.password",
    "sasl.username",
)

_IN_FLIGHT = "max.in.flight.requests.per.connection"


class Config:
    """What the user gave, checked, and the properties of each kind of client made of it.

    User properties come over the defaults, and those for one kind of client over the common
    ones. Raises SettingsError for properties that would break a promise; unknown ones are
    found by the client itself when it is made (`refused`).
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        common: Mapping[str, str],
        consumer: Mapping[str, str],
        producer: Mapping[str, str],
        client_id: str,
        group_protocol: str = "classic",
        instance_id: str | None = None,
    ) -> None:
        if not bootstrap_servers.strip():
            raise SettingsError("no address of a Kafka broker; give one with -b HOST:PORT")
        self.bootstrap_servers = bootstrap_servers.strip()
        self.client_id = client_id
        self._common = _secured(_checked(common))
        self._consumer = _checked(consumer)
        self._producer = _checked(producer)
        self._next_protocol = group_protocol == "consumer"
        self._instance_id = instance_id
        if self._next_protocol:
            for name in _BROKERS_NOW:
                if name in self._common or name in self._consumer:
                    raise SettingsError(
                        f"Kafka property '{name}' is refused: with group_protocol=consumer it is "
                        "a setting of the broker's"
                    )

    @property
    def static(self) -> bool:
        """Whether the group keeps a member's partitions for it when it ends."""
        return self._instance_id is not None

    @property
    def longest_silence(self) -> float:
        """Seconds: `max.poll.interval.ms` for members, as far as it is a number."""
        given = self.member("")["max.poll.interval.ms"]
        try:
            return int(given) / 1000
        except ValueError:
            return math.inf  # the client will refuse it

    def consumer(self, group: str) -> dict[str, Any]:
        """For one that asks in the name of the group and does not join it."""
        return self._consuming(group, {})

    def member(self, group: str) -> dict[str, Any]:
        """For a member of the group."""
        return self._joining(self.consumer(group), "")

    def beside(self, group: str) -> dict[str, Any]:
        """For a second member in the process, one that has little to read."""
        name = {"client.id": f"{self.client_id}-copies"}
        return self._joining({**self._consuming(group, _BESIDE), **name}, "-copies")

    def _joining(self, properties: dict[str, Any], suffix: str) -> dict[str, Any]:
        if self._instance_id is not None:
            properties["group.instance.id"] = f"{self._instance_id}{suffix}"
        if self._next_protocol:
            properties["group.protocol"] = "consumer"
            for name in _BROKERS_NOW:
                properties.pop(name, None)
        return properties

    def _consuming(self, group: str, more: Mapping[str, Any]) -> dict[str, Any]:
        given = {**self._common, **self._consumer}
        properties = {**self._base(), **_CONSUMER, **more, **given, "group.id": group}
        if "session.timeout.ms" in given and "heartbeat.interval.ms" not in given:
            # A shorter session needs more heartbeats, else one late answer ends it.
            properties["heartbeat.interval.ms"] = _heartbeat(given["session.timeout.ms"])
        return properties

    def reader(self) -> dict[str, Any]:
        """For a consumer that is assigned its partitions by hand and commits nothing."""
        return {
            **self.consumer("kworker-reader"),
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }

    def producer(self, delivery_timeout: float | None) -> dict[str, Any]:
        """For a producer whose messages are given up after that many seconds; None: never."""
        properties = {**self._base(), **_PRODUCER, **self._common, **self._producer}
        patience = 0 if delivery_timeout is None else max(10, round(delivery_timeout * 1000))
        return {**properties, "message.timeout.ms": patience}

    def transactions(self, id: str, timeout: float, socket: float) -> dict[str, Any]:
        """For a producer of transactions under that id, of so many seconds at most."""
        ours = {
            "transactional.id": id,
            "transaction.timeout.ms": round(timeout * 1000),
            "socket.timeout.ms": round(socket * 1000),
            # Each transaction with positions waits for it once: 20 ms instead of 110.
            "retry.backoff.ms": 10,
        }
        return {**self.producer(timeout), **ours}

    def admin(self) -> dict[str, Any]:
        """For an admin client."""
        return {**self._base(), **self._common}

    @property
    def common_names(self) -> frozenset[str]:
        """Properties given for all clients, of which a kind may know only some."""
        return frozenset(self._common)

    def refused(self, words: str) -> SettingsError:
        """The client's own refusal of a property, without any value that was given."""
        unknown = re.search(r'No such configuration property: "([^"]*)"', words)
        if unknown:
            return SettingsError(_unknown(unknown[1]))
        malformed = re.search(r'Invalid value .*for configuration property "([^"]*)"', words)
        if malformed:
            return SettingsError(
                f"Kafka property '{malformed[1]}' has a value that the client cannot take"
            )
        text = words.strip().removeprefix("Failed to create consumer: ")
        text = text.removeprefix("Failed to create producer: ")
        for properties in (self._common, self._consumer, self._producer):
            for name, value in properties.items():
                if len(value) > 3 and not value.isdigit() and value not in name:
                    text = text.replace(value, "…")
        return SettingsError(f"the Kafka client refuses its properties: {text}")

    def _base(self) -> dict[str, Any]:
        return {
            **_COMMON,
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": self.client_id,
        }


def _checked(given: Mapping[str, str]) -> dict[str, str]:
    """The properties by their first names. Raises SettingsError for what is refused."""
    checked = {}
    for written, value in given.items():
        name = _ALIASES.get(written.strip(), written.strip())
        if name in _OWNED:
            way_out = "" if "; " in _OWNED[name] else "; leave it out"
            raise SettingsError(f"Kafka property '{written}' is refused: {_OWNED[name]}{way_out}")
        if name in _JAVA:
            meant = _JAVA[name]
            found, nothing, why = meant.partition(_NOTHING)
            way_out = f"leave it out: {why}" if nothing and not found else f"here use {meant}"
            raise SettingsError(f"Kafka property '{written}' belongs to Java's client; {way_out}")
        if name.endswith("_cb") or name in ("logger", "on_delivery", "default.topic.config"):
            raise SettingsError(f"Kafka property '{written}' is refused: it is not a text")
        if name == _IN_FLIGHT and not (value.strip().isdigit() and 0 < int(value) <= 5):
            raise SettingsError(
                f"Kafka property '{written}' is refused: above 5, a retried send would be "
                "written twice or out of order; give 1 to 5"
            )
        checked[name] = value
    return checked


def _secured(common: dict[str, str]) -> dict[str, str]:
    """With TLS wherever something secret would travel, unless the user named another way."""
    protocol = common.get("security.protocol", "").strip().lower()
    credentials = sorted(name for name in _CREDENTIALS if name in common)
    tls = sorted(name for name in common if name.startswith("ssl."))
    if not protocol:
        if credentials:
            return {**common, "security.protocol": "sasl_ssl"}
        return {**common, "security.protocol": "ssl"} if tls else common
    if credentials and protocol in ("plaintext", "ssl"):
        raise SettingsError(
            f"Kafka property '{credentials[0]}' has no effect with security.protocol={protocol}; "
            "set security.protocol=SASL_SSL"
        )
    if tls and protocol in ("plaintext", "sasl_plaintext"):
        raise SettingsError(
            f"Kafka property '{tls[0]}' has no effect with security.protocol={protocol}; "
            f"set security.protocol={'SASL_SSL' if credentials else 'SSL'}"
        )
    if protocol == "sasl_plaintext":
        log.warning("credentials are sent to Kafka without TLS (security.protocol=SASL_PLAINTEXT)")
    if common.get("enable.ssl.certificate.verification", "true").strip().lower() == "false":
        log.warning("the certificates of the Kafka brokers are not verified")
    return common


def _heartbeat(session: str) -> int:
    try:
        return max(1, min(3_000, int(session) // 6))
    except ValueError:
        return 3_000  # the client will refuse the session's value


def _unknown(name: str) -> str:
    known = {*_COMMON, *_CONSUMER, *_PRODUCER, *_ALIASES, *_OWNED, *_CREDENTIALS}
    known |= {"security.protocol", "ssl.ca.location", "debug", "heartbeat.interval.ms"}
    close = difflib.get_close_matches(name, known, 1, 0.75)
    meant = f"; did you mean '{close[0]}'?" if close else ""
    return f"unknown Kafka property '{name}'{meant or '; see the properties of librdkafka'}"
