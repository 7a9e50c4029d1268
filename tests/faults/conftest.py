"""A lab for every fault test; the logs of its workers are shown when the test fails, and what
its scenario showed is a row of the table at the end of the run.

`--seed N` (or `KWORKER_FAULTS_SEED`) runs the schedules of that seed. With `KWORKER_FAULTS_PUBLISH`
the rows of a run become those of the published table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import table
from .harness import FULL, Lab, drawn


class Labs:
    """Makes labs, each with a group of its own, on the cluster at a given address."""

    def __init__(self, group: str, folder: Path) -> None:
        self._group = group
        self._folder = folder
        self.made: list[Lab] = []

    def __call__(self, bootstrap: str) -> Lab:
        number = len(self.made)
        folder = self._folder / f"lab-{number}"
        folder.mkdir()
        self.made.append(Lab(bootstrap, f"{self._group}-{number}", folder))
        return self.made[-1]

    def close(self) -> None:
        for lab in self.made:
            lab.close()


@pytest.fixture
def lab_on(group: str, tmp_path: Path) -> Iterator[Labs]:
    """Labs for tests with a broker of their own."""
    labs = Labs(group, tmp_path)
    yield labs
    labs.close()


@pytest.fixture
def lab(kafka: Any, lab_on: Labs) -> Lab:
    """A lab on the session's cluster."""
    return lab_on(kafka.bootstrap_servers)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", help="run the fault schedules of this seed")


def pytest_configure(config: pytest.Config) -> None:
    if chosen := config.getoption("--seed", None):
        os.environ["KWORKER_FAULTS_SEED"] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    labs = getattr(item, "funcargs", {}).get("lab_on")
    rows = [lab.row for lab in labs.made if lab.row is not None] if labs is not None else []
    report = yield
    if labs is not None and report.when == "call":
        for row in rows:
            row.test, row.passed = item.nodeid, report.passed
            row.seed = drawn[0] if drawn else None
            report.user_properties.append(("row", table.dumped(row)))
        drawn.clear()
    if labs is not None and report.when == "call" and report.failed:
        for process in (process for lab in labs.made for process in lab.processes):
            report.sections.append(
                (f"{process.log.name} (pid {process.pid})", process.output[-3000:])
            )
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [*terminalreporter.stats.get("passed", ()), *terminalreporter.stats.get("failed", ())]
    rows = [
        table.loaded(text)
        for report in reports
        for name, text in getattr(report, "user_properties", ())
        if name == "row" and report.when == "call"
    ]
    if not rows:
        return
    rows.sort(key=lambda row: row.test)
    terminalreporter.section("what the faults showed")
    for line in table.printed(rows):
        terminalreporter.write_line(line)
    if os.environ.get("KWORKER_FAULTS_PUBLISH"):
        table.publish(rows, "full" if FULL else "short")
