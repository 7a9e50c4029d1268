"""A batch that nobody can read stands in the log: its partition is parked, the others flow."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Labs
from .harness import Truth, until

BEFORE = 3  # batches of one message each, in front of the one that cannot be read


def crc32c(data: bytes) -> int:
    """The checksum of a record batch (Castagnoli)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def flipped(batch: bytearray) -> None:
    """A bit of its last record is another one than was written."""
    batch[-2] ^= 0x01


def no_gzip(batch: bytearray) -> None:
    """It says that it is compressed, and is not; its checksum agrees."""
    batch[22] |= 0x01
    batch[17:21] = crc32c(bytes(batch[21:])).to_bytes(4, "big")


def damage(data: Path, topic: str, offset: int, deed: Callable[[bytearray], None]) -> None:
    """Do that to the batch that begins at the offset, in the broker's own file."""
    [segment] = (data / f"{topic}-0").glob("*.log")
    log = bytearray(segment.read_bytes())
    at = 0
    while at < len(log):
        size = 12 + int.from_bytes(log[at + 8 : at + 12], "big")
        if int.from_bytes(log[at : at + 8], "big") == offset:
            batch = log[at : at + size]
            deed(batch)
            log[at : at + size] = batch
            segment.write_bytes(log)
            return
        at += size
    raise AssertionError(f"no batch of {topic}-0 begins at {offset}")


@pytest.mark.parametrize("deed", [flipped, no_gzip], ids=lambda deed: deed.__name__)
def test_a_batch_that_cannot_be_read_parks_its_partition_by_name_and_the_others_flow(
    own_kafka: Callable[..., Any], lab_on: Labs, deed: Callable[[bytearray], None]
) -> None:
    cluster = own_kafka()
    lab = lab_on(cluster.bootstrap_servers)
    lab.env["TOPIC"] = source = lab.create_topic("poisoned", partitions=2)
    truth = Truth(lab.bootstrap, source, "poison", **{"linger.ms": 0})
    for _ in range(6):
        truth.send("one", partition=0)
        truth.flush()  # a batch each
    cluster.nodes[0].terminate()
    damage(cluster.folder / "node-1" / "data", source, BEFORE, deed)
    lab.fault(f"batch {deed.__name__.replace('_', ' ')}")
    cluster.nodes[0].start()
    cluster.wait_until_ready()

    worker = lab.start("storm:app")
    for _ in range(20):
        truth.send("other", partition=1)
    sent = truth.flush()
    until(lambda: f"{source}/0 waits" in worker.output, 30, "it is told")
    until(lambda: handled(lab) >= 20 + BEFORE, 30, "the others flow")
    until(lambda: lab.committed([source]).get((source, 1)) == 20, 20, "and are committed")
    time.sleep(2.0)  # what is shown is that nothing happens

    assert worker.running
    assert lab.committed([source])[source, 0] <= BEFORE
    until(lambda: f"offsets {BEFORE} to {BEFORE} cannot be read" in worker.output, 20, "its range")
    assert worker.output.count(f"{source}/0 waits") < 5, "loud, but not all the time"
    worker.signal(signal.SIGTERM)
    assert worker.wait(25) == 0
    assert lab.committed([source])[source, 0] <= BEFORE, "nothing was skipped"
    verdict = lab.verdict([one for one in sent if one.place[1] == 1], handlers=["storm"])
    assert verdict.lost == []
    assert verdict.repeated == []


def handled(lab: Any) -> int:
    return sum(effect.phase == "end" for effect in lab.effects())
