"""The whole story in half a minute: `make demo`, or `python examples/demo.py`.

Starts an embedded broker, publishes A to Z and some poison, and lets a real worker
(`kworker run`, a process of its own) handle them: `demo_app.py` is the app. It believes only
what the handler printed, what the worker logged and what `kworker dlq` reports. Ends with 0
when everything came as it should, else with 1 and what is missing. Leaves nothing behind.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import signal
import string
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kworker import publisher
from kworker.kafka import embedded

HERE = Path(__file__).parent
PATIENCE = 20.0  # seconds that anything may take

POISON = b"\xff\xfe no letter"

console = Console(highlight=False, soft_wrap=True)


class Missing(Exception):
    """Something did not come in time."""


class Worker:
    """`kworker run`, with what its handler prints and what it logs as facts to look at."""

    def __init__(self, address: str, folder: Path, *options: str, fixed: bool = False) -> None:
        self.facts: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            [
                *kworker("run", address),
                *("--db", str(folder / "demo.db"), "--create-topics", "missing"),
                *("--log-format", "json", "-v", *options),
                # The embedded broker lets a group's second member wait that long, less a second.
                *("-X", "session.timeout.ms=3000", "-X", "heartbeat.interval.ms=500"),
            ],
            cwd=folder,
            env=os.environ | {"DEMO_BUG_IS_FIXED": "yes" if fixed else "no"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._threads = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.facts), (self.process.stderr, self.logged))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: Any, into: list[dict[str, Any]]) -> None:
        for line in stream:
            try:
                into.append(json.loads(line))
            except ValueError:
                into.append({"message": line.rstrip()})
            self._news.put(None)
        self._news.put(None)

    def wait(self, what: str, until: Callable[[], bool]) -> None:
        """Wait until that holds; raises Missing when it does not in time, or never can."""
        deadline = time.monotonic() + PATIENCE
        while not until():
            ended = self.process.poll() is not None and not any(
                thread.is_alive() for thread in self._threads
            )
            left = deadline - time.monotonic()
            if (ended and not until()) or left <= 0:
                told = "\n".join(f"  {line.get('message')}" for line in self.logged[-8:])
                raise Missing(f"{what}; the worker's last words:\n{told}")
            with contextlib.suppress(queue.Empty):
                self._news.get(timeout=min(left, 0.5))

    def calls(self, letter: str, what: str = "called") -> list[dict[str, Any]]:
        return [one for one in self.facts if (one.get("what"), one.get("letter")) == (what, letter)]

    def handled(self) -> set[str]:
        return {one["letter"] for one in self.facts if one.get("what") == "handled"}

    def log_lines(self, text: str) -> list[dict[str, Any]]:
        return [line for line in list(self.logged) if text in line.get("message", "")]

    def end(self, number: int | None = None) -> int:
        """Its exit code, after a signal or by itself."""
        if number is not None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Missing("the worker did not end") from None
        for thread in self._threads:
            thread.join(PATIENCE)
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def kworker(command: str, address: str, *arguments: str) -> list[str]:
    """A command line of kworker about the demo's app."""
    target = ["demo_app:app", "--app-dir", str(HERE), "-b", address]
    return [sys.executable, "-m", "kworker", *command.split(), *target, *arguments]


def dlq(command: str, address: str, folder: Path, *arguments: str) -> str:
    """Run `kworker dlq …` and return what it says."""
    ran = subprocess.run(
        kworker(f"dlq {command}", address, *arguments),
        cwd=folder, capture_output=True, text=True, timeout=PATIENCE * 2,
    )  # fmt: skip
    if ran.returncode != 0:
        raise Missing(f"`kworker dlq {command}` ended with {ran.returncode}: {ran.stderr.strip()}")
    return ran.stdout


def dead_letters(address: str, folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dlq("list", address, folder, "--json"))["messages"]
    return found


def step(text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def say(text: str) -> None:
    console.print(f"  {text}")


class Checks:
    """What was expected and whether it came; the summary."""

    def __init__(self) -> None:
        self.rows: list[tuple[bool, str, str]] = []

    def add(self, what: str, found: str, good: bool) -> None:
        self.rows.append((good, what, found))

    def show(self, seconds: float) -> int:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for good, what, found in self.rows:
            table.add_row("[green]ok[/green]" if good else "[red]MISSING[/red]", what, found)
        console.print()
        console.print(table)
        failed = sum(not good for good, _, _ in self.rows)
        verdict = (
            f"[red]{failed} of {len(self.rows)} did not come as they should[/red]"
            if failed
            else "[green]everything came as it should[/green]"
        )
        console.print(f"\n{verdict}, in {seconds:.0f} seconds")
        return 1 if failed else 0


def story(address: str, folder: Path, started: Callable[[Worker], Worker], checks: Checks) -> None:
    step("1  Publish A to Z, a duplicate of A, and bytes that are no letter")
    with publisher.open(address, common={}, producer={}) as sender:
        letters = [("letters", {"letter": one}, one) for one in string.ascii_uppercase]
        receipts = sender.publish_many(
            (*letter, {"letter-number": str(number)}) for number, letter in enumerate(letters)
        )
        sender.publish("letters", {"letter": "A"}, key="A", headers={"letter-number": "0"})
        poison = sender.publish("letters", POISON, key="?")
    say(f"acknowledged: {len(receipts)} letters, the first at {place(receipts[0])}")
    say(f"and the poison at {place(poison)}")

    step("2  Start a worker: kworker run demo_app:app --concurrency 4")
    worker = started(Worker(address, folder))
    rest = set(string.ascii_uppercase) - {"M", "X"}
    worker.wait("A to Z handled", lambda: rest <= worker.handled())
    say(f"handled: {' '.join(sorted(rest))}")
    worker.wait("M called again after its retry topics", lambda: "M" in worker.handled())
    for call in worker.calls("M"):
        last = " and works" if call["attempt"] == 3 else ", fails"
        say(f"M: call {call['attempt']} comes from {call['topic']}{last}")
    worker.wait("X called three times", lambda: len(worker.calls("X")) == 3)
    say("X: called three times, in vain")
    worker.wait("the duplicate skipped", lambda: bool(worker.log_lines("skipped by")))
    say(f"A: came twice, calls: {len(worker.calls('A'))}")
    worker.wait("two dead letters", lambda: len(worker.log_lines("dead-lettered")) == 2)

    step("3  Look at what it gave up: kworker dlq list demo_app:app")
    given_up = dead_letters(address, folder)
    for one in given_up:
        say(f"{one['id']}  {one['disposition']}  {one['error_type']}: {one['error_message']}")
    code = worker.end(signal.SIGTERM)
    say(f"stopped by TERM: it finished, committed and left with exit code {code}")

    by_key = {one["key"]: one for one in given_up}
    found = {key: one["disposition"] for key, one in by_key.items()}
    way = [call["topic"] for call in worker.calls("M")]
    checks.add("handled", f"{len(worker.handled())} of 26 letters", len(worker.handled()) == 25)
    checks.add("retried", " → ".join(way), way == ["letters", "demo.retry.1s", "demo.retry.2s"])
    checks.add(
        "duplicate skipped", f"A called {len(worker.calls('A'))} time", len(worker.calls("A")) == 1
    )
    checks.add(
        "dead letters",
        ", ".join(f"{key} {why}" for key, why in sorted(found.items())),
        found == {"X": "retries_exhausted", "?": "undecodable"},
    )
    checks.add("stopped in order", f"exit code {code}", code == 0)
    if set(by_key) != {"X", "?"}:
        raise Missing("X and the poison in the dead-letter topic")
    shown = json.loads(dlq("show", address, folder, by_key["?"]["id"], "--json"))
    kept = base64.b64decode(shown["message"]["value"].get("base64", ""))
    checks.add("poison kept", f"{len(kept)} bytes, as they were sent", kept == POISON)

    step("4  Fix the bug, send X back, and drain: kworker dlq replay …, kworker run … --drain")
    say(dlq("replay", address, folder, by_key["X"]["id"], "--execute").strip())
    worker = started(Worker(address, folder, "--drain", fixed=True))
    code = worker.end()
    replayed = worker.calls("X", "handled")
    for call in replayed:
        say(f"X: call {call['attempt']} comes from {call['topic']} and works")
    say(f"nothing else was left to do: exit code {code}")
    left = [one["disposition"] for one in dead_letters(address, folder)]
    say(f"dead letters left: {', '.join(left)}")

    checks.add(
        "replayed",
        f"X handled {len(replayed)} time, from demo.replay",
        [(one["topic"], one["replay"]) for one in replayed] == [("demo.replay", 1)],
    )
    others = {one.get("letter") for one in worker.facts} - {"X"}
    checks.add("nothing repeated", f"{len(others)} others called after the restart", not others)
    checks.add("drained", f"exit code {code}", code == 0)
    checks.add("dead letters left", ", ".join(left), left == ["undecodable"])


def place(receipt: publisher.Receipt) -> str:
    return f"{receipt.topic}/{receipt.partition}/{receipt.offset}"


@contextlib.contextmanager
def workers() -> Iterator[Callable[[Worker], Worker]]:
    """Ends every worker that was started, however the demo ends."""
    with contextlib.ExitStack() as stack:

        def started(worker: Worker) -> Worker:
            stack.callback(worker.kill)
            return worker

        yield started


def main() -> int:
    begun = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # so that everything is cleared away
    checks = Checks()
    console.print("[bold]kworker[/bold]: the life of messages, on an embedded broker")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="kworker-demo-") as folder,
            embedded.start() as broker,
            workers() as started,
        ):
            story(broker.bootstrap_servers, Path(folder), started, checks)
    except Missing as missing:
        checks.add("missing", str(missing), False)
    except KeyboardInterrupt:
        console.print("\nstopped")
        return 1
    return checks.show(time.monotonic() - begun)


if __name__ == "__main__":
    sys.exit(main())
