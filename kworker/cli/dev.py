"""`kworker dev TARGET`: a broker, a worker on it, and a new worker whenever a file changes.

The broker lives in this process (or one of its own) and the worker in a child, so that
messages outlive a reload.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

from .. import settings
from ..errors import KafkaUnavailable, SettingsError, UsageError
from . import commands, devbroker, options, output

_MISTYPED = (2, 3)  # exit codes of a worker that could not start for what its author wrote
_LOOK_EVERY = 0.5  # seconds
_SUFFIXES = (".py", ".toml")
_OTHERS = ("__pycache__", "node_modules", "site-packages")  # folders nobody edits


@commands.command()
@options.with_app(*settings.declared(), level=logging.INFO)
@click.option(
    "--broker",
    metavar="mock|kafka|HOST:PORT",
    help="mock: inside this process; kafka: a real one, from kworker-broker; or one that runs "
    "already.  [default: mock]",
)
def command(given: options.Given, broker: str | None) -> None:
    """Run TARGET on a broker of its own, and again whenever a file changes. Needs no Kafka.

    \b
    kworker dev shop.orders:app
    kworker dev shop.orders:app --broker kafka

    Missing topics are made (4 partitions). While it runs, commands in this folder find its
    broker without -b. Ctrl-C ends it, and what was on the mock broker is gone.
    """
    servers = given.flags.get("bootstrap_servers")
    if broker and servers:
        raise UsageError("give either --broker or -b, which is the same as --broker HOST:PORT")
    folder = Path.cwd()
    if other := devbroker.find(folder):
        raise UsageError(f"another `kworker dev` runs in this folder, its broker at {other}")

    code, choice = 0, broker or servers or "mock"
    with _broker(choice) as address:
        shutil.rmtree(folder / devbroker.STORES, ignore_errors=True)
        devbroker.leave(folder, address)
        try:
            output.note(f"broker at {address}; commands in this folder use it without -b")
            code = _Reloader(_child(given, choice, address), _watched(given.app_dir)).run()
        finally:
            devbroker.remove(folder)
    click.get_current_context().exit(code)


@contextlib.contextmanager
def _broker(choice: str) -> Iterator[str]:
    """The address of the broker that was chosen; it ends with the block if it is ours."""
    if choice == "mock":
        from ..kafka import embedded

        mock = embedded.start()
        try:
            yield mock.bootstrap_servers
        finally:
            mock.close()
    elif choice == "kafka":
        try:
            import kworker_broker
        except ModuleNotFoundError as error:
            raise SettingsError(
                "--broker kafka needs the package kworker-broker, which is not installed; "
                "install it, or leave out --broker for the mock"
            ) from error
        output.note("starting Kafka; the first time on a machine it is downloaded")
        try:
            cluster = kworker_broker.Cluster.start()
        except kworker_broker.BrokerError as error:
            raise KafkaUnavailable(str(error)) from error
        try:
            yield cluster.bootstrap_servers
        finally:
            cluster.close()
    elif ":" in choice:
        yield choice
    else:
        raise UsageError(f"--broker {choice}: give mock, kafka or HOST:PORT")


def _child(given: options.Given, choice: str, address: str) -> list[str]:
    """The command of the worker: what was typed, on this broker."""
    flags = {"create_topics": "missing", "log_format": "console", **given.flags}
    flags["bootstrap_servers"] = address
    typed = dataclasses.replace(given, flags=flags).arguments()
    return [sys.executable, "-m", "kworker", "run", *typed, "--under-dev", choice]


def _watched(app_dir: str) -> list[Path]:
    """The folders whose files make a reload."""
    folders = {Path.cwd(), Path(app_dir).resolve()}
    return sorted(one for one in folders if not any(two in one.parents for two in folders))


class _Reloader:
    """Keeps one worker running, and replaces it when a file changes. Owns INT and TERM."""

    def __init__(self, command: list[str], folders: list[Path]) -> None:
        self._command = command
        self._folders = folders
        self._stop = threading.Event()
        self._worker: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Until INT or TERM, a second of which kills the worker; the exit code. A first
        worker that cannot start for what its author wrote ends it, too."""
        before = [(one, signal.signal(one, self._told)) for one in (signal.SIGINT, signal.SIGTERM)]
        try:
            return self._until_told()
        finally:
            self._end_worker()
            for one, handler in before:
                signal.signal(one, handler)

    def _until_told(self) -> int:
        import watchfiles

        reloaded = told = False
        self._start_worker()
        for changes in watchfiles.watch(
            *self._folders,
            watch_filter=lambda _, path: self._matters(Path(path)),
            stop_event=self._stop,
            rust_timeout=int(_LOOK_EVERY * 1000),
            yield_on_timeout=True,
        ):
            if self._stop.is_set():
                break
            if changes:
                names = sorted({Path(path).name for _, path in changes})
                output.note(f"{', '.join(names)} changed: starting again")
                self._end_worker()
                self._start_worker()
                reloaded, told = True, False
                continue
            code = None if self._worker is None else self._worker.poll()
            if code is not None and not told:
                if code in _MISTYPED and not reloaded:
                    return code
                output.note(f"the worker ended with {code}; it starts again when a file changes")
                told = True
        return 0

    def _start_worker(self) -> None:
        if not self._stop.is_set():
            self._worker = subprocess.Popen(self._command)

    def _end_worker(self) -> None:
        """Ask the worker to stop and wait; it bounds that time itself."""
        if self._worker is None:
            return
        if self._worker.poll() is None:
            self._worker.terminate()
        self._worker.wait()
        self._worker = None

    def _told(self, number: int, _: FrameType | None) -> None:
        if self._stop.is_set() and self._worker is not None:
            self._worker.kill()
        self._stop.set()

    def _matters(self, path: Path) -> bool:
        folder = next(one for one in self._folders if path.is_relative_to(one))
        above = path.relative_to(folder).parts[:-1]
        return path.suffix in _SUFFIXES and not any(
            name.startswith(".") or name in _OTHERS for name in above
        )
