"""`retry_order="hold"` on hosts that know nothing of each other, killed at random moments."""

from __future__ import annotations

import random
import signal
from collections import defaultdict
from collections.abc import Callable

import pytest

from .harness import FULL, Lab, Truth, seed, until
from .oracle import Effect

KINDS = {"ok": 12, "once": 3, "chain": 2, "chain2": 1, "always": 1}
CALLS = 4  # of a message that always fails


@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", ["at_least_once", "exactly_once"])
def test_a_key_keeps_its_order_through_failures_kills_and_moves_between_hosts(
    lab: Lab, topic: Callable[..., str], mode: str
) -> None:
    messages, kills = (3_000, 12) if FULL else (400, 2)
    rng = random.Random(seed())
    lab.mode = mode
    lab.env |= {"RETRY_ORDER": "hold", "DELAYS": "200ms 300ms", "PACE": "20"}
    lab.env["TOPIC"] = source = topic("held", partitions=4)
    truth = Truth(lab.bootstrap, source, "held", **{"linger.ms": 20})
    for kind in rng.choices(list(KINDS), list(KINDS.values()), k=messages):
        truth.send(f"k{rng.randrange(24)}", kind, header_id=rng.random() < 0.5)
    sent = truth.flush()

    def host(number: int) -> tuple[str, ...]:
        db = str(lab.folder / f"host-{number}.db")
        return ("--concurrency", "8", "--db", db, "--delivery", mode, "--instance-id", f"{number}")

    pair = [lab.start("storm:app", *host(number)) for number in range(2)]
    for number in range(kills):
        wanted = lab.lines() + rng.randrange(10, messages // kills)
        until(lambda wanted=wanted: lab.lines() >= wanted or not lab.lag([source]), 60, "progress")
        lab.kill(pair[number % 2])
        lab.note_commits(source)
        pair[number % 2] = lab.start("storm:app", *host(number % 2))
    lab.wait_for_lag_0([source], 120)
    for worker in pair:
        worker.signal(signal.SIGTERM)

    assert [worker.wait(25) for worker in pair] == [0, 0]
    verdict = lab.verdict(sent, handlers=["storm"])
    assert verdict.lost == [] and verdict.out_of_order == [] and verdict.overlapping == []
    assert gone_by(lab.effects()) == []
    assert lab.retries() == [], "what waits in place is not copied"


def gone_by(effects: list[Effect]) -> list[str]:
    """Messages that were called before the one in front of them had come to its end."""
    first_call: dict[tuple[str | None, int], float] = {}
    final: dict[tuple[str | None, int], float] = {}
    keys: defaultdict[str | None, set[int]] = defaultdict(set)
    for effect in effects:
        one = effect.key, effect.seq
        keys[effect.key].add(effect.seq)
        if effect.phase == "start":
            first_call.setdefault(one, effect.at)
        elif effect.phase == "end" or effect.attempt >= CALLS:
            final.setdefault(one, effect.at)
    return [
        f"{key}/{seq}"
        for key, seqs in keys.items()
        for seq in seqs
        if (key, seq - 1) in first_call
        and first_call[key, seq] < final.get((key, seq - 1), float("inf"))
    ]
