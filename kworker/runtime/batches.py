"""Batches: gathered before their handler's call, and taken apart where it fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..batch import Batch
from ..outcome import BatchFailure, Outage, Outcome
from .work import Work


class Gathering:
    """When the next batch of one handler and topic may start.

    It may once it is full, or once the first that waits has waited long enough. Only the
    loop's thread touches it.
    """

    __slots__ = ("_later", "_monotonic", "_since", "_wait", "size")

    def __init__(
        self,
        batch: Batch,
        monotonic: Callable[[], float],
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self.size = batch.size
        self._wait = batch.patience
        self._monotonic = monotonic
        self._later = later
        self._since: float | None = None

    def ripe(self, waiting: int) -> bool:
        """Whether a batch may start now that so many wait, which are at least one."""
        if waiting >= self.size:
            return True
        now = self._monotonic()
        if self._since is None:
            self._since = now
            self._later(self._wait, _look_again)
        return now - self._since >= self._wait

    def took(self) -> None:
        """A batch has started: whoever is left begins to wait now."""
        self._since = None


def _look_again() -> None:
    """What starts is looked at in each turn; this only ends the loop's patience in time."""


class Bisection:
    """A batch until each of its messages has an outcome: whole, then in halves where it fails.

    Whoever calls the handler takes the next `part`, and says when its call has `failed`. With
    one bad message among `n`, the handler is called about `2 * log2(n)` times more.
    """

    def __init__(self, works: Sequence[Work]) -> None:
        self._parts: deque[Sequence[Work]] = deque([works] if works else [])

    def part(self) -> Sequence[Work] | None:
        """The messages to call the handler with next; None when there are no more."""
        return self._parts.popleft() if self._parts else None

    def failed(
        self,
        part: Sequence[Work],
        error: BaseException,
        done: Outcome | None,
        bad: Callable[[BaseException], Outcome],
    ) -> list[tuple[Work, Outcome]]:
        """Its call raised: what is certain of each message by that.

        `bad` makes an error an outcome; `done` is what those have become that the error does
        not name, which are called again where that is None.
        """
        if isinstance(error, BatchFailure) and _names_some(error.errors, len(part)):
            errors = error.errors
            known = [(part[index], bad(one)) for index, one in errors.items()]
            good = [work for index, work in enumerate(part) if index not in errors]
            if done is None and good:
                self._parts.appendleft(good)
            elif done is not None:
                known += [(work, done) for work in good]
            return known
        if len(part) == 1 or isinstance(error, Outage):
            return [(work, bad(error)) for work in part]
        half = (len(part) + 1) // 2
        self._parts.extendleft((part[half:], part[:half]))
        return []


def _names_some(errors: Mapping[Any, Any], size: int) -> bool:
    """Whether the errors say which messages of a batch of that size have failed, and why."""
    return bool(errors) and all(
        isinstance(index, int) and 0 <= index < size and isinstance(error, BaseException)
        for index, error in errors.items()
    )
