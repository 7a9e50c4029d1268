"""Static members and the broker's own way of sharing out partitions, on a real Kafka."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..faults.harness import QUICK_MEMBER, Process, until
from ..faults.test_workers import started
from .stage import Stage, raw, staged

pytestmark = pytest.mark.timeout(150)

PATIENT = ("-X", "session.timeout.ms=25000")


@pytest.fixture
def stage(kafka: Any, tmp_path: Path) -> Iterator[Stage]:
    with staged(kafka.bootstrap_servers, tmp_path) as made:
        made.env["ORDERS"] = made.create_topic(f"{made.group}.orders", partitions=4)
        yield made


def assigned(worker: Process, kind: str = ".orders") -> list[set[str]]:
    """What was assigned to a worker of the source, time by time."""
    lines = [json.loads(one) for one in worker.output.splitlines() if one.startswith("{")]
    given = [set(one["partitions"]) for one in lines if "ahead" in one]
    return [found for one in given if (found := {name for name in one if kind in name})]


def copies(worker: Process) -> list[set[str]]:
    """What was assigned to it of the replay topic: that member joins after the sources'."""
    return assigned(worker, ".replay")


def took(stage: Stage) -> Counter[int]:
    return Counter(json.loads(raw(one["raw"]) or b"{}")["n"] for one in stage.told())


def test_a_static_member_that_restarts_gets_the_same_partitions_and_disturbs_nobody(
    stage: Stage,
) -> None:
    a = stage.start("positions:app", "--instance-id", "a", *PATIENT)
    until(lambda: assigned(a), 40, "the first has all")
    b = stage.start("positions:app", "--instance-id", "b", *PATIENT)
    until(lambda: assigned(b) and copies(b), 40, "the second has its share of each kind")
    share, before = assigned(b)[0], b.output.count("partitions assigned")

    a.signal(signal.SIGTERM)
    assert a.wait(30) == 0
    for n in range(8):
        stage.send(stage.env["ORDERS"], {"n": n}, partition=n % 4)
    again = stage.start("positions:app", "--instance-id", "a", *PATIENT)
    until(lambda: len(took(stage)) == 8, 40, "all is handled")

    kept = set().union(*assigned(again))
    assert kept.isdisjoint(share) and len(kept | share) == 4
    assert b.output.count("partitions assigned") == before
    assert took(stage) == Counter(range(8))
    for worker in (again, b):
        worker.signal(signal.SIGTERM)
        assert worker.wait(30) == 0


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_of_two_processes_with_one_instance_id_one_ends_and_says_why(
    stage: Stage, protocol: str
) -> None:
    options = (*_as(stage, protocol), "--instance-id", "a")
    old = stage.start("positions:app", *options)
    until(lambda: assigned(old), 40, "it has joined")

    new = stage.start("positions:app", *options)
    until(lambda: not (old.running and new.running), 40, "one of them ends")

    # The classic protocol keeps the new one, the other the old one.
    ended, other = (old, new) if protocol == "classic" else (new, old)
    assert ended.wait(10) == 6
    assert other.running
    assert "under the same instance_id" in ended.output.splitlines()[-1]


def test_workers_of_one_parent_have_an_instance_id_each(stage: Stage) -> None:
    parent = stage.start("positions:app", "--instance-id", "host", "--workers", "2")
    until(lambda: len(assigned(parent)) >= 2, 60, "both have joined")
    for n in range(8):
        stage.send(stage.env["ORDERS"], {"n": n}, partition=n % 4)
    until(lambda: len(took(stage)) == 8, 40, "all is handled")

    parent.signal(signal.SIGTERM)

    assert parent.wait(40) == 0
    assert took(stage) == Counter(range(8))


def test_a_worker_that_was_killed_waits_for_the_end_of_its_own_session_under_the_same_instance_id(
    stage: Stage,
) -> None:
    options = (*_as(stage, "consumer"), "--instance-id", "host", "--workers", "2")
    parent = stage.start("positions:app", *options)
    until(lambda: len(assigned(parent)) >= 2, 60, "both have joined")
    victim = started(parent)[0]

    os.kill(victim, signal.SIGKILL)
    until(lambda: len(started(parent)) == 3, 20, "another takes its place")
    for n in range(8):
        stage.send(stage.env["ORDERS"], {"n": n}, partition=n % 4)
    until(lambda: len(took(stage)) == 8, 40, "all is handled")

    assert parent.running
    assert "may not have ended yet" in parent.output
    parent.signal(signal.SIGTERM)
    assert parent.wait(40) == 0
    assert took(stage) == Counter(range(8))


def test_a_kill_under_the_consumer_protocol_loses_nothing(stage: Stage) -> None:
    options = _as(stage, "consumer")
    workers = [stage.start("positions:app", *options) for _ in range(2)]
    until(lambda: all(assigned(one) for one in workers), 60, "both have their share")
    for n in range(40):
        stage.send(stage.env["ORDERS"], {"n": n}, partition=n % 4)
        if n == 20:
            stage.kill(workers[0])
            workers[0] = stage.start("positions:app", *options)
    until(lambda: len(took(stage)) == 40, 60, "all is handled")
    stage.wait_for_lag_0([stage.env["ORDERS"]], 30)

    for worker in workers:
        worker.signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    assert set(took(stage)) == set(range(40))
    assert sum(took(stage).values()) <= 41  # what ran at the kill may run again


def _as(stage: Stage, protocol: str) -> tuple[str, ...]:
    """Options for this protocol: with the broker's own the session is the broker's."""
    if protocol == "consumer":
        usual = stage.run_arguments

        def without_session(target: str, *more: str) -> list[str]:
            given = usual(target, *more)
            at = given.index(QUICK_MEMBER[0])
            return given[:at] + given[at + len(QUICK_MEMBER) :]

        stage.run_arguments = without_session  # type: ignore[method-assign]
    return ("--group-protocol", protocol)
