"""From what was typed to a cluster and to the topics of an app's group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .. import devbroker, settings
from ..errors import StoreError, TopicsMissing, UsageError
from ..message import Partition
from ..names import did_you_mean

if TYPE_CHECKING:
    from ..app import App
    from ..handlers import Register
    from ..kafka import Kafka
    from ..stores.tools import View
    from ..topics import GroupTopics
    from . import options

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


def partitions_of(kafka: Kafka, topics: Iterable[str]) -> list[Partition]:
    """All partitions of these topics. Raises TopicsMissing for one that does not exist."""
    known = kafka.admin().topics()
    found = []
    for topic in topics:
        if topic not in known:
            raise TopicsMissing(
                f"topic {topic!r} does not exist at {kafka.bootstrap_servers}; check the name "
                f"and -b{did_you_mean(topic, known)}"
            )
        found += [Partition(topic, index) for index in range(known[topic])]
    return found


def served(kafka: Kafka, register: Register, topics: GroupTopics) -> list[Partition]:
    """All partitions that a group reads: of its handlers' topics, and of those of its retry
    and replay topics that exist. Raises TopicsMissing for a source that does not exist."""
    known = kafka.admin().topics()
    register.find(known, topics.internal)
    owned = sorted(name for name in known if topics.owns(name))
    return partitions_of(kafka, [*register.topics, *(name for name in owned if name != topics.dlq)])


def store_of(group: str, configuration: settings.Configuration) -> Path:
    """The file of the group's store on this host. Every start of `kworker dev` is a new
    cluster, so the stores of its broker are kept apart."""
    from ..stores import default_path

    if configuration.values["db"] is not None:
        return Path(configuration.values["db"])
    if configuration.origins["bootstrap_servers"] == str(devbroker.FILE):
        return devbroker.STORES / f"{group}.db"
    return default_path(group)


@contextmanager
def view(given: options.Given) -> Iterator[tuple[Path, View, settings.Configuration]]:
    """The store that is meant: its file, opened to be looked at. Raises UsageError where
    nothing says which, StoreError for what is no store, or another group's."""
    from ..stores.tools import View

    if given.target is not None:
        app, configuration = given.load()
        group = configuration.values["group"] or app.name
        if group == settings.UNIQUE:
            group = app.name
    else:
        configuration = given.configuration()
        group = configuration.values["group"] or ""
        if not group and configuration.values["db"] is None:
            raise UsageError("which store? Say it by TARGET, by --group or by its file, --db")
    path = store_of(group, configuration)
    with closing(View(path)) as found:
        if group and group != found.group:
            raise StoreError(
                f"{path}: belongs to group {found.group!r}, not to {group!r}; name another file "
                "with --db"
            )
        yield path, found, configuration


def refuse_unique(configuration: settings.Configuration) -> None:
    """For commands about positions: a unique group has none in Kafka. Raises UsageError."""
    if configuration.values["group"] == settings.UNIQUE:
        raise UsageError(
            "a unique group commits nothing, so nobody can see or move how far it is; name "
            "another with --group"
        )


def topics_of(app: App, configuration: settings.Configuration) -> GroupTopics:
    """The topics of the app's group. Raises SettingsError where they make no legal names."""
    from ..topics import GroupTopics

    values = configuration.values
    return GroupTopics(
        app.name if values["group"] == settings.UNIQUE else values["group"] or app.name,
        values["retry_topic"],
        values["replay_topic"],
        values["dlq_topic"],
    )
