"""From what was typed to a cluster and to the topics of an app's group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import settings

if TYPE_CHECKING:
    from ..app import App
    from ..kafka import Kafka
    from ..topics import GroupTopics

TEMPLATES = ("retry_topic", "replay_topic", "dlq_topic")  # settings that name a group's topics


def connect(configuration: settings.Configuration) -> Kafka:
    """The cluster that the settings name, once it has answered.

    Raises KafkaUnavailable when it has not within `connect_timeout`, SettingsError for a
    property that is refused.
    """
    from .. import kafka

    found = kafka.connect(
        configuration.values["bootstrap_servers"],
        common=configuration.kafka,
        consumer=configuration.kafka_consumer,
        producer=configuration.kafka_producer,
        client_id="kworker-command",
    )
    found.admin(configuration.values["connect_timeout"]).cluster_id()
    return found


def topics_of(app: App, configuration: settings.Configuration) -> GroupTopics:
    """The topics of the app's group. Raises SettingsError where they make no legal names."""
    from ..topics import GroupTopics

    values = configuration.values
    return GroupTopics(
        values["group"] or app.name,
        values["retry_topic"],
        values["replay_topic"],
        values["dlq_topic"],
    )
