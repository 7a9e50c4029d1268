"""A partition goes to another host, whose store knows nothing: what was finished above its commit
is not run again."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from typing import Any

import pytest

from .harness import Lab, Process, Truth, seed, until
from .test_kill_storm import CONCURRENCY, send_all

HASTY = ("--shutdown-timeout", "0.5s")


def on_host(lab: Lab, host: str, *more: str) -> Process:
    """A worker with a store of its own, as on another host."""
    return lab.start("storm:app", *CONCURRENCY, "--db", str(lab.folder / f"{host}.db"), *more)


def told(lab: Lab, source: str) -> dict[str, Any] | None:
    """What the commit of the source says besides its offset."""
    answer = lab.command(
        "offsets", "show", "storm:app", "--app-dir", str(lab.apps), "-b", lab.bootstrap,
        "-g", lab.group, "--json",
    )  # fmt: skip
    (found,) = [one for one in answer.json["partitions"] if one["topic"] == source]
    return dict(found["map"]) if found["map"] else None


@pytest.mark.parametrize("end", ["killed", "stopped in a hurry"])
def test_another_host_does_not_run_again_what_was_finished_above_an_unfinished_message(
    lab: Lab, topic: Callable[..., str], end: str
) -> None:
    lab.env["TOPIC"] = source = topic("handed", partitions=1)
    lab.env["HELD"] = str(lab.folder / "held")
    lab.env |= {"PACE": "5", "DELAYS": "200ms"}
    (lab.folder / "held").touch()
    truth = Truth(lab.bootstrap, source, "handed", **{"linger.ms": 20})
    held = truth.send("slow", "held")
    send_all(truth, 800, "mixed", random.Random(seed()))
    sent = truth.flush()

    a = on_host(lab, "a", *HASTY)
    others = len(sent) - 1
    until(lambda: _settled(lab, source) == others, 60, "all but the first are finished")
    until(lambda: lab.lag([]) == 0, 30, "the copies are committed")
    if end == "killed":
        lab.kill(a)
    else:
        a.signal(signal.SIGTERM)
        assert a.wait(20) == 1
    before = len(lab.effects())
    (lab.folder / "held").unlink()
    b = on_host(lab, "b")
    lab.wait_for_lag_0([source], 60)
    b.signal(signal.SIGTERM)

    assert b.wait(25) == 0
    again = {one.id for one in lab.effects()[before:] if one.place[0] == source}
    print(f"{len(again)} of {len(sent)} were handled again")
    assert again == {held}
    verdict = lab.verdict(sent, handlers=["storm"], ordered=False)
    assert verdict.lost == []


def _settled(lab: Lab, source: str) -> int:
    """How many messages the commit says are done above it."""
    found = told(lab, source)
    done = found["handlers"].get("storm") if found else None
    return int(done["count"]) if done else 0
