"""A handler that keeps a core busy for 2 ms: one process beside two, on one real Kafka.

    python benchmarks/workers.py [--messages 6000] [--rounds 3] [--workers 1 2]

The same preloaded topic (8 partitions, no keys) is drained by groups of their own; rounds
alternate, medians are printed. Clock: from the first message handled to the last; "together" is
the rate while all were at work.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import uuid
from collections import defaultdict
from pathlib import Path

PARTITIONS = 8
LINE = struct.Struct("=qd")  # process id, monotonic seconds
HERE = Path(__file__).parent


def preload(servers: str, topic: str, messages: int) -> None:
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result()
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 20})
    for number in range(messages):
        producer.produce(topic, b'{"id": 1}', partition=number % PARTITIONS)
        producer.poll(0)
    producer.flush()


def once(servers: str, topic: str, messages: int, workers: int) -> tuple[float, float]:
    """Messages a second: over all, and while all workers were at work."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "handled"
        environ = {
            **os.environ,
            "PYTHONPATH": str(HERE.parent),
            "BENCH_TOPIC": topic,
            "BENCH_GROUP": uuid.uuid4().hex,
            "BENCH_RESULT": str(path),
        }
        run = [sys.executable, "-m", "kworker", "run", "workers_app:app", "-b", servers, "-q"]
        run += ["--app-dir", str(HERE), "--create-topics", "missing", "--drain"]
        run += ["--db", str(Path(folder) / "store.db"), "--workers", str(workers)]
        done = subprocess.run(run, env=environ, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            sys.exit(f"ended with {done.returncode}:\n{done.stderr[-2000:]}")
        handled: dict[int, list[float]] = defaultdict(list)
        for pid, at in LINE.iter_unpack(path.read_bytes()):
            handled[pid].append(at)
    every = sorted(at for times in handled.values() for at in times)
    if len(every) != messages or len(handled) != workers:
        sys.exit(f"{len(every)} of {messages} messages were handled by {len(handled)} workers")
    begin, end = (
        max(min(one) for one in handled.values()),
        min(max(one) for one in handled.values()),
    )
    together = sum(begin <= at <= end for at in every) / (end - begin)
    return messages / (every[-1] - every[0]), together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    servers, cluster = os.environ.get("KWORKER_TEST_BOOTSTRAP"), None
    if servers is None:
        from kworker_broker import Cluster

        # As a broker does by default: all who start together share from the beginning.
        cluster = Cluster.start(group_initial_rebalance_delay_ms=3000)
        servers = cluster.bootstrap_servers
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    preload(servers, topic, given.messages)
    found: dict[int, list[tuple[float, float]]] = {workers: [] for workers in given.workers}
    for _ in range(given.rounds):
        for workers in given.workers:
            found[workers].append(once(servers, topic, given.messages, workers))
    if cluster is not None:
        cluster.close()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, CPython {platform.python_version()}"
    print(f"{given.messages} messages of 2 ms CPU, median of {given.rounds}; {machine}")
    print(f"{'workers':>7} {'messages/s':>11} {'ratio':>6} {'together':>9} {'ratio':>6}")
    first = found[given.workers[0]]
    for workers, rounds in found.items():
        line = f"{workers:7}"
        for column in (0, 1):
            rate = statistics.median(one[column] for one in rounds)
            line += f" {rate:11,.0f}" if column == 0 else f" {rate:9,.0f}"
            line += f" {rate / statistics.median(one[column] for one in first):6.2f}"
        print(line)


if __name__ == "__main__":
    main()
