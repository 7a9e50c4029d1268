"""How far what cannot be read reaches in a log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

from ..errors import KafkaUnavailable, KworkerError
from ..message import Partition

log = logging.getLogger("kworker.runtime")

Read = Callable[[Partition, int], object]
"""Try to read at an offset; raises KafkaUnavailable where what stands there is damaged."""


class Damage:
    """Looks for the first offset that can be read again, on a thread of its own for each
    look. `look` and `news` are for the loop's thread."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._found: SimpleQueue[tuple[Partition, int, int]] = SimpleQueue()

    def look(self, partition: Partition, offset: int) -> None:
        """Begin to look; what stands at the offset cannot be read."""
        threading.Thread(
            target=self._look, args=(partition, offset), name="kworker-damage", daemon=True
        ).start()

    def news(self) -> Iterator[tuple[Partition, int, int]]:
        """What was found, once: a partition, the first offset that cannot be read, and the
        first after it that can."""
        try:
            while True:
                yield self._found.get_nowait()
        except Empty:
            return

    def _look(self, partition: Partition, offset: int) -> None:
        try:
            self._found.put((partition, offset, self._reach(partition, offset)))
        except KworkerError as error:
            log.debug("how far %s is damaged is not known: %s", partition, error)

    def _reach(self, partition: Partition, offset: int) -> int:
        broken, step = offset, 1
        while not self._readable(partition, offset + step):
            broken, step = offset + step, step * 2
        whole = offset + step
        while whole - broken > 1:
            middle = (whole + broken) // 2
            if self._readable(partition, middle):
                whole = middle
            else:
                broken = middle
        return whole

    def _readable(self, partition: Partition, offset: int) -> bool:
        try:
            self._read(partition, offset)
        except KafkaUnavailable:
            return False
        return True
