"""A lab for every fault test; the logs of its workers are shown when the test fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import Lab


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    labs = getattr(item, "funcargs", {}).get("lab_on")
    if labs is not None and report.when == "call" and report.failed:
        for process in (process for lab in labs.made for process in lab.processes):
            report.sections.append(
                (f"{process.log.name} (pid {process.pid})", process.output[-3000:])
            )
    return report
