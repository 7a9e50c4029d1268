"""Topics that a regular expression finds, at the start and later, on a real Kafka."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..faults.harness import until
from .stage import Stage, raw, staged

pytestmark = pytest.mark.timeout(150)

OFTEN = ("-X", "topic.metadata.refresh.interval.ms=500")


@pytest.fixture
def stage(kafka: Any, tmp_path: Path) -> Iterator[Stage]:
    with staged(kafka.bootstrap_servers, tmp_path) as made:
        # The expression matches the group's own topics, too, and those of another group.
        made.env["PREFIX"] = made.group
        yield made


def took(stage: Stage, handler: str) -> list[int]:
    told = stage.told(handler=handler)
    return [json.loads(raw(one["raw"]) or b"{}")["n"] for one in told]


def test_a_topic_found_later_is_read_from_its_beginning_and_nobodys_copies_ever(
    stage: Stage,
) -> None:
    first = stage.create_topic(f"{stage.group}.orders.eu", partitions=2)
    others = [
        stage.create_topic(f"{stage.group}.orders.{name}", partitions=1)
        for name in ("other.retry.5s", "other.replay", "other.dlq")
    ]
    stage.send(first, {"n": 1, "fail": True})
    stage.send(first, {"n": 2, "fatal": True})
    for topic in others:
        stage.send(topic, {"n": 100})
    worker = stage.start("patterns:app", "--start-from", "earliest", *OFTEN)
    until(lambda: took(stage, "take").count(2) == 2, 40, "what was there is handled")

    later = stage.create_topic(f"{stage.group}.orders.us", partitions=2)
    stage.send(later, {"n": 3}, partition=0)
    stage.send(later, {"n": 4, "fail": True}, partition=1)
    until(lambda: took(stage, "take").count(4) == 2, 40, "what came later is handled")
    until(lambda: len(stage.letters()) == 1, 20, "the dead letter is there")
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    rest = stage.run("patterns:app", "--drain")

    assert rest.code == 0
    assert sorted(took(stage, "take")) == [1, 1, 2, 2, 3, 4, 4]
    assert sorted(took(stage, "audit")) == [1, 2, 3, 4]
    lag = stage.command(
        "lag", "patterns:app", "--app-dir", str(stage.apps), "-b", stage.bootstrap,
        "-g", stage.group, "--json",
    )  # fmt: skip
    topics = {one["topic"].removeprefix(stage.group) for one in lag.json["partitions"]}
    assert topics == {".orders.eu", ".orders.us", ".retry.1s", ".replay"}
    assert lag.json["total"] == 0


def test_a_topic_that_came_while_a_group_of_latest_was_away_is_read_from_its_beginning(
    stage: Stage,
) -> None:
    first = stage.create_topic(f"{stage.group}.orders.eu", partitions=1)
    stage.send(first, {"n": 1})
    assert stage.run("patterns:app", "--start-from", "latest", "--drain").code == 0
    later = stage.create_topic(f"{stage.group}.orders.us", partitions=1)
    stage.send(later, {"n": 2})

    ended = stage.run("patterns:app", "--start-from", "latest", "--drain")

    assert ended.code == 0
    assert took(stage, "take") == [2]


def test_an_excluded_topic_is_not_found_and_a_chosen_one_alone(stage: Stage) -> None:
    topics = [
        stage.create_topic(f"{stage.group}.orders.{name}", partitions=1) for name in ("eu", "us")
    ]
    for n, topic in enumerate(topics):
        stage.send(topic, {"n": n})

    without = stage.run("patterns:app", "--exclude-topics", topics[0], "--drain")
    first = took(stage, "take")
    alone = stage.run("patterns:app", "--topics", topics[0], "--drain")

    assert (without.code, alone.code) == (0, 0)
    assert first == [1]
    assert took(stage, "take") == [1, 0]
