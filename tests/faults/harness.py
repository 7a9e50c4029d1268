"""Runs workers as a user does, sends what they shall handle, and looks at Kafka afterwards.

Nothing here imports kworker: workers are processes started with `python -m kworker run`, and
everything else is read from Kafka with a plain client.

How a scenario is written, as a test whose name is a sentence:

1. `lab.env["TOPIC"] = source = topic("name", partitions=4)`, and a `Truth` that sends to it.
2. Workers by `lab.start(app, …)` (until told) or `lab.run(app, …, "--drain")` (until done), apps
   from `apps/`. An app with `plugins=[Witness()]` has its invariants replayed at every instant.
3. Faults: `lab.kill(worker)`, or whatever else, told by `lab.fault("broker killed")`. What is
   left to chance is drawn from `random.Random(seed())`.
4. `lab.run(app, "--drain")` or `lab.wait_for_lag_0([source], seconds)`, then
   `lab.verdict(sent, handlers=[…]).problems == []`: lost, repeated and by which kill excused, out
   of order, committed too far or back, dead letters unlike their message.

The verdict is the scenario's row in the table at the end of a run (`lab.row`; set `lab.mode`
for another delivery mode, fill in `lab.row` where another judge counts). A short pass runs
with `make test`; what `FULL` asks for, with `make faults`, which also publishes the table.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import confluent_kafka.admin
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from .oracle import Commit, Copy, Effect, Kill, Place, Sent, Verdict, judge, read_effects
from .replay import Event, committed_too_far, read_commit, read_events, went_back
from .table import Row

# Its classes are not exported in a way that type checkers accept.
classes: Any = confluent_kafka.admin

ROOT = Path(__file__).resolve().parents[2]
APPS = Path(__file__).parent / "apps"
FULL = os.environ.get("KWORKER_FAULTS") == "full"
"""Whether the long forms of the tests are wanted (`make faults`)."""

OFFSETS = "__consumer_offsets"
PLACE = ("topic", "partition", "offset")
LETTER = (
    "kworker-message-id", "kworker-handler", "kworker-hop", "kworker-attempt",
    *(f"kworker-original-{name}" for name in PLACE), "kworker-original-group",
    "kworker-first-failed-at", "kworker-error-type", "kworker-error-message",
    "kworker-error-stacktrace", "kworker-error-fingerprint", "kworker-disposition",
)  # fmt: skip
"""What every dead letter says."""

QUICK_MEMBER = ("-X", "session.timeout.ms=3000", "-X", "heartbeat.interval.ms=500")
"""So that the group notices a killed member within three seconds."""


drawn: list[int] = []
"""The seed of the test that runs."""


def seed() -> int:
    """The seed of this test: the given one, or a new one, printed either way."""
    chosen = int(os.environ.get("KWORKER_FAULTS_SEED") or random.SystemRandom().randrange(10**6))
    drawn[:] = [chosen]
    print(f"seed {chosen} (KWORKER_FAULTS_SEED={chosen} runs the same schedule)")
    return chosen


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The condition's first true answer; fails the test, naming `what`, after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := condition():
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def said(self) -> list[str]:
        """What the user reads on stderr, line by line."""
        return self.err.strip().splitlines()


class Process:
    """A worker's process, its output in a file."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.pid = self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def kill(self) -> Kill:
        """kill -9; returns when nothing of the process runs any more."""
        at = time.monotonic()
        self._popen.kill()
        self._popen.wait()
        return Kill(self.pid, at)

    def wait(self, seconds: float) -> int:
        """The exit code; fails the test, with the log, when it does not end in time."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"pid {self.pid} did not end within {seconds} s") from None

    def wait_for(self, text: str, seconds: float) -> None:
        """Wait until the log says so."""
        until(
            lambda: text in self.output or not self.running, seconds, f"{text!r} in {self.log.name}"
        )
        assert text in self.output, f"pid {self.pid} ended without saying {text!r}"


class Lab:
    """One group on one cluster, one directory, any number of workers."""

    def __init__(self, bootstrap: str, group: str, folder: Path) -> None:
        self.bootstrap = bootstrap
        self.group = group
        self.folder = folder
        self.effects_log = folder / "effects.log"
        self.events_log = folder / "events.log"
        self.db = folder / "store.db"
        self.env: dict[str, str] = {}
        self.apps = APPS
        self.processes: list[Process] = []
        self.kills: list[Kill] = []
        self._deaths: list[Kill] = []  # when it ended by itself: seen a little later
        self.commits: list[Commit] = []
        self.mode = "at_least_once"
        self.row: Row | None = None
        self._faults: Counter[str] = Counter()
        self._last_fault: float | None = None
        self._all_done: float | None = None
        self._watcher: Consumer | None = None
        self._admin: Any = None

    # ---- commands and workers

    def environ(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of every process: ours without settings of kworker."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("KWORKER_") or name == "KWORKER_WITHOUT_PLUGINS"
        }
        path = os.pathsep.join(filter(None, [os.environ.get("KWORKER_STANDIN"), str(ROOT)]))
        return {
            **inherited,
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            "EFFECTS": str(self.effects_log),
            "EVENTS": str(self.events_log),
            **self.env,
            **(env or {}),
        }

    def command(
        self, *arguments: str, timeout: float = 60, env: Mapping[str, str] | None = None
    ) -> Finished:
        """Run `kworker …` to its end, exactly as given."""
        process = subprocess.run(
            [sys.executable, "-m", "kworker", *arguments],
            env=self.environ(env),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
        )
        out, err = process.stdout.decode(errors="replace"), process.stderr.decode(errors="replace")
        print(f"$ kworker {' '.join(arguments)}\n{out[-1000:]}{err[-1000:]}= {process.returncode}")
        return Finished(process.returncode, out, err)

    def run_arguments(self, target: str, *more: str) -> list[str]:
        return [
            "run", target, "--app-dir", str(self.apps), "-b", self.bootstrap, "-g", self.group,
            "--db", str(self.db), *QUICK_MEMBER, *more,
        ]  # fmt: skip

    def run(
        self,
        target: str,
        *more: str,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        topics: bool = True,
    ) -> Finished:
        """A worker that ends by itself (`--drain`, or because it refuses to start)."""
        create = ("--create-topics", "missing") if topics else ()
        ended = self.command(*self.run_arguments(target, *create, *more), timeout=timeout, env=env)
        self._all_done = time.monotonic()
        return ended

    def start(
        self, target: str, *more: str, env: Mapping[str, str] | None = None, topics: bool = True
    ) -> Process:
        """A worker that runs until it is told to end."""
        create = ("--create-topics", "missing") if topics else ()
        process = Process(
            [sys.executable, "-m", "kworker", *self.run_arguments(target, *create, *more)],
            self.environ(env),
            self.folder,
            self.folder / f"worker-{len(self.processes)}.log",
        )
        self.processes.append(process)
        return process

    def kill(self, process: Process) -> Kill:
        """kill -9, remembered for the verdict together with what was committed then."""
        kill = process.kill()
        self.kills.append(kill)
        return kill

    def crash(self, target: str, failpoint: str, *more: str, seconds: float = 30) -> None:
        """A worker that ends itself at a failpoint, as by kill -9; remembered for the verdict."""
        env = {"KWORKER_TESTING": "1", "KWORKER_FAILPOINT": failpoint}
        worker = self.start(target, *more, env=env)
        code = worker.wait(seconds)
        # It was seen some time after it was there: what it did last was shortly before.
        did = [effect.at for effect in self.effects() if effect.pid == worker.pid]
        self._deaths.append(Kill(worker.pid, max(did, default=time.monotonic())))
        self.fault(f"exit {failpoint}")
        assert code == 137, f"it ended with {code}, not at {failpoint}"

    def end(self, worker: Process, what: str) -> None:
        """Count something that ends this worker by and by; remembered for the verdict."""
        self._deaths.append(Kill(worker.pid, time.monotonic()))
        self.fault(what)

    def fault(self, what: str) -> None:
        """Count something that was done to the worker, other than a kill, for the table."""
        self._faults[what] += 1
        self._last_fault = time.monotonic()

    def dlq(self, target: str, *arguments: str, timeout: float = 60) -> Finished:
        """`kworker dlq …` for this lab's group and cluster."""
        action, *rest = arguments
        return self.command(
            "dlq", action, target, *rest, "--app-dir", str(self.apps), "-b", self.bootstrap,
            "-g", self.group, timeout=timeout,
        )  # fmt: skip

    # ---- what happened

    def effects(self) -> list[Effect]:
        return read_effects(self.effects_log)

    def events(self) -> list[Event]:
        """What workers were told, where their app has a `Witness`."""
        return read_events(self.events_log)

    def lines(self) -> int:
        """How many phases handlers have logged: cheap, for waiting on progress."""
        return self.effects_log.read_bytes().count(b"\n") if self.effects_log.exists() else 0

    def wait_for_lines(self, count: int, seconds: float) -> None:
        """Wait until handlers have logged so many phases, or no worker runs any more."""
        until(
            lambda: self.lines() >= count or not any(one.running for one in self.processes),
            seconds,
            f"{count} lines in the effects log",
        )

    @property
    def retry_topics(self) -> list[str]:
        return sorted(t for t in self.topics() if t.startswith(f"{self.group}.retry."))

    @property
    def replay_topic(self) -> str:
        return f"{self.group}.replay"

    @property
    def dlq_topic(self) -> str:
        return f"{self.group}.dlq"

    def retries(self) -> list[Copy]:
        return [copy for topic in self.retry_topics for copy in self.copies(topic)]

    def dead_letters(self) -> list[Copy]:
        return self.copies(self.dlq_topic)

    def copies(self, topic: str) -> list[Copy]:
        """The copies in one of the group's topics; records of replay events are left out."""
        found = []
        for record in dump(self.bootstrap, topic):
            headers = headers_of(record)
            if "kworker-dlq-event" in headers:
                continue
            found.append(
                Copy(
                    place=place_of(record),
                    handler=headers["kworker-handler"],
                    original=(
                        headers["kworker-original-topic"],
                        int(headers["kworker-original-partition"]),
                        int(headers["kworker-original-offset"]),
                    ),
                    message_id=headers["kworker-message-id"],
                    hop=int(headers["kworker-hop"]),
                    attempt=int(headers["kworker-attempt"]),
                    replay=int(headers.get("kworker-replay-count", "0")),
                    disposition=headers.get("kworker-disposition"),
                    timestamp=record.timestamp()[1] / 1000,
                )
            )
        return found

    def verdict(self, sent: Sequence[Sent], *, handlers: Sequence[str], **more: Any) -> Verdict:
        """Judge, print the line, fill in the row, and hand back the counts."""
        retries, dead_letters, events = self.retries(), self.dead_letters(), self.events()
        commits, wall = self.every_commit(), time.time() - time.monotonic()
        verdict = judge(
            sent,
            self.effects(),
            kills=[*self.kills, *self._deaths],
            retries=retries,
            dead_letters=dead_letters,
            commits=[*self.commits, *commits],
            handlers=handlers,
            **more,
        )
        every = [*retries, *dead_letters]
        verdict = replace(
            verdict,
            too_far=committed_too_far(commits, events, sent, every, handlers, wall),
            went_back=went_back(commits),
            unfaithful=self.unfaithful_letters(),
        )
        print(verdict)
        self.row = self.row_of(
            messages=verdict.acked,
            lost=len(verdict.lost),
            again=len(verdict.repeated),
            bound=verdict.bound,
            disorder=len(verdict.out_of_order) + len(verdict.overlapping),
        )
        return verdict

    def every_commit(self) -> list[Commit]:
        """All that the group has committed, in the order in which Kafka took it."""
        wall = time.time() - time.monotonic()
        partitions = self.topics()[OFFSETS]
        whose = _java_hash(self.group) % partitions
        found = []
        for record in dump(self.bootstrap, OFFSETS, partition=whose, group=self.group):
            commit = read_commit(record.key(), record.value(), self.group)
            if commit is not None:
                found.append(replace(commit, at=commit.wall - wall))
        return found

    def row_of(self, **counts: int) -> Row:
        """A row of the table with the faults so far and the seconds since the last of them."""
        faults = Counter(self._faults)
        if self.kills:
            faults["kill -9"] += len(self.kills)
        last = max(
            filter(None, [self._last_fault, *(kill.at for kill in self.kills)]), default=None
        )
        done = self._all_done
        recovered = done - last if last is not None and done is not None and done > last else None
        return Row(mode=self.mode, faults=dict(faults), recovered=recovered, **counts)

    def unfaithful_letters(self) -> list[str]:
        """Dead letters that lack a header of ours, or whose bytes are not their original's."""
        found = []
        originals: dict[Place, Message] = {}
        for record in dump(self.bootstrap, self.dlq_topic):
            ours = headers_of(record)
            if "kworker-dlq-event" in ours:
                continue
            where = "/".join(map(str, place_of(record)))
            if missing := [name for name in LETTER if name not in ours]:
                found.append(f"{where} lacks {', '.join(missing)}")
                continue
            topic, partition, offset = (ours[f"kworker-original-{name}"] for name in PLACE)
            place = (topic, int(partition), int(offset))
            if not any(one[0] == topic for one in originals):
                originals |= {place_of(one): one for one in dump(self.bootstrap, topic)}
            original = originals.get(place)
            if original is None:
                found.append(f"{where} names {place}, where nothing is")
            elif (original.key(), original.value()) != (record.key(), record.value()):
                found.append(f"{where} is not what stands at {place}")
        return found

    # ---- Kafka

    def admin(self) -> Any:
        if self._admin is None:
            self._admin = classes.AdminClient({"bootstrap.servers": self.bootstrap})
        return self._admin

    def topics(self) -> dict[str, int]:
        """Topic names and partition counts."""
        metadata = self.admin().list_topics(timeout=10)
        return {name: len(topic.partitions) for name, topic in metadata.topics.items()}

    def create_topic(self, name: str, partitions: int = 4, **configs: Any) -> str:
        new = classes.NewTopic(
            name,
            num_partitions=partitions,
            replication_factor=1,
            config={key.replace("_", "."): str(value) for key, value in configs.items()},
        )
        self.admin().create_topics([new])[name].result(10)
        until(lambda: self.topics().get(name) == partitions, 10, f"topic {name} is there")
        return name

    def topic_configs(self, name: str) -> dict[str, str]:
        resource = classes.ConfigResource(classes.ResourceType.TOPIC, name)
        entries = self.admin().describe_configs([resource])[resource].result(10)
        return {key: entry.value for key, entry in entries.items()}

    def watcher(self) -> Consumer:
        """A client of the group that never joins it: for reading and setting its offsets."""
        if self._watcher is None:
            self._watcher = Consumer(
                {
                    "bootstrap.servers": self.bootstrap,
                    "group.id": self.group,
                    "enable.auto.commit": False,
                    "isolation.level": "read_uncommitted",
                }
            )
        return self._watcher

    def committed(self, topics: Iterable[str]) -> dict[tuple[str, int], int]:
        """The group's committed offsets; absent where it has none."""
        known = self.topics()
        asked = [TopicPartition(t, p) for t in topics for p in range(known.get(t, 0))]
        answered = self.watcher().committed(asked, timeout=10)
        return {(tp.topic, tp.partition): tp.offset for tp in answered if tp.offset >= 0}

    def note_commits(self, topic: str) -> None:
        """Remember what is committed now, to be held against what was settled by then."""
        committed = self.committed([topic])
        at, wall = time.monotonic(), time.time()  # after the answer: workers go on meanwhile
        for (_, partition), offset in committed.items():
            self.commits.append(Commit(topic, partition, offset, at, wall))

    def lag(self, topics: Iterable[str]) -> int:
        """Messages between the group's commits and the ends, retry and replay included."""
        known = self.topics()
        every = [t for t in (*topics, *self.retry_topics, self.replay_topic) if t in known]
        committed = self.committed(every)
        total = 0
        for topic in every:
            for partition, (low, high) in bounds(self.watcher(), topic, 10).items():
                total += high - committed.get((topic, partition), low)
        return total

    def wait_for_lag_0(self, topics: Sequence[str], seconds: float) -> None:
        """Wait until everything is committed, and nothing new appeared while asking."""
        until(lambda: self.settled(topics), seconds, f"lag 0 of {self.group}")
        self._all_done = time.monotonic()

    def settled(self, topics: Iterable[str]) -> bool:
        """Whether the lag is 0; a cluster that cannot answer now does not say so."""
        try:
            return self.lag(topics) == 0
        except KafkaException:
            return False

    def rewind(self, topics: Iterable[str]) -> None:
        """Set the group's offsets back to the beginning, while no member is in it."""
        known = self.topics()
        starts = [TopicPartition(t, p, 0) for t in topics for p in range(known[t])]

        def accepted() -> bool:
            try:
                answer = self.watcher().commit(offsets=starts, asynchronous=False)
            except KafkaException:
                return False  # the group still has a member: its session has not run out
            return all(tp.error is None for tp in answer)

        until(accepted, 20, "the group has no members, so its offsets can be set")

    def close(self) -> None:
        """End what is left, and let the group's topics go."""
        for process in self.processes:
            if process.running:
                process.signal(signal.SIGCONT)
                process.kill()
        if self._watcher is not None:
            self._watcher.close()
        with suppress(KafkaException):
            left = [topic for topic in self.topics() if topic.startswith(f"{self.group}.")]
            if left:
                self.admin().delete_topics(left)


class Truth:
    """The producer of truth: unique ids, and what was acknowledged, from reports alone.

    An id is `run/key/seq`, seq counting up per key. A message that was not acknowledged is
    forgotten: it may be there or not.
    """

    def __init__(self, bootstrap: str, topic: str, run: str, **settings: Any) -> None:
        self.topic = topic
        self.run = run
        self.acked: list[Sent] = []
        self.unknown: set[str] = set()
        self._next: dict[str | None, int] = {}
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                **settings,
            }
        )

    def send(
        self,
        key: str | None,
        kind: str = "ok",
        *,
        header_id: bool = False,
        raw: bytes | None = None,
        partition: int = -1,
        **fields: Any,
    ) -> str:
        """Queue one message and return its id; `raw` is sent instead of the payload."""
        seq = self._next.get(key, 0)
        self._next[key] = seq + 1
        id = f"{self.run}/{key}/{seq}"
        payload = {"id": id, "key": key, "seq": seq, "kind": kind, **fields}

        def report(error: Any, message: Message) -> None:
            if error is not None:
                self.unknown.add(id)
            else:
                self.acked.append(Sent(id, key, seq, place_of(message)))

        while True:
            try:
                self._producer.produce(
                    self.topic,
                    raw if raw is not None else json.dumps(payload).encode(),
                    None if key is None else key.encode(),
                    partition,
                    on_delivery=report,
                    headers=[("kworker-message-id", id.encode())] if header_id else None,
                )
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)
        return id

    def flush(self, seconds: float = 30) -> list[Sent]:
        """Wait for all reports."""
        left = self._producer.flush(seconds)
        assert left == 0, f"{left} messages have no delivery report"
        return self.acked

    @contextmanager
    def sending(self, each: Iterable[Callable[[], Any]], pause: float) -> Iterator[None]:
        """Send in the background, `pause` seconds apart, until the block ends; then flush."""
        stop = threading.Event()

        def work() -> None:
            for send in each:
                if stop.wait(pause):
                    return
                send()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        self.flush()


def place_of(record: Message) -> Place:
    topic, partition, offset = record.topic(), record.partition(), record.offset()
    assert topic is not None and partition is not None and offset is not None
    return (topic, partition, offset)


def headers_of(record: Message) -> dict[str, str]:
    """The reserved headers as text; each must occur once. Ask once per record."""
    pairs: Any = record.headers() or []
    reserved = [(name, value) for name, value in pairs if name.startswith("kworker-")]
    names = [name for name, _ in reserved]
    assert len(names) == len(set(names)), f"a reserved header occurs twice: {names}"
    return {name: value.decode() for name, value in reserved}


def bounds(consumer: Consumer, topic: str, seconds: float) -> dict[int, tuple[int, int]]:
    """First offset and end of each partition; waits for a topic that was made just now."""

    def ask() -> dict[int, tuple[int, int]] | None:
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            return {
                index: consumer.get_watermark_offsets(TopicPartition(topic, index), timeout=10)
                for index in partitions
            }
        except KafkaException:
            return None

    found: dict[int, tuple[int, int]] = until(ask, seconds, f"the bounds of {topic} are known")
    return found


def _java_hash(text: str) -> int:
    """What Kafka finds a group's partition by."""
    hash = 0
    for character in text:
        hash = (31 * hash + ord(character)) & 0xFFFFFFFF
    return hash & 0x7FFFFFFF


def dump(
    bootstrap: str,
    topic: str,
    *,
    seconds: float = 30,
    partition: int | None = None,
    group: str = "",
) -> list[Message]:
    """Every record of a topic up to its end now, as a reader of committed data sees it; or of
    one partition, as far as `group` is in their keys."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "dump",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
        }
    )
    try:
        found: list[Message] = []
        ends = {
            index: high
            for index, (low, high) in bounds(consumer, topic, seconds).items()
            if high > low and partition in (None, index)
        }
        if not ends:
            return []
        assigned = [TopicPartition(topic, index, OFFSET_BEGINNING) for index in ends]
        consumer.assign(assigned)

        def read_to_the_end() -> bool:
            for record in consumer.consume(1000, 0.05):
                if record.error() is None and (not group or group.encode() in record.key()):
                    found.append(record)
            return all(tp.offset >= ends[tp.partition] for tp in consumer.position(assigned))

        until(read_to_the_end, seconds, f"{topic} read to its end")
        return sorted(found, key=place_of)
    finally:
        consumer.close()
