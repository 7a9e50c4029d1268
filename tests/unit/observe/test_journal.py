"""The log of a worker: quiet while all is well, with the fields to find a message by."""

from __future__ import annotations

import hashlib
import logging
from types import MappingProxyType

import pytest

from kworker import App
from kworker.facts import HandlerInfo, Lag, Snapshot
from kworker.message import Partition
from kworker.observe import journal, own
from kworker.outcome import Done
from kworker.plugins import Tell
from kworker.testing import message

CHARGE = HandlerInfo("charge", ("orders",))


@pytest.fixture
def tell(caplog: pytest.LogCaptureFixture) -> Tell:
    caplog.set_level(logging.INFO, "kworker.worker")
    return App("shop").load_plugins(own()).tell


def snapshot(handled: int) -> Snapshot:
    lag = {Partition("orders", 0): Lag(5, 12, 7, 3.25), Partition("orders", 1): Lag(2, 2, 0, 0.0)}
    none: MappingProxyType[Partition, str] = MappingProxyType({})
    return Snapshot(
        joined=True, in_flight=2, waiting=1, partitions=2, paused=none, stuck=none,
        lag=MappingProxyType(lag), received=MappingProxyType({"orders": 9}), handled=handled,
        retried=3, dead_lettered=1, skipped=4, lost=0, store_bytes=1, last_turn=0.0,
    )  # fmt: skip


def test_every_half_minute_one_line_says_how_many_at_what_rate_and_how_far_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, "kworker.worker")
    tell = App("shop").load_plugins(own()).tell

    for second in range(1, 62):
        now[0] = 100.0 + second
        tell("worker_beat", snapshot=snapshot(handled=10 * second))

    lines = [one.getMessage() for one in caplog.records]
    assert lines == [
        f"{handled} handled (10.0/s), 3 retried, 1 dead-lettered, 4 duplicates, 2 in flight, "
        "lag 7 (3.2 s)"
        for handled in (300, 600)
    ]
    assert vars(caplog.records[0])["lag_seconds"] == 3.25


def test_while_all_is_well_nothing_is_logged_for_a_message(
    tell: Tell, caplog: pytest.LogCaptureFixture
) -> None:
    one = message({})

    tell("message_settled", message=one, handler=CHARGE, outcome=Done(), seconds=0.1)
    tell("message_skipped", message=one, handler=CHARGE, reason="duplicate")

    assert caplog.records == []


def test_a_failed_message_is_named_and_its_key_is_not(
    tell: Tell, caplog: pytest.LogCaptureFixture
) -> None:
    one = message({}, topic="orders", partition=3, offset=7, id="a-1", key=b"ada@example.org")

    tell(
        "message_dead_lettered", message=one, handler=CHARGE, disposition="rejected",
        error=ValueError("no"),
    )  # fmt: skip

    [line] = caplog.records
    fields = vars(line)
    assert line.levelno == logging.ERROR
    assert (fields["handler"], fields["topic"], fields["partition"], fields["offset"]) == (
        "charge", "orders", 3, 7
    )  # fmt: skip
    assert (fields["id"], fields["attempt"]) == ("a-1", 1)
    assert fields["key_hash"] == hashlib.sha256(b"ada@example.org").hexdigest()[:12]
    assert "ada" not in str(fields)
