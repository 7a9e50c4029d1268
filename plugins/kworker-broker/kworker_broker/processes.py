"""Starts processes that cannot outlive their owner, from whatever thread asks."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_GUARD = str(Path(__file__).with_name("guard.py"))
_PYTHON = [sys.executable, "-I", "-S", _GUARD]


def leashed(command: list[str]) -> list[str]:
    """The command by which the system ends `command` with the thread that starts it."""
    return [*_PYTHON, "leash", str(os.getpid()), *command]


class Keeper:
    """Starts processes from one thread that lives as long as the owner does.

    The system's "kill me when my parent dies" means the parent *thread*, so a process started
    by a thread that ends would be killed with it.
    """

    def __init__(self, folder: Path) -> None:
        self._jobs: queue.SimpleQueue[tuple[dict[str, Any], queue.SimpleQueue[Any]] | None]
        self._jobs = queue.SimpleQueue()
        self._sweeper = subprocess.Popen(
            [*_PYTHON, "sweep", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._run, name="kworker-broker-keeper", daemon=True).start()

    def start(
        self, command: list[str], *, environ: Mapping[str, str], folder: Path, output: Path
    ) -> subprocess.Popen[bytes]:
        """Start `command` in `folder`, as the leader of its own session and process group."""
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with output.open("ab") as sink:
            job = {
                "args": leashed(command),
                "env": environ,
                "cwd": folder,
                "stdin": subprocess.DEVNULL,
                "stdout": sink,
                "stderr": subprocess.STDOUT,
                "start_new_session": True,
            }
            self._jobs.put((job, answer))
            process = answer.get()
        if isinstance(process, Exception):
            raise process
        assert isinstance(process, subprocess.Popen)
        self._tell(f"+{process.pid}")
        return process

    def forget(self, pid: int) -> None:
        """The process has ended and was waited for: its number may now be somebody else's."""
        self._tell(f"-{pid}")

    def close(self) -> None:
        """Let go: what was not forgotten is killed, and the folder removed."""
        self._jobs.put(None)
        self._sweeper.communicate()

    def _tell(self, line: str) -> None:
        assert self._sweeper.stdin is not None
        try:
            print(line, file=self._sweeper.stdin, flush=True)
        except BrokenPipeError:  # somebody killed the sweeper; the leash still holds
            pass

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            arguments, answer = job
            try:
                answer.put(subprocess.Popen(**arguments))
            except Exception as error:  # noqa: BLE001 - raised in the thread that asked
                answer.put(error)
