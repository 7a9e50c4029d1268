"""One Kafka process: started, killed, stopped, resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from . import client, ports
from .errors import BrokerFailed
from .processes import Keeper

_READY = 90.0  # seconds; two cores that also run three nodes and a test suite are slow
_LEAVE = 30.0  # seconds for an orderly end
_TELLING = re.compile(r"^(Caused by: |Exception in |Error: )?[\w.$]+(Exception|Error)\b.*:")


class PortTaken(BrokerFailed):
    """Somebody took the node's port between choosing it and binding it."""


class Node:
    """One node, broker and controller in one process. Its data outlives the process.

    All methods wait until what they say is so, and may be called from any thread, one at a time.
    """

    def __init__(
        self,
        number: int,
        *,
        port: int,
        folder: Path,
        command: list[str],
        environ: Mapping[str, str],
        keeper: Keeper,
    ) -> None:
        self.number = number
        self.port = port
        self._folder = folder
        self._command = command
        self._environ = environ
        self._keeper = keeper
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process's number, None while there is none."""
        return None if self._process is None else self._process.pid

    def kill(self) -> None:
        """kill -9. What Kafka had not synced is still in the page cache, so data stays."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """An orderly end; a node that takes longer than 30 s is killed."""
        self.resume()
        self._end(signal.SIGTERM)

    def stop(self) -> None:
        """SIGSTOP: the process holds its connections and answers nobody."""
        os.kill(self._running().pid, signal.SIGSTOP)
        self._stopped = True

    def resume(self) -> None:
        """SIGCONT; nothing happens to a process that is not stopped."""
        if self._stopped:
            os.kill(self._running().pid, signal.SIGCONT)
            self._stopped = False

    def restart(self, *, wait: bool = True) -> None:
        """Start again on the same data and port, after an orderly end if it still runs.

        A node of three answers only when a second one does: start the first of them with
        `wait=False`. Raises BrokerFailed.
        """
        if self._process is not None:
            self.terminate()
        self.start()
        if wait:
            self.wait_until_ready({self.number})

    def start(self) -> None:
        """Start the process, without waiting for it."""
        self._process = self._keeper.start(
            self._command,
            environ=self._environ,
            folder=self._folder,
            output=self._folder / "output.log",
        )

    def wait_until_ready(self, nodes: set[int]) -> None:
        """Wait until the node answers and sees `nodes`. Raises BrokerFailed."""
        self._wait_for(lambda: ports.listening(self.port), f"listens on {self.address}")
        with client.probe(self.address) as seen:
            self._wait_for(lambda: nodes <= seen(), f"sees the nodes {sorted(nodes)}")

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _READY
        while not condition():
            process = self._running()
            if process.poll() is not None:
                self._end(signal.SIGKILL)
                said = self._last_words()
                kind = PortTaken if "Address already in use" in said else BrokerFailed
                raise kind(
                    f"Kafka node {self.number} ended with {process.returncode} before it "
                    f"{what}: {said}"
                )
            if time.monotonic() > deadline:
                raise BrokerFailed(
                    f"Kafka node {self.number} runs, but after {_READY:g} s it is not true that "
                    f"it {what}; is the machine overloaded? {self._last_words()}"
                )
            time.sleep(0.02)

    def _end(self, number: signal.Signals) -> None:
        process, self._process, self._stopped = self._process, None, False
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_LEAVE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._keeper.forget(process.pid)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise BrokerFailed(f"Kafka node {self.number} does not run; restart() it first")
        return self._process

    def _last_words(self) -> str:
        """The last error of its log, for a message of one line."""
        lines: list[str] = []
        for name in ("server.log", "output.log"):
            try:
                lines += (self._folder / name).read_text(errors="replace").splitlines()
            except FileNotFoundError:
                continue
        telling = [line for line in lines if _TELLING.search(line)]
        return " | ".join(telling[-2:] or lines[-1:])[:600] or "it logged nothing"
