"""What `kworker dlq` does on a real Kafka, with dead letters written by a plain producer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

import confluent_kafka
import pytest

from kworker import deadletter
from kworker.clock import SystemClock
from kworker.errors import KafkaUnavailable
from kworker.kafka import Kafka
from kworker.kafka.api import Producer, Refusal
from kworker.message import Headers, Record
from kworker.topics import GroupTopics

Pairs = list[tuple[str, bytes | None]]


def wire(shop: Any, **changes: str | None) -> Pairs:
    """A dead letter's headers as a worker writes them; keywords change or (None) remove some."""
    written: dict[str, str | None] = {
        "message_id": "id-1",
        "handler": "shop.charge",
        "hop": "2",
        "attempt": "4",
        "original_topic": shop.source,
        "original_partition": "1",
        "original_offset": "17",
        "original_timestamp": "1767225600000",
        "original_group": shop.group,
        "first_failed_at": "2026-01-01T00:00:01.000+00:00",
        "error_type": "ValueError",
        "error_message": "no such customer",
        "error_fingerprint": "00112233aabbccdd",
        "replay_count": "0",
        "disposition": "retries_exhausted",
        "error_stacktrace": 'Traceback (most recent call last):\n  File "shop.py", line 9\n',
        **changes,
    }
    return [
        (f"kworker-{name.replace('_', '-')}", text.encode())
        for name, text in written.items()
        if text is not None
    ]


def put(
    shop: Any,
    headers: Pairs | None,
    *,
    key: bytes | None = b"customer-7",
    value: bytes | None = b'{"id": 1}',
    partition: int = 0,
    timestamp: int = 0,
    topic: str | None = None,
) -> str:
    """Write one record as any program might; its topic/partition/offset."""
    producer = confluent_kafka.Producer({"bootstrap.servers": shop.servers, "linger.ms": 0})
    reports: list[Any] = []
    producer.produce(
        topic or f"{shop.group}.dlq",
        value,
        key,
        partition=partition,
        timestamp=timestamp,
        headers=headers,
        on_delivery=lambda error, message: reports.append((error, message)),
    )
    assert producer.flush(30) == 0
    error, message = reports[0]
    assert error is None, error
    return f"{message.topic()}/{message.partition()}/{message.offset()}"


def listed(shop: Any, *arguments: str) -> list[dict[str, Any]]:
    answer = shop.run("dlq", "list", "shop:app", "--json", *arguments)
    assert answer.code == 0, answer.err
    assert answer.document["schema"] == "kworker.dlq.list/1"
    return answer.document["messages"]  # type: ignore[no-any-return]


def ids(messages: Iterable[dict[str, Any]]) -> list[str | None]:
    return [one["message_id"] for one in messages]


def headers_of(record: Record) -> dict[str, str | None]:
    return {name: None if value is None else value.decode() for name, value in record.headers}


# --- list ----------------------------------------------------------------------------------


def test_a_dead_letter_is_listed_as_programs_may_read_it(open_shop: Any) -> None:
    shop = open_shop
    place = put(shop, wire(shop), partition=2, timestamp=1767225600123)

    messages = listed(shop)

    assert messages == [
        {
            "id": place,
            "message_id": "id-1",
            "handler": "shop.charge",
            "topic": f"{shop.group}.dlq",
            "partition": 2,
            "offset": 0,
            "key": "customer-7",
            "disposition": "retries_exhausted",
            "error_type": "ValueError",
            "error_message": "no such customer",
            "fingerprint": "00112233aabbccdd",
            "attempt": 4,
            "failed_at": "2026-01-01T00:00:00.123+00:00",
            "original": {"topic": shop.source, "partition": 1, "offset": 17},
            "replays": 0,
        }
    ]


def test_a_copy_written_twice_is_one_dead_letter_and_each_hop_and_handler_another(
    open_shop: Any,
) -> None:
    shop = open_shop
    first = put(shop, wire(shop), timestamp=1000)
    second = put(shop, wire(shop), partition=1, timestamp=2000)
    put(shop, wire(shop, hop="3"), timestamp=3000)
    put(shop, wire(shop, replay_count="1"), timestamp=4000)
    put(shop, wire(shop, handler="shop.other"), timestamp=5000)
    put(shop, wire(shop, original_topic="elsewhere"), timestamp=6000)

    messages = listed(shop)
    shown = shop.run("dlq", "show", "shop:app", second, "--json")

    assert len(messages) == 5
    assert messages[0]["id"] == first
    assert [one["replays"] for one in messages] == [0, 0, 1, 0, 0]
    assert shown.document["message"]["id"] == first


def test_bytes_that_are_no_text_are_listed_in_base64_and_none_as_null(open_shop: Any) -> None:
    shop = open_shop
    keys = (b"\xff\x00", None, b"")
    for index, key in enumerate(keys):
        put(shop, wire(shop, message_id=f"id-{index}"), key=key, timestamp=1000 + index)

    messages = listed(shop)

    assert [one["key"] for one in messages] == [{"base64": "/wA="}, None, ""]


def test_records_that_no_worker_wrote_are_listed_with_what_is_known(open_shop: Any) -> None:
    shop = open_shop
    put(shop, None, key=None, value=None, timestamp=1000)
    put(shop, wire(shop) + wire(shop), timestamp=2000)
    put(shop, wire(shop, hop="two"), timestamp=3000)
    put(shop, wire(shop, attempt="9" * 5000, original_offset="-1"), timestamp=4000)
    put(shop, [("kworker-message-id", b"\xff"), ("kworker-handler", None)], timestamp=5000)
    put(shop, [("kworker-dlq-event", b"replayed")], timestamp=6000)

    messages = listed(shop)
    plain = shop.run("dlq", "list", "shop:app")
    told = shop.run("dlq", "replay", "shop:app", "--execute")
    refused = shop.run("dlq", "replay", "shop:app", messages[0]["id"], "--execute")

    assert ids(messages) == [None, None, "id-1", "id-1", None, None]
    assert messages[3]["attempt"] is None
    assert messages[3]["original"] == {"topic": shop.source, "partition": 1, "offset": None}
    assert plain.code == 0
    assert len(plain.out.splitlines()) == 7
    assert "replayed 1 of 1 dead letter" in told.out
    assert "5 records do not say whose dead letters they are" in told.err
    assert refused.code == 1
    assert "it does not say which message" in refused.err


def test_filters_choose_among_dead_letters(open_shop: Any) -> None:
    shop = open_shop
    put(
        shop,
        wire(
            shop,
            message_id="b",
            handler="shop.mail",
            error_type="smtplib.SMTPException",
            error_message="Timeout",
            error_fingerprint="ffff",
        ),
        key=b"k\xc3\xa4se",
        timestamp=1767229200000,
    )
    put(shop, wire(shop, message_id="a"), timestamp=1767225600000)  # written later, but older
    put(shop, [*wire(shop, message_id="c"), ("source", b"shell")], key=None, value=b"Gr\xc3\xbcn")

    assert ids(listed(shop)) == ["a", "b", "c"]
    assert ids(listed(shop, "--handler", "shop.mail")) == ["b"]
    assert ids(listed(shop, "--error", "timeout")) == ["b"]
    assert ids(listed(shop, "--error", "valueerror")) == ["a", "c"]
    assert ids(listed(shop, "--fingerprint", "ff")) == ["b"]
    assert ids(listed(shop, "--key", "käse")) == ["b"]
    assert ids(listed(shop, "--since", "2026-01-01T01:00:00")) == ["b", "c"]
    assert ids(listed(shop, "--until", "2026-01-01T01:00:00Z")) == ["a"]
    assert ids(listed(shop, "--since", "-1h")) == ["c"]
    assert ids(listed(shop, "--limit", "2")) == ["a", "b"]
    assert ids(listed(shop, "--header", "source=shell")) == ["c"]
    assert ids(listed(shop, "--header", "source", "--header", "kworker-hop=2")) == ["c"]
    assert ids(listed(shop, "--header", "source=shel")) == []
    assert ids(listed(shop, "--text", '"id": 1')) == ["a", "b"]
    assert ids(listed(shop, "--text", "rün")) == ["c"]
    assert ids(listed(shop, "--handler", "shop.mail", "--key", "customer-7")) == []


def test_a_time_that_is_none_is_a_usage_error(shop: Any) -> None:
    answer = shop.run("dlq", "list", "shop:app", "--since", "yesterday")

    assert answer.code == 2
    assert "'yesterday' is no time" in answer.err


def test_a_monitor_learns_by_the_exit_code_that_there_are_dead_letters(open_shop: Any) -> None:
    shop = open_shop

    none = shop.run("dlq", "list", "shop:app", "--fail-if-any")
    put(shop, wire(shop))
    some = shop.run("dlq", "list", "shop:app", "--fail-if-any", "--json")

    assert (none.code, none.out) == (0, "")
    assert some.code == 10
    assert len(some.document["messages"]) == 1


def test_a_cluster_without_the_dead_letter_topic_is_no_cluster_without_dead_letters(
    shop: Any,
) -> None:
    answer = shop.run("dlq", "list", "shop:app", "--fail-if-any")

    assert answer.code == 3
    assert f"{shop.group}.dlq" in answer.err
    assert "kworker topics apply" in answer.err


# --- groups and show -----------------------------------------------------------------------


def test_dead_letters_that_failed_alike_are_counted_together(open_shop: Any) -> None:
    shop = open_shop
    for index in range(3):
        put(shop, wire(shop, message_id=f"a-{index}"), timestamp=1767225600000 + index * 1000)
    other = wire(shop, error_fingerprint="ff", error_type="KeyError", handler="shop.mail")
    put(shop, other, timestamp=1767225609000)

    answer = shop.run("dlq", "groups", "shop:app", "--json")
    table = shop.run("dlq", "groups", "shop:app")

    assert answer.document == {
        "schema": "kworker.dlq.groups/1",
        "groups": [
            {
                "fingerprint": "00112233aabbccdd",
                "error_type": "ValueError",
                "handler": "shop.charge",
                "count": 3,
                "first": "2026-01-01T00:00:00.000+00:00",
                "last": "2026-01-01T00:00:02.000+00:00",
            },
            {
                "fingerprint": "ff",
                "error_type": "KeyError",
                "handler": "shop.mail",
                "count": 1,
                "first": "2026-01-01T00:00:09.000+00:00",
                "last": "2026-01-01T00:00:09.000+00:00",
            },
        ],
    }
    assert [line.split()[1] for line in table.out.splitlines()] == ["COUNT", "3", "1"]


def test_one_dead_letter_is_shown_whole(open_shop: Any) -> None:
    shop = open_shop
    own: Pairs = [("trace", b"t1"), ("trace", None)]
    place = put(shop, own + wire(shop), value=b"caf\xe9")

    answer = shop.run("dlq", "show", "shop:app", place, "--json")
    text = shop.run("dlq", "show", "shop:app", place)

    message = answer.document["message"]
    assert answer.document["schema"] == "kworker.dlq.show/1"
    assert message["value"] == {"base64": "Y2Fm6Q=="}
    assert message["headers"][:2] == [["trace", "t1"], ["trace", None]]
    assert message["stacktrace"].startswith("Traceback")
    assert message["first_failed_at"] == "2026-01-01T00:00:01.000+00:00"
    for said in (place, "ValueError: no such customer", "trace: t1", "base64 Y2Fm6Q==", "line 9"):
        assert said in text.out


def test_an_id_that_is_not_there_is_a_usage_error(open_shop: Any) -> None:
    answer = open_shop.run("dlq", "show", "shop:app", f"{open_shop.group}.dlq/0/99")

    assert answer.code == 2
    assert "no dead letter" in answer.err


HOSTILE = "\x1b]0;owned\x07\x9b2J\n[red]ke\u202ey[/red]\r"


@pytest.mark.parametrize("command", ["list", "groups", "show", "replay"])
def test_a_hostile_message_does_not_drive_the_terminal(open_shop: Any, command: str) -> None:
    shop = open_shop
    texts = ("error_type", "error_message", "handler", "disposition", "error_stacktrace")
    hostile = wire(shop, **dict.fromkeys((*texts, "error_fingerprint", "message_id"), HOSTILE))
    own: Pairs = [(f"own{HOSTILE}", HOSTILE.encode())]
    place = put(shop, own + hostile, key=HOSTILE.encode(), value=HOSTILE.encode())
    arguments = ["dlq", command, "shop:app", *([place] if command == "show" else [])]

    piped = shop.run(*arguments)
    drawn = shop.on_a_terminal(*arguments)

    assert piped.code == 0
    assert "[red]" in piped.out
    assert not any(one in piped.out for one in "\x1b\x07\x9b\r\u202e")
    assert "[red]" in drawn
    assert not any(one in drawn for one in ("\x1b]0;", "\x07", "\x9b", "\u202e", "2J\n"))


def test_an_id_stays_whole_on_a_narrow_terminal(open_shop: Any) -> None:
    shop = open_shop
    place = put(shop, wire(shop))

    drawn = shop.on_a_terminal("dlq", "list", "shop:app", columns=60)

    assert place in drawn


# --- replay --------------------------------------------------------------------------------


def test_a_replay_says_what_it_would_do_and_changes_nothing_until_told_to(open_shop: Any) -> None:
    shop = open_shop
    place = put(shop, wire(shop))

    alone = shop.run("dlq", "replay", "shop:app", place)
    every = shop.run("dlq", "replay", "shop:app")

    assert (alone.code, every.code) == (0, 0)
    assert f"1 dead letter would be replayed to {shop.group}.replay; add --execute" in every.out
    assert place in alone.out
    assert shop.records(f"{shop.group}.replay") == []
    assert len(shop.records(f"{shop.group}.dlq")) == 1


def test_a_replay_writes_exactly_one_copy_and_records_it(open_shop: Any) -> None:
    shop = open_shop
    own: Pairs = [("trace", b"t1"), ("trace", None), ("", b"\xff")]
    place = put(shop, own + wire(shop), value=b"\x00bytes\xff")

    done = shop.run("dlq", "replay", "shop:app", place, "--execute")
    again = shop.run("dlq", "replay", "shop:app", place, "--execute")
    every = shop.run("dlq", "replay", "shop:app", "--execute")

    assert done.code == 0, done.err
    assert done.out == f"replayed 1 of 1 dead letter to {shop.group}.replay\n"
    assert (again.code, every.code) == (0, 0)
    assert "was replayed before" in again.err
    assert "replayed 0 of 0" in every.out
    [copy] = shop.records(f"{shop.group}.replay")
    assert (copy.key, copy.value) == (b"customer-7", b"\x00bytes\xff")
    assert copy.headers[:3] == tuple(own)
    assert dict(copy.headers[3:]) == {
        "kworker-message-id": b"id-1",
        "kworker-handler": b"shop.charge",
        "kworker-hop": b"0",
        "kworker-attempt": b"0",
        "kworker-replay-count": b"1",
        "kworker-original-topic": shop.source.encode(),
        "kworker-original-partition": b"1",
        "kworker-original-offset": b"17",
        "kworker-original-timestamp": b"1767225600000",
        "kworker-original-group": shop.group.encode(),
    }
    [event] = [one for one in shop.records(f"{shop.group}.dlq") if str(position(one)) != place]
    assert event.key == b"customer-7"
    assert headers_of(event) == {
        "kworker-dlq-event": "replayed",
        "kworker-message-id": "id-1",
        "kworker-handler": "shop.charge",
        "kworker-hop": "2",
        "kworker-replay-count": "0",
        "kworker-original-topic": shop.source,
    }
    assert json.loads(event.value or b"")["dead_letter"] == place


def position(record: Record) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"


def test_what_was_replayed_or_discarded_is_listed_only_on_demand(open_shop: Any) -> None:
    shop = open_shop
    for index, name in enumerate(("open", "gone", "done")):
        put(shop, wire(shop, message_id=name), timestamp=1000 + index)
    discarded = [("kworker-dlq-event", b"discarded"), *wire(shop, message_id="gone")]
    put(shop, discarded, partition=2)
    place = next(one["id"] for one in listed(shop) if one["message_id"] == "done")
    shop.run("dlq", "replay", "shop:app", place, "--execute")

    messages = listed(shop, "--all")
    table = shop.run("dlq", "list", "shop:app", "--all").out.splitlines()
    replayed = shop.run("dlq", "replay", "shop:app", "--execute")

    assert ids(listed(shop)) == []
    assert [(one["message_id"], one["replays"]) for one in messages] == [
        ("open", 0),
        ("gone", 0),
        ("done", 1),
    ]
    assert [line.split()[2] for line in table[1:]] == ["open", "discarded", "replayed"]
    assert "replayed 1 of 1" in replayed.out


def test_filters_choose_what_is_replayed_and_ids_do_not_mix_with_them(open_shop: Any) -> None:
    shop = open_shop
    put(shop, wire(shop, message_id="a", error_type="KeyError"))
    place = put(shop, wire(shop, message_id="b"))

    mixed = shop.run("dlq", "replay", "shop:app", place, "--error", "KeyError", "--execute")
    some = shop.run("dlq", "replay", "shop:app", "--error", "KeyError", "--execute")

    assert mixed.code == 2
    assert some.code == 0
    copies = shop.records(f"{shop.group}.replay")
    assert [headers_of(one)["kworker-message-id"] for one in copies] == ["a"]
    assert ids(listed(shop)) == ["b"]


def test_tombstones_and_empty_bytes_are_replayed_as_what_they_are(open_shop: Any) -> None:
    shop = open_shop
    pairs: list[tuple[bytes | None, bytes | None]] = [(None, None), (b"", b""), (b"k", None)]
    for index, (key, value) in enumerate(pairs):
        put(shop, wire(shop, message_id=f"{index}"), key=key, value=value)

    done = shop.run("dlq", "replay", "shop:app", "--execute")

    assert done.code == 0, done.err
    copies = {
        headers_of(one)["kworker-message-id"]: (one.key, one.value)
        for one in shop.records(f"{shop.group}.replay")
    }
    assert copies == {str(index): pair for index, pair in enumerate(pairs)}


def test_a_second_failure_after_a_replay_is_a_dead_letter_of_its_own(open_shop: Any) -> None:
    shop = open_shop
    put(shop, wire(shop))
    shop.run("dlq", "replay", "shop:app", "--execute")
    put(shop, wire(shop, replay_count="1", hop="1"))

    messages = listed(shop)
    shop.run("dlq", "replay", "shop:app", "--execute")

    assert [one["replays"] for one in messages] == [1]
    counts = {
        headers_of(one)["kworker-replay-count"] for one in shop.records(f"{shop.group}.replay")
    }
    assert counts == {"1", "2"}
    assert listed(shop) == []


def test_a_missing_replay_topic_stops_a_replay_before_it_writes(shop: Any) -> None:
    from kworker_broker import client

    client.create_topic(
        shop.servers, f"{shop.group}.dlq", partitions=1, configs={"retention.ms": "-1"}
    )
    put(shop, wire(shop))

    answer = shop.run("dlq", "replay", "shop:app", "--execute")

    assert answer.code == 3
    assert f"{shop.group}.replay" in answer.err
    assert len(shop.records(f"{shop.group}.dlq")) == 1


def test_one_message_too_large_for_the_replay_topic_holds_up_no_other(open_shop: Any) -> None:
    from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

    shop = open_shop
    small = ConfigEntry("max.message.bytes", "20000", incremental_operation=AlterConfigOpType.SET)
    topic = ConfigResource(
        ConfigResource.Type.TOPIC, f"{shop.group}.replay", incremental_configs=[small]
    )
    admin = AdminClient({"bootstrap.servers": shop.servers})
    admin.incremental_alter_configs([topic])[topic].result(30)
    for index in range(5):
        value = os.urandom(50_000) if index == 2 else b"{}"
        put(shop, wire(shop, message_id=f"{index}"), value=value, timestamp=1000 + index)

    answer = shop.run("dlq", "replay", "shop:app", "--execute")

    assert answer.code == 1
    assert "replayed 4 of 5" in answer.out
    assert "cannot be replayed" in answer.err
    assert ids(listed(shop)) == ["2"]


# --- interrupted ---------------------------------------------------------------------------


class Interrupted(Exception):
    """The replaying process is gone."""


def interrupt(answered: Any) -> None:
    raise Interrupted


def silence(answered: Any) -> None:
    answered(Refusal("unavailable", "no broker answers", permanent=False))


class Failing:
    """A cluster whose producer does `instead` where it would send what `when` names."""

    def __init__(self, cluster: Kafka, when: Callable[[str, int], bool], instead: Any) -> None:
        self._cluster = cluster
        self._when = when
        self._instead = instead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

    def producer(self, *, delivery_timeout: float) -> Any:
        producer = self._cluster.producer(delivery_timeout=delivery_timeout)
        return FailingProducer(producer, self._when, self._instead)


class FailingProducer:
    def __init__(self, producer: Producer, when: Callable[[str, int], bool], instead: Any) -> None:
        self._producer = producer
        self._when = when
        self._instead = instead
        self._sent: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, answered: Any
    ) -> None:
        count = self._sent[topic] = self._sent.get(topic, 0) + 1
        if self._when(topic, count):
            self._producer.flush(30)
            self._instead(answered)
        else:
            self._producer.send(topic, key, value, headers, answered)


def names_of(shop: Any) -> GroupTopics:
    return GroupTopics(shop.group, "{group}.retry.{delay}", "{group}.replay", "{group}.dlq")


def test_a_replay_interrupted_between_copy_and_record_is_finished_by_the_next(
    open_shop: Any,
) -> None:
    shop, names = open_shop, names_of(open_shop)
    put(shop, wire(shop))
    letters = deadletter.read(shop.cluster, names)

    with pytest.raises(Interrupted):
        cluster: Any = Failing(shop.cluster, lambda topic, count: topic == names.dlq, interrupt)
        deadletter.replay(cluster, names, letters, SystemClock())
    left = ids(listed(shop))
    shop.run("dlq", "replay", "shop:app", "--execute")
    again = deadletter.replay(
        shop.cluster, names, deadletter.read(shop.cluster, names), SystemClock()
    )

    assert left == ["id-1"]
    assert again.done == 0
    copies = [headers_of(one) for one in shop.records(names.replay)]
    assert len(copies) == 2
    assert copies[0] == copies[1]  # the same id, replay and hop: a worker handles one of them
    assert listed(shop) == []


def test_many_are_replayed_once_each_whatever_interrupts(open_shop: Any) -> None:
    shop, names = open_shop, names_of(open_shop)
    producer = confluent_kafka.Producer({"bootstrap.servers": shop.servers})
    for index in range(1200):
        producer.produce(names.dlq, b"{}", f"{index}", headers=wire(shop, message_id=f"{index}"))
    assert producer.flush(30) == 0

    with pytest.raises(Interrupted):
        cluster: Any = Failing(shop.cluster, lambda topic, count: count > 700, interrupt)
        letters = deadletter.read(shop.cluster, names)
        deadletter.replay(cluster, names, letters, SystemClock())
    between = len(listed(shop))
    rest = shop.run("dlq", "replay", "shop:app", "--execute")

    assert between == 700
    assert "replayed 700 of 700" in rest.out
    copies = [headers_of(one)["kworker-message-id"] for one in shop.records(names.replay)]
    assert set(copies) == {f"{index}" for index in range(1200)}
    assert len(copies) == 1200 + 200  # those under way when it was interrupted, a second time
    assert listed(shop) == []


@pytest.mark.parametrize("full", ["replay", "dlq"])
def test_a_kafka_that_takes_no_more_ends_a_replay_with_what_was_done(
    open_shop: Any, full: str
) -> None:
    shop, names = open_shop, names_of(open_shop)
    for index in range(3):
        put(shop, wire(shop, message_id=f"{index}"), timestamp=1000 + index)
    letters = deadletter.read(shop.cluster, names)
    failing = f"{shop.group}.{full}"

    with pytest.raises(KafkaUnavailable) as stopped:
        cluster: Any = Failing(shop.cluster, lambda name, n: name == failing and n > 1, silence)
        deadletter.replay(cluster, names, letters, SystemClock())
    left = ids(listed(shop))
    rest = shop.run("dlq", "replay", "shop:app", "--execute")

    assert f"{failing!r} takes no more: no broker answers; 1 were replayed" in str(stopped.value)
    assert left == ["1", "2"]
    assert "replayed 2 of 2" in rest.out


def test_progress_is_told_up_to_the_end(open_shop: Any) -> None:
    shop, names = open_shop, names_of(open_shop)
    for index in range(3):
        put(shop, wire(shop, message_id=f"{index}"), partition=index)
    reading: list[tuple[int, int]] = []
    replaying: list[tuple[int, int]] = []

    letters = deadletter.read(shop.cluster, names, lambda *told: reading.append(told))
    deadletter.replay(
        shop.cluster, names, letters, SystemClock(), lambda *told: replaying.append(told)
    )

    assert reading == [(1, 3), (2, 3), (3, 3)]
    assert replaying[-1] == (3, 3)


def test_a_dead_letter_that_only_refers_to_its_message_is_not_replayed_as_a_tombstone(
    open_shop: Any,
) -> None:
    put(open_shop, [*wire(open_shop), ("kworker-reference", b"too large")], value=None)

    answer = open_shop.run("dlq", "replay", "shop:app", "--execute")

    assert "too large" in answer.err
    assert len(listed(open_shop)) == 1
