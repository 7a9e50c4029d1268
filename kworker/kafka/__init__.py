"""The only room that knows confluent_kafka. `connect` is its door, `api` its promise."""

from __future__ import annotations

from collections.abc import Mapping

from .admin import is_embedded
from .config import Config
from .connection import Kafka

__all__ = ["Kafka", "connect", "is_embedded"]


def connect(
    bootstrap_servers: str,
    *,
    common: Mapping[str, str] | None = None,
    consumer: Mapping[str, str] | None = None,
    producer: Mapping[str, str] | None = None,
    client_id: str = "kworker",
    group_protocol: str = "classic",
    instance_id: str | None = None,
) -> Kafka:
    """The cluster at this address. Asks nobody anything yet: `admin().cluster_id()` does.

    `common`, `consumer` and `producer` are librdkafka's properties as the user gave them.
    `group_protocol` and `instance_id` are for members of groups; with an instance id, which no
    other process of the group has, a member that ends keeps its partitions for a while.
    Raises SettingsError for those that kworker owns or that would send secrets in the clear.
    """
    config = Config(
        bootstrap_servers,
        common=common or {},
        consumer=consumer or {},
        producer=producer or {},
        client_id=client_id,
        group_protocol=group_protocol,
        instance_id=instance_id,
    )
    return Kafka(config)
