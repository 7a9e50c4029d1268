"""kill -9 under at_most_once: no call is begun twice, and what was lost is counted."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from .harness import FULL, Lab, Process, Truth, seed

AT_ONCE = 8
RUN = ("--concurrency", str(AT_ONCE), "--log-format", "json")


def lost_in(workers: list[Process]) -> int:
    """How many messages the workers say are lost."""
    return sum(
        line["lost"] for line in told(workers) if "begun and not finished" in line["message"]
    )


def told(workers: list[Process]) -> Iterator[dict[str, object]]:
    for worker in workers:
        for line in worker.output.splitlines():
            if line.startswith("{"):
                yield json.loads(line)


def counts(lab: Lab, ids: set[str]) -> tuple[int, int, int]:
    """How many calls were begun twice, how many messages were never begun, and how many were
    begun and never ended."""
    starts = Counter(effect.id for effect in lab.effects() if effect.phase == "start")
    ended = {effect.id for effect in lab.effects() if effect.phase != "start"}
    twice = sum(count - 1 for count in starts.values())
    return twice, len(ids - starts.keys()), len(starts.keys() - ended)


@pytest.fixture
def source(lab: Lab, topic: Callable[..., str]) -> str:
    lab.env |= {"MODE": "at_most_once", "TOPIC": topic("in", partitions=4), "OUT": topic("out")}
    return lab.env["TOPIC"]


@pytest.mark.timeout(600)
def test_no_message_is_begun_twice_and_what_kill_9_cost_is_counted(lab: Lab, source: str) -> None:
    messages, kills = (10_000, 25) if FULL else (600, 2)
    rng = random.Random(seed())
    truth = Truth(lab.bootstrap, source, "amo", **{"linger.ms": 20})
    ids = {
        truth.send(f"k{rng.randrange(40)}", header_id=rng.random() < 0.5) for _ in range(messages)
    }
    truth.flush()

    for number in range(kills):
        worker = lab.start("copier:app", *RUN)
        share = (number + rng.random()) / kills * 1.6 * messages
        lab.wait_for_lines(max(lab.lines() + rng.randrange(20, 100), round(share)), 60)
        assert worker.running, f"worker {number} ended by itself"
        lab.kill(worker)
    last = lab.start("copier:app", *RUN, "--drain")
    code = last.wait(120)

    twice, never, broken_off = counts(lab, ids)
    lost = lost_in(lab.processes)
    print(
        f"at most once: sent {len(ids)}, kills {kills}, twice {twice}, never begun {never}, "
        f"broken off {broken_off}, told as lost {lost}, of at most {kills * AT_ONCE}"
    )
    assert code == 0
    assert lab.lag([source]) == 0
    assert twice == 0
    assert never + broken_off <= lost <= kills * AT_ONCE


@pytest.mark.timeout(120)
def test_a_stop_finishes_what_was_begun_and_a_hasty_one_says_what_it_leaves(
    lab: Lab, source: str
) -> None:
    truth = Truth(lab.bootstrap, source, "amo")
    ids = {truth.send(f"k{number}", "nap", seconds=0.5) for number in range(30)}
    truth.flush()

    patient = lab.start("copier:app", *RUN)
    lab.wait_for_lines(AT_ONCE, 30)
    patient.signal(signal.SIGTERM)
    code = patient.wait(60)
    begun = counts(lab, ids)
    hasty = lab.start("copier:app", *RUN, "--shutdown-timeout", "100ms")
    before = lab.lines()
    lab.wait_for_lines(before + AT_ONCE, 30)
    hasty.signal(signal.SIGTERM)
    forced = hasty.wait(60)
    ended = lab.start("copier:app", *RUN, "--drain")
    drained = ended.wait(60)

    twice, never, broken_off = counts(lab, ids)
    assert (code, begun[0], begun[2], lost_in([patient])) == (0, 0, 0, 0)
    assert (forced, drained) == (1, 0)
    assert twice == 0
    assert 1 <= never + broken_off <= lost_in([hasty]) <= AT_ONCE
    assert f"{lost_in([hasty])} lost" in hasty.output
    assert lost_in([ended]) == 0, "what one has told of the next one tells again"
