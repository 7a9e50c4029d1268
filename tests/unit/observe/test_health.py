"""Whether a worker lives and is ready, and the pages that say so."""

from __future__ import annotations

import json
import logging
import socket
import threading
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.error import HTTPError

import pytest

from kworker import SettingsError
from kworker.facts import HandlerInfo, Lag, Snapshot, WorkerInfo
from kworker.message import Partition
from kworker.observe import health, pages
from kworker.observe.health import Health, Workers
from kworker.observe.pages import Page, served

HERE = Partition("orders", 0)
CHARGE = HandlerInfo("charge", ("orders",))
WORKER = WorkerInfo("shop", "shop-group", (CHARGE,), ("orders",), 4, ".kworker/shop.db")


def snapshot(**fields: Any) -> Snapshot:
    usual: dict[str, Any] = {
        "joined": True, "in_flight": 2, "waiting": 1, "partitions": 1, "paused": {}, "stuck": {},
        "lag": {HERE: Lag(5, 12, 7, 3.25)}, "received": {"orders": 9}, "handled": 5, "retried": 0,
        "dead_lettered": 0, "skipped": 0, "lost": 0, "store_bytes": 4096, "last_turn": 0.01,
    }  # fmt: skip
    given = usual | fields
    for name in ("paused", "stuck", "lag", "received"):
        given[name] = MappingProxyType(given[name])
    return Snapshot(**given)


class Life:
    """A worker's health, and a clock that the test moves."""

    def __init__(self, held: float = 0.0) -> None:
        self.now = 100.0
        self.health = Health(held, lambda: self.now)

    def asked(self, word: str) -> tuple[int, dict[str, Any]]:
        page: Page = getattr(self.health, word)()
        return page.status, json.loads(page.body)


def test_a_worker_that_starts_lives_and_is_not_ready() -> None:
    life = Life()
    life.now += 1000

    assert life.asked("live") == (200, {"live": True, "reason": None})
    assert life.asked("ready") == (503, {"ready": False, "reason": "starting"})


def test_it_is_ready_once_the_group_has_told_its_partitions_be_they_none() -> None:
    life = Life()
    life.health.worker_started(WORKER)

    life.health.worker_beat(snapshot(joined=False, partitions=0))
    joining = life.asked("ready")
    life.health.worker_beat(snapshot(partitions=0))
    joined = life.asked("ready")

    assert joining[0] == 503
    assert joining[1]["reason"] == "waiting for the group to tell its partitions"
    assert joined[0] == 200
    assert joined[1]["group"] == "shop-group"


def test_what_waits_is_told_with_its_reason_and_takes_no_readiness_away() -> None:
    life = Life()
    life.health.worker_started(WORKER)
    life.health.outage_started(CHARGE, "the bank is down")
    life.health.worker_beat(snapshot(paused={HERE: "full"}, stuck={HERE: "shop.dlq is gone"}))

    status, told = life.asked("ready")
    life.health.outage_ended(CHARGE)

    assert status == 200
    assert told["outages"] == {"charge": "the bank is down"}
    assert told["paused"] == {"orders/0": "full"}
    assert told["stuck"] == {"orders/0": "shop.dlq is gone"}
    assert told["lag"] == {"messages": 7, "seconds": 3.25}
    assert told["store_bytes"] == 4096
    assert life.asked("ready")[1]["outages"] == {}


def test_a_loop_that_does_not_turn_is_neither_alive_nor_ready() -> None:
    life = Life()
    life.health.worker_started(WORKER)
    life.health.worker_beat(snapshot())

    life.now += 59
    still = life.asked("live")[0], life.asked("ready")[0]
    life.now += 2
    dead = life.asked("live")

    assert still == (200, 200)
    assert dead == (503, {"live": False, "reason": "the loop has not turned for 61 s"})
    assert life.asked("ready")[0] == 503


def test_a_turn_may_wait_as_long_as_partitions_that_move_away_may() -> None:
    life = Life(held=600.0)
    life.health.worker_started(WORKER)

    life.now += 605

    assert life.asked("live")[0] == 200


def test_one_that_stops_lives_and_is_not_ready() -> None:
    life = Life()
    life.health.worker_started(WORKER)
    life.health.worker_beat(snapshot())

    life.health.worker_stopping()
    life.now += 1000

    assert life.asked("live")[0] == 200
    assert life.asked("ready")[1]["reason"] == "stopping"


# --- serving -------------------------------------------------------------------------------


def hello() -> Page:
    return pages.text(200, "hello")


@pytest.fixture
def bound(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Where the page is served: the log says."""
    caplog.set_level(logging.INFO, "kworker.health")
    return lambda: caplog.records[-1].getMessage().split(" ")[0]


def asked(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=10
        ) as got:
            return got.status, got.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_pages_are_served_by_their_paths_and_everything_else_is_not_there(bound: Any) -> None:
    with served("127.0.0.1:0", {"/livez": hello}):
        here = bound()

        assert asked(f"{here}/livez") == (200, "hello\n")
        assert asked(f"{here}/livez?verbose") == (200, "hello\n")
        assert asked(f"{here}/other") == (404, "there are /livez\n")
    with pytest.raises(OSError):
        asked(f"{here}/livez")


def test_a_page_that_cannot_be_made_is_told_and_harms_no_other(bound: Any) -> None:
    def broken() -> Page:
        raise ValueError("secret")

    with served("localhost:0", {"/livez": hello, "/metrics": broken}):
        here = bound()
        status, told = asked(f"{here}/metrics")

        assert status == 500
        assert "secret" not in told
        assert asked(f"{here}/livez")[0] == 200


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_beyond_this_machine_nothing_is_served_without_a_token(address: str) -> None:
    with pytest.raises(SettingsError) as refused, served(address, {"/livez": hello}):
        pass

    line = str(refused.value)
    assert line.startswith(f"health: {address} can be reached from other machines; ")
    assert "KWORKER_HEALTH_TOKEN" in line
    assert "\n" not in line


def test_with_a_token_only_who_brings_it_is_answered(bound: Any) -> None:
    with served("0.0.0.0:0", {"/livez": hello}, token="s3cret"):
        here = bound().replace("0.0.0.0", "127.0.0.1")

        assert asked(f"{here}/livez")[0] == 401
        assert asked(f"{here}/livez", Authorization="Bearer s3cre")[0] == 401
        assert asked(f"{here}/nosuch")[0] == 401
        assert asked(f"{here}/livez", Authorization="Bearer s3cret")[0] == 200


def test_a_port_in_use_is_refused_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(SettingsError) as refused, served(f"127.0.0.1:{port}", {}):
            pass

    assert str(refused.value) == (
        f"health: 127.0.0.1:{port} cannot be listened at: address already in use; take another port"
    )


def test_a_client_that_says_nothing_holds_nobody_up(bound: Any) -> None:
    with served("127.0.0.1:0", {"/livez": hello}):
        here = bound()
        port = int(here.rpartition(":")[2])
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]

        assert asked(f"{here}/livez")[0] == 200
        for one in silent:
            one.close()


# --- several processes ---------------------------------------------------------------------


def no_metrics(workers: Mapping[int, bytes] | None) -> None:
    return None


def told(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.body)
    return found


def test_a_parent_is_well_where_all_its_workers_are(tmp_path: Path) -> None:
    lives = [Life(), Life()]
    places = {number: f"unix:{tmp_path}/{number}" for number in (1, 2, 3)}
    parent = Workers(places, no_metrics).pages()
    for life in lives:
        life.health.worker_started(WORKER)
        life.health.worker_beat(snapshot())

    with (
        served(places[1], lives[0].health.pages(no_metrics)),
        served(places[2], lives[1].health.pages(no_metrics)),
    ):
        two = parent["/livez"](), parent["/readyz"]()
        with served(places[3], lives[0].health.pages(no_metrics)):
            three = parent["/readyz"]()
            lives[1].now += 61
            hung = parent["/livez"]()

    assert [page.status for page in two] == [200, 503]
    assert told(two[1])["reason"] == "not ready: worker 3"
    assert told(two[1])["workers"]["3"] == {"ready": False, "reason": "starting"}
    assert three.status == 200
    assert told(three)["workers"]["2"]["lag"] == {"messages": 7, "seconds": 3.25}
    assert (hung.status, told(hung)["reason"]) == (503, "not live: worker 2")


def test_a_worker_that_listens_and_does_not_answer_is_not_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ANSWER", 0.2)
    path = str(tmp_path / "1")
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(path)
        hung.listen()

        page = Workers({1: f"unix:{path}"}, no_metrics).pages()["/livez"]()

    assert page.status == 503
    assert "does not answer" in told(page)["workers"]["1"]["reason"]


def test_the_metrics_of_workers_are_handed_to_the_plugin_that_makes_one_page_of_them(
    tmp_path: Path,
) -> None:
    places = {number: f"unix:{tmp_path}/{number}" for number in (1, 2)}

    def metrics(workers: Mapping[int, bytes] | None) -> tuple[str, bytes]:
        return "text/plain", b"own" if workers is None else repr(dict(workers)).encode()

    with served(places[1], Health().pages(metrics)):
        page = Workers(places, metrics).pages()["/metrics"]()

    assert page == Page(200, "text/plain", b"{1: b'own'}")


def test_without_a_plugin_for_metrics_the_page_says_which_there_is() -> None:
    page = Health().pages(no_metrics)["/metrics"]()

    assert page.status == 404
    assert b"kworker-prometheus" in page.body


def test_a_socket_that_a_dead_process_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "1"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    with served(f"unix:{path}", {"/livez": hello}):
        answer = pages.ask(f"unix:{path}", "/livez", 5.0)

    assert answer is not None
    assert answer.body == b"hello\n"
    assert not path.exists()
    assert pages.ask(f"unix:{path}", "/livez", 5.0) is None
    assert not [one for one in threading.enumerate() if one.name == "kworker-health"]
