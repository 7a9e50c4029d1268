"""An outage that outlives kill -9, a coroutine out of time, an old message, a published result."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ..faults.harness import dump, headers_of, until
from .stage import staged


@pytest.mark.timeout(120)
def test_an_outage_that_outlives_a_kill_spends_no_call_and_then_each_is_handled(
    kafka: Any, tmp_path: Path
) -> None:
    with staged(kafka.bootstrap_servers, tmp_path) as stage:
        topic = stage.create_topic(f"{stage.group}.orders", partitions=2)
        receipts = stage.create_topic(f"{stage.group}.receipts", partitions=1)
        down = tmp_path / "down"
        stage.env |= {"TOPIC": topic, "RECEIPTS": receipts, "DOWN": str(down)}
        down.touch()
        places = [
            stage.send(topic, {"n": n}, key=b"k%d" % n, partition=n % 2, timestamp=time.time())
            for n in range(6)
        ]
        old = stage.send(topic, {"n": 6}, timestamp=time.time() - 7200)

        worker = stage.start("held:app", "--concurrency", "4")
        worker.wait_for("what it needs is down", 30)
        until(lambda: len(stage.told(handler="fresh")) == 6, 20, "the neighbours flow")
        until(lambda: len(stage.told(handler="bank")) >= 2, 20, "one is tried again")
        tried_before = len(stage.told(handler="bank"))
        stage.kill(worker)
        worker = stage.start("held:app", "--concurrency", "4")
        until(lambda: len(stage.told(handler="bank")) > tried_before, 30, "it is tried again")
        paid_meanwhile = stage.told(handler="paid")
        down.unlink()
        until(lambda: len(stage.told(handler="paid")) == 7, 30, "all is paid")
        worker.signal(15)
        assert worker.wait(30) == 0
        ended = stage.run("held:app", "--drain", timeout=60)

        assert ended.code == 0
        assert paid_meanwhile == []
        assert {one["attempt"] for one in stage.told(handler="bank")} == {1}
        assert Counter(one["id"] for one in stage.told(handler="paid")).most_common(1)[0][1] == 1
        letters = {(one.ours["kworker-handler"], one.ours["kworker-disposition"]): one
                   for one in stage.letters()}  # fmt: skip
        assert set(letters) == {("fresh", "expired"), ("slow", "retries_exhausted")}
        assert letters["fresh", "expired"].original == old
        assert letters["slow", "retries_exhausted"].original == places[1]
        timed_out = letters["slow", "retries_exhausted"].ours["kworker-error-type"]
        assert timed_out == "kworker.outcome.HandlerTimeout"
        published = dump(kafka.bootstrap_servers, receipts)
        assert {(one.key(), one.value()) for one in published} == {
            (b"k%d" % n, b'{"receipt":%d}' % n) for n in (1, 3, 5)
        }
        ids = {headers_of(one)["kworker-message-id"] for one in published}
        assert len(ids) == 3  # a second run after the kill would publish the same ids
