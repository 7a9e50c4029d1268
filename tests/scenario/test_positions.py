"""Where a group begins, and what it does when its position is lost, on a real Kafka."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from ..faults.harness import Process, classes, until
from .stage import Stage, staged

pytestmark = pytest.mark.timeout(150)

OFTEN = ("-X", "topic.metadata.refresh.interval.ms=500")


@pytest.fixture
def stage(kafka: Any, tmp_path: Path) -> Iterator[Stage]:
    with staged(kafka.bootstrap_servers, tmp_path) as made:
        made.env["ORDERS"] = f"{made.group}.orders"
        yield made


def orders(stage: Stage, partitions: int = 2) -> str:
    return stage.create_topic(stage.env["ORDERS"], partitions=partitions, retention_ms=-1)


def seen(stage: Stage) -> list[int]:
    """The numbers of the messages, in the order in which they were handled."""
    import base64
    import json

    return [json.loads(base64.b64decode(one["raw"]))["n"] for one in stage.told()]


def stopped(worker: Process) -> int:
    worker.signal(signal.SIGTERM)
    return worker.wait(30)


def cut(stage: Stage, topic: str, partition: int, begin: int) -> None:
    """Retention: what stands below is gone."""
    place = TopicPartition(topic, partition, begin)
    stage.admin().delete_records([place])[place].result(10)


@pytest.mark.parametrize("written", ["iso", "ago"])
def test_a_group_without_offsets_begins_at_a_point_in_time_and_keeps_to_it(
    stage: Stage, written: str
) -> None:
    topic = orders(stage)
    now = time.time()
    for n, hours in enumerate((5, 3, 1)):
        stage.send(topic, {"n": n}, partition=0, timestamp=now - hours * 3600)
        stage.send(topic, {"n": n + 10}, partition=1, timestamp=now - (hours - 0.5) * 3600)
    wanted = datetime.fromtimestamp(now - 4 * 3600, UTC).isoformat() if written == "iso" else "-4h"
    told = stage.command(
        "lag", "positions:app", "--app-dir", str(stage.apps), "-b", stage.bootstrap,
        "-g", stage.group, "--json", "--start-from", wanted,
        env={"KWORKER_CREATE_TOPICS": "missing"},
    )  # fmt: skip

    first = stage.run("positions:app", "--start-from", wanted, "--drain")
    second = stage.run("positions:app", "--start-from", "earliest", "--drain")

    assert (first.code, second.code) == (0, 0)
    assert sorted(seen(stage)) == [1, 2, 11, 12]
    assert "4 messages ahead" in first.err
    assert told.code == 0 and told.json["total"] == 4


def test_a_start_is_committed_so_that_what_comes_while_the_worker_is_away_is_not_passed_over(
    stage: Stage,
) -> None:
    topic = orders(stage)
    stage.send(topic, {"n": 1})
    worker = stage.start("positions:app", "--start-from", "latest")
    until(lambda: len(stage.committed([topic])) == 2, 30, "its starts are committed")
    stage.kill(worker)

    stage.send(topic, {"n": 2})
    again = stage.start("positions:app", "--start-from", "latest")
    until(lambda: seen(stage), 40, "something is handled")

    assert stopped(again) == 0
    assert seen(stage) == [2]


def test_latest_reads_partitions_that_are_added_while_it_runs_and_while_it_is_away(
    stage: Stage,
) -> None:
    topic = orders(stage, partitions=1)
    stage.send(topic, {"n": 1})
    worker = stage.start("positions:app", "--start-from", "latest", *OFTEN)
    until(lambda: stage.committed([topic]), 30, "its start is committed")

    stage.admin().create_partitions([classes.NewPartitions(topic, 2)])[topic].result(10)
    until(lambda: stage.topics()[topic] == 2, 10, "it is there")
    stage.send(topic, {"n": 2}, partition=1)
    until(lambda: seen(stage) == [2], 30, "the added partition is read")
    assert stopped(worker) == 0
    stage.admin().create_partitions([classes.NewPartitions(topic, 3)])[topic].result(10)
    until(lambda: stage.topics()[topic] == 3, 10, "it is there")
    stage.send(topic, {"n": 3}, partition=2)
    again = stage.run("positions:app", "--start-from", "latest", "--drain")

    assert again.code == 0
    assert seen(stage) == [2, 3]


@pytest.mark.parametrize("policy", ["earliest", "stop"])
def test_retention_that_overran_a_stopped_group_is_told_and_resolved_by_policy(
    stage: Stage, policy: str
) -> None:
    topic = orders(stage, partitions=1)
    for n in range(3):
        stage.send(topic, {"n": n})
    assert stage.run("positions:app", "--drain").code == 0
    for n in range(3, 10):
        stage.send(topic, {"n": n})
    cut(stage, topic, 0, 8)

    ended = stage.run("positions:app", "--on-lost-position", policy, "--drain")

    if policy == "earliest":
        assert ended.code == 0
        assert seen(stage) == [0, 1, 2, 8, 9]
        assert "offset 3 no longer exists; 5 messages are gone" in ended.err
    else:
        assert ended.code == 6
        assert seen(stage) == [0, 1, 2]
        assert "5 messages are gone" in ended.said[-1]
        assert "--on-lost-position earliest" in ended.said[-1]
        assert stage.committed([topic]) == {(topic, 0): 3}


@pytest.mark.parametrize("policy", ["earliest", "stop"])
def test_a_topic_made_anew_under_a_running_worker_is_noticed_by_its_id(
    stage: Stage, policy: str
) -> None:
    topic = orders(stage, partitions=1)
    for n in range(3):
        stage.send(topic, {"n": n})
    # The client itself does not look, so it goes on in the new log as if it were the old one.
    worker = stage.start(
        "positions:app", "--on-lost-position", policy, "-X",
        "topic.metadata.refresh.interval.ms=2000",
    )  # fmt: skip
    until(lambda: seen(stage) == [0, 1, 2], 30, "it is at work")
    stage.admin().delete_topics([topic])[topic].result(10)
    until(lambda: topic not in stage.topics(), 10, "it is gone")

    orders(stage, partitions=1)
    for n in range(10, 16):
        stage.send(topic, {"n": n})

    if policy == "earliest":
        until(lambda: set(seen(stage)) >= set(range(10, 16)), 40, "the new log is read whole")
        assert stopped(worker) == 0
    else:
        assert worker.wait(40) == 6
        assert "no longer exists" in worker.output.splitlines()[-1]
