"""The parent of `--workers`, with children that are a few lines of Python each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import kworker
from kworker.runtime import supervisor

SOURCES = Path(kworker.__file__).parent.parent

PARENT = """
import os, sys
from kworker.observe import log
from kworker.runtime import supervisor
child, workers, drain, shutdown_timeout, connect_timeout, constants = eval(sys.argv[1])
vars(supervisor).update(constants)
log.configure("json")
def command(number):
    return [child[0], "-c", *child[1:], str(number), str(os.getpid())]
timeouts = {"shutdown_timeout": shutdown_timeout, "connect_timeout": connect_timeout}
sys.exit(supervisor.run(command, workers, **timeouts, drain=drain))
"""

# `left(word)` leaves a file that tells the test; a life is how often this worker was started.
CHILD = """
import os, signal, sys, time
number, parent = int(sys.argv[1]), int(sys.argv[2])
def left(word):
    open(f"{number}-{word}", "a").write("x")
    return os.path.getsize(f"{number}-{word}")
life = left("life")
"""

GRACEFUL = """
def stop(number, _):
    left("stopped")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, lambda *_: left("interrupted"))
signal.signal(signal.SIGUSR1, lambda *_: left("asked"))
left("ready")
while True:
    time.sleep(60)
"""

STUBBORN = """
signal.signal(signal.SIGTERM, lambda *_: left("term"))
left("ready")
while True:
    time.sleep(60)
"""


class Parent:
    """A supervisor that runs beside the test."""

    def __init__(
        self,
        folder: Path,
        child: str,
        *,
        workers: int = 2,
        drain: bool = False,
        shutdown_timeout: float = 20.0,
        connect_timeout: float = 20.0,
        program: str = sys.executable,
        **constants: float,
    ) -> None:
        self.folder = folder
        given = (
            [program, CHILD + child], workers, drain, shutdown_timeout, connect_timeout, constants,
        )  # fmt: skip
        with (folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PARENT, repr(given)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(SOURCES)},
                stderr=err,
                start_new_session=True,  # as a terminal would: a group to send Ctrl-C to
            )

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        said = (self.folder / "err").read_text().splitlines()
        return [json.loads(line) for line in said if line.startswith("{")]

    def pids(self, number: int | None = None) -> list[int]:
        """Of the processes it has started, in that order."""
        return [
            line["pid"]
            for line in self.lines
            if line["message"].endswith(" started") and number in (None, line["worker"])
        ]

    def left(self, word: str) -> int:
        """How often the workers have left that word."""
        return sum(path.stat().st_size for path in self.folder.glob(f"*-{word}"))

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 20) -> int:
        return self.process.wait(seconds)


Start = Callable[..., Parent]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    parents: list[Parent] = []

    def begin(child: str, **more: Any) -> Parent:
        parents.append(Parent(tmp_path, child, **more))
        return parents[-1]

    yield begin
    for parent in parents:
        if parent.process.poll() is None:
            parent.process.kill()
            parent.process.wait()
        for pid in parent.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def runs(pid: int) -> bool:
    """Whether it is there and no zombie, which whoever adopts it may not have buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- the dead are replaced -----------------------------------------------------------------


def test_a_worker_that_is_killed_is_replaced_and_it_is_told_which_and_why(start: Start):
    parent = start(GRACEFUL)
    parent.until(lambda: parent.left("ready") == 2)
    [first], [second] = parent.pids(1), parent.pids(2)

    os.kill(second, signal.SIGKILL)
    parent.until(lambda: parent.left("ready") == 3)

    [told] = [line for line in parent.lines if line["level"] == "error"]
    assert (told["worker"], told["pid"], told["signal"]) == (2, second, "SIGKILL")
    assert told["message"].startswith("worker 2 ended after ")
    assert told["message"].endswith("s: signal SIGKILL; a new one starts in 0.5 s")
    assert parent.pids(1) == [first]
    assert len(parent.pids(2)) == 2
    assert all(map(runs, [first, parent.pids(2)[1]]))


def test_the_pause_grows_while_a_worker_keeps_dying_and_stays_bounded(start: Start):
    parent = start("os._exit(9)", workers=1, FIRST_PAUSE=0.1, LONGEST_PAUSE=0.4)

    parent.until(lambda: len(parent.pids()) == 5)

    pauses = [line["pause"] for line in parent.lines if "pause" in line]
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.4]
    assert all("exit code 9" in line["message"] for line in parent.lines if "pause" in line)


def test_the_pauses_begin_anew_after_a_life_that_was_not_short(start: Start):
    parent = start("time.sleep(0.5 if life == 3 else 0); os._exit(1)", workers=1,
                   FIRST_PAUSE=0.1, STEADY=0.4)  # fmt: skip

    parent.until(lambda: parent.left("life") == 4)

    assert [line["pause"] for line in parent.lines if "pause" in line][:3] == [0.1, 0.2, 0.1]


def test_a_worker_that_was_told_alone_to_stop_is_replaced(start: Start):
    parent = start(GRACEFUL)
    parent.until(lambda: parent.left("ready") == 2)

    os.kill(parent.pids(1)[0], signal.SIGTERM)
    parent.until(lambda: parent.left("ready") == 3)

    assert parent.left("stopped") == 1
    assert not [line for line in parent.lines if line["level"] == "error"]


def test_a_worker_that_cannot_be_started_is_tried_again(start: Start, tmp_path: Path):
    program = tmp_path / "python"
    parent = start(GRACEFUL, workers=1, program=str(program), FIRST_PAUSE=0.2)
    parent.until(
        lambda: [line for line in parent.lines if "could not be started" in line["message"]]
    )

    program.symlink_to(sys.executable)

    parent.until(lambda: parent.left("ready") == 1)


# --- what restarting cannot mend -----------------------------------------------------------


@pytest.mark.parametrize("code", [2, 3, 4, 5, 6])
def test_a_first_start_that_cannot_go_well_ends_all_with_its_code(start: Start, code: int):
    parent = start(
        f"if number == 2:\n"
        f"    while not os.path.exists('1-ready'): time.sleep(0.01)\n"
        f"    sys.exit({code})\n" + GRACEFUL
    )

    assert parent.wait() == code
    assert len(parent.pids()) == 2
    assert parent.left("stopped") == 1, "the other was stopped in order"
    [told] = [line for line in parent.lines if line["level"] == "error"]
    assert told["message"].startswith(f"worker 2 ended: exit code {code}; a new one would not")


@pytest.mark.parametrize("code", [4, 5])
def test_a_replacement_that_finds_no_kafka_or_no_store_is_tried_again(start: Start, code: int):
    parent = start(
        f"if number == 2 and life < 3: os._exit({{1: 9, 2: {code}}}[life])\n" + GRACEFUL,
        FIRST_PAUSE=0.1,
    )

    parent.until(lambda: parent.left("ready") == 2)

    assert [line["exit_code"] for line in parent.lines if "pause" in line] == [9, code]
    assert len(parent.pids(1)) == 1


def test_a_worker_that_has_worked_and_then_lost_its_store_is_replaced(start: Start):
    parent = start(
        "if number == 2 and life == 1: time.sleep(0.5); os._exit(5)\n" + GRACEFUL,
        connect_timeout=0.1, STEADY=0.1, FIRST_PAUSE=0.1,
    )  # fmt: skip

    parent.until(lambda: parent.left("ready") == 2)

    assert len(parent.pids(2)) == 2


# --- stopping ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_stops_all_in_order(start: Start, number: int):
    parent = start(GRACEFUL, workers=3)
    parent.until(lambda: parent.left("ready") == 3)

    parent.signal(number)

    assert parent.wait() == 0
    assert parent.left("stopped") == 3
    assert len(parent.pids()) == 3, "none was replaced"


def test_ctrl_c_on_a_terminal_reaches_the_parent_alone(start: Start):
    parent = start(GRACEFUL)
    parent.until(lambda: parent.left("ready") == 2)

    os.killpg(parent.process.pid, signal.SIGINT)

    assert parent.wait() == 0
    assert (parent.left("stopped"), parent.left("interrupted")) == (2, 0)


def test_the_exit_code_is_the_worst_of_all(start: Start):
    codes = "sys.exit([0, 5, 1][int(sys.argv[1]) - 1])"
    parent = start(GRACEFUL.replace("sys.exit(0)", codes), workers=3)
    parent.until(lambda: parent.left("ready") == 3)

    parent.signal(signal.SIGTERM)

    assert parent.wait() == 5


def test_a_worker_that_crashed_before_does_not_spoil_the_exit_code(start: Start):
    parent = start("if life == 1: os._exit(9)\n" + GRACEFUL, FIRST_PAUSE=0.1)
    parent.until(lambda: parent.left("ready") == 2)

    parent.signal(signal.SIGTERM)

    assert parent.wait() == 0


def test_a_stop_while_one_waits_to_be_started_starts_none(start: Start):
    parent = start("if number == 2: os._exit(9)\n" + GRACEFUL, FIRST_PAUSE=30.0)
    parent.until(
        lambda: parent.left("ready") and [line for line in parent.lines if "pause" in line]
    )

    parent.signal(signal.SIGTERM)

    assert parent.wait() == 0
    assert len(parent.pids()) == 2


def test_a_stop_before_a_worker_listens_is_no_crash(start: Start):
    parent = start("left('begun'); time.sleep(60)", workers=2)
    parent.until(lambda: parent.left("begun") == 2)

    parent.signal(signal.SIGTERM)

    assert parent.wait() == 0


def test_a_worker_that_does_not_end_in_time_is_killed_and_the_exit_code_is_1(start: Start):
    parent = start("if number == 2:\n" + STUBBORN.replace("\n", "\n    ") + "\n" + GRACEFUL,
                   shutdown_timeout=0.2, LEAVE=0.5)  # fmt: skip
    parent.until(lambda: parent.left("ready") == 2)

    parent.signal(signal.SIGTERM)
    asked = time.monotonic()

    assert parent.wait() == 1
    assert 0.5 < time.monotonic() - asked < 5
    assert (parent.left("stopped"), parent.left("term")) == (1, 1)
    assert not any(map(runs, parent.pids()))
    [told] = [line for line in parent.lines if line["level"] == "error"]
    assert "worker 2 did not end within the shutdown timeout" in told["message"]


@pytest.mark.parametrize("before", [(), (signal.SIGTERM,)])
def test_a_second_int_kills_all_at_once(start: Start, before: tuple[int, ...]):
    parent = start(STUBBORN)
    parent.until(lambda: parent.left("ready") == 2)
    for number in (*before, signal.SIGINT):
        parent.signal(number)
        parent.until(lambda: parent.left("term") == 2)
    parent.until(lambda: "Ctrl-C again" in (parent.folder / "err").read_text())
    assert parent.process.poll() is None

    parent.signal(signal.SIGINT)
    asked = time.monotonic()

    assert parent.wait() == 1
    assert time.monotonic() - asked < 3
    assert not any(map(runs, parent.pids()))


def test_usr1_is_passed_on_and_ends_nobody_who_does_not_listen_yet(start: Start):
    parent = start("if number == 2: left('begun'); time.sleep(60)\n" + GRACEFUL)
    parent.until(lambda: parent.left("ready") == parent.left("begun") == 1)

    parent.signal(signal.SIGUSR1)
    parent.until(lambda: parent.left("asked") == 1)
    parent.signal(signal.SIGTERM)

    assert parent.wait() == 0
    assert len(parent.pids()) == 2


# --- draining ------------------------------------------------------------------------------


def test_a_drain_ends_with_0_when_all_are_done_also_after_a_crash(start: Start):
    parent = start("os._exit(9 if (number, life) == (2, 1) else 0)", drain=True)

    assert parent.wait() == 0
    assert (len(parent.pids(1)), len(parent.pids(2))) == (1, 2)


# --- no orphans ----------------------------------------------------------------------------

ORPHAN = "from kworker.runtime import supervisor; supervisor.die_with(parent)\n" + STUBBORN


def test_when_the_parent_is_killed_its_workers_are_gone_at_once_even_those_that_hang(start: Start):
    hanging = ORPHAN.replace("while True:", "import re; re.match('(a+)+$', 'a' * 60 + 'b')\nif 0:")
    parent = start(hanging)
    parent.until(lambda: parent.left("ready") == 2)
    assert all(map(runs, parent.pids()))

    parent.process.kill()

    parent.until(lambda: not any(map(runs, parent.pids())))


def test_where_the_system_does_not_a_thread_notices_that_the_parent_is_gone(start: Start):
    parent = start("sys.platform = 'other'\n" + ORPHAN)
    parent.until(lambda: parent.left("ready") == 2)

    parent.process.kill()

    parent.until(lambda: not any(map(runs, parent.pids())))


def test_a_worker_whose_parent_died_before_it_could_be_told_does_not_begin():
    program = "import os, sys; from kworker.runtime import supervisor; supervisor.die_with(1 << 22)"

    done = subprocess.run([sys.executable, "-c", f"{program}; print('begun')"], cwd=SOURCES,
                          capture_output=True, timeout=20)  # fmt: skip

    assert (done.returncode, done.stdout) == (1, b"")


def test_a_bug_of_the_parent_leaves_no_worker(start: Start):
    parent = start(GRACEFUL, LOOK="nonsense")

    assert parent.wait() == 1
    parent.until(lambda: not any(map(runs, parent.pids())))


def test_it_sets_the_signals_back():
    before = signal.getsignal(signal.SIGTERM)

    code = supervisor.run(
        lambda number: [sys.executable, "-c", ""],
        1,
        shutdown_timeout=1.0,
        connect_timeout=1.0,
        drain=True,
    )

    assert (code, signal.getsignal(signal.SIGTERM)) == (0, before)
