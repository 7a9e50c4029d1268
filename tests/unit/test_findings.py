from __future__ import annotations

import pytest

from kworker import findings
from kworker.errors import TargetError
from kworker.handlers import compile_handler, declarations, handler
from kworker.kafka.api import NewTopic, Rights, TopicInfo
from kworker.kafka.release import release
from kworker.topics import Flaw, GroupTopics, Plan

NAMES = GroupTopics("shop", "{group}.retry.{delay}", "{group}.replay", "{group}.dlq")


def levels(found) -> list[str]:
    return [one.level for one in found]


def topic(replication: int, **configs: str) -> TopicInfo:
    return TopicInfo(
        "orders", "id", 4, replication, {k.replace("_", "."): v for k, v in configs.items()}
    )


def test_every_finding_that_is_not_fine_says_why_and_what_to_do():
    flaw = Flaw("shop.dlq", "retention.ms", "1000", "-1", "copies could be deleted")
    plan = Plan((), (NewTopic("shop.replay", 4, 1, {}),), (flaw,), ("shop.dlq has 1 partition",))
    bad = [
        findings.failed("app", TargetError("there is no module 'x'; did you mean 'y'?"), "no app"),
        findings.sqlite((3, 40, 1)),
        findings.file_system("/mnt", "nfs4", True),
        findings.disk("/", 0),
        findings.open_files(100),
        findings.release("2.4"),
        findings.clock(1000.0, 0.0),
        *findings.hosts("shop.servicebus.windows.net:9093"),
        *findings.plan(plan, creates=False, accepts=False),
        *findings.replication([topic(1, min_insync_replicas="2"), topic(1), topic(3, a="b")]),
        *findings.partitions([topic(3)], workers=8),
    ]

    for one in bad:
        assert one.level != "ok"
        assert one.what
        assert one.why, one
        assert one.do, one
        assert (one.code > 0) == (one.level == "error"), one
    assert findings.worst(bad) == 5


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ((3, 40, 1), "note"),
        ((3, 44, 5), "note"),
        ((3, 44, 6), "ok"),
        ((3, 45, 0), "note"),
        ((3, 50, 6), "note"),
        ((3, 50, 7), "ok"),
        ((3, 51, 2), "note"),
        ((3, 51, 3), "ok"),
        ((3, 53, 0), "ok"),
    ],
)
def test_the_sqlite_versions_with_the_bug_are_told_from_the_mended_ones(version, level):
    assert findings.sqlite(version).level == level


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("shop.servicebus.windows.net:9093", "Azure Event Hubs"),
        ("pkc-1a2b3.europe-west1.gcp.confluent.cloud:9092", "Confluent Cloud"),
        ("b-1.shop.a1b2c3.c4.kafka.eu-central-1.amazonaws.com:9096", "Amazon MSK"),
        ("boot-x.c1.kafka-serverless.us-east-1.amazonaws.com:9098", "Amazon MSK"),
        ("seed-1.abc.fmc.prd.cloud.redpanda.com:9092", "Redpanda"),
        ("one:9092,kafka-shop.aivencloud.com:1234", "Aiven"),
    ],
)
def test_services_are_recognised_by_their_hosts(address, name):
    [found] = findings.hosts(address)

    assert found.what == f"this is {name}"
    assert found.code == 0


def test_an_ordinary_host_is_no_service():
    assert list(findings.hosts("localhost:9092,kafka.example.com:9092")) == []


def test_missing_rights_are_named_and_end_with_4():
    everything = frozenset({"READ", "WRITE", "DESCRIBE"})
    told = Rights(
        {
            "orders": frozenset({"DESCRIBE"}),
            "shop.retry.5s": frozenset({"READ"}),
            "shop.dlq": frozenset({"WRITE"}),
        },
        frozenset(),
        frozenset(),
    )

    lacking = [one.what for one in findings.rights(told, NAMES, creates=True)]
    whole = Rights(dict.fromkeys(told.topics, everything), everything, frozenset({"CREATE"}))

    assert lacking == [
        "this user lacks READ on topic orders",
        "this user lacks WRITE on topic shop.retry.5s",
        "this user lacks READ on group shop",
        "this user lacks CREATE on the cluster (create_topics = missing)",
    ]
    assert findings.worst(findings.rights(told, NAMES, creates=False)) == 4
    assert levels(findings.rights(whole, NAMES, creates=True)) == ["ok"]
    assert levels(findings.rights(None, NAMES, creates=True)) == ["ok"]


def test_topics_that_a_worker_would_create_or_accept_are_no_errors():
    flaw = Flaw("shop.dlq", "retention.ms", "1000", "-1", "copies could be deleted")
    plan = Plan((), (NewTopic("shop.replay", 4, 1, {}),), (flaw,))

    assert levels(findings.plan(plan, creates=False, accepts=False)) == ["error", "error"]
    assert levels(findings.plan(plan, creates=True, accepts=True)) == ["note", "warning"]


def test_replicas_are_judged_by_what_would_be_lost():
    safe = topic(3, min_insync_replicas="2", unclean_leader_election_enable="false")

    assert levels(findings.replication([safe, topic(1)])) == []  # the second is not told
    assert levels(findings.replication([topic(3, min_insync_replicas="1")])) == ["warning"]
    assert levels(findings.replication([topic(2, min_insync_replicas="3")])) == ["error"]
    unclean = topic(3, min_insync_replicas="2", unclean_leader_election_enable="true")
    assert levels(findings.replication([unclean])) == ["warning"]


def test_a_handler_new_to_a_live_group_is_told_where_it_starts():
    @handler("orders", name="charge")
    def charge(order: dict) -> None: ...

    @handler("orders", name="mail", aliases=["notify"])
    def mail(order: dict) -> None: ...

    both = [compile_handler(declarations(one)[-1]) for one in (charge, mail)]

    [new] = findings.newcomers(both, {"charge"}, {"orders": True})

    assert new.what.startswith("mail is new to this group")
    assert new.why.startswith("it starts at the group's committed offset")
    assert list(findings.newcomers(both, {"charge", "notify"}, {"orders": True})) == []
    assert list(findings.newcomers(both, set(), {"orders": False})) == []


@pytest.mark.parametrize(
    ("announced", "expected"),
    [
        ({}, None),
        ({0: 3}, None),
        ({18: 2}, None),
        ({18: 3, 28: 2}, "2.4"),
        ({18: 3, 28: 3}, "2.5"),
        ({18: 4, 28: 4, 60: 1, 65: 0, 71: 0}, "3.7"),
        ({68: 1, 71: 0, 80: 0}, "4.0"),
        ({68: 1, 90: 0}, "4.1"),
    ],
)
def test_a_broker_is_as_new_as_what_it_understands(announced, expected):
    assert release(announced) == expected


def test_a_message_from_the_future_shows_that_a_clock_is_wrong():
    assert findings.clock(None, 1000.0).level == "ok"
    assert findings.clock(1003.0, 1000.0).level == "ok"
    assert "3m ahead" in findings.clock(1180.0, 1000.0).what
