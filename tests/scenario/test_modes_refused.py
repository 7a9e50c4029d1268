"""What a mode of delivery cannot keep its promise with is refused at start, with the reason."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kworker.kafka import embedded

from ..faults import harness
from ..faults.harness import Finished
from .stage import Stage, staged

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def stage(kafka: Any, tmp_path: Path) -> Iterator[Stage]:
    with staged(kafka.bootstrap_servers, tmp_path) as made:
        topic = made.create_topic(f"{made.group}.in", partitions=2)
        made.env |= {"TOPIC": topic, "OUT": made.create_topic(f"{made.group}.out"), "MODE": ""}
        yield made


def refused(ended: Finished, reason: str) -> None:
    assert ended.code == 3
    [line] = ended.said
    assert reason in line


@pytest.mark.parametrize("mode", ["exactly_once", "at_most_once"])
def test_a_handler_with_a_transaction_needs_at_least_once(stage: Stage, mode: str) -> None:
    ended = stage.run("shared:app", env={"MODE": mode})

    refused(ended, f"delivery={mode}: shared.write takes a Transaction")


@pytest.mark.parametrize("mode", ["exactly_once", "at_most_once"])
def test_a_unique_group_has_nothing_to_promise(stage: Stage, mode: str) -> None:
    stage.apps = harness.APPS

    ended = stage.run("copier:app", "--group", "auto", env={"MODE": mode})

    refused(ended, "a unique group commits nothing")


def test_the_embedded_broker_has_no_transactions(stage: Stage) -> None:
    stage.apps = harness.APPS
    with embedded.start() as broker:
        ended = stage.run(
            "copier:app", "-b", broker.bootstrap_servers, env={"MODE": "exactly_once"}
        )

    refused(ended, "the embedded broker has no transactions")


def test_a_group_has_one_mode(stage: Stage) -> None:
    stage.apps = harness.APPS
    first = stage.start("copier:app", env={"MODE": "exactly_once"})
    first.wait_for("partitions assigned", 40)

    ended = stage.run("copier:app", env={"MODE": "at_least_once"})
    first.signal(signal.SIGTERM)

    refused(ended, "has a member with exactly_once")
    assert first.wait(30) == 0
