"""A message that ends every process that handles it becomes a dead letter; its neighbours are
handled."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from .harness import FULL, Lab, Process, Truth, seed, until

CONCURRENCY = ("--concurrency", "4")


def send(truth: Truth, way: str, rng: random.Random, messages: int = 120) -> str:
    """Messages of twenty keys, one of which kills; its id."""
    culprit = rng.randrange(messages // 4, messages // 2)
    for number in range(messages):
        id = truth.send(f"k{rng.randrange(20)}", way if number == culprit else "ok")
        if number == culprit:
            found = id
    return found


def _over(lab: Lab, worker: Process) -> bool:
    return not worker.running or lab.settled([lab.env["TOPIC"]])


def judge(lab: Lab, truth: Truth, culprit: str) -> None:
    (letter,) = lab.dead_letters()
    starts = Counter(one.id for one in lab.effects() if one.phase == "start")
    ended = {one.id for one in lab.effects() if one.phase == "end"}
    lost = {one.id for one in truth.acked} - ended - {culprit}
    print(f"{starts[culprit]} calls of the culprit, lost {len(lost)}")
    assert letter.disposition == "process_killer"
    assert letter.original in {one.place for one in truth.acked if one.id == culprit}
    assert lost == set()
    assert 3 <= starts[culprit] <= 7
    assert len(starts) == len(truth.acked)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("way", ["exit", "segfault", "kill"] if FULL else ["segfault"])
def test_the_processes_of_one_parent_find_out_what_kills_them_and_it_says_so(
    lab: Lab, topic: Callable[..., str], way: str
) -> None:
    lab.env["TOPIC"] = topic("killer", partitions=3)
    truth = Truth(lab.bootstrap, lab.env["TOPIC"], "killer")
    culprit = send(truth, way, random.Random(seed()))
    truth.flush()

    parent = lab.start("killer:app", *CONCURRENCY, "--workers", "2")
    lab.wait_for_lag_0([lab.env["TOPIC"]], 60)
    parent.signal(signal.SIGTERM)

    assert parent.wait(30) == 0
    judge(lab, truth, culprit)
    (place,) = [one.place for one in truth.acked if one.id == culprit]
    assert f"all it handled then was {'/'.join(map(str, place))} for killer" in parent.output


@pytest.mark.timeout(120)
@pytest.mark.parametrize("way", ["exit", "segfault", "kill"] if FULL else ["exit"])
def test_hosts_that_start_it_again_and_again_find_out_what_kills_them(
    lab: Lab, topic: Callable[..., str], way: str
) -> None:
    lab.env["TOPIC"] = topic("killer", partitions=3)
    truth = Truth(lab.bootstrap, lab.env["TOPIC"], "killer")
    culprit = send(truth, way, random.Random(seed()))
    truth.flush()

    ends = []
    for host in range(8):
        db = str(lab.folder / f"host-{host % 3}.db")
        worker = lab.start("killer:app", *CONCURRENCY, "--db", db, "--commit-every", "200ms")
        until(partial(_over, lab, worker), 40, "it ends")
        if worker.running:
            break
        ends.append(worker.wait(1))
    worker.signal(signal.SIGTERM)

    assert worker.wait(30) == 0
    # One among many, up to three windows, each four times the last, that it is not in, and three
    # alone; the last window has all that are left.
    assert 3 <= len(ends) <= 7
    judge(lab, truth, culprit)
