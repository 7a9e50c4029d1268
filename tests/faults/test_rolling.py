"""Three workers are replaced one after the other while messages come: on hosts of their own, and
with code that changes meanwhile. Nothing is lost, and nothing is handled twice."""

from __future__ import annotations

import itertools
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from .harness import FULL, Lab, Process, Truth, seed, until
from .oracle import Effect

ROUNDS = 10 if FULL else 3
WORKERS = 3
PACE = 0.004  # seconds between two messages
CONCURRENCY = ("--concurrency", "8")
IMPATIENT = ("--unknown-handler-wait", "1s")


def coming(truth: Truth, rng: random.Random) -> Iterator[Callable[[], object]]:
    """Messages of a hundred keys, some of which work at their first retry only."""
    while True:
        key, kind = f"k{rng.randrange(100)}", "once" if rng.random() < 0.05 else "ok"
        yield lambda key=key, kind=kind: truth.send(key, kind, header_id=rng.random() < 0.5)


def _all_at_work(lab: Lab, workers: list[Process], since: int) -> bool:
    for worker in workers:
        assert worker.running, f"pid {worker.pid} ended by itself"
    return {one.pid for one in workers} <= {one.pid for one in lab.effects()[since:]}


def roll(
    lab: Lab, workers: list[Process], begin: Callable[[int], Process], rng: random.Random
) -> None:
    """Round by round one worker is stopped in the midst of its work, and another begins."""
    for number in range(ROUNDS):
        until(partial(_all_at_work, lab, workers, len(lab.effects())), 40, "all are at work")
        which = number % WORKERS
        lab.wait_for_lines(lab.lines() + rng.randrange(50), 20)
        workers[which].signal(signal.SIGTERM)
        assert workers[which].wait(30) == 0
        lab.fault("SIGTERM")
        lab.note_commits(lab.env["TOPIC"])
        workers[which] = begin(which)


def ended(lab: Lab, handler: str) -> Counter[str]:
    """How often each message was handled to its end."""
    return Counter(one.id for one in lab.effects() if done(one, handler))


def done(effect: Effect, handler: str) -> bool:
    return effect.handler == handler and effect.phase == "end"


@pytest.mark.timeout(600)
def test_a_rolling_restart_of_three_workers_with_stores_of_their_own_handles_nothing_twice(
    lab: Lab, topic: Callable[..., str]
) -> None:
    rng = random.Random(seed())
    lab.env |= {"TOPIC": topic("rolling", partitions=6), "PACE": "60", "DELAYS": "200ms"}
    truth = Truth(lab.bootstrap, lab.env["TOPIC"], "rolling", **{"linger.ms": 5})

    def begin(host: int) -> Process:
        return lab.start("storm:app", *CONCURRENCY, "--db", str(lab.folder / f"host-{host}.db"))

    workers = [begin(host) for host in range(WORKERS)]
    with truth.sending(coming(truth, rng), PACE):
        roll(lab, workers, begin, rng)
    lab.wait_for_lag_0([lab.env["TOPIC"]], 60)
    for worker in workers:
        worker.signal(signal.SIGTERM)

    assert [worker.wait(30) for worker in workers] == [0] * WORKERS
    verdict = lab.verdict(truth.acked, handlers=["storm"])
    assert verdict.problems == []
    assert [repeat.story for repeat in verdict.repeated] == []


@pytest.mark.timeout(600)
def test_a_rolling_deploy_of_old_and_new_code_on_one_store_loses_nothing_and_repeats_nothing(
    lab: Lab, topic: Callable[..., str]
) -> None:
    rng = random.Random(seed())
    lab.env["TOPIC"] = topic("deploy", partitions=6)
    truth = Truth(lab.bootstrap, lab.env["TOPIC"], "deploy", **{"linger.ms": 5})
    code = itertools.cycle(["new", "new", "old"])

    def begin(which: int) -> Process:
        return lab.start("deploy:app", *CONCURRENCY, env={"CODE": next(code)})

    workers = [lab.start("deploy:app", *CONCURRENCY, env={"CODE": "old"}) for _ in range(WORKERS)]
    with truth.sending(coming(truth, rng), 2 * PACE):
        roll(lab, workers, begin, rng)
    for which in range(WORKERS):  # what waits for the new handlers needs them
        workers[which].wait_for("worker started", 30)
        workers[which].signal(signal.SIGTERM)
        assert workers[which].wait(30) == 0
        workers[which] = lab.start("deploy:app", *CONCURRENCY, *IMPATIENT, env={"CODE": "new"})
    lab.wait_for_lag_0([lab.env["TOPIC"]], 60)

    sent = {one.id for one in truth.acked}
    kept = {name: ended(lab, name) for name in ("bill", "mail", "audit")}
    twice = {name: [id for id, n in times.items() if n > 1] for name, times in kept.items()}
    lost = sent - kept["bill"].keys()
    handled = {name: len(times) for name, times in kept.items()}
    print(f"sent {len(sent)}, handled {handled}, lost {len(lost)}, twice {twice}")
    assert lost == set()
    assert twice == {"bill": [], "mail": [], "audit": []}
    assert handled["mail"] > 0 < handled["audit"]
    assert {(one.handler, one.disposition) for one in lab.dead_letters()} <= {
        ("mail", "unknown_handler")
    }
