"""An app in a folder, and the `kworker` command run there as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kworker_broker import client
from kworker_broker.pytest_plugin import Kafka as RealKafka
from kworker_broker.pytest_plugin import MakeTopic

from kworker import kafka as kworker_kafka
from kworker.kafka import Kafka
from kworker.kafka.api import Receipt, Refusal
from kworker.message import Partition, Record

ROOT = Path(__file__).parents[2]

APP = """
from kworker.app import App
from kworker.retry import Retry

app = App({group!r}, retry=Retry(delays=["1s"]))

@app.handler({source!r})
def charge(order: dict) -> None: ...
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Shop:
    """An app with one handler of one topic; its group's topics do not exist yet."""

    folder: Path
    servers: str
    group: str
    source: str

    @property
    def cluster(self) -> Kafka:
        return kworker_kafka.connect(self.servers)

    def run(self, *arguments: str) -> Answer:
        """`kworker` with these arguments; the app is `shop:app`."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environ(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`kworker` with these arguments, still running; whoever starts it ends it."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def send(
        self,
        value: bytes | None = b"{}",
        *,
        topic: str | None = None,
        partition: int = 0,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp: float | None = None,
    ) -> int:
        """Write one message as any program might, to the source unless told; its offset."""
        answers: list[Receipt | Refusal] = []
        producer = self.cluster.producer(delivery_timeout=30.0)
        producer.send(
            topic or self.source,
            key,
            value,
            tuple(headers),
            answers.append,
            partition=partition,
            timestamp=timestamp,
        )
        producer.close(30.0)
        [answer] = answers
        assert isinstance(answer, Receipt), answer
        return answer.offset

    def on_a_terminal(self, *arguments: str, columns: int = 200) -> str:
        """What `kworker` writes, to stdout and stderr, where they are a terminal."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env={**self.environ(), "TERM": "xterm-256color", "COLUMNS": str(columns)},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        written = b""
        with suppress(OSError):  # a terminal whose other side is closed
            while more := os.read(ours, 65536):
                written += more
        os.close(ours)
        process.wait(60)
        return written.decode()

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "kworker", *arguments, "-b", self.servers]

    def environ(self) -> dict[str, str]:
        kept = {
            name: text
            for name, text in os.environ.items()
            if "KWORKER" not in name or name == "KWORKER_WITHOUT_PLUGINS"
        }
        return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def records(self, topic: str) -> list[Record]:
        """All that stands in a topic, partition by partition."""
        count = self.cluster.admin().topics()[topic]
        bounds = self.cluster.ends([Partition(topic, index) for index in range(count)])
        starts: dict[Partition, int | None] = dict.fromkeys(bounds)
        ends = {partition: end for partition, (_, end) in bounds.items()}
        found = list(self.cluster.read(starts, ends))
        return sorted(found, key=lambda one: (one.partition, one.offset))


@pytest.fixture
def shop(tmp_path: Path, kafka: RealKafka, topic: MakeTopic, group: str) -> Iterator[Shop]:
    # Messages of these stories may be old, and are to stay.
    source = topic("orders", partitions=3, retention_ms=-1)
    made = Shop(tmp_path, kafka.bootstrap_servers, group, source)
    (tmp_path / "shop.py").write_text(APP.format(group=made.group, source=made.source))
    yield made
    left = [name for name in made.cluster.admin().topics() if name.startswith(f"{group}.")]
    if left:
        client.delete_topics(kafka.bootstrap_servers, left)


@pytest.fixture
def open_shop(shop: Shop) -> Shop:
    """The same, with its group's topics."""
    made = shop.run("topics", "apply", "shop:app", "--execute")
    assert made.code == 0, made.err
    return shop
