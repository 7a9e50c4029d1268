"""What a signal does to a worker, whatever else is going on."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

import pytest

from kworker import App
from kworker.message import Record
from kworker.runtime.worker import Worker
from kworker.settings import load


@pytest.fixture
def worker(tmp_path) -> Worker:
    return Worker(App("shop"), load({}, flags={}, environ={}, folder=tmp_path))


class Ending:
    """A work whose handler ends between two looks at it."""

    record = Record("orders", 0, 7)
    scope = SimpleNamespace(name="charge")
    id = "a-1"
    calls = 1
    looks = 0

    @property
    def started(self) -> float | None:
        self.looks += 1
        return 1.0 if self.looks == 1 else None


def test_usr1_shows_what_is_in_flight_even_while_it_ends(worker: Worker, capfd) -> None:
    run = SimpleNamespace(works=[Ending()], caller=threading.get_ident())
    worker._loop = SimpleNamespace(runs=[run])  # type: ignore[assignment]

    worker.told(signal.SIGUSR1)

    shown = capfd.readouterr().err
    assert "charge orders/0/7 attempt 2 id a-1" in shown
    assert "test_signals.py" in shown  # the stacks


def test_a_worker_whose_terminal_is_gone_stops_all_the_same(worker: Worker, monkeypatch) -> None:
    def gone(descriptor: int, data: bytes) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "write", gone)

    worker.told(signal.SIGINT)

    assert worker._stop.is_set()


def test_a_second_int_ends_at_once(worker: Worker, monkeypatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)

    worker.told(signal.SIGINT)
    first = ended.copy()
    worker.told(signal.SIGINT)

    assert (first, ended) == ([], [1])


def test_an_int_after_a_term_is_the_first_one(worker: Worker, monkeypatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)

    worker.told(signal.SIGTERM)
    worker.told(signal.SIGINT)
    first = ended.copy()
    worker.told(signal.SIGINT)

    assert (first, ended) == ([], [1])
