"""What is counted is what happened, for one process and for several."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.error import HTTPError

import pytest
from kworker_prometheus import METRICS, Prometheus
from kworker_prometheus.gathered import gathered
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from kworker import App
from kworker.facts import HandlerInfo, Lag, Snapshot, WorkerInfo
from kworker.message import Partition
from kworker.outcome import Done, Skipped
from kworker.testing import message

CHARGE = HandlerInfo("charge", ("orders",))
WORKER = WorkerInfo("shop", "shop-group", (CHARGE,), ("orders",), 1, "shop.db")
HERE = Partition("orders", 0)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(page: bytes) -> Samples:
    """Every series by its name and labels."""
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(page.decode())
        for one in family.samples
    }


class Told:
    """The plugin in a worker that the test plays."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.plugins = App("shop", plugins=[Prometheus(self.registry)]).load_plugins()
        self.tell = self.plugins.tell
        self.tell("worker_started", worker=WORKER)

    def page(self) -> bytes:
        answer = self.plugins.metrics(None)
        assert answer is not None
        return answer[1]

    def value(self, name: str, **labels: str) -> float | None:
        return samples(self.page()).get((name, tuple(sorted(labels.items()))))


def snapshot(**fields: Any) -> Snapshot:
    usual: dict[str, Any] = {
        "joined": True, "in_flight": 2, "waiting": 1, "partitions": 1, "paused": {HERE: "full"},
        "stuck": {}, "lag": {HERE: Lag(5, 12, 7, 3.25)}, "received": {"orders": 9}, "handled": 5,
        "retried": 0, "dead_lettered": 0, "skipped": 0, "lost": 0, "store_bytes": 4096,
        "last_turn": 0.01,
    }  # fmt: skip
    given = usual | fields
    for name in ("paused", "stuck", "lag", "received"):
        given[name] = MappingProxyType(given[name])
    return Snapshot(**given)


def test_messages_are_counted_by_what_became_of_them() -> None:
    told = Told()
    one = message({})

    for seconds in (0.004, 0.2):
        told.tell("message_settled", message=one, handler=CHARGE, outcome=Done(), seconds=seconds)
    skipped = Skipped("paid")
    told.tell("message_settled", message=one, handler=CHARGE, outcome=skipped, seconds=0.0)
    told.tell("message_skipped", message=one, handler=CHARGE, reason="paid")
    told.tell("message_skipped", message=one, handler=CHARGE, reason="duplicate")
    error = ValueError("no")
    told.tell("message_retrying", message=one, handler=CHARGE, error=error, attempt=1, delay=1.0)
    for disposition in ("retries_exhausted", "undecodable"):
        told.tell(
            "message_dead_lettered", message=one, handler=CHARGE, disposition=disposition,
            error=error,
        )  # fmt: skip

    value = told.value
    assert value("kworker_messages_handled_total", handler="charge") == 2
    assert value("kworker_messages_failed_total", handler="charge") == 2
    assert value("kworker_messages_retried_total", handler="charge") == 1
    for reason in ("duplicate", "handler"):
        assert value("kworker_messages_skipped_total", handler="charge", reason=reason) == 1
    assert value(
        "kworker_messages_dead_lettered_total", handler="charge", disposition="undecodable"
    ) == 1  # fmt: skip
    assert value("kworker_handler_seconds_count", handler="charge") == 3
    assert value("kworker_handler_seconds_sum", handler="charge") == pytest.approx(0.204)
    assert value("kworker_handler_seconds_bucket", handler="charge", le="0.005") == 2
    assert value("kworker_handler_seconds_bucket", handler="charge", le="0.25") == 3


def test_a_beat_says_how_the_worker_stands() -> None:
    told = Told()

    told.tell("worker_beat", snapshot=snapshot())

    assert told.value("kworker_messages_received_total", topic="orders") == 9
    assert told.value("kworker_messages_in_flight") == 2
    assert told.value("kworker_partitions_assigned") == 1
    assert told.value("kworker_partitions_paused") == 1
    assert told.value("kworker_partitions_stuck") == 0
    assert told.value("kworker_lag_messages", topic="orders", partition="0") == 7
    assert told.value("kworker_lag_seconds", topic="orders", partition="0") == 3.25
    assert told.value("kworker_store_bytes") == 4096


def test_what_is_not_known_is_left_out() -> None:
    told = Told()

    told.tell("worker_beat", snapshot=snapshot(lag={HERE: Lag(5, None, None, None)}))

    assert told.value("kworker_lag_messages", topic="orders", partition="0") is None


def test_commits_rebalances_outages_and_lost_positions_are_counted() -> None:
    told = Told()

    told.tell("offsets_committed", offsets={HERE: 5})
    told.tell("partitions_assigned", partitions=(HERE,))
    told.tell("partitions_revoked", partitions=(HERE,), lost=True)
    told.tell("outage_started", handler=CHARGE, reason="down")
    down = told.value("kworker_outage", handler="charge")
    told.tell("outage_ended", handler=CHARGE)
    told.tell("position_lost", partition=HERE, expected=1, found=4, missing=3)
    told.tell("position_lost", partition=HERE, expected=4, found=9, missing=None)

    assert told.value("kworker_commits_total") == 1
    assert told.value("kworker_rebalances_total", event="assigned") == 1
    assert told.value("kworker_rebalances_total", event="lost") == 1
    assert (down, told.value("kworker_outage", handler="charge")) == (1, 0)
    assert told.value("kworker_positions_lost_total", topic="orders") == 2
    assert told.value("kworker_messages_missing_total", topic="orders") == 3


def test_metrics_of_the_apps_own_stand_on_the_same_page_until_the_worker_ends() -> None:
    told = Told()
    Counter("shop_orders", "Orders.", registry=told.registry).inc(3)

    before = told.page()
    told.tell("worker_stopped", worker=WORKER)

    assert b"shop_orders_total 3.0" in before
    assert b"kworker_" not in told.page()


def test_the_pages_of_several_workers_are_one_whose_series_have_the_workers_number() -> None:
    one, two = Told(), Told()
    Counter("shop_orders", "Orders.", ["worker"], registry=two.registry).labels("mine").inc(3)
    for told, count in ((one, 1), (two, 2)):
        for _ in range(count):
            told.tell(
                "message_settled", message=message({}), handler=CHARGE, outcome=Done(), seconds=0.1
            )

    page = gathered({1: one.page(), 2: two.page()})

    found = samples(page)
    for number, count in (("1", 1), ("2", 2)):
        labels = (("handler", "charge"), ("worker", number))
        assert found["kworker_messages_handled_total", labels] == count
        assert found["kworker_handler_seconds_count", labels] == count
    assert found["shop_orders_total", (("exported_worker", "mine"), ("worker", "2"))] == 3
    assert page.count(b"# TYPE kworker_messages_handled_total counter") == 1


def test_every_metric_is_on_the_page_and_no_other() -> None:
    told = Told()
    told.tell("worker_beat", snapshot=snapshot())

    shown = re.findall(r"^# TYPE (\S+) (\w+)$", told.page().decode(), re.MULTILINE)

    assert shown == [(one.name, one.kind) for one in METRICS]
    assert all(one.about.endswith(".") for one in METRICS)
    assert all(one.name.endswith("_total") == (one.kind == "counter") for one in METRICS)


# --- a real worker -------------------------------------------------------------------------

APP = """
from kworker import App, Reject

app = App({group!r})

@app.handler({topic!r}, name="charge")
def charge(order: dict):
    if order["n"] == 3:
        raise Reject("never")
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_worker_that_runs_is_scraped(
    kafka: Any, topic: Callable[..., str], group: str, tmp_path: Path, workers: str
) -> None:
    from kworker_broker import client

    source = topic("orders", partitions=4)
    (tmp_path / "shop.py").write_text(APP.format(group=group, topic=source))
    env = {name: one for name, one in os.environ.items() if not name.startswith("KWORKER_")}
    command = [
        sys.executable, "-m", "kworker", "run", "shop:app", "-b", kafka.bootstrap_servers,
        "--create-topics", "missing", "--health", "127.0.0.1:0", "--workers", workers,
        "-X", "session.timeout.ms=3000", "-X", "heartbeat.interval.ms=500",
    ]  # fmt: skip
    publish = [sys.executable, "-m", "kworker", "publish", source, "-", "--ndjson",
               "-b", kafka.bootstrap_servers]  # fmt: skip
    lines = "".join(json.dumps({"n": number}) + "\n" for number in range(20))
    subprocess.run(publish, input=lines, text=True, env=env, cwd=tmp_path, check=True, timeout=60)
    place = tmp_path / "worker.log"
    with place.open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=log)

    def page() -> Samples:
        address = re.search(r"http://127\.0\.0\.1:\d+", place.read_text())
        if address is None:
            return {}
        try:
            with urllib.request.urlopen(f"{address[0]}/metrics", timeout=10) as answer:
                return samples(answer.read())
        except HTTPError as error:
            raise AssertionError(error.read()) from error

    def total(name: str) -> float:
        return sum(value for (found, _), value in page().items() if found == name)

    try:
        limit = time.monotonic() + 40
        # What was received is told with the next beat.
        while total("kworker_messages_received_total") < 20 or total("kworker_lag_messages"):
            assert time.monotonic() < limit, f"{page()}\n{place.read_text()}"
            time.sleep(0.1)
        found = page()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        left = [f"{group}.replay", f"{group}.dlq"]
        client.delete_topics(kafka.bootstrap_servers, left)

    received = [value for (name, _), value in found.items()
                if name == "kworker_messages_received_total"]  # fmt: skip
    assert sum(received) == 20
    dead = [value for (name, _), value in found.items()
            if name == "kworker_messages_dead_lettered_total"]  # fmt: skip
    assert sum(dead) == 1
    stores = [dict(labels) for name, labels in found if name == "kworker_store_bytes"]
    numbers = {labels.get("worker") for labels in stores}
    assert numbers == ({None} if workers == "1" else {"1", "2"})
