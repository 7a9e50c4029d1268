"""Looks now and then at the cluster, on a thread of its own: the loop does not wait."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from ..errors import KworkerError

log = logging.getLogger("kworker.runtime")


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen:
    """The topics there are, with their partition counts, and the ids of those that were asked
    for."""

    counts: Mapping[str, int]
    ids: Mapping[str, str]


class Watch(Generic[T]):
    """Asks `look` every so many seconds. `news` is for the loop's thread."""

    def __init__(self, look: Callable[[], T], every: float) -> None:
        self._look = look
        self._every = every
        self._seen: SimpleQueue[T] = SimpleQueue()
        self._over = threading.Event()
        threading.Thread(target=self._live, name="kworker-watch", daemon=True).start()

    def news(self) -> T | None:
        """What was seen last, once; None when there is nothing new."""
        last = None
        try:
            while True:
                last = self._seen.get_nowait()
        except Empty:
            return last

    def close(self) -> None:
        """Look no more; does not wait for a look that is under way."""
        self._over.set()

    def _live(self) -> None:
        while not self._over.wait(self._every):
            try:
                self._seen.put(self._look())
            except KworkerError as error:
                log.debug("the cluster cannot be looked at now: %s", error)
            except Exception:
                log.exception("looking at the cluster failed; it is done again")
