"""Asked to stop under load, a worker finishes what runs and leaves nothing to be repeated."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import pytest

from .harness import Lab, Truth, seed, until
from .test_kill_storm import CONCURRENCY, send_all


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_worker_stopped_three_times_under_load_handles_nothing_twice(
    lab: Lab, topic: Callable[..., str], number: signal.Signals
) -> None:
    rng = random.Random(seed())
    lab.env["TOPIC"] = source = topic("stopped")
    truth = Truth(lab.bootstrap, source, "stopped", **{"linger.ms": 20})
    send_all(truth, 2_000, "mixed", rng)
    sent = truth.flush()

    for _ in range(3):
        worker = lab.start("storm:app", *CONCURRENCY)
        lab.wait_for_lines(lab.lines() + rng.randrange(100, 800), 30)
        worker.signal(number)
        assert worker.wait(25) == 0
        lab.note_commits(source)
    ended = lab.run("storm:app", *CONCURRENCY, "--drain")

    assert ended.code == 0
    assert lab.lag([source]) == 0
    verdict = lab.verdict(sent, handlers=["storm"])
    assert verdict.problems == []
    assert verdict.repeated == []


def test_a_stop_is_not_held_up_by_copies_that_are_not_due(
    lab: Lab, topic: Callable[..., str]
) -> None:
    lab.env["TOPIC"] = source = topic("stopped")
    lab.env["DELAYS"] = "1h"
    truth = Truth(lab.bootstrap, source, "stopped")
    truth.send("k", "always")
    truth.flush()
    worker = lab.start("storm:app", *CONCURRENCY)
    until(lambda: lab.retries(), 20, "the copy is written")

    worker.signal(signal.SIGTERM)
    asked = time.monotonic()

    assert worker.wait(25) == 0
    assert time.monotonic() - asked < 5


def test_a_handler_longer_than_the_shutdown_timeout_ends_with_1_and_its_message_comes_again(
    lab: Lab, topic: Callable[..., str]
) -> None:
    lab.env["TOPIC"] = source = topic("stopped", partitions=2)
    truth = Truth(lab.bootstrap, source, "stopped")
    napping = truth.send("long", "nap", seconds=30, partition=0)
    quick = truth.send("short", partition=1)
    sent = truth.flush()
    worker = lab.start("storm:app", *CONCURRENCY, "--shutdown-timeout", "1s")
    until(lambda: {(e.id, e.phase) for e in lab.effects()} >= {(napping, "start"), (quick, "end")},
          30, "one message is handled, the other is being handled")  # fmt: skip

    worker.signal(signal.SIGTERM)
    asked = time.monotonic()

    assert worker.wait(25) == 1
    assert time.monotonic() - asked < 6
    assert lab.committed([source])[source, 0] == 0
    assert [message.id for message in sent if message.place[1] == 0] == [napping]
    again = lab.start("storm:app", *CONCURRENCY)
    until(
        lambda: (
            [e.pid for e in lab.effects() if e.id == napping and e.phase == "start"][1:]
            == [again.pid]
        ),
        30,
        "the message is handled again",
    )
    assert [e.phase for e in lab.effects() if e.id == quick] == ["start", "end"]


def test_a_second_int_ends_at_once_with_1(lab: Lab, topic: Callable[..., str]) -> None:
    lab.env["TOPIC"] = topic("stopped")
    truth = Truth(lab.bootstrap, lab.env["TOPIC"], "stopped")
    truth.send("long", "nap", seconds=30)
    truth.flush()
    worker = lab.start("storm:app", *CONCURRENCY)
    until(lambda: lab.lines() == 1, 30, "the handler runs")

    worker.signal(signal.SIGINT)
    worker.wait_for("Ctrl-C again", 5)
    assert worker.running
    worker.signal(signal.SIGINT)

    assert worker.wait(2) == 1
