"""What a message costs, stage by stage: microseconds of CPU in the real runtime.

    python benchmarks/stages.py [--messages 100000] [--rounds 3] [--only inline] [--json FILE]

The messages are fetched from Kafka before the clock starts and then given out of memory, in
batches as the client would, so the client's own threads (about 0.5 us) are not in it and runs
compare. Everything else is as in production: two members, a store with FULL, commits. Stages of
the loop's thread are timed once a batch, each without what it calls; `decode` is timed by itself
afterwards, on the same values. The smallest of all rounds is shown: what others on the machine
do only ever adds.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any

from throughput import preload

STAGES = {
    "touch": ["kworker.kafka.consumer:received"],
    "admit": ["kworker.runtime.intake:Intake.admit"],
    "question": [
        "kworker.stores.sqlite.store:SqliteStore.seen_ids",
        "kworker.stores.sqlite.store:SqliteStore.attempts",
    ],
    "dispatch": ["kworker.runtime.loop:Loop.dispatch", "kworker.runtime.loop:Loop.start"],
    "settle": ["kworker.runtime.loop:Loop.hear"],
    "record": [
        "kworker.runtime.delivery.at_least_once:AtLeastOnce._turn",
        "kworker.stores.sqlite.store:SqliteStore.record",
    ],
    "close": ["kworker.runtime.delivery.at_least_once:AtLeastOnce.record"],
    "commit": ["kworker.runtime.delivery.at_least_once:AtLeastOnce.commit"],
    "turn": ["kworker.runtime.loop:Loop.turn"],
}

VARIANTS = {
    "inline": ["--concurrency", "1"],
    "threads 32": ["--concurrency", "32"],
    "async 100": ["--concurrency", "100"],
    "positions": ["--concurrency", "1"],
}

spent: defaultdict[str, float] = defaultdict(float)
inner: list[float] = [0.0]


def timed(stage: str, function: Any) -> Any:
    """The function, its own CPU time added to its stage. For one thread."""

    def call(*args: Any, **kwargs: Any) -> Any:
        begun = time.thread_time()
        inner.append(0.0)
        try:
            return function(*args, **kwargs)
        finally:
            took = time.thread_time() - begun
            spent[stage] += took - inner.pop()
            inner[-1] += took

    return call


def instrument() -> None:
    for stage, places in STAGES.items():
        for place in places:
            module, _, path = place.partition(":")
            owner: Any = importlib.import_module(module)
            *parents, name = path.split(".")
            for parent in parents:
                owner = getattr(owner, parent)
            setattr(owner, name, timed(stage, getattr(owner, name)))


def replaying(kind: Any, messages: int) -> Any:
    """A client that fetches so many messages first and gives them out afterwards."""

    class Replaying(kind):  # type: ignore[misc]
        held: list[Any] | None = None
        assigned = False

        def incremental_assign(self, places: list[Any]) -> None:
            Replaying.assigned |= any(one.topic == os.environ["BENCH_TOPIC"] for one in places)
            super().incremental_assign(places)
            self.source = any(one.topic == os.environ["BENCH_TOPIC"] for one in places)

        def poll(self, patience: float) -> Any:
            if not getattr(self, "source", False):
                return super().poll(0 if Replaying.held else patience)
            if Replaying.held is None:
                Replaying.held = []
                while len(Replaying.held) < messages:
                    Replaying.held += super().consume(500, 1.0)
                Replaying.held.reverse()
                gc.freeze()
            super().poll(0)
            return Replaying.held.pop() if Replaying.held else None

        def consume(self, limit: int, patience: float) -> list[Any]:
            if not getattr(self, "source", False):
                return list(super().consume(limit, patience))
            held = Replaying.held or []
            given = held[-limit:]
            del held[-limit:]
            given.reverse()
            return given

    Replaying.poll = timed("fetch", Replaying.poll)  # type: ignore[method-assign]
    Replaying.consume = timed("fetch", Replaying.consume)  # type: ignore[method-assign]
    return Replaying


class Meter:
    """Starts the clock at a tenth of the messages, when all is warm; ends it at the last."""

    def __init__(self, messages: int) -> None:
        self.warm = messages // 10
        self.messages = messages
        self.counted = messages - self.warm
        self.next = itertools.count(1).__next__  # whole on any thread

    def tick(self) -> None:
        count = self.next()
        if count == self.warm:
            self.before = dict(spent)
            self.cpu = time.process_time()
            self.wall = time.perf_counter()
        elif count == self.messages:
            cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
            found = {
                stage: (spent[stage] - self.before.get(stage, 0.0)) / self.counted * 1e6
                for stage in ("fetch", *STAGES)
            }
            whole = cpu / self.counted * 1e6
            found["handlers"] = whole - sum(found.values())
            found["whole"] = whole
            found["wall"] = wall / self.counted * 1e6
            Path(os.environ["BENCH_RESULT"]).write_text(json.dumps(found))
            os.kill(os.getpid(), signal.SIGTERM)


def child(given: argparse.Namespace) -> None:
    from kworker.cli.main import main as command
    from kworker.kafka import consumer

    instrument()
    consumer.confluent_kafka.Consumer = replaying(consumer.confluent_kafka.Consumer, given.messages)
    command(given.command)


def app() -> Any:
    from kworker import App

    meter = Meter(int(os.environ["BENCH_MESSAGES"]))
    made = App("bench", group=os.environ["BENCH_GROUP"])

    async def count_async(order: dict) -> None:
        meter.tick()

    def count(order: dict) -> None:
        meter.tick()

    topic, handler = os.environ["BENCH_TOPIC"], os.environ["BENCH_HANDLER"]
    made.handler(topic, name="count", trust_ids=handler != "positions")(
        count_async if handler.startswith("async") else count
    )
    return made


def once(variant: str, given: argparse.Namespace, servers: str, topic: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        environ = {
            **os.environ,
            "BENCH_TOPIC": topic,
            "BENCH_MESSAGES": str(given.messages),
            "BENCH_RESULT": str(result),
            "BENCH_GROUP": uuid.uuid4().hex,
            "BENCH_HANDLER": variant,
        }
        run = [sys.executable, __file__, "--child", "--messages", str(given.messages), "--"]
        run += ["run", "stages:app", "--factory", "-b", servers, "-q", "--app-dir"]
        run += [str(Path(__file__).parent), "--create-topics", "missing"]
        run += [*VARIANTS[variant], "--db", str(Path(folder) / "store.db")]
        done = subprocess.run(run, env=environ, capture_output=True, text=True, timeout=600)
        if not result.exists():
            sys.exit(f"it failed:\n{done.stderr[-3000:]}")
        return dict(json.loads(result.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=list(VARIANTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        importlib.import_module("stages").child(given)  # the one that the app's target imports
        return
    servers, cluster = os.environ.get("KWORKER_TEST_BOOTSTRAP"), None
    if servers is None:
        from kworker_broker import Cluster

        cluster = Cluster.start()
        servers = cluster.bootstrap_servers
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    preload(servers, topic, given.messages)
    variants = given.only or list(VARIANTS)
    rounds: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for _ in range(given.rounds):
        for variant in variants:
            rounds[variant].append(once(variant, given, servers, topic))
    if cluster is not None:
        cluster.close()
    best = {
        variant: {stage: min(one[stage] for one in found) for stage in found[0]}
        for variant, found in rounds.items()
    }
    print(f"{'us of CPU':12}" + "".join(f"{variant:>12}" for variant in variants))
    for stage in best[variants[0]]:
        print(f"{stage:12}" + "".join(f"{best[variant][stage]:12.2f}" for variant in variants))
    if given.json:
        given.json.write_text(json.dumps(best, indent=1))


if __name__ == "__main__":
    main()
