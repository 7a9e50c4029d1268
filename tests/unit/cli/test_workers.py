"""`kworker run --workers N`, without Kafka or on the mock."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from .test_command import NOBODY, one_line
from .test_dev import SHOP, dev

__all__ = ["dev"]


def told(stderr: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]


def test_no_workers_at_all_is_refused(command, shop):
    done = command("run", "shop:app", "--workers", "0")

    assert done.returncode == 3
    assert one_line(done) == "workers in --workers: '0' is too small: at least 1 is needed"


def test_what_the_parent_can_tell_is_told_once_and_starts_nobody(command):
    done = command("run", "nosuch:app", "-w", "4")

    assert done.returncode == 3
    assert "nosuch" in one_line(done)


def test_without_kafka_it_ends_with_4_as_one_worker_would(command, tmp_path):
    (tmp_path / "shop.py").write_text(
        "from kworker import App\n"
        'app = App("shop", workers=2)\n'
        '@app.handler("orders")\n'
        "def charge(order: dict) -> None: ...\n"
    )

    done = command("run", "shop:app", "-b", NOBODY, "--connect-timeout", "1s")

    assert done.returncode == 4, done.stderr
    started = [one for one in told(done.stderr) if str(one["message"]).endswith(" started")]
    assert [one["worker"] for one in started] == [1, 2]
    assert "kworker: error: " in done.stderr
    assert NOBODY in done.stderr
    assert "Traceback" not in done.stderr


def test_dev_runs_workers_too_and_leaves_none_when_it_is_killed(dev, command, tmp_path):
    (tmp_path / "shop.py").write_text(SHOP.format(word="charged"))
    run = dev("shop:app", "-w", "2", "--log-format", "json")
    run.said('"message": "worker started:', times=2)
    lines = told((tmp_path / "err").read_text())
    lines = [one for one in lines if str(one["message"]).startswith("worker started:")]
    pids = [one["pid"] for one in lines]
    assert {one["worker"] for one in lines} == {1, 2}, "each line says whose it is"

    command("publish", "orders", '{"id": 1}')
    run.said("charged 1", where="out")
    run.end(signal.SIGKILL, everyone=False)

    until = time.monotonic() + 30
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, alive
        time.sleep(0.05)
