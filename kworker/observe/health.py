"""Whether a worker lives and is ready, written as a plugin: hooks and facts, nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..facts import HandlerInfo, Snapshot, WorkerInfo
from ..hookspecs import hookimpl
from . import pages
from .pages import Page, Pages

STILL = 60.0  # seconds without a turn of the loop after which it counts as dead
ANSWER = 5.0  # seconds that a worker process may take to answer its parent

Metrics = Callable[[Mapping[int, bytes] | None], tuple[str, bytes] | None]
"""What `/metrics` answers; in a parent, of what each of its workers answered, by its number."""


class Health:
    """Remembers what it is told. Told on the loop's thread, asked on any.

    `held` is how long a turn may take at most where all is well: a partition that moves away is
    waited for within one.
    """

    def __init__(self, held: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        self._still = max(STILL, held + 10.0)
        self._now = now
        self._turned: float | None = None  # None: the loop has not begun
        self._worker: WorkerInfo | None = None
        self._snapshot: Snapshot | None = None
        self._stopping = False
        self._outages: dict[str, str] = {}

    @hookimpl
    def worker_started(self, worker: WorkerInfo) -> None:
        self._worker, self._turned = worker, self._now()

    @hookimpl
    def worker_beat(self, snapshot: Snapshot) -> None:
        self._snapshot, self._turned = snapshot, self._now()

    @hookimpl
    def worker_stopping(self) -> None:
        self._stopping = True

    @hookimpl
    def outage_started(self, handler: HandlerInfo, reason: str) -> None:
        self._outages = {**self._outages, handler.name: reason}

    @hookimpl
    def outage_ended(self, handler: HandlerInfo) -> None:
        left = {name: why for name, why in self._outages.items() if name != handler.name}
        self._outages = left

    def pages(self, metrics: Metrics) -> Pages:
        return {
            "/livez": self.live,
            "/readyz": self.ready,
            "/metrics": lambda: metrics_page(metrics(None)),
        }

    def live(self) -> Page:
        """Whether the loop turns. A worker that starts or stops lives: it has bounds of its own."""
        stands = self._stands()
        return pages.document(503 if stands else 200, live=not stands, reason=stands)

    def ready(self) -> Page:
        """Whether it is in its group; and what waits there, and why."""
        reason = self._stands() or self._not_ready()
        return pages.document(
            503 if reason else 200, ready=not reason, reason=reason, **self._detail()
        )

    def _stands(self) -> str | None:
        if self._turned is None or self._stopping:
            return None
        ago = self._now() - self._turned
        return None if ago <= self._still else f"the loop has not turned for {ago:.0f} s"

    def _not_ready(self) -> str | None:
        if self._stopping:
            return "stopping"
        if self._snapshot is None:
            return "starting"
        return None if self._snapshot.joined else "waiting for the group to tell its partitions"

    def _detail(self) -> dict[str, Any]:
        worker, snapshot = self._worker, self._snapshot
        if worker is None or snapshot is None:
            return {}
        messages, seconds = snapshot.behind
        return {
            "app": worker.app,
            "group": worker.group,
            "partitions": snapshot.partitions,
            "in_flight": snapshot.in_flight,
            "waiting": snapshot.waiting,
            "paused": {str(one): why for one, why in snapshot.paused.items()},
            "stuck": {str(one): why for one, why in snapshot.stuck.items()},
            "outages": self._outages,
            "lag": {"messages": messages, "seconds": round(seconds, 3)},
            "store_bytes": snapshot.store_bytes,
        }


class Workers:
    """The pages of the processes of `--workers` in one, asked at the sockets they serve them at.

    A process that is not there starts, or is started again: the parent sees to that, so it
    lives, but is not ready.
    """

    def __init__(self, addresses: Mapping[int, str], metrics: Metrics) -> None:
        self._addresses = addresses
        self._metrics = metrics

    def pages(self) -> Pages:
        return {
            "/livez": lambda: self._told("/livez", "live", absent=True),
            "/readyz": lambda: self._told("/readyz", "ready", absent=False),
            "/metrics": self.metrics,
        }

    def _told(self, path: str, word: str, *, absent: bool) -> Page:
        """Well where all are."""
        workers: dict[str, Any] = {}
        for number, page in self._ask(path).items():
            if page is None:
                workers[str(number)] = {word: absent, "reason": "starting"}
            else:
                workers[str(number)] = _fields(page, word)
        ill = [number for number, fields in workers.items() if not fields[word]]
        reason = f"not {word}: worker {', '.join(ill)}" if ill else None
        return pages.document(
            503 if ill else 200, **{word: not ill}, reason=reason, workers=workers
        )

    def metrics(self) -> Page:
        found = self._ask("/metrics").items()
        answers = {number: page.body for number, page in found if page and page.status == 200}
        return metrics_page(self._metrics(answers))

    def _ask(self, path: str) -> dict[int, Page | None]:
        def one(address: str) -> Page | None:
            try:
                return pages.ask(address, path, ANSWER)
            except OSError as error:
                return pages.text(503, f"it does not answer: {error}")

        with ThreadPoolExecutor(len(self._addresses), "kworker-health") as asking:
            return dict(
                zip(self._addresses, asking.map(one, self._addresses.values()), strict=True)
            )


def metrics_page(answer: tuple[str, bytes] | None) -> Page:
    """What a plugin answered, or that there is none."""
    if answer is None:
        return pages.text(404, "no plugin provides metrics; kworker-prometheus is one that does")
    return Page(200, *answer)


def _fields(page: Page, word: str) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = json.loads(page.body)
    except ValueError:
        fields = {"reason": page.body.decode("utf-8", "replace").strip()}
    return {word: page.status == 200, **fields}
