from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kworker

SOURCES = Path(kworker.__file__).parent.parent
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(**more: str) -> dict[str, str]:
    kept = {
        name: one
        for name, one in os.environ.items()
        if not name.startswith("KWORKER_") or name == "KWORKER_WITHOUT_PLUGINS"
    }
    return {**kept, "PYTHONPATH": str(SOURCES), "COLUMNS": "100", **more}


@pytest.fixture
def env() -> dict[str, str]:
    """For child processes: ours, without settings, and with this kworker."""
    return environment()


@pytest.fixture
def command(tmp_path) -> Command:
    """Runs `kworker …` in a folder of its own, to its end."""

    def run(*arguments: str, stdin: str | None = "", **variables: str):
        return subprocess.run(
            [sys.executable, "-m", "kworker", *arguments],
            cwd=tmp_path,
            env=environment(**variables),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def shop(tmp_path) -> Path:
    """A module `shop` with an app that works."""
    path = tmp_path / "shop.py"
    path.write_text(
        "from kworker import App\n"
        'app = App("shop")\n'
        '@app.handler("orders")\n'
        "def charge(order: dict) -> None: ...\n"
    )
    return path
