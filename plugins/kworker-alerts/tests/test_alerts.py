"""Alerts, told by hooks as a worker tells them, arrive at real servers."""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import kworker_alerts.services
import pytest
from aiosmtpd.controller import Controller
from kworker_alerts import Alerts
from kworker_broker import client

from kworker import App, KafkaUnavailable, SettingsError
from kworker.facts import HandlerInfo, WorkerInfo
from kworker.message import Partition
from kworker.testing import message

CHARGE = HandlerInfo("charge", ("orders",))
HERE = Partition("orders", 0)
WORKER = WorkerInfo("shop", "shop-group", (CHARGE,), ("orders",), 1, "shop.db")


class Web:
    """A service that takes notices as JSON; `down`: it answers 503."""

    def __init__(self) -> None:
        self.notices: list[dict[str, Any]] = []
        self.down = False
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not web.down:
                    web.notices.append(json.loads(body))
                self.send_response(503 if web.down else 200)
                self.end_headers()

            def log_message(self, *words: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def bodies(self) -> list[str]:
        return [one["message"] for one in self.notices]


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def letters() -> Iterator[tuple[str, list[Any]]]:
    """The address of a mail server, and what it got."""
    got: list[Any] = []

    class Box:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            got.append(envelope)
            return "250 OK"

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(Box(), hostname="127.0.0.1", port=port)
    controller.start()
    yield f"mailto://127.0.0.1:{port}?from=a@example.org&to=b@example.org&mode=insecure", got
    controller.stop()


def until(wanted: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + 20
    while not wanted():
        assert time.monotonic() < limit, f"never: {what}"
        time.sleep(0.02)


def telling(alerts: Alerts) -> Callable[..., None]:
    tell = App("shop", plugins=[alerts]).load_plugins().tell
    tell("worker_started", worker=WORKER)
    return tell


def dead_letter(tell: Callable[..., None], error: Exception, times: int = 1) -> None:
    for _ in range(times):
        tell(
            "message_dead_lettered", message=message({}, topic="orders", offset=7), handler=CHARGE,
            disposition="retries_exhausted", error=error,
        )  # fmt: skip


def beat(tell: Callable[..., None], **stuck: str) -> None:
    found = MappingProxyType({Partition(name, 0): why for name, why in stuck.items()})
    tell("worker_beat", snapshot=SimpleNamespace(stuck=found))


def test_dead_letters_are_grouped_by_fingerprint_and_come_by_http_and_by_mail(
    web: Web, letters: tuple[str, list[Any]]
) -> None:
    address, got = letters
    tell = telling(Alerts(web.url, address))

    dead_letter(tell, ValueError("no such bank"), 500)
    dead_letter(tell, KeyError("amount"), 3)
    until(lambda: bool(web.notices and got), "both services have it")
    tell("worker_stopped", worker=WORKER)

    [notice] = web.notices
    assert notice["title"].startswith("shop-group on ")
    assert notice["title"].endswith(" (and 1 more)")
    assert notice["type"] == "failure"
    assert (
        "charge dead-letters messages (retries_exhausted): ValueError: no such bank"
        in (notice["message"])
    )
    assert "fingerprint " in notice["message"]
    assert "the last was orders/0/7\n500 times" in notice["message"]
    assert "KeyError: 'amount'" in notice["message"]
    [mail] = got
    assert mail.rcpt_tos == ["b@example.org"]
    assert b"charge dead-letters messages" in mail.content


def test_an_outage_and_a_stuck_partition_are_said_to_be_over(web: Web) -> None:
    tell = telling(Alerts(web.url, pause="100ms"))

    tell("outage_started", handler=CHARGE, reason="the bank is down")
    tell("partition_stuck", partition=HERE, reason="shop.dlq is gone")
    beat(tell, orders="shop.dlq is gone")
    until(lambda: len(web.notices) == 1, "they are told")
    beat(tell, orders="shop.dlq is gone")
    tell("outage_ended", handler=CHARGE)
    until(lambda: len(web.notices) == 2, "the outage is over")
    beat(tell)
    until(lambda: len(web.notices) == 3, "the partition goes on")
    tell("worker_stopped", worker=WORKER)

    assert "charge waits, what it needs is down: the bank is down" in web.bodies[0]
    assert "orders/0 is stuck: shop.dlq is gone" in web.bodies[0]
    assert web.bodies[1].startswith("Over: charge waits")
    assert web.bodies[2].startswith("Over: orders/0 is stuck")
    assert [one["type"] for one in web.notices] == ["failure", "success", "success"]


def test_what_a_publisher_could_not_send_is_told_and_that_it_goes_on(web: Web) -> None:
    alerts = Alerts(web.url, pause="100ms")

    for _ in range(3):
        alerts.publish_failed("mails", KafkaUnavailable("nobody answers"), True)
    until(lambda: len(web.notices) == 1, "it is told")
    alerts.publish_resumed("mails", 3)
    until(lambda: len(web.notices) == 2, "it is over")
    alerts.close()

    assert "messages for mails cannot be published (kept in the outbox): nobody" in web.bodies[0]
    assert web.bodies[1].startswith("Over: messages for mails")


def test_a_lost_position_says_how_many_messages_are_gone(web: Web) -> None:
    tell = telling(Alerts(web.url))

    tell("position_lost", partition=HERE, expected=5, found=9, missing=4)
    tell("worker_stopped", worker=WORKER)

    [body] = web.bodies
    assert "orders/0: 4 messages are gone; offset 5 no longer exists" in body


def test_the_end_of_a_worker_says_what_was_not_said_yet(web: Web) -> None:
    tell = telling(Alerts(web.url, pause="1h"))
    dead_letter(tell, ValueError("first"))
    until(lambda: len(web.notices) == 1, "the first is told")

    dead_letter(tell, KeyError("second"))
    tell("worker_stopped", worker=WORKER)

    assert len(web.notices) == 2
    assert "second" in web.bodies[1]


def test_a_service_that_is_down_gets_it_later_and_holds_up_no_other(
    web: Web, letters: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(kworker_alerts.services._Service, "_first", 0.2)
    address, got = letters
    web.down = True
    secret = web.url.replace("://", "://user:s3cret@")
    caplog.set_level(logging.WARNING)
    tell = telling(Alerts(secret, address))

    dead_letter(tell, ValueError("no such bank"))
    until(lambda: bool(got), "the mail has come")
    until(lambda: "alerts do not get through to JSON" in caplog.text, "it is told")
    web.down = False
    until(lambda: bool(web.notices), "it comes later")
    tell("worker_stopped", worker=WORKER)

    assert len(got) == len(web.notices) == 1
    assert "s3cret" not in caplog.text


def test_telling_takes_no_time_whatever_a_service_does(web: Web) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        alerts = Alerts(f"json://127.0.0.1:{silent.getsockname()[1]}?cto=1&rto=1")
        tell = telling(alerts)

        begun = time.monotonic()
        dead_letter(tell, ValueError("no"), 200)

        assert time.monotonic() - begun < 1.0
    atexit.unregister(alerts.close)  # nobody is there any more


def test_nowhere_to_send_and_an_unknown_service_are_refused_without_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("APPRISE_URLS", raising=False)

    with pytest.raises(SettingsError, match="set APPRISE_URLS"):
        Alerts()
    with pytest.raises(SettingsError) as refused:
        Alerts("nosuch://user:s3cret@host")

    assert "'nosuch'" in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_addresses_may_come_from_the_variable_of_apprise(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPRISE_URLS", f"{web.url} {web.url}")
    tell = telling(Alerts())

    dead_letter(tell, ValueError("no"))
    tell("worker_stopped", worker=WORKER)

    assert len(web.notices) == 2


APP = """
from kworker import App, Reject
from kworker_alerts import Alerts

app = App({group!r}, plugins=[Alerts({url!r}, pause="1h")])

@app.handler({topic!r}, name="charge")
def charge(order: dict):
    raise Reject("never")
"""


def test_a_worker_that_drains_has_told_of_its_dead_letters_when_it_ends(
    web: Web, kafka: Any, topic: Callable[..., str], group: str, tmp_path: Path
) -> None:
    source = topic("orders", partitions=2)
    (tmp_path / "shop.py").write_text(APP.format(group=group, topic=source, url=web.url))
    env = {name: one for name, one in os.environ.items() if not name.startswith("KWORKER_")}

    def kworker(*arguments: str, given: str = "") -> None:
        subprocess.run(
            [sys.executable, "-m", "kworker", *arguments, "-b", kafka.bootstrap_servers],
            cwd=tmp_path, env=env, input=given, text=True, check=True, timeout=60,
        )  # fmt: skip

    kworker("publish", source, "-", "--ndjson", given='{"n": 1}\n{"n": 2}\n{"n": 3}\n')
    try:
        kworker("run", "shop:app", "--drain", "--create-topics", "missing")
    finally:
        client.delete_topics(kafka.bootstrap_servers, [f"{group}.replay", f"{group}.dlq"])

    assert "charge dead-letters messages (rejected): kworker.outcome.Reject: never" in web.bodies[0]
    assert all(one["title"].startswith(f"{group} on ") for one in web.notices)
