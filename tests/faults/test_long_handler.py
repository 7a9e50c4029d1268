"""A handler may take as long as it likes: its worker goes on polling and keeps its partitions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import Labs
from .harness import Truth, until
from .oracle import Effect

SHORT_PATIENCE = ("-X", "max.poll.interval.ms=6000", "--revoke-timeout", "2s")
NAP = 9.0  # seconds: longer than the group's patience


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_handler_longer_than_max_poll_interval_keeps_its_partition(
    lab_on: Labs, kafka: object, topic: Callable[..., str], concurrency: int
) -> None:
    lab = lab_on(kafka.bootstrap_servers)  # type: ignore[attr-defined]
    lab.env["TOPIC"] = source = topic("long", partitions=3)
    truth = Truth(lab.bootstrap, source, "long")
    napping = truth.send("long", "nap", seconds=NAP, partition=0)
    for number in range(60):
        truth.send(f"k{number}", partition=number % 3)
    sent = truth.flush()
    same = {message.id for message in sent if message.place[1] == 0 and message.id != napping}

    worker = lab.start("storm:app", "--concurrency", str(concurrency), *SHORT_PATIENCE)
    until(lambda: _ended(lab.effects(), napping), 30, "the long handler ends")
    lab.wait_for_lag_0([source], 20)

    assert worker.running
    nap = _ended(lab.effects(), napping)
    assert nap is not None
    meanwhile = {e.id for e in lab.effects() if e.phase == "end" and e.at < nap.at}
    if concurrency > 1:
        assert len(meanwhile) == 60, "other keys flow meanwhile, on its partition too"
    else:
        assert not meanwhile & same, "one at a time: what stands behind it waits"
    verdict = lab.verdict(sent, handlers=["storm"])
    assert verdict.problems == []
    assert verdict.repeated == []
    assert {e.pid for e in lab.effects()} == {worker.pid}


def _ended(effects: list[Effect], id: str) -> Effect | None:
    return next((e for e in effects if e.id == id and e.phase == "end"), None)
