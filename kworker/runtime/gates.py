"""May this handler take now? While what it needs is down, one of its messages at a time."""

from __future__ import annotations

from collections.abc import Callable

FIRST, LONGEST = 1.0, 30.0  # seconds between two tries during an outage


class _Outage:
    __slots__ = ("pause", "probing", "reason")

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.pause = FIRST
        self.probing = False  # its pause is over: one may try


class Gates:
    """How many runs of a handler may be out at once, by its cap and by outages.

    `later` calls a function after that many seconds. Only the loop's thread touches it.
    """

    def __init__(
        self,
        cap: Callable[[str], int | None],
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._cap = cap
        self._later = later
        self._outages: dict[str, _Outage] = {}

    def room(self, handler: str) -> int | None:
        """How many runs may be out; None: any number."""
        outage = self._outages.get(handler)
        if outage is None:
            return self._cap(handler)
        return 1 if outage.probing else 0

    @property
    def shut_any(self) -> bool:
        """Whether any handler is in an outage; as a rule none is."""
        return bool(self._outages)

    def down(self, handler: str) -> bool:
        """Whether the handler is in an outage, so that works are to be handed out singly."""
        return handler in self._outages

    def shut(self, handler: str, reason: str) -> bool:
        """What the handler needs is down; the next may try after a pause that grows.
        Whether that is news."""
        outage = self._outages.get(handler)
        if outage is None:
            outage = self._outages[handler] = _Outage(reason)
        elif outage.probing:
            outage.pause = min(LONGEST, outage.pause * 2)
        else:
            return False  # it ran already when the outage began
        outage.probing = False
        self._later(outage.pause, lambda: self._probe(handler, outage))
        return outage.pause == FIRST

    def _probe(self, handler: str, outage: _Outage) -> None:
        if self._outages.get(handler) is outage:
            outage.probing = True

    def open(self, handler: str) -> bool:
        """A call ended otherwise. Whether that ends an outage: only what was tried after
        its pause says that it is over."""
        outage = self._outages.get(handler)
        if outage is None or not outage.probing:
            return False
        del self._outages[handler]
        return True
