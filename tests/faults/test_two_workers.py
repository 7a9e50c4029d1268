"""Two workers of one group on one host: partitions move between them, messages do not suffer."""

from __future__ import annotations

import random
import signal
from collections import Counter
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
    lab.env["TOPIC"] = source = topic("pair", partitions=8)
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
    lab.env["TOPIC"] = source = topic("rolling", partitions=8)
    truth = Truth(lab.bootstrap, source, "rolling", **{"linger.ms": 20})
    send_all(truth, 3_500, "mixed", rng)
    sent = truth.flush()
    lab.env["PACE"] = "160"  # so that partitions are taken away from handlers at work

    pair = [lab.start("storm:app", *CONCURRENCY) for _ in range(2)]
    for number in range(4):
        until(lambda: all(_at_work(lab, worker) for worker in pair), 60, "both have their share")
        pair[number % 2].signal(signal.SIGTERM)
        assert pair[number % 2].wait(25) == 0
        lab.note_commits(source)
        pair[number % 2] = lab.start("storm:app", *CONCURRENCY)
    lab.wait_for_lag_0([source], 60)

    assert all(worker.running for worker in pair)
    verdict = lab.verdict(sent, handlers=["storm"])
    assert verdict.problems == []
    assert verdict.repeated == []


def test_a_second_worker_takes_its_part_of_the_source_from_one_that_has_all(
    lab: Lab, topic: Callable[..., str]
) -> None:
    messages, partitions = 6_000, 6
    lab.env["TOPIC"] = source = topic("joined", partitions=partitions)
    # As many partitions of copies: dealt out together, the second might get these alone.
    lab.create_topic(f"{lab.group}.retry.1s", partitions, retention_ms=-1)
    truth = Truth(lab.bootstrap, source, "joined", **{"linger.ms": 20})

    pair = [lab.start("quick:app")]
    until(lambda: len(_shared(lab, truth, partitions)) == 1, 30, "one has all")
    pair.append(lab.start("quick:app"))
    until(lambda: len(_shared(lab, truth, partitions)) == 2, 60, "both have their part")
    begun = len(lab.effects())
    for number in range(messages):
        truth.send(None, partition=number % partitions)
    sent = truth.flush()
    lab.wait_for_lag_0([source], 60)
    for worker in pair:
        worker.signal(signal.SIGTERM)

    assert [worker.wait(25) for worker in pair] == [0, 0]
    handled = Counter(one.pid for one in lab.effects()[begun:] if one.phase == "end")
    print(f"they handled {handled}")
    assert sum(handled.values()) == messages
    assert all(handled[worker.pid] >= messages / 3 for worker in pair)
    assert lab.verdict(sent, handlers=["quick"], ordered=False).repeated == []


def _shared(lab: Lab, truth: Truth, partitions: int) -> set[int]:
    """Who handles a message to each partition; without the last ones while they move."""
    before = len(lab.effects())
    for partition in range(partitions):
        truth.send(None, partition=partition)
    truth.flush()
    until(lambda: len(lab.effects()) == before + 2 * partitions, 30, "all are handled")
    return {effect.pid for effect in lab.effects()[before:]}


def _at_work(lab: Lab, worker: Process) -> bool:
    assert worker.running
    return any(effect.pid == worker.pid for effect in lab.effects())


def _progress(lab: Lab, lines: int, workers: list[Process]) -> None:
    """Wait until so many further phases are in the effects log, or there is no more to do."""
    target = lab.lines() + lines
    until(
        lambda: lab.lines() >= target or lab.settled([lab.env["TOPIC"]]),
        60,
        f"{target} lines in the effects log",
    )
    assert all(worker.running for worker in workers), "a worker ended by itself"
