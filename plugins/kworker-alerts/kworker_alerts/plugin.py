"""The plugin: hears what goes wrong, and has people told of it."""

from __future__ import annotations

import atexit
import os
import socket
import threading
import time
from collections.abc import Callable

from kworker import SettingsError, durations, hookimpl
from kworker.facts import HandlerInfo, Snapshot, WorkerInfo
from kworker.failures import fingerprint, type_name, words
from kworker.message import AnyMessage, Partition

from .digest import Digest, Kind
from .services import Services

VARIABLE = "APPRISE_URLS"
LAST = 5.0  # seconds that an end waits for what is to be said yet

_STUCK = "stuck/"


class Alerts:
    """Sends notices by Apprise: `App("shop", plugins=[Alerts("mailto://…", "slack://…")])`.

    The addresses are Apprise's; without any those of the variable APPRISE_URLS are taken, between
    blanks. Alike things are one thing (dead letters by their fingerprint) and are said when they
    begin, then once in `every` while they go on, and when they are over; `pause` lies between two
    notices. Nothing is sent on the thread that tells: one of its own does. Raises SettingsError
    for an address that Apprise does not know, and where there is none.
    """

    def __init__(self, *urls: str, every: str | float = "10m", pause: str | float = "30s") -> None:
        self._services = Services(urls or os.environ.get(VARIABLE, "").split())
        if not self._services:
            raise SettingsError(
                f"alerts: nowhere to send them; give addresses, as Alerts('mailto://…'), or set "
                f"{VARIABLE}"
            )
        name = f"kworker on {socket.gethostname()}"
        self._digest = Digest(name, durations.seconds(every), durations.seconds(pause))
        self._changed = threading.Condition()
        self._speaker: threading.Thread | None = None
        self._ending = False
        self._now: Callable[[], float] = time.monotonic
        atexit.register(self.close)  # for publishers, whose end is not told

    # --- told ------------------------------------------------------------------------------

    @hookimpl
    def worker_started(self, worker: WorkerInfo) -> None:
        self._digest.name = f"{worker.group} on {socket.gethostname()}"
        self._ending = False

    @hookimpl
    def worker_stopped(self) -> None:
        self.close()

    @hookimpl
    def message_dead_lettered(
        self,
        message: AnyMessage,
        handler: HandlerInfo,
        disposition: str,
        error: BaseException | None,
    ) -> None:
        if error is None:
            key, why = disposition, "decided before a restart"
        else:
            key = fingerprint(handler.name, error)
            why = f"{type_name(error)}: {words(error)[:300]}\nfingerprint {key}"
        where = f"{message.original}"
        self._happened(
            f"dead/{handler.name}/{key}",
            f"{handler.name} dead-letters messages ({disposition}): {why}\nthe last was {where}",
        )

    @hookimpl
    def outage_started(self, handler: HandlerInfo, reason: str) -> None:
        self._happened(
            f"outage/{handler.name}",
            f"{handler.name} waits, what it needs is down: {reason}",
            ends=True,
        )

    @hookimpl
    def outage_ended(self, handler: HandlerInfo) -> None:
        self._over(f"outage/{handler.name}")

    @hookimpl
    def position_lost(
        self, partition: Partition, expected: int, found: int, missing: int | None
    ) -> None:
        gone = "an unknown number of" if missing is None else f"{missing}"
        self._happened(
            f"lost/{partition}",
            f"{partition}: {gone} messages are gone; offset {expected} no longer exists, reading "
            f"goes on at {found}",
        )

    @hookimpl
    def partition_stuck(self, partition: Partition, reason: str) -> None:
        self._happened(f"{_STUCK}{partition}", f"{partition} is stuck: {reason}", ends=True)

    @hookimpl
    def worker_beat(self, snapshot: Snapshot) -> None:
        stuck = {f"{_STUCK}{partition}" for partition in snapshot.stuck}
        with self._changed:
            mended = [key for key in self._digest.going_on(_STUCK) if key not in stuck]
        for key in mended:
            self._over(key)

    @hookimpl
    def publish_failed(self, topic: str, error: BaseException, kept: bool) -> None:
        what = "kept in the outbox" if kept else "not kept"
        self._happened(
            f"publish/{topic}/{type_name(error)}",
            f"messages for {topic} cannot be published ({what}): {words(error)[:300]}",
        )

    @hookimpl
    def publish_resumed(self, topic: str, count: int) -> None:
        with self._changed:
            keys = self._digest.going_on(f"publish/{topic}/")
        for key in keys:
            self._over(key)

    # --- speaking --------------------------------------------------------------------------

    def close(self) -> None:
        """Say what has not been said, within some seconds. Something that happens afterwards
        is said as well."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            speaker, self._speaker = self._speaker, None
        if speaker is not None and speaker is not threading.current_thread():
            speaker.join(LAST)

    def _happened(self, key: str, text: str, kind: Kind = "failure", *, ends: bool = False) -> None:
        with self._changed:
            self._digest.happened(key, text, self._now(), kind, ends=ends)
            if self._speaker is None or not self._speaker.is_alive():  # as after a fork
                self._ending = False
                self._speaker = threading.Thread(
                    target=self._speak, name="kworker-alerts", daemon=True
                )
                self._speaker.start()
            self._changed.notify_all()

    def _over(self, key: str) -> None:
        with self._changed:
            self._digest.over(key, self._now())
            self._changed.notify_all()

    def _speak(self) -> None:
        while True:
            with self._changed:
                ending = self._ending
                notice = self._digest.notice(self._now(), at_once=ending)
                patience = self._digest.patience(self._now())
            if notice is not None:
                self._services.take(notice)
            again = self._services.send(self._now(), at_once=ending)
            if ending:
                return
            waits = [one for one in (patience, again) if one is not None]
            with self._changed:
                if not self._ending:
                    self._changed.wait(min(waits) if waits else None)
