"""A publisher with an outbox, and a Kafka that comes and goes as the test says."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from kworker.errors import KafkaUnavailable, PublishRejected, StoreError
from kworker.hookspecs import hookimpl
from kworker.kafka import api
from kworker.lines import Letter
from kworker.message import Headers
from kworker.outcome import Output
from kworker.plugins import Plugins, named
from kworker.publisher import Outbox, Partly, Publisher
from kworker.stores import open_keeper
from kworker.stores.sqlite.keeper import SqliteKeeper

WAIT = 0.1  # seconds: publish_wait

Answer = Callable[[api.Receipt | api.Refusal], None]


class Cluster:
    """A Kafka: what is written in it, whether it is there, which topics it refuses."""

    def __init__(self) -> None:
        self.log: list[tuple[str, bytes | None, bytes | None, bytes]] = []
        self.id: str | None = "c"
        self.away = False
        self.dead: set[str] = set()  # topics whose leader is gone
        self.most = 10_000  # messages in a client's queue


class Client:
    """A producer that gives nothing up. Delivers in its order, from a thread of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.queue: list[tuple[str, bytes | None, bytes | None, Headers, Answer]] = []
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._deliver, daemon=True)
        self.thread.start()

    last_words = "nobody is there"

    def offer(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, answered: Answer
    ) -> bool:
        with self.lock:
            if len(self.queue) >= self.cluster.most:
                return False
            self.queue.append((topic, key, value, headers, answered))
            return True

    def send(self, *given: Any, **more: Any) -> None:
        raise NotImplementedError

    def flush(self, timeout: float) -> int:
        return 0

    def cluster_id(self, timeout: float) -> str | None:
        return None if self.cluster.away else self.cluster.id

    def _deliver(self) -> None:
        while not self.ended.wait(0.001):
            for topic, key, value, headers, answered in self._take():
                if topic == "huge":
                    answered(api.Refusal("too_large", "huge: it is too large", True))
                    continue
                self.cluster.log.append((topic, key, value, dict(headers)["kworker-message-id"]))
                answered(api.Receipt(topic, 0, len(self.cluster.log) - 1, None))

    def _take(self) -> list[tuple[str, bytes | None, bytes | None, Headers, Answer]]:
        if self.cluster.away:
            return []
        with self.lock:
            taken = [one for one in self.queue if one[0] not in self.cluster.dead]
            self.queue = [one for one in self.queue if one[0] in self.cluster.dead]
        return taken

    def close(self, timeout: float = 10.0) -> None:
        self.ended.set()
        self.thread.join()
        for *_, answered in self.queue:
            answered(api.Refusal("unavailable", "closed", False))


class Told:
    """What hooks are told."""

    def __init__(self) -> None:
        self.failed: list[tuple[str, bytes | None, str, bool]] = []
        self.resumed: list[tuple[str, int]] = []

    @hookimpl
    def publish_failed(self, topic: str, value: bytes, error: Exception, kept: bool) -> None:
        self.failed.append((topic, value, type(error).__name__, kept))

    @hookimpl
    def publish_resumed(self, topic: str, count: int) -> None:
        self.resumed.append((topic, count))


class Site:
    """Publishers on one outbox and one cluster."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cluster = Cluster()
        self.told = Told()
        self.clients: list[Client] = []

    def publisher(self, *, stops: bool = False, wait: float = WAIT, **outbox: Any) -> Publisher:
        def connect() -> Client:
            self.clients.append(Client(self.cluster))
            return self.clients[-1]

        return Publisher(
            connect,  # type: ignore[arg-type]
            wait=wait,
            outbox=Outbox(self.path, "shop", **outbox),
            tell=Plugins(named([self.told], "app")).tell,
            stops=stops,
        )

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(Database(self.path)["outbox"].rows)

    @property
    def values(self) -> list[str]:
        return [value.decode() for _, _, value, _ in self.cluster.log if value is not None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr("kworker.lines.ASKING", (0.0, 0.02))
    monkeypatch.setattr("kworker.lines.LOOK", 0.02)
    made = Site(tmp_path / "shop.db")
    yield made
    for client in made.clients:
        client.ended.set()


def until(condition: Callable[[], object], what: str = "it", seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def test_while_kafka_answers_nothing_goes_through_the_outbox(site: Site) -> None:
    with site.publisher() as publisher:
        receipt = publisher.publish("orders", "1", key="k")

    assert (receipt.kept, receipt.offset) == (False, 0)
    assert site.rows == []
    assert site.told.failed == []


def test_what_is_not_acknowledged_in_time_is_kept_before_it_is_said_and_sent_when_kafka_is_back(
    site: Site,
) -> None:
    with site.publisher() as publisher:
        site.cluster.away = True
        receipt = publisher.publish("orders", "1", key="k")
        [row] = site.rows
        site.cluster.away = False
        until(lambda: not site.rows, "it is removed")
        until(lambda: site.told.resumed, "it is told")

    assert (receipt.kept, receipt.partition, receipt.offset) == (True, None, None)
    assert (row["message_id"], row["value"], row["state"]) == (receipt.message_id, "1", "waiting")
    assert "not acknowledged by Kafka within 0.1 s: nobody is there" in row["error"]
    assert site.cluster.log == [("orders", b"k", b"1", receipt.message_id.encode())]
    assert site.told.failed == [("orders", b"1", "KafkaUnavailable", True)]
    assert site.told.resumed == [("orders", 1)]


def test_all_of_a_key_that_is_under_way_is_kept_together_in_its_order(site: Site) -> None:
    with site.publisher(wait=1.0) as publisher:
        site.cluster.away = True
        first = threading.Thread(target=publisher.publish, args=("orders", "first"))
        first.start()
        time.sleep(0.5)
        second = threading.Thread(target=publisher.publish, args=("orders", "second"))
        second.start()
        first.join()
        publisher.publish("orders", "third")
        kept = [row["value"] for row in site.rows]
        second.join()
        site.cluster.away = False
        until(lambda: not site.rows)

    assert kept == ["first", "second", "third"]
    assert site.values == ["first", "second", "third"]


def test_what_is_about_to_be_kept_is_not_overtaken_by_what_the_client_has_room_for_meanwhile(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    keep = SqliteKeeper.keep

    def slowly(*given: Any) -> list[int]:
        gate.wait(10)
        return keep(*given)

    monkeypatch.setattr(SqliteKeeper, "keep", slowly)
    site.cluster.away = True
    site.cluster.most = 0

    with site.publisher() as publisher:
        line = publisher._line()
        line.send(letter("1"))
        site.cluster.most = 10
        line.send(letter("2"))
        site.cluster.away = False
        until(lambda: not site.clients[0].queue)
        gate.set()
        until(lambda: len(site.values) == 2)

    assert site.values == ["1", "2"]


def letter(value: str) -> Letter:
    headers = (("kworker-message-id", value.encode()),)
    return Letter(Output("orders", b"k", value.encode(), headers, value), lambda answer: None)


def test_what_comes_after_a_kept_message_of_its_key_is_kept_at_once_and_behind_it(
    site: Site,
) -> None:
    with site.publisher() as publisher:
        site.cluster.away = True
        publisher.publish("orders", "first", key="k")
        begun = time.monotonic()
        for number in range(20):
            assert publisher.publish("orders", str(number), key="k").kept
        took = time.monotonic() - begun
        site.cluster.away = False
        until(lambda: not publisher.publish("orders", "last", key="k").kept, "the key is free")

    assert took < 20 * WAIT / 2
    assert site.values[:21] == ["first", *map(str, range(20))]
    assert set(site.values[21:]) == {"last"}


def test_other_keys_flow_past_one_whose_leader_is_gone(site: Site) -> None:
    site.cluster.dead.add("orders")

    with site.publisher() as publisher:
        kept = publisher.publish("orders", "1", key="k")
        other = publisher.publish("mails", "2", key="k")

    assert kept.kept
    assert not other.kept


def test_a_publisher_that_starts_while_kafka_is_away_keeps_and_binds_the_outbox_later(
    site: Site,
) -> None:
    site.cluster.away = True

    with site.publisher() as publisher:
        receipt = publisher.publish("orders", "1")
        site.cluster.away = False
        until(lambda: not site.rows)

    assert receipt.kept
    with pytest.raises(StoreError, match="belongs to cluster 'c'"):
        open_keeper(site.path, group="shop", cluster="other")


def test_what_a_publisher_leaves_behind_is_sent_by_the_next_before_its_own(site: Site) -> None:
    site.cluster.away = True
    with site.publisher() as publisher:
        publisher.publish("orders", "old", key="k")
        publisher.publish("orders", "older", key="k")

    with site.publisher() as publisher:
        new = publisher.publish("orders", "new", key="k")
        site.cluster.away = False
        until(lambda: not site.rows)

    assert new.kept
    assert site.values == ["old", "older", "new"]


def test_what_was_sent_and_not_removed_is_sent_again_under_the_same_id(site: Site) -> None:
    site.cluster.away = True
    with site.publisher() as publisher:
        publisher.publish("orders", "1", key="k")
    [row] = site.rows
    site.cluster.log.append(("orders", b"k", b"1", row["message_id"].encode()))
    site.cluster.away = False

    with site.publisher():
        until(lambda: not site.rows)

    assert site.cluster.log[0] == site.cluster.log[1]


def test_nothing_that_waits_is_sent_to_another_cluster(site: Site) -> None:
    with site.publisher() as publisher:
        publisher.publish("orders", "bound")
    site.cluster.away = True
    with site.publisher() as publisher:
        publisher.publish("orders", "kept")
        site.cluster.id = "other"
        site.cluster.away = False
        until(lambda: _refused(publisher), "the publisher refuses")

    with pytest.raises(StoreError, match="belongs to cluster 'c'"):
        site.publisher().__enter__()


def _refused(publisher: Publisher) -> bool:
    try:
        publisher.publish("orders", "more", key="other")
    except KafkaUnavailable as error:
        return "belongs to cluster" in str(error)
    return False


def test_what_kafka_never_takes_raises_and_is_kept_for_a_person(site: Site) -> None:
    with site.publisher() as publisher:
        with pytest.raises(PublishRejected, match="too large; make it smaller"):
            publisher.publish("huge", "1", key="k")
        [row] = site.rows
        after = publisher.publish("orders", "2")

    assert (row["state"], row["error"], row["value"]) == ("rejected", "huge: it is too large", "1")
    assert not after.kept
    assert site.told.failed == [("huge", b"1", "PublishRejected", True)]


def test_what_waits_and_is_then_refused_for_good_holds_nothing_up(site: Site) -> None:
    site.cluster.away = True

    with site.publisher() as publisher:
        publisher.publish("huge", "1", key="k")
        publisher.publish("orders", "2", key="k")
        site.cluster.away = False
        until(lambda: [row["state"] for row in site.rows] == ["rejected"])
        until(lambda: site.values == ["2"])
        until(lambda: ("huge", b"1", "PublishRejected", True) in site.told.failed)


def test_a_publisher_may_stop_at_the_first_message_that_is_rejected(site: Site) -> None:
    with site.publisher(stops=True) as publisher:
        with pytest.raises(PublishRejected, match="make it smaller"):
            publisher.publish("huge", "1")
        with pytest.raises(PublishRejected, match=r"has stopped.*too large"):
            publisher.publish("orders", "2")
        with pytest.raises(Partly, match="2 of 2"):
            publisher.publish_many([("orders", "3"), ("orders", "4")])

    assert site.values == []
    assert len(site.rows) == 1


def test_a_full_outbox_refuses_and_says_so(site: Site) -> None:
    site.cluster.away = True

    with site.publisher(size=15) as publisher:
        assert publisher.publish("orders", "0123456789", key="k").kept
        with pytest.raises(KafkaUnavailable, match=r"outbox is full.*may or may not"):
            publisher.publish("orders", "0123456789", key="k")
        with pytest.raises(KafkaUnavailable, match="outbox is full"):
            publisher.publish("orders", "0123456789", key="other")
        assert len(site.rows) == 1
        site.cluster.away = False
        until(lambda: not site.rows)
        until(lambda: not publisher.publish("orders", "again", key="k").kept, "the key is free")

    assert ("orders", b"0123456789", "KafkaUnavailable", False) in site.told.failed


def test_a_full_outbox_may_hold_whoever_publishes_until_there_is_room(site: Site) -> None:
    site.cluster.away = True
    receipts: list[Any] = []

    with site.publisher(size=15, when_full="block") as publisher:
        publisher.publish("orders", "0123456789", key="k")
        thread = threading.Thread(
            target=lambda: receipts.append(publisher.publish("orders", "9876543210", key="k"))
        )
        thread.start()
        thread.join(5 * WAIT)
        held = thread.is_alive()
        site.cluster.away = False
        thread.join(20)

    assert held
    assert receipts[0].kept
    with site.publisher():
        until(lambda: not site.rows)
    assert site.values == ["0123456789", "9876543210"]


def test_when_the_client_is_full_messages_wait_in_the_outbox_and_none_overtakes(
    site: Site,
) -> None:
    site.cluster.away = True
    site.cluster.most = 5
    messages = [("orders", str(number), f"k{number % 3}") for number in range(60)]

    with site.publisher() as publisher:
        receipts = publisher.publish_many(messages)
        site.cluster.away = False
        until(lambda: not site.rows)

    assert all(one.kept for one in receipts)
    for key in range(3):
        written = [int(value) for value in site.values if int(value) % 3 == key]
        assert written == [number for number in range(60) if number % 3 == key]


def test_a_client_that_is_full_for_a_moment_makes_senders_wait_and_keeps_nothing(
    site: Site,
) -> None:
    site.cluster.most = 2

    with site.publisher(wait=5.0) as publisher:
        receipts = publisher.publish_many([("orders", str(n), "k") for n in range(200)])

    assert not any(one.kept for one in receipts)
    assert site.values == [str(n) for n in range(200)]


def test_an_awaited_publish_is_kept_without_blocking_the_loop(site: Site) -> None:
    site.cluster.away = True

    async def scene() -> list[Any]:
        async with site.publisher() as publisher:
            return await asyncio.gather(
                *(publisher.publish_async("orders", str(n), key="k") for n in range(50))
            )

    receipts = asyncio.run(scene())

    assert all(one.kept for one in receipts)
    assert [row["value"] for row in site.rows] == [str(n) for n in range(50)]


def test_leaving_keeps_what_a_cancelled_task_had_under_way(site: Site) -> None:
    site.cluster.away = True

    async def scene() -> None:
        async with site.publisher() as publisher:
            task = asyncio.create_task(publisher.publish_async("orders", "1"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()

    asyncio.run(scene())

    assert [row["value"] for row in site.rows] == ["1"]


def test_a_disk_that_is_full_is_told_and_nobody_is_told_that_a_message_is_kept(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("shop.db: its disk is full")

    monkeypatch.setattr("kworker.stores.sqlite.keeper.SqliteKeeper.keep", full)
    site.cluster.away = True

    with (
        site.publisher() as publisher,
        pytest.raises(KafkaUnavailable, match=r"cannot be kept: shop\.db: its disk is full"),
    ):
        publisher.publish("orders", "1", key="k")

    assert site.told.failed == [("orders", b"1", "KafkaUnavailable", False)]


def test_of_two_publishers_on_one_outbox_each_sends_what_it_kept_once(site: Site) -> None:
    with site.publisher() as one, site.publisher() as other:
        site.cluster.away = True
        one.publish("orders", "1", key="a")
        other.publish("orders", "2", key="b")
        site.cluster.away = False
        until(lambda: not site.rows)

    assert sorted(site.values) == ["1", "2"]
