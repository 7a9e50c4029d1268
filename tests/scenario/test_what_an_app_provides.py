"""What an app provides lives as long as its worker, and is needed before the first message."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from ..faults.harness import until
from .stage import staged


@pytest.mark.timeout(120)
def test_what_is_provided_is_opened_before_the_first_message_and_closed_after_the_last(
    kafka: Any, tmp_path: Path
) -> None:
    with staged(kafka.bootstrap_servers, tmp_path) as stage:
        topic = stage.create_topic(f"{stage.group}.orders", partitions=1)
        life = tmp_path / "life"
        stage.env |= {"TOPIC": topic, "LIFE": str(life)}
        stage.send(topic, {"n": 1})

        broken = stage.run("provided:app", timeout=60, env={"BROKEN": "1"})
        broken_life = life.read_text().split("\n")
        life.unlink()
        worker = stage.start("provided:app")
        until(lambda: len(stage.told()) == 2, 30, "both handlers are called")
        opened = life.read_text().splitlines()
        worker.signal(signal.SIGTERM)

        assert worker.wait(30) == 0
        assert opened == ["pool opened", "client opened"]
        assert life.read_text().splitlines()[2:] == ["client closed", "pool closed"]
        assert broken.code == 1
        assert broken_life == ["pool opened", "pool closed", ""]
        assert "provided.client raised OSError: the bank does not answer" in broken.said[-1]
        assert "Traceback" not in broken.err
