"""How far each partition is behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..facts import Lag
from ..kafka.api import Consumer
from ..message import Partition
from .ledger import Ledger


class Lags:
    """Knows the ends of partitions: those that come along with what is fetched, and, for what is
    paused and so not fetched, those that `asked` gives when there are new ones.

    `delay_of` is how long messages of a topic are to wait, None where they are not. Only the
    loop's thread touches it.
    """

    def __init__(
        self,
        consumer: Consumer,
        asked: Callable[[], Mapping[Partition, int] | None],
        delay_of: Callable[[str], float | None],
        wall: Callable[[], float],
    ) -> None:
        self._consumer = consumer
        self._asked = asked
        self._delay_of = delay_of
        self._wall = wall
        self._told: Mapping[Partition, int] = {}

    def now(self, ledgers: Mapping[Partition, Ledger]) -> dict[Partition, Lag]:
        """The lag in each of these partitions."""
        told = self._asked()
        if told is not None:
            self._told = told
        seen, now = self._consumer.seen_ends(ledgers), self._wall()
        return {
            partition: self._lag(ledger, seen.get(partition), now)
            for partition, ledger in ledgers.items()
        }

    def _lag(self, ledger: Ledger, seen: int | None, now: float) -> Lag:
        position, since = ledger.safe, ledger.since
        ends = [one for one in (seen, self._told.get(ledger.partition)) if one is not None]
        end = max(*ends, ledger.next) if ends else None
        ahead = None if end is None else end - position
        if since is not None:
            delay = self._delay_of(ledger.partition.topic) or 0.0
            return Lag(position, end, ahead, max(0.0, now - since - delay))
        return Lag(position, end, ahead, 0.0 if ahead == 0 else None)
