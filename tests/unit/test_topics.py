"""Names of a group's topics, and what is planned for them; the cluster is a dictionary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kworker import topics
from kworker.errors import HandlerError, SettingsError, TopicsMissing
from kworker.kafka.api import NewTopic, TopicInfo
from kworker.topics import GroupTopics

DEFAULTS = ("{group}.retry.{delay}", "{group}.replay", "{group}.dlq")
DAY = 86_400_000


def shop(group: str = "shop") -> GroupTopics:
    return GroupTopics(group, *DEFAULTS)


class Cluster:
    """Topics in a dictionary. `late` configs are what a broker gives a topic it makes."""

    def __init__(self, *given: TopicInfo, refuse: str | None = None) -> None:
        self.known = {info.name: info for info in given}
        self.refuse = refuse
        self.made: list[NewTopic] = []

    def describe(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        return {name: self.known[name] for name in names if name in self.known}

    def create(self, new: Iterable[NewTopic]) -> dict[str, str | None]:
        wanted = list(new)
        if self.refuse is not None:
            return {one.name: self.refuse for one in wanted}
        self.made += wanted
        for one in wanted:
            configs = {"max.message.bytes": "1048588", "min.insync.replicas": "1", **one.configs}
            self.known.setdefault(
                one.name,
                TopicInfo(one.name, None, one.partitions, max(1, one.replication), configs),
            )
        return {one.name: None for one in wanted}


def source(name: str = "orders", partitions: int = 4, replication: int = 1, **configs: str):
    told = {"max.message.bytes": "1048588", "min.insync.replicas": "1"}
    told |= {key.replace("_", "."): value for key, value in configs.items()}
    return TopicInfo(name, "id", partitions, replication, told)


def ensure(cluster: Cluster, delays: tuple[float, ...] = (), **how: bool) -> topics.Plan:
    how = {"create": True, **how}
    return topics.ensure(["orders"], delays, shop(), cluster, **how)  # type: ignore[arg-type]


def test_a_group_names_its_topics_by_its_templates() -> None:
    names = shop()

    assert (names.replay, names.dlq) == ("shop.replay", "shop.dlq")
    assert [names.retry(delay) for delay in (60, 90, 0.25)] == [
        "shop.retry.1m",
        "shop.retry.90s",
        "shop.retry.250ms",
    ]


@given(st.integers(min_value=1, max_value=10**10))
def test_every_delay_is_read_back_from_its_topic(milliseconds: int) -> None:
    names = shop()

    assert names.delay_of(names.retry(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    "name",
    [
        "shop.retry.60s",
        "shop.retry.0s",
        "shop.retry.",
        "shop.retry.x",
        "shop.retry.1m.dlq",
        "shop.retry.01m",
        "shop.retry.\N{FULLWIDTH DIGIT ONE}m",
        "other.retry.1m",
        "shop.dlq",
        "orders",
    ],
)
def test_what_no_retry_would_write_to_is_no_retry_topic(name: str) -> None:
    assert shop().delay_of(name) is None


def test_a_group_owns_its_topics_alone() -> None:
    names = shop()

    owned = ["shop.replay", "shop.dlq", "shop.retry.1m"]
    assert all(map(names.owns, owned))
    assert not any(map(names.owns, ["orders", "shop.orders", "shop2.dlq"]))


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ("my group", "'my group.retry."),
        ("büro", "'büro.retry."),
        ("g" * 245, "249"),
        ("{delay}", "'{delay}.retry."),
        ("../etc", "'../etc.retry."),
    ],
)
def test_a_group_that_makes_no_legal_topic_is_refused(group: str, says: str) -> None:
    with pytest.raises(SettingsError) as refused:
        shop(group)

    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("templates", "says"),
    [
        (("{group}.retry", "{group}.replay", "{group}.dlq"), "{delay} once"),
        (("{group}.{delay}.{delay}", "{group}.replay", "{group}.dlq"), "{delay} once"),
        (("{group}{delay}", "{group}.replay", "{group}.dlq"), "set apart"),
        (("{group}.retry1{delay}", "{group}.replay", "{group}.dlq"), "set apart"),
        (("{group}.retry.{delay}", "replay", "{group}.dlq"), "replay_topic = 'replay' lacks"),
        (("{group}.retry.{delay}", "{group}.replay", "all.dlq"), "dlq_topic = 'all.dlq' lacks"),
        (("{group}.retry.{delay}", "{group}.x", "{group}.x"), "the same to Kafka"),
        (("{group}.retry.{delay}", "{group}.x", "{group}_x"), "the same to Kafka"),
        (("{group}.{delay}", "{group}.1m", "{group}.dlq"), "taken for a retry topic"),
        (("{group}.{delay}", "{group}.replay", "{group}_5s"), "taken for a retry topic"),
        (("{group}.{delay}.{what}", "{group}.replay", "{group}.dlq"), "may hold only"),
    ],
)
def test_templates_that_cannot_keep_topics_apart_are_refused(
    templates: tuple[str, str, str], says: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        GroupTopics("shop", *templates)

    assert says in str(refused.value)


def test_missing_topics_are_like_the_widest_and_safest_of_the_sources() -> None:
    cluster = Cluster(
        source("orders", 6, 2, min_insync_replicas="1", max_message_bytes="2000000"),
        source("mails", 3, 3, min_insync_replicas="2"),
    )

    plan = topics.plan(["orders", "mails"], [5, 86_400], shop(), cluster)  # type: ignore[arg-type]

    copies = {
        "cleanup.policy": "delete",
        "retention.bytes": "-1",
        "max.message.bytes": str(2_000_000 + 65_536),
        "min.insync.replicas": "2",
    }
    assert plan.create == tuple(
        NewTopic(name, 6, 3, {**copies, "retention.ms": str(retention)})
        for name, retention in (
            ("shop.retry.5s", 7 * DAY + 10_000),
            ("shop.retry.1d", 9 * DAY),
            ("shop.replay", 7 * DAY),
            ("shop.dlq", -1),
        )
    )
    assert not plan.worse


def test_topics_made_by_us_are_found_to_be_as_needed() -> None:
    cluster = Cluster(source())

    ensure(cluster, (5,))
    again = topics.plan(["orders"], [5], shop(), cluster)  # type: ignore[arg-type]

    assert [one.name for one in cluster.made] == ["shop.retry.5s", "shop.replay", "shop.dlq"]
    assert again == topics.Plan()


@pytest.mark.parametrize(
    ("name", "config", "value"),
    [
        ("shop.dlq", "retention.ms", "604800000"),
        ("shop.retry.5s", "retention.ms", "604800000"),
        ("shop.replay", "retention.ms", "60000"),
        ("shop.dlq", "retention.bytes", "1000000000"),
        ("shop.dlq", "max.message.bytes", "1048588"),
        ("shop.dlq", "cleanup.policy", "compact"),
        ("shop.replay", "cleanup.policy", "compact,delete"),
        ("shop.retry.5s", "min.insync.replicas", "1"),
    ],
)
def test_a_topic_that_breaks_a_promise_is_refused_by_name(
    name: str, config: str, value: str
) -> None:
    cluster = Cluster(source(min_insync_replicas="2"))
    ensure(cluster, (5,))
    good = cluster.known[name]
    cluster.known[name] = replace(good, configs={**good.configs, config: value})

    with pytest.raises(TopicsMissing) as refused:
        ensure(cluster, (5,))
    accepted = ensure(cluster, (5,), accept=True)

    assert f"{name}: {config} is {value}" in str(refused.value)
    assert [(flaw.topic, flaw.config) for flaw in accepted.worse] == [(name, config)]


def test_fewer_replicas_than_the_sources_have_are_refused() -> None:
    cluster = Cluster(source(replication=3))
    ensure(cluster)
    cluster.known["shop.dlq"] = replace(cluster.known["shop.dlq"], replication=1)

    with pytest.raises(TopicsMissing) as refused:
        ensure(cluster)

    assert "shop.dlq: replication factor is 1 and needs to be 3" in str(refused.value)


def test_fewer_partitions_than_the_sources_have_are_only_worth_a_note() -> None:
    cluster = Cluster(source(partitions=8))
    ensure(cluster)
    cluster.known["shop.replay"] = replace(cluster.known["shop.replay"], partitions=1)

    plan = ensure(cluster)

    assert len(plan.notes) == 1
    assert "shop.replay has 1 of 8 partitions" in plan.notes[0]


def test_a_topic_that_is_better_than_needed_is_left_alone() -> None:
    cluster = Cluster(source())
    ensure(cluster, (5,))
    for name in ("shop.retry.5s", "shop.replay"):
        good = cluster.known[name]
        better = {"retention.ms": "-1", "max.message.bytes": "9999999", "min.insync.replicas": "2"}
        cluster.known[name] = replace(
            good, partitions=64, replication=3, configs={**good.configs, **better}
        )

    assert ensure(cluster, (5,)) == topics.Plan()


def test_missing_topics_stop_a_start_that_may_not_create_them() -> None:
    cluster = Cluster(source())

    with pytest.raises(TopicsMissing) as refused:
        ensure(cluster, (5,), create=False)

    told = str(refused.value)
    assert "shop.retry.5s, shop.replay, shop.dlq" in told
    assert "kworker topics apply TARGET --execute" in told
    assert not cluster.made


def test_a_missing_source_is_named_and_not_created() -> None:
    cluster = Cluster()

    with pytest.raises(TopicsMissing) as refused:
        ensure(cluster)

    assert "topic orders that handlers take does not exist" in str(refused.value)
    assert not cluster.made


def test_sources_that_may_be_created_come_first_and_are_what_the_rest_is_made_like() -> None:
    cluster = Cluster()

    plan = ensure(cluster, create_sources=True)

    assert [one.name for one in plan.missing] == ["orders", "shop.replay", "shop.dlq"]
    assert cluster.known["orders"].partitions == 4
    assert cluster.known["shop.dlq"].configs["max.message.bytes"] == str(1_048_588 + 65_536)


def test_where_the_broker_tells_no_configurations_only_existence_is_looked_at() -> None:
    cluster = Cluster(
        *(TopicInfo(name, None, 1, 1, {}) for name in ("shop.replay", "shop.dlq")),
        TopicInfo("orders", None, 1, 3, {}),
    )

    assert ensure(cluster) == topics.Plan()


def test_a_handler_of_the_groups_own_topics_is_refused() -> None:
    with pytest.raises(HandlerError) as refused:
        topics.plan(["shop.dlq"], [], shop(), Cluster())  # type: ignore[arg-type]

    assert "'shop.dlq'" in str(refused.value)


def test_a_topic_that_the_broker_will_not_create_is_told_with_its_reason() -> None:
    cluster = Cluster(source(), refuse="not authorised")

    with pytest.raises(TopicsMissing) as refused:
        ensure(cluster)

    assert "shop.dlq: not authorised" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "internal"),
    [
        ("__consumer_offsets", True), ("other.retry.5s", True), ("other.retry.250ms", True),
        ("a.b.replay", True), ("x.dlq", True), ("dead-other", True), ("orders", False),
        ("orders.retry", False), ("orders.retry.soon", False), ("replay", False),
        ("my.dlq.orders", False), ("deadly", False),
    ],
)  # fmt: skip
def test_no_pattern_takes_what_is_kafkas_own_or_somebodys_copies(name: str, internal: bool) -> None:
    names = GroupTopics("shop", "{group}.retry.{delay}", "{group}.replay", "dead-{group}")

    assert names.internal(name) is internal
