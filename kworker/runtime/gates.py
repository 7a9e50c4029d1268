"""May this handler take now? Within its rate; and while what it needs is down, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

BURST = 0.1  # seconds of calls that may begin at once after a pause
NEARLY = 1e-9  # of a token: what adding up floats may lack
FIRST, LONGEST = 1.0, 30.0  # seconds between two tries during an outage


class _Outage:
    __slots__ = ("pause", "probing", "reason")

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.pause = FIRST
        self.probing = False  # its pause is over: one may try


class _Bucket:
    """Calls that a handler may make by now: a token bucket, which a pause fills for a moment's
    calls and no more."""

    __slots__ = ("_at", "_most", "_per_second", "_tokens", "awaited")

    def __init__(self, per_second: float, now: float) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second * BURST)
        self._tokens = 1.0
        self._at = now
        self.awaited = False  # somebody looks again when there is one

    def tokens(self, now: float) -> int:
        earned = (now - self._at) * self._per_second
        self._tokens = min(self._most, self._tokens + earned)
        self._at = now
        return int(self._tokens + NEARLY)

    def spend(self, calls: int) -> None:
        self._tokens -= calls

    @property
    def wait(self) -> float:
        """Seconds until there is one, as of the last look."""
        return max(0.0, (1.0 - self._tokens) / self._per_second)


class Gates:
    """How many runs of a handler may be out at once, by its cap and by outages; and how many
    calls it may begin by now, by its rate.

    `later` calls a function after that many seconds. Only the loop's thread touches it.
    """

    def __init__(
        self,
        cap: Callable[[str], int | None],
        later: Callable[[float, Callable[[], None]], None],
        *,
        rates: Mapping[str, float],
        monotonic: Callable[[], float],
    ) -> None:
        self._cap = cap
        self._later = later
        self._monotonic = monotonic
        self._outages: dict[str, _Outage] = {}
        self._buckets = {name: _Bucket(rate, monotonic()) for name, rate in rates.items()}

    def allowance(self, handler: str) -> int | None:
        """How many calls may begin now; None: any number."""
        bucket = self._buckets.get(handler)
        if bucket is None:
            return None
        tokens = bucket.tokens(self._monotonic())
        if not tokens and not bucket.awaited:
            bucket.awaited = True
            self._later(bucket.wait, lambda: setattr(bucket, "awaited", False))
        return tokens

    def spend(self, handler: str, calls: int) -> None:
        """So many calls are about to begin."""
        bucket = self._buckets.get(handler)
        if bucket is not None:
            bucket.spend(calls)

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
