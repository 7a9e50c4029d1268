"""kill -9 at random moments under load: nothing lost, order kept, repeats within the bound."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from .harness import FULL, Lab, Truth, seed
from .oracle import twice_listed

KINDS = {
    "ok": 84, "once": 4, "chain": 3, "chain2": 2, "always": 2, "reject": 1,
    "skip": 1, "mood": 2, "garbage": 1,
}  # fmt: skip
KEYS = 97
CONCURRENCY = ("--concurrency", "16")


def send_all(truth: Truth, messages: int, ids: str, rng: random.Random) -> Counter[str]:
    """Messages of all kinds over all keys; `ids` header, position or mixed. The kinds sent."""
    kinds = rng.choices(list(KINDS), list(KINDS.values()), k=messages)
    for kind in kinds:
        truth.send(
            f"k{rng.randrange(KEYS)}",
            kind,
            header_id=ids == "header" or (ids == "mixed" and rng.random() < 0.5),
            raw=b"\xff not JSON \x00" if kind == "garbage" else None,
        )
    return Counter(kinds)


def strike(lab: Lab, app: str, messages: int, kills: int, rng: random.Random) -> None:
    """Kill a worker and start the next, at random progress or at a random time of its life."""
    for number in range(kills):
        worker = lab.start(app, *CONCURRENCY, "--commit-every", rng.choice(["1s", "100ms"]))
        if rng.random() < 0.8:
            share = (number + rng.random()) / kills * 0.9
            progress = max(lab.lines() + rng.randrange(20, 200), round(share * 2 * messages))
            lab.wait_for_lines(progress, 60)
        else:
            life = rng.uniform(0.2, 4.0)
            with pytest.raises(AssertionError, match="did not end"):
                worker.wait(life)
        assert worker.running, f"worker {number} ended by itself"
        lab.kill(worker)
        lab.note_commits(lab.env["TOPIC"])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("ids", ["header", "position"] if FULL else ["mixed"])
def test_kill_9_at_random_moments_loses_nothing_and_repeats_only_what_was_unrecorded(
    lab: Lab, topic: Callable[..., str], ids: str
) -> None:
    messages, kills = (10_000, 20) if FULL else (3_000, 6)
    rng = random.Random(seed())
    lab.env["TOPIC"] = source = topic("storm", partitions=4)
    truth = Truth(lab.bootstrap, source, "storm", **{"linger.ms": 20})
    kinds = send_all(truth, messages, ids, rng)
    sent = truth.flush()

    strike(lab, "storm:app", messages, kills, rng)
    ended = lab.run("storm:app", *CONCURRENCY, "--drain", timeout=120)

    assert ended.code == 0
    assert lab.lag([source]) == 0
    verdict = lab.verdict(sent, handlers=["storm"])
    assert verdict.problems == []
    assert verdict.acked == messages
    assert_dead_letters_are_listed_once(lab, kinds)

    before = lab.lines()
    lab.rewind([source])
    again = lab.run("storm:app", *CONCURRENCY, "--drain", timeout=120)

    assert again.code == 0
    assert lab.lag([source]) == 0
    assert lab.lines() == before, "a message was handled again after the rewind"
    assert len({copy.identity for copy in lab.dead_letters()}) == verdict.dead_lettered


def assert_dead_letters_are_listed_once(lab: Lab, kinds: Counter[str]) -> None:
    """`dlq list` shows each dead letter once, whatever the topic holds, and no other."""
    listed = lab.dlq("storm:app", "list", "--json").json["messages"]
    told = [
        (one["handler"], tuple(one["original"].values()), one["message_id"], one["replays"])
        for one in listed
    ]
    held = {
        (copy.handler, copy.original, copy.message_id, copy.replay): copy.disposition
        for copy in lab.dead_letters()
    }
    assert twice_listed(told) == []
    assert set(told) == set(held)
    dispositions = Counter(one["disposition"] for one in listed)
    assert dispositions["undecodable"] == kinds["garbage"]
    assert dispositions["rejected"] == kinds["reject"]
    exhausted = dispositions["retries_exhausted"]
    assert kinds["always"] <= exhausted <= kinds["always"] + kinds["mood"]
