"""A broker that hangs holds up no exit; one that dies and comes back costs no message."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Labs
from .harness import Lab, Truth, seed
from .test_kill_storm import CONCURRENCY, KEYS, KINDS, send_all

SHUTDOWN = 4.0  # seconds
LEEWAY = 5.0  # seconds: ending the process after the deadline


@pytest.fixture
def cluster(own_kafka: Callable[..., Any]) -> Any:
    return own_kafka()


@pytest.fixture
def doomed(cluster: Any, lab_on: Labs) -> Lab:
    """A lab on a cluster of the test's own."""
    return lab_on(cluster.bootstrap_servers)


# A queue in which one copy has room; and a session that outlives the broker's pause, for else
# the partitions are lost with what was to be recorded of them.
NARROW = ("-X", "queue.buffering.max.messages=1", "-X", "session.timeout.ms=30000")


@pytest.mark.parametrize("room", [(), NARROW], ids=["wide", "narrow"])
def test_a_broker_that_hangs_while_stopping_does_not_hang_the_exit(
    doomed: Lab, cluster: Any, room: tuple[str, ...]
) -> None:
    rng = random.Random(seed())
    doomed.env["TOPIC"] = source = doomed.create_topic("hanging")
    truth = Truth(doomed.bootstrap, source, "hanging")
    send_all(truth, 1_500, "mixed", rng)
    sent = truth.flush()
    worker = doomed.start("storm:app", *CONCURRENCY, "--shutdown-timeout", f"{SHUTDOWN}s", *room)
    doomed.wait_for_lines(400, 30)

    cluster.nodes[0].stop()
    worker.signal(signal.SIGTERM)
    asked = time.monotonic()

    assert worker.wait(SHUTDOWN + LEEWAY) == 1
    assert time.monotonic() - asked >= SHUTDOWN - 0.5, "it gave the broker its time"
    cluster.nodes[0].resume()
    ended = doomed.run("storm:app", *CONCURRENCY, "--drain")
    assert ended.code == 0
    verdict = doomed.verdict(sent, handlers=["storm"])
    assert verdict.problems == []
    assert verdict.repeated == [], "what ended was recorded, broker or not"


def test_a_broker_killed_and_restarted_under_load_loses_nothing(doomed: Lab, cluster: Any) -> None:
    rng = random.Random(seed())
    doomed.env["TOPIC"] = source = doomed.create_topic("dying")
    truth = Truth(doomed.bootstrap, source, "dying")
    kinds = list(KINDS)

    def one() -> None:
        kind = rng.choices(kinds, list(KINDS.values()))[0]
        raw = b"\xff not JSON" if kind == "garbage" else None
        truth.send(f"k{rng.randrange(KEYS)}", kind, header_id=rng.random() < 0.5, raw=raw)

    # A session long enough to outlive the broker: then no handler is run again either.
    worker = doomed.start("storm:app", *CONCURRENCY, "-X", "session.timeout.ms=30000")
    with truth.sending(itertools.repeat(one), pause=0.004):
        for _ in range(2):
            doomed.wait_for_lines(doomed.lines() + 400, 60)
            cluster.nodes[0].kill()
            cluster.nodes[0].restart()
        doomed.wait_for_lines(doomed.lines() + 400, 60)
    doomed.wait_for_lag_0([source], 60)

    assert worker.running, "a broker that is away is no reason to end"
    verdict = doomed.verdict(truth.acked, handlers=["storm"], unknown=truth.unknown)
    assert verdict.problems == []
    assert verdict.repeated == []
    worker.signal(signal.SIGTERM)
    assert worker.wait(25) == 0
