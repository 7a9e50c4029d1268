"""Transfers between accounts in the store's file: each made once, whenever a kill -9 comes."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from collections.abc import Callable

import pytest

from .harness import FULL, ROOT, Lab, Truth, dump, headers_of, seed, until

ACCOUNTS = 40


def balances(lab: Lab) -> dict[str, int]:
    with sqlite3.connect(lab.db) as connection:
        return dict(connection.execute("SELECT name, balance FROM account"))


def moved(lab: Lab) -> Counter[int]:
    """How often each amount was moved; no two transfers are of one amount."""
    if not lab.db.exists():
        return Counter()
    connection = sqlite3.connect(lab.db)
    try:
        return Counter(amount for (amount,) in connection.execute("SELECT amount FROM moved"))
    except sqlite3.OperationalError:
        return Counter()  # nothing was moved yet
    finally:
        connection.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("ids", ["header", "position"] if FULL else ["mixed"])
@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_at_random_moments_leaves_each_transfer_made_exactly_once(
    lab: Lab, topic: Callable[..., str], ids: str, workers: int
) -> None:
    transfers, kills = (10_000, 24) if FULL else (3_000, 8)
    rng = random.Random(seed())
    lab.apps = ROOT / "examples" / "05_effectively_once"
    source, receipts = topic("transfers", partitions=4), topic("receipts", partitions=1)
    lab.env |= {"TRANSFERS": source, "RECEIPTS": receipts}
    truth = Truth(lab.bootstrap, source, "bank", **{"linger.ms": 20})
    expected: Counter[str] = Counter()
    for amount in range(1, transfers + 1):
        one, other = rng.sample(range(ACCOUNTS), 2)
        expected[f"a{one}"] -= amount
        expected[f"a{other}"] += amount
        order = {"from_account": f"a{one}", "to_account": f"a{other}", "amount": amount}
        header = ids == "header" or (ids == "mixed" and rng.random() < 0.5)
        truth.send(f"a{one}", raw=json.dumps(order).encode(), header_id=header)
    refused = {"from_account": "a0", "to_account": "a1", "amount": 0}
    truth.send("a0", raw=json.dumps(refused).encode())
    truth.flush()

    for number in range(kills):
        running = [lab.start("bank:app", "--commit-every", "200ms") for _ in range(workers)]
        goal = round((number + rng.random()) / kills * 0.9 * transfers)
        until(
            lambda goal=goal, running=running: (
                moved(lab).total() >= goal or not all(one.running for one in running)
            ),
            60,
            f"{goal} transfers are made",
        )
        for one in running:
            with pytest.raises(AssertionError, match="did not end"):
                one.wait(rng.random() * 0.2)
            assert one.running, f"worker {number} ended by itself"
            lab.kill(one)
    ended = lab.run("bank:app", "--drain", timeout=180)

    assert ended.code == 0
    assert lab.lag([source]) == 0
    times = moved(lab)
    lost = [amount for amount in range(1, transfers + 1) if amount not in times]
    twice = [amount for amount, count in times.items() if count > 1]
    print(f"{transfers} transfers, {len(lab.kills)} kills: lost {len(lost)}, twice {len(twice)}")
    assert (len(lost), len(twice)) == (0, 0)
    assert balances(lab) == {name: expected[name] for name in expected}
    ids_sent = Counter(
        (headers_of(one)["kworker-message-id"], one.value())
        for one in dump(lab.bootstrap, receipts)
    )
    assert len(ids_sent) == len({value for _, value in ids_sent}) == transfers
    letters = lab.dead_letters()  # a kill may have had it sent again, under one identity
    assert len({one.identity for one in letters}) == 1
    assert {one.disposition for one in letters} == {"rejected"}
    with sqlite3.connect(lab.db) as connection:
        assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
