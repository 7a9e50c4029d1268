from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kworker import kafka
from kworker.kafka import embedded
from kworker.kafka.api import NewTopic

SHOP = """
from kworker import App

app = App("shop")

@app.handler("orders")
def charge(order: dict) -> None:
    print("{word}", order["id"], flush=True)
"""


class Dev:
    """A `kworker dev` that runs beside the test; what it says is in two files."""

    def __init__(
        self, folder: Path, env: dict[str, str], *arguments: str, command: str = "dev"
    ) -> None:
        self.folder = folder
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kworker", command, *arguments],
                cwd=folder,
                env=env,
                stdout=out,
                stderr=err,
                start_new_session=True,  # as a terminal would: a group to send Ctrl-C to
            )

    def said(self, text: str, *, times: int = 1, where: str = "err") -> None:
        """Wait until it has said that."""
        until = time.monotonic() + 60
        while (self.folder / where).read_text().count(text) < times:
            assert time.monotonic() < until, (text, self.all())
            assert self.process.poll() is None, (text, self.all())
            time.sleep(0.02)

    def all(self) -> str:
        return (self.folder / "out").read_text() + (self.folder / "err").read_text()

    def left(self) -> dict[str, object]:
        content: dict[str, object] = json.loads((self.folder / ".kworker/dev.json").read_text())
        return content

    def end(self, number: int = signal.SIGINT, *, everyone: bool = True) -> int:
        send = os.killpg if everyone else os.kill
        send(self.process.pid, number)
        return self.process.wait(60)


@pytest.fixture
def dev(tmp_path, env):
    started: list[Dev] = []

    def start(*arguments: str) -> Dev:
        started.append(Dev(tmp_path, env, *arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_message_is_handled_without_kafka_and_a_change_is_taken_up(dev, command, tmp_path):
    (tmp_path / "shop.py").write_text(SHOP.format(word="charged"))
    (tmp_path / ".kworker/dev").mkdir(parents=True)
    (tmp_path / ".kworker/dev/shop.db").write_text("of an earlier start")
    run = dev("shop:app")
    run.said("worker started")
    address = str(run.left()["bootstrap_servers"])

    first = command("publish", "orders", '{"id": 1}')
    run.said("charged 1", where="out")
    (tmp_path / "shop.py").write_text(SHOP.format(word="billed"))
    run.said("worker started", times=2)
    second = command("publish", "orders", '{"id": 2}')
    run.said("billed 2", where="out")

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert re.fullmatch(r"orders/\d/\d+ [0-9a-f-]{36}\n", first.stdout)
    assert f"using the broker of `kworker dev` at {address}" in first.stderr
    assert "kworker publish orders" in run.all()
    assert run.end() == 0
    assert "shop.py changed" in run.all()
    assert "Traceback" not in run.all()
    assert not (tmp_path / ".kworker/dev.json").exists()
    assert not listens(address)
    assert [path.name for path in (tmp_path / ".kworker").iterdir()] == ["dev"]


def test_only_one_runs_in_a_folder(dev, command, shop):
    run = dev("shop:app")
    run.said("broker at")

    second = command("dev", "shop:app")

    assert second.returncode == 2
    assert "another `kworker dev` runs in this folder" in second.stderr
    assert run.end(signal.SIGTERM, everyone=False) == 0


def test_a_worker_that_dies_comes_again_with_the_next_change(dev, command, tmp_path):
    (tmp_path / "shop.py").write_text(
        SHOP.format(word="x").replace("print", "__import__('os')._exit(9) or print")
    )
    run = dev("shop:app", "-X", "session.timeout.ms=2000", "-X", "heartbeat.interval.ms=300")
    run.said("worker started")

    command("publish", "orders", '{"id": 1}')
    run.said("the worker ended with 9; it starts again when a file changes")
    (tmp_path / "shop.py").write_text(SHOP.format(word="charged"))

    run.said("charged 1", where="out")
    assert run.end() == 0


def test_a_change_that_cannot_be_imported_waits_for_the_next(dev, tmp_path):
    (tmp_path / "shop.py").write_text(SHOP.format(word="x"))
    run = dev("shop:app")
    run.said("worker started")

    (tmp_path / "shop.py").write_text("syntax error")
    run.said("the worker ended with 3")
    (tmp_path / "shop.py").write_text(SHOP.format(word="x"))

    run.said("worker started", times=2)
    assert run.end() == 0


def test_a_target_that_does_not_exist_ends_it_with_3(command, tmp_path):
    done = command("dev", "nosuch:app")

    assert done.returncode == 3
    assert "kworker: error: there is no module 'nosuch'" in done.stderr
    assert not (tmp_path / ".kworker/dev.json").exists()


def test_when_it_is_killed_its_worker_ends_too(dev, tmp_path):
    (tmp_path / "shop.py").write_text(
        SHOP.format(word="x") + '\nimport os\nopen("pid", "w").write(str(os.getpid()))\n'
    )
    run = dev("shop:app")
    run.said("worker started")
    worker = int((tmp_path / "pid").read_text())

    run.end(signal.SIGKILL, everyone=False)

    until = time.monotonic() + 30
    while Path(f"/proc/{worker}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def test_run_with_reload_starts_again_on_a_change_and_ends_with_its_child(env, tmp_path):
    shop = tmp_path / "shop.py"
    shop.write_text(SHOP.format(word="charged"))
    with embedded.start() as broker:
        run = Dev(
            tmp_path,
            env,
            *("shop:app", "--reload", "-b", broker.bootstrap_servers),
            *("--create-topics", "missing", "--log-format", "console"),
            *("-X", "session.timeout.ms=3000", "-X", "heartbeat.interval.ms=500"),
            command="run",
        )
        make_topic(broker.bootstrap_servers, "orders")
        run.said("worker started")
        shop.write_text(SHOP.format(word="billed"))
        run.said("shop.py changed: starting again")
        run.said("worker started", times=2)

        assert run.end() == 0
    assert "Traceback" not in run.all()


def make_topic(servers: str, topic: str) -> None:
    kafka.connect(servers).admin().create([NewTopic(topic, 4, 1, {})])
