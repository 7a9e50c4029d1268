"""Every example does what it says, on the embedded broker, as a reader would run it."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import string
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..faults.harness import until

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE = 60.0  # seconds: two cores may be busy with other things

KWORKER = (sys.executable, "-m", "kworker")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return os.environ | {"TMPDIR": str(scratch), "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}


class Dev:
    """`kworker dev`, in a folder of its own."""

    def __init__(self, folder: Path, environ: dict[str, str], *arguments: str) -> None:
        self.folder = folder
        self.environ = environ
        self.said: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [*KWORKER, "dev", *arguments],
            cwd=folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.said.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def text(self) -> str:
        return "".join(self.said)

    def wait(self, until: Callable[[str], bool]) -> None:
        with self._news:
            came = self._news.wait_for(
                lambda: until(self.text) or self.process.poll() is not None, PATIENCE
            )
        assert came and until(self.text), self.text

    def command(self, *arguments: str) -> str:
        """Run another command in the same folder; what it says on stdout."""
        ran = subprocess.run(
            arguments, cwd=self.folder, env=self.environ, capture_output=True, text=True,
            timeout=PATIENCE,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def publish(self, topic: str, value: str) -> str:
        return self.command(*KWORKER, "publish", topic, value)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self._reader.join(PATIENCE)


@contextmanager
def dev(folder: Path, environ: dict[str, str], *arguments: str) -> Iterator[Dev]:
    running = Dev(folder, environ, *arguments)
    try:
        running.wait(lambda text: "assigned" in text)
        yield running
    finally:
        code = running.stop()
    assert code == 0, running.text


def test_the_demo_tells_the_whole_story_and_leaves_nothing_behind(tmp_path, environ):
    begun = time.monotonic()

    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py")],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=PATIENCE * 2,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "everything came as it should" in ran.stdout
    assert "MISSING" not in ran.stdout
    assert time.monotonic() - begun < 60
    assert [one.name for one in tmp_path.iterdir()] == ["scratch"]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_demo_clears_away_what_it_made_when_it_is_stopped(tmp_path, environ):
    demo = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "demo.py")],
        cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert demo.stdout is not None
    for line in demo.stdout:
        if "kworker run" in line:
            break

    demo.terminate()
    code = demo.wait(PATIENCE)

    assert code == 1
    assert list((tmp_path / "scratch").iterdir()) == []
    until(lambda: _gone(demo.pid), 20, "the demo's processes to be gone")


def test_the_quickstart_charges_an_order_and_gives_up_what_is_none(tmp_path, environ):
    app_dir = str(EXAMPLES / "01_quickstart")

    with dev(tmp_path, environ, "shop.orders:app", "--app-dir", app_dir) as running:
        running.publish("orders", '{"id": 1, "amount": 9.5}')
        running.publish("orders", "no order")
        running.wait(lambda text: "charging order 1: 9.50" in text and "undecodable" in text)
        listed = running.command(
            *KWORKER, "dlq", "list", "shop.orders:app", "--app-dir", app_dir, "--json"
        )

    assert '"disposition": "undecodable"' in listed


def test_the_alphabet_is_sent_and_printed_with_key_time_and_delivery(tmp_path, environ):
    folder = EXAMPLES / "02_alphabet"

    with dev(tmp_path, environ, "alphabet:app", "--app-dir", str(folder)) as running:
        address = json.loads((tmp_path / ".kworker" / "dev.json").read_text())["bootstrap_servers"]
        running.environ["KWORKER_BOOTSTRAP_SERVERS"] = address
        sent = running.command(sys.executable, str(folder / "producer.py"), "--interval", "0")
        running.wait(lambda text: text.count("handled ") == 26)

    line = re.compile(r"[\d:.]+  ([A-Z])  key=alphabet  delivered to (letters/\d/\d+)")
    found = [line.fullmatch(text) for text in sent.splitlines()]
    assert "".join(one[1] for one in found if one) == string.ascii_uppercase
    for one in found:
        assert one is not None
        assert f"handled {one[1]} from {one[2]}\n" in running.text


def test_typed_events_are_answered_on_one_event_loop(tmp_path, environ):
    app = ("notify:app", "--app-dir", str(EXAMPLES / "04_typed_async"))

    with dev(tmp_path, environ, *app, "--concurrency", "20") as running:
        running.publish("events", '{"kind": "placed", "order": 1, "email": "ann@example.com"}')
        running.publish("events", '{"kind": "shipped", "order": 1, "parcel": "1Z999"}')
        running.publish("events", '{"kind": "lost", "order": 1}')
        running.wait(lambda text: "1Z999 (attempt 1)" in text and "(undecodable)" in text)
        running.wait(lambda text: "thank you for order 1, ann@example.com (attempt 1)" in text)
        tail = ("tail", "notices", "-o", "earliest", "-n", "2", "--json")
        notices = running.command(*KWORKER, *tail)

    told = [json.loads(json.loads(line)["value"])["text"] for line in notices.splitlines()]
    assert sorted(told) == [
        "order 1 is on its way as 1Z999",
        "thank you for order 1, ann@example.com",
    ]
    assert "sent 2 mails" in running.text


def test_every_way_out_of_a_handler_and_the_way_back_from_the_dead_letters(tmp_path, environ):
    code = (EXAMPLES / "03_retries_and_dead_letters" / "mail.py").read_text()
    source = tmp_path / "mail.py"
    source.write_text(code)

    with dev(tmp_path, environ, "mail:app", "-v") as running:
        for name in ("ann@example.com", "slow@example.com", "busy@example.com", "me@example.com"):
            running.publish("mails", json.dumps({"to": name}))
        running.publish("mails", '{"to": "bob@"}')
        running.publish("mails", "no JSON")
        running.publish("mails", '{"to": "down@example.com"}')
        running.wait(
            lambda text: all(
                part in text
                for part in (
                    "sent to ann@example.com at attempt 1\n",
                    "sent to slow@example.com at attempt 3\n",
                    "sent to busy@example.com at attempt 2\n",
                    "skipped in",
                    "dead-lettered (rejected)",
                    "dead-lettered (undecodable)",
                    "dead-lettered (retries_exhausted)",
                )
            )
        )
        source.write_text(code.replace("SERVER_IS_DOWN = True", "SERVER_IS_DOWN = False"))
        running.wait(lambda text: text.count("assigned") == 2)
        running.command(
            *KWORKER, "dlq", "replay", "mail:app", "--error", "ConnectionError", "--execute"
        )
        running.wait(lambda text: "sent to down@example.com at attempt 1\n" in text)
        left = running.command(*KWORKER, "dlq", "list", "mail:app", "--json")

    left_over = {one["disposition"] for one in json.loads(left)["messages"]}
    assert left_over == {"rejected", "undecodable"}


def test_the_bank_moves_each_amount_once_and_gives_out_a_receipt(tmp_path, environ):
    app_dir = str(EXAMPLES / "05_effectively_once")
    order = {"from_account": "ann", "to_account": "bob", "amount": 5}

    def balances() -> dict[str, int]:
        with sqlite3.connect(tmp_path / ".kworker" / "dev" / "bank.db") as connection:
            try:
                return dict(connection.execute("SELECT name, balance FROM account"))
            except sqlite3.OperationalError:
                return {}  # nothing was moved yet

    with dev(tmp_path, environ, "bank:app", "--app-dir", app_dir) as running:
        running.publish("transfers", json.dumps(order))
        running.publish("transfers", json.dumps(order | {"amount": -1}))
        running.wait(lambda text: "dead-lettered (rejected)" in text)
        deadline = time.monotonic() + PATIENCE
        while not balances():
            assert time.monotonic() < deadline, running.text
        receipts = running.command(*KWORKER, "tail", "receipts", "-o", "earliest", "-n", "1")

    assert balances() == {"ann": -5, "bob": 5}
    assert '{"moved":5}' in receipts


def _gone(group: int) -> bool:
    """Whether no process of the group is left; a child may end a moment after its parent."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
