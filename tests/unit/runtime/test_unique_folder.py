"""Where a worker of a unique group keeps what it remembers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kworker.runtime.unique import folder

KILLED = """
import os, pathlib, sys
from kworker.runtime.unique import folder
with folder(pathlib.Path(sys.argv[1])) as own:
    (own / "unique.db").write_text("full of ids")
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_has_left_is_removed_by_the_next_and_nothing_else(
    tmp_path: Path,
) -> None:
    (tmp_path / "kworker-unique-of-a-user").mkdir()
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=30)
    (left,) = tmp_path.glob("*/unique.db")

    with folder(tmp_path) as first, folder(tmp_path) as second:
        there = sorted(one.name for one in tmp_path.iterdir())
        alive = first.exists() and second.exists()

    assert not left.exists()
    assert alive and len(there) == 3
    assert [one.name for one in tmp_path.iterdir()] == ["kworker-unique-of-a-user"]
