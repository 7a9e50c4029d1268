"""Two workers of one group on one host: partitions move between them, messages do not suffer."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

import pytest

from .harness import FULL, Lab, Process, Truth, seed, until
from .test_kill_storm import CONCURRENCY, assert_dead_letters_are_listed_once, send_all


@pytest.mark.timeout(400)
def test_two_workers_killed_in_turn_lose_nothing_and_repeat_only_what_was_unrecorded(
    lab: Lab, topic: Callable[..., str]
) -> None:
    messages, kills = (10_000, 16) if FULL else (2_500, 4)
    rng = random.Random(seed())
    lab.env["TOPIC"] = source = topic("pair", partitions=6)
    truth = Truth(lab.bootstrap, source, "pair", **{"linger.ms": 20})
    kinds = send_all(truth, messages, "mixed", rng)
    sent = truth.flush()

    pair = [lab.start("storm:app", *CONCURRENCY) for _ in range(2)]
    for number in range(kills):
        _progress(lab, rng.randrange(messages // kills), pair)
        lab.kill(pair[number % 2])
        lab.note_commits(source)
        pair[number % 2] = lab.start("storm:app", *CONCURRENCY)
    lab.wait_for_lag_0([source], 120)
    for worker in pair:
        worker.signal(signal.SIGTERM)

    assert [worker.wait(25) for worker in pair] == [0, 0]
    verdict = lab.verdict(sent, handlers=["storm"])
    assert verdict.problems == []
    assert_dead_letters_are_listed_once(lab, kinds)


def test_a_rolling_restart_of_two_workers_under_load_handles_nothing_twice(
    lab: Lab, topic: Callable[..., str]
) -> None:
    rng = random.Random(seed())
    lab.env["TOPIC"] = source = topic("rolling", partitions=6)
    truth = Truth(lab.bootstrap, source, "rolling", **{"linger.ms": 20})
    send_all(truth, 3_000, "mixed", rng)
    sent = truth.flush()

    pair = [lab.start("storm:app", *CONCURRENCY) for _ in range(2)]
    for number in range(4):
        _progress(lab, rng.randrange(200, 700), pair)
        pair[number % 2].signal(signal.SIGTERM)
        assert pair[number % 2].wait(25) == 0
        lab.note_commits(source)
        pair[number % 2] = lab.start("storm:app", *CONCURRENCY)
    lab.wait_for_lag_0([source], 60)

    assert all(worker.running for worker in pair)
    verdict = lab.verdict(sent, handlers=["storm"])
    assert verdict.problems == []
    assert verdict.repeated == []
    assert len({effect.pid for effect in lab.effects()}) > 2, "more than two had their share"


def _progress(lab: Lab, lines: int, workers: list[Process]) -> None:
    """Wait until so many further phases are in the effects log, or there is no more to do."""
    target = lab.lines() + lines
    until(
        lambda: lab.lines() >= target or lab.settled([lab.env["TOPIC"]]),
        60,
        f"{target} lines in the effects log",
    )
    assert all(worker.running for worker in workers), "a worker ended by itself"
