"""Where notices go: each service by itself, so that one that is down holds up no other."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import Any

import apprise

from kworker import SettingsError

from .digest import Notice

log = logging.getLogger("kworker.alerts")

KEPT = 20  # notices that wait for a service; the oldest go first
LONGEST = 600.0  # seconds: the longest pause before a service is tried again

_KINDS = {
    "failure": apprise.NotifyType.FAILURE,
    "warning": apprise.NotifyType.WARNING,
    "over": apprise.NotifyType.SUCCESS,
}


class Services:
    """Apprise's services, by their addresses. Only one thread may take and send.

    Addresses hold passwords: they are never shown.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        self._all = [_Service(_known(url)) for url in urls]

    def __bool__(self) -> bool:
        return bool(self._all)

    def take(self, notice: Notice) -> None:
        """Let it wait for every service."""
        for service in self._all:
            service.waiting.append(notice)

    def send(self, now: float, *, at_once: bool = False) -> float | None:
        """Send what waits, as far as services take it; seconds until to try again, None where
        nothing is left."""
        for service in self._all:
            if at_once or now >= service.due:
                service.send(now)
        return min((max(0.05, one.due - now) for one in self._all if one.waiting), default=None)


class _Service:
    _first = 30.0  # seconds: the first pause

    def __init__(self, service: Any) -> None:
        self._service = service
        self.waiting: deque[Notice] = deque(maxlen=KEPT)
        self.due = 0.0
        self._pause = self._first

    def send(self, now: float) -> None:
        while self.waiting:
            notice = self.waiting[0]
            if not self._sent(notice):
                self.due = now + self._pause
                log.warning(
                    "alerts do not get through to %s; %d wait, tried again in %.0f s",
                    self._service.service_name, len(self.waiting), self._pause,
                )  # fmt: skip
                self._pause = min(LONGEST, self._pause * 2)
                return
            self.waiting.popleft()
            self._pause, self.due = self._first, 0.0

    def _sent(self, notice: Notice) -> bool:
        try:
            return bool(
                self._service.notify(
                    title=notice.title, body=notice.body, notify_type=_KINDS[notice.kind]
                )
            )
        except Exception:
            # Not its text: it may hold the address, and with it a password.
            log.debug("a service of Apprise failed", exc_info=True)
            return False


def _known(url: str) -> Any:
    service = apprise.Apprise.instantiate(url)
    if service is None:
        scheme = url.partition("://")[0]
        raise SettingsError(
            f"alerts: Apprise cannot read the address that begins with {scheme[:20]!r}; "
            "its form stands in the list of services of Apprise"
        )
    return service
