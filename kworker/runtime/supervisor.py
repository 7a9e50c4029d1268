"""The parent of `--workers N`: starts the processes, restarts the dead, passes signals on.

What follows when a worker ends that was not asked to:

- 0: with `--drain` it is done; else somebody told that one alone to stop, and a new one starts.
- 1, any other code, or a signal: a new one starts, after a pause that doubles from one short
  life to the next.
- 2, 3 and 6 (usage; app, setting or topic; cannot go on safely): all stop. The same would
  happen again, and at 6 to the one who takes over.
- 4 and 5 (Kafka, the local store): at the first start all stop, for one process would have
  ended so, too, and whoever started it is to be told. Later a new one starts: the others are
  at work and wait for Kafka or the disk to come back, and so can this one.

The parent handles no messages and has no client of Kafka. Each process is one of its own,
never a fork: clients do not survive that. Each has a session of its own, so that the Ctrl-C
of a terminal reaches the parent alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from types import FrameType

from ..clock import Clock, Deadline, SystemClock

log = logging.getLogger("kworker.supervisor")

FIRST_PAUSE = 0.5  # seconds before the dead is started again
LONGEST_PAUSE = 30.0
STEADY = 10.0  # seconds of life after which the pauses begin anew
LEAVE = 5.0  # seconds beyond the shutdown timeout for committing, leaving and ending
LOOK = 0.1  # seconds between two looks at who has ended

_BEYOND_REPAIR = (2, 3, 6)
_AT_FIRST_BEYOND_REPAIR = (4, 5)
_PR_SET_PDEATHSIG = 1
_WORD = "_KWORKER_WORD"  # the descriptor of a file that a worker leaves a word in
_WORDS = 512  # bytes

Command = Callable[[int], Sequence[str]]


def run(
    command: Command,
    workers: int,
    *,
    shutdown_timeout: float,
    connect_timeout: float,
    drain: bool = False,
) -> int:
    """Keep that many workers running until told to stop or, with `drain`, until all are done.

    `command(number)` starts worker 1, 2, 3, …, which calls `die_with` first of all. TERM and
    the first INT stop all of them within `shutdown_timeout`; a second INT kills them (1); USR1
    is passed on. The exit code is the worst of those that ended when all were to end. To be
    called from the main thread: it sets signal handlers, and the system takes the end of the
    thread that started a worker for the end of its parent.
    """
    supervisor = _Supervisor(
        command,
        workers,
        stop_within=shutdown_timeout + LEAVE,
        start_within=connect_timeout + STEADY,
        drain=drain,
    )
    before = {
        number: signal.signal(number, supervisor.told)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    }
    try:
        return supervisor.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def die_with(parent: int) -> None:
    """Let this process be killed when its parent has ended, however that ended.

    As if it had been killed itself: what it had in flight comes again. On Linux the system
    does it, even while this process hangs; elsewhere, and where a change of user made the
    system forget it, a thread notices within a second.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above could tell us
        os._exit(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="kworker-parent", daemon=True).start()


def tell_parent(said: str) -> None:
    """Leave a word for the parent, in place of the last one: it reads it when this process has
    ended. Nothing where there is no parent."""
    if _WORD in os.environ:
        os.pwrite(int(os.environ[_WORD]), said.encode()[:_WORDS].ljust(_WORDS), 0)


class _Slot:
    """The place of one worker; processes come and go in it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.begun = 0.0
        self.starts = 0
        self.due: float | None = 0.0  # when to start the next; None: not at all, or one runs
        self.pause = FIRST_PAUSE
        self.word = tempfile.TemporaryFile()  # noqa: SIM115 - what its process says

    def last_word(self) -> str:
        """What the process that has ended said last."""
        said = os.pread(self.word.fileno(), _WORDS, 0).decode(errors="replace").strip()
        os.ftruncate(self.word.fileno(), 0)
        return said

    @property
    def open(self) -> bool:
        """Whether anything is still to come of it."""
        return self.process is not None or self.due is not None

    @property
    def facts(self) -> dict[str, object]:
        """For the log."""
        pid = {} if self.process is None else {"pid": self.process.pid}
        return {"worker": self.number, **pid}


class _Supervisor:
    """Everything happens in the thread of `run`; `told` only takes notes."""

    def __init__(
        self,
        command: Command,
        workers: int,
        *,
        stop_within: float,
        start_within: float,
        drain: bool,
    ) -> None:
        self._command = command
        self._slots = [_Slot(number) for number in range(1, workers + 1)]
        self._stop_within = stop_within
        self._start_within = start_within
        self._drain = drain
        self._clock: Clock = SystemClock()
        self._told: SimpleQueue[int] = SimpleQueue()  # may be put to by a signal handler
        self._deadline: Deadline | None = None  # of the stop, once it has begun
        self._worst = 0
        self._interrupted = False

    def told(self, number: int, _: FrameType | None = None) -> None:
        """Hear a signal."""
        self._told.put(number)

    def run(self) -> int:
        """Until nothing more is to come of any slot; the worst exit code."""
        try:
            while any(slot.open for slot in self._slots):
                self._start_due()
                self._obey()
                self._look()
        finally:
            self._kill()
        return self._worst

    # --- starting ------------------------------------------------------------------------

    def _start_due(self) -> None:
        for slot in self._slots:
            if slot.due is not None and slot.due <= self._clock.monotonic():
                self._start(slot)

    def _start(self, slot: _Slot) -> None:
        slot.begun, slot.due = self._clock.monotonic(), None
        slot.starts += 1
        # A USR1 that is passed on before the worker listens to it would end it; what is
        # ignored here is ignored there until then.
        before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        try:
            slot.process = subprocess.Popen(
                self._command(slot.number),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(slot.word.fileno(),),
                env={**os.environ, _WORD: str(slot.word.fileno())},
            )
        except OSError as error:
            pause = self._again(slot, lived=0.0)
            log.error(
                "worker %d could not be started: %s; tried again in %.3g s",
                slot.number, error, pause, extra=slot.facts,
            )  # fmt: skip
        else:
            log.info("worker %d started", slot.number, extra=slot.facts)
        finally:
            signal.signal(signal.SIGUSR1, before)

    def _again(self, slot: _Slot, lived: float) -> float:
        """Have the slot started again; the seconds until then."""
        if lived >= STEADY:
            slot.pause = FIRST_PAUSE
        pause = slot.pause
        slot.due = self._clock.monotonic() + pause
        slot.pause = min(pause * 2, LONGEST_PAUSE)
        return pause

    # --- ending --------------------------------------------------------------------------

    def _look(self) -> None:
        """See who has ended, and whether the time to end is over."""
        for slot, process in self._running():
            if (code := process.poll()) is not None:
                self._ended(slot, code)
        if self._deadline is not None and self._deadline.passed:
            for slot, _ in self._running():
                log.error(
                    "worker %d did not end within the shutdown timeout and is killed; "
                    "what it had in flight comes again",
                    slot.number, extra=slot.facts,
                )  # fmt: skip
            self._kill()

    def _ended(self, slot: _Slot, code: int) -> None:
        lived, facts = self._clock.monotonic() - slot.begun, slot.facts
        slot.process = None
        how = f"exit code {code}" if code >= 0 else f"signal {_name(-code)}"
        word = slot.last_word()
        alone = f"; all it handled then was {word}" if word else ""
        facts |= {"suspect": word} if word else {}
        facts |= {"exit_code": code} if code >= 0 else {"signal": _name(-code)}
        if self._deadline is not None:
            # Our TERM met one that did not listen yet, so had not taken anything.
            clean = code in (0, -signal.SIGTERM)
            self._count(0 if clean else code)
            level = logging.INFO if clean else logging.ERROR
            log.log(level, "worker %d ended: %s", slot.number, how, extra=facts)
        elif code == 0 and self._drain:
            log.info("worker %d is done", slot.number, extra=facts)
        elif self._beyond_repair(slot, code, lived):
            self._count(code)
            log.error(
                "worker %d ended: %s; a new one would not do better, so all stop",
                slot.number, how, extra=facts,
            )  # fmt: skip
            self._stop()
        else:
            pause = self._again(slot, lived)
            log.log(
                logging.INFO if code == 0 else logging.ERROR,
                "worker %d ended after %.3g s: %s; a new one starts in %.3g s%s",
                slot.number, lived, how, pause, alone, extra=facts | {"pause": pause},
            )  # fmt: skip

    def _beyond_repair(self, slot: _Slot, code: int, lived: float) -> bool:
        at_first = slot.starts == 1 and lived < self._start_within
        return code in _BEYOND_REPAIR or (at_first and code in _AT_FIRST_BEYOND_REPAIR)

    def _count(self, code: int) -> None:
        """A signal counts as a crash."""
        self._worst = max(self._worst, code if code >= 0 else 1)

    # --- being told ----------------------------------------------------------------------

    def _obey(self) -> None:
        """Do what a signal says; waits a moment for one."""
        try:
            number = self._told.get(timeout=LOOK)
        except Empty:
            return
        if number == signal.SIGUSR1:
            self._pass_on(signal.SIGUSR1)
        elif number == signal.SIGINT and self._interrupted:
            os.write(2, b"stopped at once; what was in flight comes again\n")
            self._kill()
            self._worst = 1
        else:
            if number == signal.SIGINT:
                self._interrupted = True
                os.write(2, b"\nstopping: finishing what runs (Ctrl-C again ends at once)\n")
            self._stop()

    def _stop(self) -> None:
        """Ask all to end; they bound the time for that themselves."""
        if self._deadline is None:
            self._deadline = Deadline(self._clock, self._stop_within)
            for slot in self._slots:
                slot.due = None
            self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: signal.Signals) -> None:
        for _, process in self._running():
            process.send_signal(number)

    def _kill(self) -> None:
        """End whoever still runs, now."""
        left = self._running()
        for _, process in left:
            process.kill()
        for slot, process in left:
            with contextlib.suppress(subprocess.TimeoutExpired):  # a disk that hangs holds it
                process.wait(1.0)
            slot.process = None
            self._count(-signal.SIGKILL)

    def _running(self) -> list[tuple[_Slot, subprocess.Popen[bytes]]]:
        return [(slot, slot.process) for slot in self._slots if slot.process is not None]


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return str(number)
