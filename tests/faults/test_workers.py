"""`--workers N`: processes under one parent, killed one by one, all together, and asked to stop."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import FULL, Lab, Process, Truth, seed, until
from .oracle import Kill
from .test_kill_storm import CONCURRENCY, assert_dead_letters_are_listed_once, send_all

QUIET = ("--log-format", "json")
THREE = (*CONCURRENCY, *QUIET, "--workers", "3")


def started(parent: Process) -> list[int]:
    """The pids of all workers it has started, in that order."""
    lines = [json.loads(one) for one in parent.output.splitlines() if one.startswith("{")]
    ours = [one for one in lines if one["logger"] == "kworker.supervisor"]
    return [one["pid"] for one in ours if one["message"].endswith(" started")]


def there(pid: int) -> bool:
    """Whether it runs; one that nobody has buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def handled(lab: Lab, lines: int, parent: Process) -> None:
    """Wait until so many further phases are in the effects log, or there is no more to do."""
    target = lab.lines() + lines
    until(
        lambda: lab.lines() >= target or lab.settled([lab.env["TOPIC"]]),
        60,
        f"{target} lines in the effects log",
    )
    assert parent.running, "the parent ended by itself"


def kill(lab: Lab, pid: int) -> None:
    """kill -9, remembered for the verdict."""
    lab.kills.append(Kill(pid, time.monotonic()))
    os.kill(pid, signal.SIGKILL)
    until(lambda: not there(pid), 10, f"{pid} is gone")


@pytest.mark.timeout(400)
def test_workers_killed_at_random_are_replaced_and_nothing_is_lost(
    lab: Lab, topic: Callable[..., str]
) -> None:
    messages, kills = (10_000, 24) if FULL else (3_000, 6)
    rng = random.Random(seed())
    lab.env["TOPIC"] = source = topic("workers", partitions=6)
    truth = Truth(lab.bootstrap, source, "workers", **{"linger.ms": 20})
    kinds = send_all(truth, messages, "mixed", rng)
    sent = truth.flush()

    parent = lab.start("storm:app", *THREE)
    for _ in range(kills):
        handled(lab, rng.randrange(messages // kills), parent)
        running = until(lambda: [pid for pid in started(parent) if there(pid)], 60, "a worker runs")
        kill(lab, rng.choice(running))
        lab.note_commits(source)
    until(lambda: len(started(parent)) == 3 + kills, 60, "every killed worker is replaced")
    lab.wait_for_lag_0([source], 120)
    now = [pid for pid in started(parent) if there(pid)]
    parent.signal(signal.SIGTERM)

    assert parent.wait(25) == 0
    assert len(now) == 3
    assert not any(map(there, now))
    assert parent.output.count("signal SIGKILL; a new one starts in") == kills
    assert len(started(parent)) == 3 + kills, "none ended but those that were killed"
    verdict = lab.verdict(sent, handlers=["storm"])
    assert verdict.problems == []
    assert_dead_letters_are_listed_once(lab, kinds)


@pytest.mark.timeout(300)
def test_a_killed_parent_takes_its_workers_along_and_a_new_start_goes_on(
    lab: Lab, topic: Callable[..., str]
) -> None:
    rng = random.Random(seed())
    lab.env["TOPIC"] = source = topic("workers", partitions=6)
    truth = Truth(lab.bootstrap, source, "workers", **{"linger.ms": 20})
    send_all(truth, 3_000, "mixed", rng)
    sent = truth.flush()

    for _ in range(2):
        parent = lab.start("storm:app", *THREE)
        handled(lab, rng.randrange(200, 1500), parent)
        pids = started(parent)
        kill = lab.kill(parent)
        lab.kills += [Kill(pid, kill.at) for pid in pids]
        until(lambda these=pids: not any(map(there, these)), 3, "no worker survives its parent")
        lab.note_commits(source)
        assert len(pids) == 3
    ended = lab.run("storm:app", *THREE, "--drain", timeout=120)

    assert ended.code == 0
    assert lab.lag([source]) == 0
    verdict = lab.verdict(sent, handlers=["storm"])
    assert verdict.problems == []
    assert len({effect.pid for effect in lab.effects()}) > 5, "more than two had their share"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_workers_stopped_three_times_under_load_handle_nothing_twice(
    lab: Lab, topic: Callable[..., str], number: signal.Signals
) -> None:
    rng = random.Random(seed())
    lab.env["TOPIC"] = source = topic("workers", partitions=6)
    truth = Truth(lab.bootstrap, source, "workers", **{"linger.ms": 20})
    send_all(truth, 3_000, "mixed", rng)
    sent = truth.flush()

    for _ in range(3):
        parent = lab.start("storm:app", *THREE)
        handled(lab, rng.randrange(100, 1200), parent)
        parent.signal(number)
        assert parent.wait(25) == 0
        assert not any(map(there, started(parent)))
        lab.note_commits(source)
    ended = lab.run("storm:app", *THREE, "--drain", timeout=120)

    assert ended.code == 0
    assert lab.lag([source]) == 0
    verdict = lab.verdict(sent, handlers=["storm"])
    assert verdict.problems == []
    assert verdict.repeated == []


@pytest.mark.timeout(300)
def test_four_workers_that_share_a_store_have_about_as_many_turns(
    lab: Lab, topic: Callable[..., str]
) -> None:
    messages, partitions = 120_000 if FULL else 40_000, 16
    lab.env["TOPIC"] = source = topic("shared", partitions=partitions)
    truth = Truth(lab.bootstrap, source, "shared", **{"linger.ms": 20})
    # Few in flight, so that who cannot record soon has nothing to do.
    four = ("--workers", "4", "--max-in-flight", "50", *QUIET)

    def all_work() -> bool:
        """A message in each partition, until each worker has had one of the last few."""
        for partition in range(partitions):
            truth.send(None, partition=partition)
        truth.flush()
        time.sleep(0.2)  # the pace of the messages; what is waited for is the answer below
        return len({effect.pid for effect in lab.effects()[-2 * partitions :]}) == 4

    parent = lab.start("quick:app", *four)
    until(all_work, 60, "four workers at work")
    begun = time.monotonic()
    for number in range(messages):
        truth.send(None, partition=number % partitions)
    sent = truth.flush()
    lab.wait_for_lag_0([source], 120)
    parent.signal(signal.SIGTERM)

    assert parent.wait(25) == 0
    effects = [one for one in lab.effects() if one.phase == "end" and one.at > begun]
    last = {one.pid: one.at for one in effects}
    assert len(last) == 4
    together = [one.pid for one in effects if one.at < min(last.values())]
    shares = sorted(Counter(together).values())
    print(f"while all four were at work they handled {shares}")
    assert sum(shares) > messages / 2
    # Turns are what is shared; on a busy machine one turn may hold twice the messages of another.
    assert shares[0] * 3 >= shares[-1]
    assert lab.verdict(sent, handlers=["quick"], ordered=False).repeated == []
