"""The A-to-Z example on a real Kafka: the broker is killed, and the producer, too."""

from __future__ import annotations

import re
import string
import sys
from pathlib import Path
from typing import Any

import pytest

from kworker.stores.tools import Choice, View

from ..faults.harness import ROOT, Process, until
from .stage import Stage

FOLDER = ROOT / "examples" / "02_alphabet"


def producer(stage: Stage, number: int) -> Process:
    process = Process(
        [sys.executable, str(FOLDER / "producer.py"), "--interval", "0.1"],
        stage.environ(
            {
                "KWORKER_BOOTSTRAP_SERVERS": stage.bootstrap,
                "KWORKER_DB": str(stage.db),
                "KWORKER_PUBLISH_WAIT": "300ms",
            }
        ),
        stage.folder,
        stage.folder / f"producer-{number}.log",
    )
    stage.processes.append(process)
    return process


def said(process: Process, word: str) -> int:
    return process.output.count(f"key=alphabet  {word}")


def waiting(path: Path) -> list[str]:
    view = View(path)
    try:
        return [(one.value or b"").decode() for one in view.unsent(Choice())]
    finally:
        view.close()


@pytest.mark.timeout(180)
def test_each_letter_is_handled_once_and_in_order_though_broker_and_producer_are_killed(
    own_kafka: Any, tmp_path: Path
) -> None:
    cluster = own_kafka()
    stage = Stage(cluster.bootstrap_servers, "alphabet", tmp_path)
    stage.apps = FOLDER
    try:
        stage.create_topic("letters", partitions=1)
        worker = stage.start("alphabet:app", "-X", "session.timeout.ms=30000")
        first = producer(stage, 1)
        until(lambda: said(first, "delivered") >= 5, 60, "five letters are delivered")

        cluster.nodes[0].kill()
        before = said(first, "kept")  # while Kafka was slow: those it has by now
        until(lambda: said(first, "kept") >= before + 3, 60, "three letters are kept")
        first.kill()
        second = producer(stage, 2)
        until(lambda: said(second, "kept") >= 3, 60, "three more are kept")
        unsent = waiting(stage.db)
        cluster.nodes[0].restart()
        until(lambda: worker.output.count("handled ") >= 26, 60, "26 letters are handled")
        until(lambda: not waiting(stage.db), 30, "nothing waits")

        assert second.wait(60) == 0
        assert len(unsent) >= 6
        assert "kworker outbox" in second.output
        handled = re.findall(r"handled ([A-Z]) from", worker.output)
        assert "".join(handled) == string.ascii_uppercase
    finally:
        stage.close()
