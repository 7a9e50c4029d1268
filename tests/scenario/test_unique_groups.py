"""Workers that each get every message, on a real Kafka."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..faults.harness import Process, until
from .stage import Stage, raw, staged

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
def stage(kafka: Any, tmp_path: Path) -> Iterator[Stage]:
    with staged(kafka.bootstrap_servers, tmp_path) as made:
        usual = made.run_arguments

        def in_no_group(target: str, *more: str) -> list[str]:
            given = usual(target, *more)
            for flag in ("-g", "--db"):
                at = given.index(flag)
                del given[at : at + 2]
            return given

        made.run_arguments = in_no_group  # type: ignore[method-assign]
        made.env |= {
            "APP": made.group,
            "ORDERS": made.create_topic(f"{made.group}.orders", partitions=2),
        }
        yield made


def took(stage: Stage, name: str) -> list[int]:
    return sorted(json.loads(raw(one["raw"]) or b"{}")["n"] for one in stage.told(handler=name))


def joined(worker: Process) -> None:
    worker.wait_for("partitions assigned", 40)


def test_each_worker_gets_every_message_from_now_on_and_leaves_nothing_behind(
    stage: Stage,
) -> None:
    topic = stage.env["ORDERS"]
    stage.send(topic, {"n": 0})
    a, b = (stage.start("unique:app", env={"NAME": name}) for name in ("a", "b"))
    joined(a)
    joined(b)

    for n in range(1, 5):
        stage.send(topic, {"n": n, "fail": n == 1, "fatal": n == 2}, partition=n % 2)
    until(lambda: len(took(stage, "a")) == len(took(stage, "b")) == 6, 40, "both have all")
    until(lambda: len(stage.letters()) == 2, 20, "both have given up on one")
    stage.kill(a)
    stage.send(topic, {"n": 5})
    again = stage.start("unique:app", env={"NAME": "again"})
    joined(again)
    stage.send(topic, {"n": 6})
    until(lambda: took(stage, "again") and len(took(stage, "b")) == 8, 40, "the last one, too")

    for worker in (b, again):
        worker.signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    assert took(stage, "a") == [1, 1, 2, 2, 3, 4]
    assert took(stage, "b") == [1, 1, 2, 2, 3, 4, 5, 6]
    assert took(stage, "again") == [6]
    assert {name.removeprefix(stage.group) for name in stage.topics() if stage.group in name} == {
        ".orders", ".dlq",
    }  # fmt: skip
    assert stage.committed([topic]) == {}
    assert not (stage.folder / ".kworker").exists()


def test_any_app_may_be_given_a_group_of_its_own_a_worker(stage: Stage) -> None:
    stage.env["RETURNS"] = stage.env["ORDERS"]
    worker = stage.start("several:app", "--group", "auto")
    joined(worker)

    stage.send(stage.env["ORDERS"], {"n": 1})
    until(lambda: took(stage, "charge") == [1], 40, "it is handled")
    worker.signal(signal.SIGTERM)

    assert worker.wait(30) == 0
