"""Handlers that take lists: bad ones are taken out, the rest is handled, also under a kill."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .stage import staged


@pytest.mark.timeout(120)
def test_batches_lose_nothing_when_some_messages_are_bad_and_the_process_dies_amid_one(
    kafka: Any, tmp_path: Path
) -> None:
    with staged(kafka.bootstrap_servers, tmp_path) as stage:
        topic = stage.create_topic(f"{stage.group}.orders", partitions=2)
        limited = stage.create_topic(f"{stage.group}.limited", partitions=1)
        stage.env |= {"TOPIC": topic, "LIMITED": limited, "MARK": str(tmp_path / "mark")}
        sent = [
            (n, stage.send(topic, {"n": n}, key=b"k%d" % (n % 9), partition=n % 2))
            for n in range(200)
        ]
        for n in range(30):
            stage.send(limited, {"n": n}, key=b"k%d" % n)

        killed = stage.run("batched:app", "--concurrency", "4", "--drain", timeout=60)
        ended = stage.run("batched:app", "--concurrency", "4", "--drain", timeout=60)

        assert killed.code == -9 and ended.code == 0
        bad = {place for n, place in sent if n % 50 == 7}
        good = {place for n, place in sent if n % 50 != 7}
        for handler in ("whole", "named"):
            calls = Counter(tuple(one["place"]) for one in stage.told(handler=handler))
            letters = [one for one in stage.letters() if one.ours["kworker-handler"] == handler]
            assert set(calls) == good
            assert {one.original for one in letters} == bad and len(letters) == len(bad)
            twice = sum(count - 1 for count in calls.values())
            # What was in a list at the kill, at four lists at once.
            assert twice <= 4 * 20
        at = [one["at"] for one in stage.told(handler="limited")]
        assert len({one["id"] for one in stage.told(handler="limited")}) == 30
        at.sort()
        assert all(at[i + 20] - at[i] > 0.8 for i in range(len(at) - 20))
