"""What `kworker topics` does on a real Kafka."""

from __future__ import annotations

import subprocess
from typing import Any

from kworker_broker import client

from kworker.kafka.api import TopicInfo

DAY = 86_400_000


def described(shop: Any) -> dict[str, TopicInfo]:
    names = [name for name in shop.cluster.admin().topics() if name.startswith(f"{shop.group}.")]
    return {name.removeprefix(shop.group): info for name, info in _describe(shop, names).items()}


def _describe(shop: Any, names: list[str]) -> dict[str, TopicInfo]:
    return shop.cluster.admin().describe(names)  # type: ignore[no-any-return]


def test_a_plan_names_what_is_missing_and_changes_nothing(shop: Any) -> None:
    plan = shop.run("topics", "plan", "shop:app", "--json")

    assert plan.code == 10
    assert plan.document["schema"] == "kworker.topics.plan/1"
    changes = {one["topic"].removeprefix(shop.group): one for one in plan.document["changes"]}
    assert list(changes) == [".retry.1s", ".replay", ".dlq"]
    assert {one["change"] for one in changes.values()} == {"create"}
    assert changes[".dlq"]["partitions"] == 3
    assert changes[".dlq"]["configs"]["retention.ms"] == "-1"
    assert described(shop) == {}


def test_a_plan_is_a_table_on_a_terminal(shop: Any) -> None:
    drawn = shop.on_a_terminal("topics", "plan", "shop:app", columns=60)

    assert f"{shop.group}.retry.1s" in drawn
    assert "Traceback" not in drawn


def test_a_worker_whose_store_cannot_be_used_creates_no_topics(shop: Any) -> None:
    (shop.folder / "store").mkdir()

    done = shop.run("run", "shop:app", "--create-topics", "missing", "--db", "store")

    assert done.code == 5, done.err
    assert described(shop) == {}


def test_applying_says_what_it_would_do_until_told_to_execute(shop: Any) -> None:
    told = shop.run("topics", "apply", "shop:app")

    assert told.code == 0
    assert f"{shop.group}.dlq" in told.out
    assert "3 topics would be created; add --execute" in told.err
    assert described(shop) == {}


def test_topics_are_made_as_planned_and_then_nothing_is_left_to_do(shop: Any) -> None:
    made = shop.run("topics", "apply", "shop:app", "--execute")
    again = shop.run("topics", "apply", "shop:app", "--execute")
    plan = shop.run("topics", "plan", "shop:app", "--json")

    assert made.code == 0, made.err
    assert made.out.splitlines() == [
        f"created {shop.group}{name}" for name in (".retry.1s", ".replay", ".dlq")
    ]
    found = described(shop)
    source = _describe(shop, [shop.source])[shop.source]
    limit = int(source.configs["max.message.bytes"])
    assert {name: info.partitions for name, info in found.items()} == {
        ".retry.1s": 3,
        ".replay": 3,
        ".dlq": 3,
    }
    for info in found.values():
        assert info.configs["cleanup.policy"] == "delete"
        assert int(info.configs["max.message.bytes"]) == limit + 65_536
        assert info.configs["min.insync.replicas"] == source.configs["min.insync.replicas"]
    assert found[".retry.1s"].configs["retention.ms"] == str(7 * DAY + 2000)
    assert found[".replay"].configs["retention.ms"] == str(7 * DAY)
    assert found[".dlq"].configs["retention.ms"] == "-1"
    assert (again.code, again.out) == (0, "")
    assert (plan.code, plan.document["changes"]) == (0, [])


def test_a_topic_that_is_worse_is_refused_by_name_or_accepted(shop: Any) -> None:
    client.create_topic(
        shop.servers,
        f"{shop.group}.dlq",
        partitions=1,
        configs={"retention.ms": "60000", "cleanup.policy": "compact"},
    )

    plan = shop.run("topics", "plan", "shop:app", "--json")
    refused = shop.run("topics", "apply", "shop:app", "--execute")
    unmade = described(shop)
    accepted = shop.run("topics", "apply", "shop:app", "--accept-topics", "--execute")

    assert plan.code == 3
    altered = [one for one in plan.document["changes"] if one["change"] == "alter"]
    assert [(one["config"], one["found"], one["needed"]) for one in altered][:2] == [
        ("cleanup.policy", "compact", "delete"),
        ("retention.ms", "60000", "-1"),
    ]
    assert refused.code == 3
    assert f"{shop.group}.dlq: retention.ms is 60000 and needs to be -1" in refused.err
    assert list(unmade) == [".dlq"]
    assert accepted.code == 0
    assert "accepted although worse than needed" in accepted.err
    assert "1 of 3 partitions" in accepted.err
    assert described(shop)[".dlq"].configs["retention.ms"] == "60000"
    assert len(described(shop)) == 3


def test_a_missing_source_is_named_and_made_only_on_demand(shop: Any) -> None:
    client.delete_topics(shop.servers, [shop.source])

    refused = shop.run("topics", "apply", "shop:app", "--execute")
    made = shop.run("topics", "apply", "shop:app", "--create-sources", "--execute")

    assert refused.code == 3
    assert shop.source in refused.err
    assert "--create-sources" in refused.err
    assert made.code == 0, made.err
    assert shop.cluster.admin().topics()[shop.source] == 4
    assert shop.run("topics", "plan", "shop:app").code == 0


def test_workers_that_race_to_make_topics_all_succeed(shop: Any) -> None:
    racing = [
        subprocess.Popen(
            shop.command("topics", "apply", "shop:app", "--execute"),
            cwd=shop.folder,
            env=shop.environ(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]

    ended = [(one.communicate(timeout=60)[1], one.returncode) for one in racing]

    assert [code for _, code in ended] == [0, 0, 0], ended
    assert shop.run("topics", "plan", "shop:app").code == 0


def test_a_kafka_that_does_not_answer_is_told_and_exit_4(shop: Any) -> None:
    shop = type(shop)(shop.folder, "127.0.0.1:1", shop.group, shop.source)

    told = shop.run("topics", "plan", "shop:app", "--connect-timeout", "1s")

    assert told.code == 4
    assert "Traceback" not in told.err
    assert told.err.splitlines()[-1].startswith("kworker: error: ")
    assert "127.0.0.1:1" in told.err
