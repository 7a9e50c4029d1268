"""`kworker run --health`: what probes and people are told while a worker runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.error import HTTPError

import pytest

from ..faults.harness import until
from .conftest import Shop

WAITING = """
import pathlib
from kworker import App, Outage, hookimpl

class Metrics:
    @hookimpl
    def provide_metrics(self, workers):
        return "text/plain", b"mine" if workers is None else repr(sorted(workers)).encode()

app = App({group!r}, plugins=[Metrics()])

@app.handler({source!r}, name="charge")
def charge(order: dict):
    if not pathlib.Path("open").exists():
        raise Outage("the bank is closed")
"""

QUICK = ("-X", "session.timeout.ms=3000", "-X", "heartbeat.interval.ms=500")


class Served:
    """A worker with `--health`, and what it answers."""

    def __init__(self, process: subprocess.Popen[str], log: Callable[[], str]) -> None:
        self.process = process
        found: Any = until(lambda: re.search(r"http://127\.0\.0\.1:\d+", log()), 30, "it is served")
        self.address: str = found[0]

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.address + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def ready(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("/readyz")[1])
        return found

    def is_ready(self) -> bool:
        return self.ask("/readyz")[0] == 200


@pytest.fixture
def serve(open_shop: Shop) -> Iterator[Callable[..., Served]]:
    shop = open_shop
    (shop.folder / "shop.py").write_text(WAITING.format(group=shop.group, source=shop.source))
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> Served:
        place = shop.folder / "worker.log"
        with place.open("w") as log:
            process = subprocess.Popen(
                shop.command("run", "shop:app", "--health", "127.0.0.1:0", *QUICK, *arguments),
                cwd=shop.folder,
                env=shop.environ(),
                stderr=log,
            )
        started.append(process)
        return Served(process, place.read_text)

    yield start
    for process in started:
        process.kill()
        process.wait(10)


def test_a_worker_is_ready_in_its_group_and_says_what_waits_and_why(
    open_shop: Shop, serve: Callable[..., Served]
) -> None:
    shop = open_shop
    for _ in range(3):
        shop.send(timestamp=time.time() - 60)

    worker = serve()
    until(worker.is_ready, 20, "it is ready")
    until(lambda: worker.ready()["outages"], 20, "the outage is told")
    until(lambda: worker.ready()["lag"]["messages"] == 3, 20, "it is behind")
    waiting = worker.ready()
    alive, metrics = worker.ask("/livez"), worker.ask("/metrics")
    (shop.folder / "open").touch()
    until(lambda: worker.ready()["lag"]["messages"] == 0, 40, "all is handled")
    done = worker.ready()
    worker.process.send_signal(signal.SIGTERM)

    assert worker.process.wait(20) == 0
    assert waiting["outages"] == {"charge": "the bank is closed"}
    assert (waiting["group"], waiting["in_flight"]) == (shop.group, 3)
    assert 59 < waiting["lag"]["seconds"] < 120
    assert waiting["store_bytes"] > 0
    assert alive[0] == 200
    assert metrics == (200, "mine")
    assert (done["outages"], done["in_flight"], done["lag"]["seconds"]) == ({}, 0, 0.0)


def test_the_parent_of_several_workers_serves_for_all_and_notices_one_that_hangs(
    open_shop: Shop, serve: Callable[..., Served]
) -> None:
    worker = serve("--workers", "2")
    until(worker.is_ready, 30, "both are ready")
    both = worker.ready()["workers"]
    metrics = worker.ask("/metrics")
    log = (open_shop.folder / "worker.log").read_text().splitlines()
    pids = [json.loads(line)["pid"] for line in log if "started" in line and '"pid"' in line]
    os.kill(pids[0], signal.SIGSTOP)
    hung = worker.ask("/livez")
    os.kill(pids[0], signal.SIGCONT)
    until(lambda: worker.ask("/livez")[0] == 200, 20, "it goes on")
    os.kill(pids[1], signal.SIGKILL)
    until(lambda: not worker.is_ready(), 10, "one is missing")
    dead = worker.ask("/livez")
    until(worker.is_ready, 30, "it is replaced")
    worker.process.send_signal(signal.SIGTERM)

    code = worker.process.wait(45)  # beyond what the parent gives its workers
    assert code == 0, (open_shop.folder / "worker.log").read_text()[-4000:]
    assert sorted(both) == ["1", "2"]
    assert {one["group"] for one in both.values()} == {open_shop.group}
    assert metrics == (200, "[1, 2]")
    assert hung[0] == 503
    assert "does not answer" in json.loads(hung[1])["workers"]["1"]["reason"]
    assert dead[0] == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_address_that_cannot_be_served_refuses_the_start_in_one_line(
    open_shop: Shop, workers: str
) -> None:
    open_to_all = open_shop.run("run", "shop:app", "--health", "0.0.0.0:0", "--workers", workers)
    no_port = open_shop.run("run", "shop:app", "--health", "localhost", "--workers", workers)

    assert (open_to_all.code, no_port.code) == (3, 3)
    assert open_to_all.err.count("\n") == no_port.err.count("\n") == 1
    assert "health: 0.0.0.0:0 can be reached from other machines" in open_to_all.err
    assert "'localhost' is no address; write it as 127.0.0.1:8080" in no_port.err


def test_a_token_is_never_shown(open_shop: Shop) -> None:
    (open_shop.folder / "kworker.toml").write_text('health_token = "s3cret"\n')

    shown = open_shop.run("config", "show", "shop:app", "--json")
    told = open_shop.run("config", "show", "shop:app")

    assert shown.code == told.code == 0, shown.err + told.err
    assert "s3cret" not in shown.out + told.out + shown.err + told.err
    assert "******" in told.out
