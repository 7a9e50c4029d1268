"""However the owner ends, its nodes and their data end with it, and not before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

IN_THE_MAIN_THREAD = """
from kworker_broker import Cluster
cluster = Cluster.start()
print(cluster.nodes[0].pid, cluster.folder, flush=True)
"""
IN_A_THREAD_THAT_ENDS = """
import threading
from kworker_broker import Cluster
clusters = []
thread = threading.Thread(target=lambda: clusters.append(Cluster.start()))
thread.start()
thread.join()
print(clusters[0].nodes[0].pid, clusters[0].folder, flush=True)
"""
WITH_A_CHILD_THAT_ENDS = """
import os, sys
from kworker_broker import Cluster
cluster = Cluster.start()
if os.fork() == 0:
    sys.exit()
os.wait()
print(cluster.nodes[0].pid, cluster.folder, flush=True)
"""
WITHOUT_LEASH = """
import kworker_broker.guard, kworker_broker.processes as processes
processes.leashed = lambda command: command
"""


class Owner:
    """A Python that owns a cluster, and ends when its standard input does."""

    def __init__(self, program: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program + "\ninput()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        pid, folder = self.process.stdout.readline().split()
        self.node, self.folder = int(pid), Path(folder)


def runs(pid: int) -> bool:
    """Whether the process exists and is more than an entry that nobody has asked for yet."""
    try:
        os.kill(pid, 0)
        if Path("/proc/self").exists():
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
    return True


def left_behind(owner: Owner, seconds: float = 10) -> list[str]:
    deadline = time.monotonic() + seconds
    while left := [
        what
        for what, there in [("node", runs(owner.node)), ("data", owner.folder.exists())]
        if there
    ]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return left


@pytest.mark.parametrize(
    "program",
    [IN_THE_MAIN_THREAD, IN_A_THREAD_THAT_ENDS, WITHOUT_LEASH + IN_THE_MAIN_THREAD],
    ids=["main thread", "thread that ends", "sweeper alone"],
)
def test_an_owner_that_is_killed_leaves_nothing(program):
    owner = Owner(program)
    assert runs(owner.node)

    owner.process.kill()
    owner.process.wait()

    assert left_behind(owner) == []


def test_an_owner_that_ends_without_closing_leaves_nothing():
    owner = Owner(IN_THE_MAIN_THREAD)

    owner.process.communicate("\n", timeout=30)

    assert owner.process.returncode == 0
    assert left_behind(owner, seconds=0) == []


def test_a_node_outlives_the_thread_that_started_it():
    owner = Owner(IN_A_THREAD_THAT_ENDS)

    with pytest.raises(subprocess.TimeoutExpired):
        owner.process.wait(1)

    assert runs(owner.node)
    owner.process.communicate("\n", timeout=30)


def test_a_forked_child_that_ends_takes_neither_node_nor_sweeper_with_it():
    owner = Owner(WITHOUT_LEASH + WITH_A_CHILD_THAT_ENDS)
    assert runs(owner.node)

    owner.process.kill()
    owner.process.wait()

    assert left_behind(owner) == []


def test_the_command_prints_its_address_and_ends_in_order_when_interrupted():
    command = [sys.executable, "-m", "kworker_broker"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None

    address = process.stdout.readline()
    os.kill(process.pid, signal.SIGINT)

    assert process.wait(30) == 0
    assert address.startswith("127.0.0.1:")
