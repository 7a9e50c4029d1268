"""Runs a worker again whenever a file changes: for `kworker dev` and `kworker run --reload`."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType

from . import output

_MISTYPED = (2, 3)  # exit codes of a worker that could not start for what its author wrote
_LOOK_EVERY = 0.5  # seconds
_SUFFIXES = (".py", ".toml")
_OTHERS = ("__pycache__", "node_modules", "site-packages")  # folders nobody edits


def watched(app_dir: str) -> list[Path]:
    """The folders whose files make a reload."""
    folders = {Path.cwd(), Path(app_dir).resolve()}
    return sorted(one for one in folders if not any(two in one.parents for two in folders))


class Reloader:
    """Keeps one worker running, and replaces it when a file changes. Owns INT and TERM."""

    def __init__(self, command: list[str], folders: list[Path]) -> None:
        self._command = command
        self._folders = folders
        self._stop = threading.Event()
        self._worker: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Until INT or TERM, a second of which kills the worker; the exit code. A first
        worker that cannot start for what its author wrote ends it, too."""
        before = [(one, signal.signal(one, self._told)) for one in (signal.SIGINT, signal.SIGTERM)]
        try:
            return self._until_told()
        finally:
            self._end_worker()
            for one, handler in before:
                signal.signal(one, handler)

    def _until_told(self) -> int:
        import watchfiles

        reloaded = told = False
        self._start_worker()
        for changes in watchfiles.watch(
            *self._folders,
            watch_filter=lambda _, path: self._matters(Path(path)),
            stop_event=self._stop,
            rust_timeout=int(_LOOK_EVERY * 1000),
            yield_on_timeout=True,
        ):
            if self._stop.is_set():
                break
            if changes:
                names = sorted({Path(path).name for _, path in changes})
                output.note(f"{', '.join(names)} changed: starting again")
                self._end_worker()
                self._start_worker()
                reloaded, told = True, False
                continue
            code = None if self._worker is None else self._worker.poll()
            if code is not None and not told:
                if code in _MISTYPED and not reloaded:
                    return code
                output.note(f"the worker ended with {code}; it starts again when a file changes")
                told = True
        return 0

    def _start_worker(self) -> None:
        if not self._stop.is_set():
            self._worker = subprocess.Popen(self._command)

    def _end_worker(self) -> None:
        """Ask the worker to stop and wait; it bounds that time itself."""
        if self._worker is None:
            return
        if self._worker.poll() is None:
            self._worker.terminate()
        self._worker.wait()
        self._worker = None

    def _told(self, number: int, _: FrameType | None) -> None:
        if self._stop.is_set() and self._worker is not None:
            self._worker.kill()
        self._stop.set()

    def _matters(self, path: Path) -> bool:
        folder = next(one for one in self._folders if path.is_relative_to(one))
        above = path.relative_to(folder).parts[:-1]
        return path.suffix in _SUFFIXES and not any(
            name.startswith(".") or name in _OTHERS for name in above
        )
