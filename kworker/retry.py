"""How often a message is tried, and what becomes of one that failed. Pure: asks no clock."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import tenacity

from . import durations
from .errors import HandlerError, Undecodable
from .outcome import Decision, Expired, GiveUp, Reject, RetryLater, SendOn, TryAgain

log = logging.getLogger("kworker.runtime")

Wait = Callable[[tenacity.RetryCallState], float]

DEFAULT_WAIT: Wait = tenacity.wait_exponential(multiplier=0.2, max=10) + tenacity.wait_random(
    0, 0.2
)


class Retry:
    """A retry policy: calls in the process first, then one call on each retry topic.

    `attempts` calls are made in the process on the first arrival, `wait` (any of tenacity's
    waits) apart; then one call for each of `delays`, in their order, each through its retry
    topic; then the message is dead-lettered: `attempts + len(delays)` calls in all. An error
    that is not in `on`, or is in `never`, is not retried. Raises HandlerError for what
    cannot work.
    """

    __slots__ = ("attempts", "delays", "never", "on", "wait")

    def __init__(
        self,
        attempts: int = 3,
        wait: Wait | None = None,
        delays: Sequence[str | float] = (),
        on: type[BaseException] | Sequence[type[BaseException]] = (BaseException,),
        never: type[BaseException] | Sequence[type[BaseException]] = (),
    ) -> None:
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise HandlerError(f"Retry(attempts={attempts!r}): at least 1 call is needed")
        if wait is not None and not callable(wait):
            raise HandlerError(f"Retry(wait={wait!r}): give one of tenacity's waits")
        if isinstance(delays, (str, int, float)):
            raise HandlerError(f'Retry(delays={delays!r}): give a list, as ["5s", "1m"]')
        try:
            self.delays = tuple(round(durations.seconds(delay), 3) for delay in delays)
        except (ValueError, AttributeError, TypeError) as error:
            raise HandlerError(f"Retry(delays={delays!r}): {error}") from error
        if any(delay <= 0 for delay in self.delays):
            raise HandlerError(f"Retry(delays={delays!r}): a delay must be longer than 0")
        self.attempts = attempts
        self.wait = wait or DEFAULT_WAIT
        self.on = _types("on", on)
        self.never = _types("never", never)

    @property
    def calls(self) -> int:
        """How often the handler is called before the message is dead-lettered."""
        return self.attempts + len(self.delays)

    def pause_before(self, attempt: int, error: BaseException) -> float:
        """Seconds between the failure `error` and the call number `attempt` in the process.

        A wait that raises, or gives no number of seconds, is logged, and the default holds.
        """
        state = tenacity.RetryCallState(_NO_RETRYING, None, (), {})
        state.attempt_number = attempt - 1
        outcome: Future[Any] = tenacity.Future(attempt - 1)
        outcome.set_exception(error)
        state.outcome = outcome  # type: ignore[assignment]
        try:
            pause = float(self.wait(state))
            if math.isfinite(pause):
                return max(0.0, pause)
            log.error("%r gave %r to wait; the default wait holds", self.wait, pause)
        except Exception:
            log.exception("%r failed; the default wait holds", self.wait)
        return DEFAULT_WAIT(state)

    def __repr__(self) -> str:
        delays = [durations.canonical(delay) for delay in self.delays]
        return f"Retry(attempts={self.attempts}, delays={delays})"


_NO_RETRYING: Any = tenacity.Retrying()


def decide(
    error: BaseException, *, calls: int, hop: int, arrived_through: float | None, policy: Retry
) -> Decision:
    """What becomes of a message whose call number `calls` ended in `error`.

    `hop` is how many copies led here (0: the first arrival, or a replay); `arrived_through`
    is the delay of the retry topic it came through, None for any other topic.
    """
    if isinstance(error, Undecodable):
        return GiveUp("undecodable")
    if isinstance(error, Reject):
        return GiveUp("rejected")
    if isinstance(error, Expired):
        return GiveUp("expired")
    if isinstance(error, RetryLater):
        if calls >= policy.calls:
            return GiveUp("retries_exhausted")
        return SendOn(_through(error.delay, policy.delays), error.delay)
    if not isinstance(error, policy.on) or isinstance(error, policy.never):
        return GiveUp("rejected")
    if hop == 0 and calls < policy.attempts:
        return TryAgain(policy.pause_before(calls + 1, error))
    if calls >= policy.calls:
        return GiveUp("retries_exhausted")
    following = _following(policy.delays, hop, arrived_through)
    if following is None:
        return SendOn(None, policy.pause_before(calls + 1, error))
    return SendOn(following, following)


def _through(delay: float, delays: tuple[float, ...]) -> float | None:
    """The retry topic for a wait of `delay`: the nearest not shorter, else the longest."""
    longer = [known for known in delays if known >= delay]
    return min(longer) if longer else max(delays, default=None)


def _following(delays: tuple[float, ...], hop: int, arrived_through: float | None) -> float | None:
    """The delay after the one a message came through: in the declared order where it still
    stands in its place, else the next longer one; the longest where none is longer and calls
    are left, as after RetryLater. None where there are no retry topics."""
    if not delays:
        return None
    if arrived_through is None:
        return delays[0]
    longest = max(delays)
    if 0 < hop < len(delays) and delays[hop - 1] == arrived_through:
        return delays[hop]
    if arrived_through in delays:
        place = delays.index(arrived_through) + 1
        return delays[place] if place < len(delays) else longest
    return min((delay for delay in delays if delay > arrived_through), default=longest)


def _types(
    name: str, given: type[BaseException] | Sequence[type[BaseException]]
) -> tuple[type[BaseException], ...]:
    types = (given,) if isinstance(given, type) else tuple(given)
    for one in types:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise HandlerError(f"Retry({name}=…): {one!r} is not an exception class")
    return types
