"""kill -9 while messages are copied: what readers of committed data see is f(input), once each."""

from __future__ import annotations

import itertools
import json
import random
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Labs
from .harness import FULL, Lab, Process, Truth, dump, seed
from .oracle import Sent

KINDS = {"ok": 80, "twice": 8, "once": 5, "chain": 4, "reject": 3}
CONCURRENCY = ("--concurrency", "16", "--commit-every", "200ms")


def send_all(truth: Truth, messages: int, rng: random.Random) -> dict[str, str]:
    """Messages of all kinds; the kind of each by its id."""
    kinds = rng.choices(list(KINDS), list(KINDS.values()), k=messages)
    return {
        truth.send(f"k{rng.randrange(40)}", kind, header_id=rng.random() < 0.5): kind
        for kind in kinds
    }


def expected(kinds: dict[str, str]) -> Counter[tuple[str, int]]:
    """What is to be published, of which message and which part of it."""
    outputs = Counter({(id, 0): 1 for id, kind in kinds.items() if kind != "reject"})
    outputs.update({(id, 1): 1 for id, kind in kinds.items() if kind == "twice"})
    return outputs


def published(lab: Lab) -> Counter[tuple[str, int]]:
    values = [json.loads(record.value() or b"{}") for record in dump(lab.bootstrap, lab.env["OUT"])]
    return Counter((value["of"], value["part"]) for value in values)


def judge(lab: Lab, sent: list[Sent], kinds: dict[str, str]) -> None:
    """Outputs, retries and dead letters as a function of what was sent; prints the counts."""
    wanted, found = expected(kinds), published(lab)
    lost, twice = wanted - found, found - wanted
    retries, dead = lab.retries(), lab.dead_letters()
    calls = sum(effect.phase == "start" for effect in lab.effects())
    print(
        f"exactly once: sent {len(sent)}, kills {len(lab.kills)}, calls {calls}, outputs "
        f"{found.total()} of {wanted.total()}, lost {lost.total()}, twice {twice.total()}, "
        f"retries {len(retries)}, dead letters {len(dead)}"
    )
    assert (lost, twice) == (Counter(), Counter())
    assert sorted(copy.message_id for copy in retries) == sorted(
        {copy.message_id for copy in retries}
    )
    assert len(retries) == Counter(kinds.values())["chain"]
    assert len(dead) == Counter(kinds.values())["reject"]


def lab_for(lab: Lab, topic: Callable[..., str], mode: str) -> str:
    lab.env |= {"MODE": mode, "TOPIC": topic("in", partitions=4), "OUT": topic("out", partitions=3)}
    return lab.env["TOPIC"]


@pytest.mark.timeout(600)
def test_what_is_committed_is_f_of_the_input_after_kill_9_at_any_moment(
    lab: Lab, topic: Callable[..., str]
) -> None:
    messages, kills = (10_000, 25) if FULL else (1_000, 2)
    rng = random.Random(seed())
    source = lab_for(lab, topic, "exactly_once")
    truth = Truth(lab.bootstrap, source, "eo", **{"linger.ms": 20})
    kinds = send_all(truth, messages, rng)
    sent = truth.flush()

    for number in range(kills):
        worker = lab.start("copier:app", *CONCURRENCY)
        share = (number + rng.random()) / kills * 1.6 * messages
        lab.wait_for_lines(max(lab.lines() + rng.randrange(20, 200), round(share)), 60)
        assert worker.running, f"worker {number} ended by itself"
        lab.kill(worker)
    ended = lab.run("copier:app", *CONCURRENCY, "--drain", timeout=120)

    assert ended.code == 0
    assert lab.lag([source]) == 0
    judge(lab, sent, kinds)


@pytest.mark.timeout(600)
def test_two_workers_killed_and_stopped_in_turn_publish_each_output_once(
    lab: Lab, topic: Callable[..., str]
) -> None:
    messages, rounds = (10_000, 16) if FULL else (1_000, 2)
    rng = random.Random(seed())
    source = lab_for(lab, topic, "exactly_once")
    truth = Truth(lab.bootstrap, source, "eo", **{"linger.ms": 20})
    kinds = send_all(truth, messages, rng)
    sent = truth.flush()

    workers: list[Process] = [lab.start("copier:app", *CONCURRENCY) for _ in range(2)]
    for number in range(rounds):
        share = (number + rng.random()) / rounds * 1.6 * messages
        lab.wait_for_lines(max(lab.lines() + 50, round(share)), 60)
        if number % 2:
            workers[0].wait_for("worker started", 30)
            workers[0].signal(signal.SIGTERM)
            assert workers.pop(0).wait(40) == 0
        else:
            lab.kill(workers.pop(0))
        workers.append(lab.start("copier:app", *CONCURRENCY))
    for worker in workers:
        worker.wait_for("worker started", 30)
        worker.signal(signal.SIGTERM)
        assert worker.wait(40) == 0
    ended = lab.run("copier:app", *CONCURRENCY, "--drain", timeout=120)

    assert ended.code == 0
    assert lab.lag([source]) == 0
    judge(lab, sent, kinds)


@pytest.mark.timeout(300)
def test_a_broker_that_dies_and_hangs_costs_no_output_and_no_exit(
    own_kafka: Callable[..., Any], lab_on: Labs
) -> None:
    cluster = own_kafka()
    lab = lab_on(cluster.bootstrap_servers)
    rng = random.Random(seed())
    source = lab_for(
        lab, lambda name, partitions: lab.create_topic(name, partitions), "exactly_once"
    )
    truth = Truth(lab.bootstrap, source, "eo")
    kinds: dict[str, str] = {}
    node = cluster.nodes[0]

    def one() -> None:
        kinds.update(send_all(truth, 1, rng))

    worker = lab.start("copier:app", *CONCURRENCY, "--shutdown-timeout", "4s")
    with truth.sending(itertools.repeat(one), pause=0.01):
        for _ in range(3 if FULL else 1):
            lab.wait_for_lines(lab.lines() + 200, 60)
            node.kill()
            node.restart()
        lab.wait_for_lines(lab.lines() + 200, 60)
    node.stop()
    worker.signal(signal.SIGTERM)
    code = worker.wait(4 + 5)
    node.resume()
    ended = lab.run("copier:app", *CONCURRENCY, "--drain", timeout=120)

    assert code == 1
    assert ended.code == 0
    assert truth.unknown == set()
    judge(lab, truth.acked, kinds)
