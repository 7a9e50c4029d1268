"""A trivial handler beside a raw consume loop, in one run on one real Kafka.

    python benchmarks/throughput.py [--messages 200000] [--rounds 3] [--json FILE]

Messages are 200-byte JSON values with a key and a message id, preloaded into 4 partitions.
Each variant is a process of its own; rounds alternate between them, medians are printed.
Clock: from the first message handled to the last; CPU: user and system of the whole process
over the same span.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

TUNED = {
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "fetch.queue.backoff.ms": 10,
    "isolation.level": "read_committed",
}
VARIANTS = {
    "raw consume loop": ["raw"],
    "kworker, concurrency 1": ["kworker", "--concurrency", "1"],
    "kworker, threads 32, order by key": ["kworker", "--concurrency", "32"],
    "kworker, async 100, order by key": ["async", "--concurrency", "100"],
    "at_most_once, threads 32": ["kworker", "--concurrency", "32", "--delivery", "at_most_once"],
    "publishing, at_least_once": ["copies", "--concurrency", "32"],
    "publishing, exactly_once": ["copies", "--concurrency", "32", "--delivery", "exactly_once"],
}

APPS = {"kworker": "app", "async": "slow", "copies": "copier"}


class Meter:
    """Counts handled messages; at the last one writes what it cost and ends the process."""

    def __init__(self) -> None:
        self.left = int(os.environ["BENCH_MESSAGES"])
        self.count = self.left
        self.begun = 0.0

    def tick(self) -> None:
        if self.left == self.count:
            self.begun, self.cpu = time.perf_counter(), time.process_time()
        self.left -= 1
        if self.left == 0:
            wall, cpu = time.perf_counter() - self.begun, time.process_time() - self.cpu
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            Path(os.environ["BENCH_RESULT"]).write_text(
                json.dumps({"rate": self.count / wall, "cpu": cpu / self.count * 1e6, "peak": peak})
            )
            os.kill(os.getpid(), signal.SIGTERM)


def raw() -> None:
    """Touch every field and parse the value, as any handler's caller has to."""
    from confluent_kafka import Consumer

    meter = Meter()
    consumer = Consumer(
        {"bootstrap.servers": os.environ["BENCH_SERVERS"], "group.id": uuid.uuid4().hex, **TUNED}
    )
    consumer.subscribe([os.environ["BENCH_TOPIC"]])
    while True:
        for message in consumer.consume(500, 0.2):
            message.topic(), message.partition(), message.offset(), message.key()
            message.headers(), message.timestamp()
            json.loads(message.value())
            meter.tick()


def preload(servers: str, topic: str, messages: int) -> None:
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": servers})
    for made in admin.create_topics(
        [NewTopic(topic, 4, 1), NewTopic(f"{topic}-out", 4, 1)]
    ).values():
        made.result()
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 20})
    padding = "x" * 150
    for number in range(messages):
        value = json.dumps({"id": number, "amount": 9.5, "note": padding})
        while True:
            try:
                producer.produce(
                    topic,
                    value,
                    key=str(number % 5000),
                    headers={"kworker-message-id": str(uuid.uuid4())},
                )
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def once(command: list[str], servers: str, topic: str, messages: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        environ = {
            **os.environ,
            "BENCH_SERVERS": servers,
            "BENCH_TOPIC": topic,
            "BENCH_OUT": f"{topic}-out",
            "BENCH_MESSAGES": str(messages),
            "BENCH_RESULT": str(result),
            "BENCH_GROUP": uuid.uuid4().hex,
        }
        if command[0] == "raw":
            run = [sys.executable, __file__, "--child"]
        else:
            target = f"throughput_app:{APPS[command[0]]}"
            run = [sys.executable, "-m", "kworker", "run", target, "-b", servers]
            run += ["--app-dir", str(Path(__file__).parent), "-q", "--create-topics", "missing"]
            run += ["--db", str(Path(folder) / "store.db"), *command[1:]]
        done = subprocess.run(run, env=environ, capture_output=True, text=True, timeout=600)
        if not result.exists():
            sys.exit(f"{command} failed:\n{done.stderr[-2000:]}")
        return dict(json.loads(result.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", action="append", help="part of a variant's name")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        raw()
    servers, cluster = os.environ.get("KWORKER_TEST_BOOTSTRAP"), None
    if servers is None:
        from kworker_broker import Cluster

        cluster = Cluster.start()
        servers = cluster.bootstrap_servers
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    preload(servers, topic, given.messages)
    variants = {
        name: command
        for name, command in VARIANTS.items()
        if command[0] == "raw" or not given.only or any(part in name for part in given.only)
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(given.rounds):
        for name, command in variants.items():
            found[name].append(once(command, servers, topic, given.messages))
    if cluster is not None:
        cluster.close()
    report(found, given)


def report(found: dict[str, list[dict[str, float]]], given: Any) -> None:
    rows = {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    base = rows["raw consume loop"]["rate"]
    machine = f"{os.cpu_count()} cores, {platform.machine()}, CPython {platform.python_version()}"
    print(f"{given.messages} messages, median of {given.rounds}; {machine}")
    print(f"{'variant':36} {'messages/s':>11} {'of raw':>7} {'CPU us':>7} {'peak MiB':>9}")
    for name, row in rows.items():
        ratio = row["rate"] / base
        print(f"{name:36} {row['rate']:11,.0f} {ratio:7.2f} {row['cpu']:7.1f} {row['peak']:9.0f}")
    if given.json:
        given.json.write_text(
            json.dumps(
                {
                    "machine": machine,
                    "messages": given.messages,
                    "rounds": given.rounds,
                    "rows": rows,
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
