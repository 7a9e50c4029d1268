"""What was acknowledged or kept arrives, in order a key, though the broker and the publisher are
killed."""

from __future__ import annotations

import json
import random
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from .apps.publishing import KEYS
from .conftest import Labs
from .harness import FULL, Lab, Process, dump, seed, until

TOTAL, BROKER_KILLS, PUBLISHER_KILLS = (10_000, 5, 2) if FULL else (300, 1, 1)


def start(lab: Lab, topic: str) -> Process:
    process = Process(
        [
            sys.executable, str(lab.apps / "publishing.py"), lab.bootstrap, topic, str(lab.db),
            str(TOTAL), str(lab.folder / "told.log"), str(lab.folder / "limit"),
        ],
        lab.environ(), lab.folder, lab.folder / f"publisher-{len(lab.processes)}.log",
    )  # fmt: skip
    lab.processes.append(process)
    return process


def let(lab: Lab, limit: int) -> None:
    """Let the publisher go so far."""
    fresh = lab.folder / "limit.new"
    fresh.write_text(str(limit))
    fresh.rename(lab.folder / "limit")


def waiting(lab: Lab) -> int:
    with closing(sqlite3.connect(lab.db, timeout=10)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM outbox").fetchone()
    return int(count)


def told(notes: Path) -> list[str]:
    return notes.read_text().splitlines() if notes.exists() else []


@pytest.mark.timeout(900 if FULL else 180)
def test_what_a_publisher_was_told_of_arrives_in_order_and_is_handled_once(
    own_kafka: Callable[..., Any], lab_on: Labs
) -> None:
    rng = random.Random(seed())
    cluster = own_kafka()
    lab = lab_on(cluster.bootstrap_servers)
    lab.env["TOPIC"] = topic = lab.create_topic("published", partitions=3)
    notes = lab.folder / "told.log"
    let(lab, 0)
    publisher = start(lab, topic)
    publisher_too = set(rng.sample(range(BROKER_KILLS), PUBLISHER_KILLS))
    share = TOTAL // (BROKER_KILLS + 1)

    for number in range(BROKER_KILLS):
        reached, all_of_it = number * share + rng.randrange(share), (number + 1) * share
        let(lab, all_of_it)
        until(lambda n=reached: len(told(notes)) >= n, 120, f"{reached} messages are told of")
        cluster.nodes[0].kill()
        until(lambda n=all_of_it: len(told(notes)) >= n, 60, "the rest are kept")
        if number in publisher_too:
            publisher.kill()
            publisher = start(lab, topic)
        let(lab, all_of_it + 50)
        until(lambda n=all_of_it: len(told(notes)) >= n + 50, 60, "more are kept behind them")
        cluster.nodes[0].restart()
        if rng.random() < 0.5:
            until(lambda: not waiting(lab), 60, "what was kept is sent")
    let(lab, TOTAL)
    assert publisher.wait(300) == 0, publisher.output
    retried = lab.command("outbox", "retry", "--db", str(lab.db), "-b", lab.bootstrap, "--execute")
    handled = lab.run("arrivals:app", "--drain", "--db", str(lab.folder / "worker.db"), timeout=120)

    assert (retried.code, handled.code) == (0, 0)
    arrived = [json.loads(record.value() or b"")["id"] for record in dump(lab.bootstrap, topic)]
    first = list(dict.fromkeys(arrived))
    lines = told(notes)
    kept = sum(line.endswith("kept") for line in lines)
    lost = set(range(TOTAL)) - set(arrived)
    print(f"{len(lines)} told of, {kept} of them kept; lost {len(lost)}, "
          f"repeated {len(arrived) - len(first)}")  # fmt: skip
    assert kept > 0
    assert lost == set()
    for key in range(KEYS):
        of_key = [number for number in first if number % KEYS == key]
        assert of_key == sorted(of_key), f"first arrivals of k{key} out of order"
    effects = lab.effects_log.read_text().split()
    assert sorted(map(int, effects)) == list(range(TOTAL)), "handled once each"
